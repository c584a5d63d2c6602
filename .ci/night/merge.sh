#!/usr/bin/env bash
# Make one run of what the runners of a target left, and its report; hand the history on. The status is the report's.
# Reads ARTIFACTS (what the shards left), HISTORY (runs of earlier nights; holds those of this one afterwards), OUT,
# COMPAT_HOME, NAME (of the target), SITE (a folder for the pages of all runs, or empty), GITHUB_OUTPUT,
# GITHUB_STEP_SUMMARY. KEEP runs (30) are handed on.
set -euo pipefail
here=$(dirname "$0")
mkdir -p "$OUT"
if [ -d "$HISTORY/runs" ]; then compat import "$HISTORY"; fi
if [ -n "$(find "$ARTIFACTS" -name nothing-new -print -quit 2>/dev/null)" ]; then
    if [ -n "${SITE:-}" ] && [ -d "$HISTORY/runs" ]; then compat site "$SITE"; fi
    printf '# PyTorch compatibility matrix\n\n**%s: nothing new was published; nothing was run.**\n' "$NAME" >"$OUT/report.md"
    cat "$OUT/report.md" >>"$GITHUB_STEP_SUMMARY"
    exit 0
fi
if ! taken=$(compat import "$ARTIFACTS"); then
    printf '# PyTorch compatibility matrix\n\n**%s: no runner left a result. Nothing was shown.**\n' "$NAME" >"$OUT/report.md"
    cat "$OUT/report.md" >>"$GITHUB_STEP_SUMMARY"
    exit 5
fi
echo "$taken"
run=$(sed -n 's/^run \([^:]*\): .*/\1/p' <<<"$taken" | tail -n 1)
echo "run=$run" >>"$GITHUB_OUTPUT"
status=0
compat report "$run" --out "$OUT" || status=$?
if [ "$status" = 6 ]; then status=0; fi # unconfirmed: the report names it, and nobody is called
cat "$OUT/report.md" >>"$GITHUB_STEP_SUMMARY" # which fits: GitHub drops one over 1 MiB whole
python3 "$here/annotate.py" "$OUT/junit.xml"
if [ -n "${SITE:-}" ]; then compat site "$SITE"; fi

rm -rf "$HISTORY"
mkdir -p "$HISTORY"
find "$COMPAT_HOME/runs" -mindepth 1 -maxdepth 1 -type d | sort | tail -n "${KEEP:-30}" | while read -r folder; do
    mkdir -p "$HISTORY/runs/$(basename "$folder")"
    cp "$folder/journal.jsonl" "$HISTORY/runs/$(basename "$folder")/"
done
cp "$COMPAT_HOME/durations.json" "$HISTORY/"
mkdir -p "$OUT/runs/$run"
cp "$COMPAT_HOME/runs/$run/journal.jsonl" "$OUT/runs/$run/"
exit "$status"
