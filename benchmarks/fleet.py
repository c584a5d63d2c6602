"""`python -m benchmarks.fleet --jobs 100 1000`: what a submitter costs, on the Slurm that SLURM_CONF names.

Each job is an image with a check, whose probe host answers at once (tests/support/answers.py).  Measured are submission
(`run --detach`), the first look (`status`), the way back after the jobs have ended (`run --resume`), and, for jobs that
wait for their turn, `status` and `cancel`: that way ten thousand need no cluster of that size.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
import time
from dataclasses import replace
from pathlib import Path
from typing import Any

from tabulate import tabulate

from torch_compat_matrix.runner.backends.slurm_queue import slurm
from torch_compat_matrix.runner.model import Cell, Image, Limits, Plan

ANSWERS = Path(__file__).resolve().parent.parent / "tests" / "support" / "answers.py"


def plan(jobs: int, waiting: bool) -> Plan:
    """An image, a cell and a check for each job."""
    images = tuple(Image(name=f"i{number}", python=str(ANSWERS), limits=Limits(retries=0)) for number in range(jobs))
    cell = Cell(image="", subject="sympy", version="installed", requires=(), members=("sympy",), probes=("import",))
    lines = ["--begin=now+5hours"] if waiting else []
    return Plan(
        images=images,
        cells=tuple(replace(cell, image=image.name) for image in images),
        backend="slurm",
        target={"name": "site", "slurm": {"mem": 20 << 20, "time": "5", "max_jobs": 100, "lines": lines}},
    )


def compat(home: Path, *words: str) -> tuple[float, float]:
    """Run the command; return its seconds and its peak memory in MB."""
    command = [sys.executable, "-m", "torch_compat_matrix", *words]
    started = time.monotonic()
    with (home / "said").open("ab") as said:
        process = subprocess.Popen(command, stdout=said, stderr=said, env={**os.environ, "COMPAT_HOME": str(home)})
        _, status, usage = os.wait4(process.pid, 0)
    process.returncode = os.waitstatus_to_exitcode(status)
    if process.returncode:
        raise SystemExit((home / "said").read_text()[-2000:])
    return time.monotonic() - started, usage.ru_maxrss / 1024


def row(jobs: int, waiting: bool) -> dict[str, Any]:
    """The figures of so many jobs."""
    with tempfile.TemporaryDirectory() as folder:
        home = Path(folder)
        compat_plan = home / "plan.json"
        first = plan(1, waiting=False)  # the facts of the image are asked once, by a job that must run
        compat_plan.write_text(json.dumps(first.to_json()))
        compat(home, "run", "--plan", str(compat_plan))
        compat_plan.write_text(json.dumps(plan(jobs, waiting).to_json()))
        submit_s, submit_mb = compat(home, "run", "--plan", str(compat_plan), "--rerun", "--detach")
        status_s, _ = compat(home, "status")
        found = {
            "jobs": jobs,
            "waiting": waiting,
            "submissions/s": jobs / submit_s,
            "MB": submit_mb,
            "status s": status_s,
        }
        if waiting:
            return {**found, "cancel s": compat(home, "cancel")[0]}
        while slurm("squeue", "--me", "-h").stdout:
            time.sleep(1)
        resume_s, resume_mb = compat(home, "run", "--resume")
        return {**found, "resume s": resume_s, "resume MB": resume_mb}


def main() -> None:
    """Print a table."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--jobs", type=int, nargs="*", default=[100, 1000], help="run so many")
    parser.add_argument("--waiting", type=int, nargs="*", default=[], help="and let so many wait")
    options = parser.parse_args()
    rows = [row(jobs, waiting=False) for jobs in options.jobs] + [row(jobs, waiting=True) for jobs in options.waiting]
    print(tabulate(rows, headers="keys", floatfmt=".1f"))


if __name__ == "__main__":
    main()
