#!/usr/bin/env bash
# Say what this machine is before anything runs on it; fail where the backend asked for cannot work.
# Reads MATRIX, BACKEND (empty: whichever the matrix needs).
set -euo pipefail
if command -v nvidia-smi >/dev/null; then
    nvidia-smi || echo "nvidia-smi failed: checks that need a GPU will have no verdict"
else
    echo "no nvidia-smi on this runner: no GPU"
fi
compat doctor --matrix "$MATRIX" ${BACKEND:+--backend "$BACKEND"}
