#!/usr/bin/env bash
# The jobs of a night: each target in so many shards. Prints `shards=[...]` and `targets=[...]` for GITHUB_OUTPUT.
# Reads TARGETS (JSON: name -> labels of its runners) and SHARDS (how many runners share a target's work).
set -euo pipefail
exec python3 - <<'PYTHON'
import json
import os
import re
import sys

try:
    targets, shards = json.loads(os.environ["TARGETS"]), int(os.environ["SHARDS"])
    if not targets or not all(re.fullmatch(r"[A-Za-z0-9][\w.-]*", name) and labels for name, labels in targets.items()):
        raise ValueError("a name or its labels are missing")
    if not 1 <= shards <= 100:
        raise ValueError(f"{shards} shards")
except (ValueError, AttributeError) as error:
    sys.exit(f'targets and shards: {error}; write targets like {{"h100": ["self-hosted", "gpu"]}}, shards like 4')
jobs = [
    {"target": target, "runner": labels, "shard": f"{number}/{shards}", "name": f"{target} {number}/{shards}"}
    for target, labels in targets.items()
    for number in range(1, shards + 1)
]
print(f"shards={json.dumps(jobs)}")
print(f"targets={json.dumps(list(targets))}")
PYTHON
