#!/usr/bin/env bash
# The folders and names of a job: what is kept where, under which key; written to GITHUB_OUTPUT.
# Reads MATRIX, TARGET, SHARD, PERSISTENT (a home that outlives the job; empty: none), RUNNER_TEMP, GITHUB_OUTPUT.
# The history lies in the workspace: a cache is found again only under the very path that it was saved from, and the
# other folders have another path on each kind of runner.
set -euo pipefail
matrix=$(tr -c 'A-Za-z0-9.\n' '-' <<<"$MATRIX")
part=${SHARD//\//-of-}
mkdir -p "${PERSISTENT:-$RUNNER_TEMP/compat-home}"
tee -a "$GITHUB_OUTPUT" <<PLACES
home=${PERSISTENT:-$RUNNER_TEMP/compat-home}
history=.compat-night/history
artifacts=$RUNNER_TEMP/compat-artifacts
report=$RUNNER_TEMP/compat-report
site=$RUNNER_TEMP/compat-site
key=compat-history-$matrix-$TARGET
cache=compat-cache-$matrix-$TARGET-$part
base=compat-$matrix-$TARGET
name=compat-$matrix-$TARGET${part:+-shard-$part}
PLACES
