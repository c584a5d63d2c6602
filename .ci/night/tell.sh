#!/usr/bin/env bash
# Tell people of the night: the issue of this matrix and target, and a webhook, each where it is wanted.
# Reads ISSUE (true or not), WEBHOOK (a URL or empty), NAME (of the target), RUN, COMPAT_HOME, GITHUB_REPOSITORY, GITHUB_TOKEN.
set -euo pipefail
if [ "$ISSUE" = true ]; then compat publish github-issue --run "$RUN" --name "$NAME"; fi
if [ -n "$WEBHOOK" ]; then compat publish webhook --run "$RUN" --name "$NAME"; fi
