#!/usr/bin/env bash
# Run the matrix, or one shard of it, and leave the run's folder in OUT. Host trouble (status 5) gets a second try.
# Reads MATRIX, SELECTOR, BACKEND, TARGET, SHARD (2/4, or empty), ARGUMENTS (more of `compat run`), HISTORY (runs of earlier
# nights, if any), PLAN (what decide.sh wrote, if it did), OUT, COMPAT_HOME, GITHUB_OUTPUT. Surprises are no failure of this step: the report judges them.
set -euo pipefail
latest() { compat runs --last 1 --json | python3 -c 'import json, sys; print(*(row["run"] for row in json.load(sys.stdin)))'; }

keep() { # what there is of the run, even of one that was cancelled
    run=$(latest)
    if [ "$run" = "$before" ]; then return; fi
    mkdir -p "$OUT/runs/$run"
    for name in journal.jsonl probes report.md report.json junit.xml; do # and not plan.json, which may hold secrets
        if [ -e "$COMPAT_HOME/runs/$run/$name" ]; then cp -r "$COMPAT_HOME/runs/$run/$name" "$OUT/runs/$run/"; fi
    done
}

if [ -z "$(latest)" ] && [ -d "$HISTORY/runs" ]; then compat import "$HISTORY"; fi
# every shard has to cut the matrix by the same durations
if [ -f "$HISTORY/durations.json" ]; then cp "$HISTORY/durations.json" "$COMPAT_HOME/"; fi
before=$(latest)
trap keep EXIT

what=(--matrix "$MATRIX")
nothing() { # left for the job that reports
    mkdir -p "$OUT"
    touch "$OUT/nothing-new"
    echo "status=0" >>"$GITHUB_OUTPUT"
    exit 0
}
if [ -f "${PLAN:-}" ]; then # decided for all shards, whatever was published since
    if grep -q '"cells": \[\]' "$PLAN"; then nothing; fi
    what=(--plan "$PLAN")
    SELECTOR=""
    ARGUMENTS=${ARGUMENTS//--new/}
fi
read -ra selectors <<<"$SELECTOR"
read -ra arguments <<<"$ARGUMENTS"
status=0
compat run "${what[@]}" ${BACKEND:+--backend "$BACKEND"} --target "$TARGET" ${SHARD:+--shard "$SHARD"} "${arguments[@]}" \
    "${selectors[@]}" || status=$?
if [ "$status" = 5 ] && [ "$(latest)" != "$before" ]; then
    echo "exit status 5: a second try of what has no verdict"
    status=0
    compat run --resume || status=$?
fi
# a shard to which the others leave nothing does not prove that there is nothing
if [ "$status" = 0 ] && [ -z "$SHARD" ] && [ "$(latest)" = "$before" ]; then nothing; fi
echo "status=$status" >>"$GITHUB_OUTPUT"
case $status in 0 | 1 | 5 | 6) ;; *) exit "$status" ;; esac
