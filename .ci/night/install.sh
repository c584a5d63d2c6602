#!/usr/bin/env bash
# Install the tool from the checkout that this script is in, and let the steps that follow find it and its scripts.
# Reads RUNNER_TEMP, GITHUB_PATH, GITHUB_ENV.
set -euo pipefail
here=$(cd "$(dirname "$0")" && pwd)
if ! python3 -c 'import sys; sys.exit(sys.version_info < (3, 10))'; then
    echo "install: this runner has no Python 3.10 or newer; install one, as python3" >&2
    exit 2
fi
python3 -m venv "$RUNNER_TEMP/compat-venv"
"$RUNNER_TEMP/compat-venv/bin/pip" install --quiet --disable-pip-version-check "$here/../..[publish]"
echo "$RUNNER_TEMP/compat-venv/bin" >>"$GITHUB_PATH"
echo "COMPAT_NIGHT=$here" >>"$GITHUB_ENV"
"$RUNNER_TEMP/compat-venv/bin/compat" --version
