"""`python -m benchmarks.first_answer`: the README's first command from an empty folder, every cache cold.

It clones this checkout's last commit, and prints the seconds until the installation is done, until the first verdict,
until the first verdict of a probe that ran, until the last verdict that compiled nothing, and until the end; with the
CPU seconds and the kernels that inductor made.  What is on no index must be in pip's own find-links.
"""

from __future__ import annotations

import json
import os
import shlex
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

from tabulate import tabulate

from benchmarks.contenders import ROOT, spent

README = "python3 -m venv .venv && .venv/bin/pip install -q -e . && .venv/bin/compat run"
LOOK_S = 0.1


def main() -> int:
    """Run the command, follow its journal, and print the table; the command's own exit status."""
    with tempfile.TemporaryDirectory(prefix="compat-first-answer-") as name:
        folder = Path(name)
        subprocess.run(["git", "clone", "-q", str(ROOT), str(folder / "clone")], check=True)
        caches = {"XDG_CACHE_HOME": "cache", "UV_CACHE_DIR": "uv", "PIP_CACHE_DIR": "pip", "TMPDIR": "tmp"}
        for place in caches.values():
            (folder / place).mkdir()
        environment = {**os.environ, **{name: str(folder / place) for name, place in caches.items()}}
        for ours in ("COMPAT_HOME", "PYTHONPATH", "VIRTUAL_ENV"):
            environment.pop(ours, None)
        started = time.monotonic()
        process = subprocess.Popen(["sh", "-c", README], cwd=folder / "clone", env=environment, stdout=sys.stderr)
        heard = follow(process, folder / "clone", started)
        seconds = time.monotonic() - started
    told = [(at, record) for at, record in heard if record.get("kind") == "outcome"]
    first = {record["check"]: (at, record) for at, record in reversed(told)}  # without second thoughts
    outcomes = [*first.values()][::-1]
    ran = [(at, record) for at, record in outcomes if record.get("seconds")]
    quick = [at for at, record in ran if record["probe"] != "compile"]
    kernels = [record.get("metrics", {}).get("kernels", {}).get("value", 0) for _, record in outcomes]
    rows = [
        ("installed, the run begins", heard[0][0] if heard else None),
        ("first verdict", outcomes[0][0] if outcomes else None),
        ("first verdict of a probe that ran", ran[0][0] if ran else None),
        ("last verdict of a probe that compiles nothing", quick[-1] if quick else None),
        ("end", seconds),
        ("CPU seconds", spent()),
        ("kernels", sum(kernels)),
        ("checks", len(outcomes)),
    ]
    print(f"{shlex.quote(README)}; all caches cold; {len(os.sched_getaffinity(0))} cores\n")
    print(tabulate(rows, headers=("what", "seconds or number"), tablefmt="pipe", floatfmt=".1f"))
    return process.returncode


def follow(process: subprocess.Popen[bytes], clone: Path, started: float) -> list[tuple[float, dict[str, Any]]]:
    """The journal's records, each with the seconds after which it was there, until the process ends."""
    heard: list[tuple[float, dict[str, Any]]] = []
    while True:
        ended = process.poll() is not None
        for journal in clone.glob(".compat/runs/*/journal.jsonl"):
            lines = journal.read_bytes().splitlines(keepends=True)
            whole = [line for line in lines if line.endswith(b"\n")]
            at = time.monotonic() - started
            heard += [(at, json.loads(line)) for line in whole[len(heard) :]]
        if ended:
            return heard
        time.sleep(LOOK_S)


if __name__ == "__main__":
    sys.exit(main())
