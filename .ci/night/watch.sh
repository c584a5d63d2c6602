#!/usr/bin/env bash
# Raise the alarm where the last complete run is too old. Reads HISTORY (runs of earlier nights), STALE (36h), COMPAT_HOME.
set -euo pipefail
if [ -d "$HISTORY/runs" ]; then compat import "$HISTORY" >/dev/null; fi
compat watch --stale "$STALE"
