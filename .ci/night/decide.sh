#!/usr/bin/env bash
# Decide once for all shards what is new since the nights before: a plan, of which each shard takes its part.
# Reads MATRIX, SELECTOR, BACKEND (has to be named: this machine is none of theirs), HISTORY (runs of earlier nights, if
# any), OUT (gets plan.json), COMPAT_HOME.
set -euo pipefail
if [ -z "$BACKEND" ]; then
    echo "decide: --new in shards asks what the backend has run; name it by the input backend" >&2
    exit 2
fi
if [ -d "$HISTORY/runs" ]; then compat import "$HISTORY"; fi
read -ra selectors <<<"$SELECTOR"
mkdir -p "$OUT"
compat plan --matrix "$MATRIX" --backend "$BACKEND" --new --json "$OUT/plan.json" "${selectors[@]}"
if [ -z "$(find "$OUT/plan.json" -perm -o=r)" ]; then # as compat leaves one with secrets, which no artifact may hold
    rm "$OUT/plan.json"
    # shellcheck disable=SC2016
    echo 'decide: URLs of the matrix hold secrets; write ${VARIABLE} in their place' >&2
    exit 2
fi
