"""Ranks of a process group: forks on a CPU, fresh interpreters beside a GPU; neither leaves anything behind."""

from __future__ import annotations

import subprocess
from pathlib import Path

import pytest

from tests.support import ROOT

SCRIPT = """
import os, time
from probes import ranks
from probes.libraries import _torch_ranks
from probes.probe import Probe
import ranks_of_a_test as functions

if __name__ == "__main__":
    probe = Probe("cpu")
    _torch_ranks.by_gloo(probe)
    ranks._fork, fork = ranks._start, ranks._fork
    _torch_ranks.by_gloo(probe)
    ranks._fork = fork
    for function, limit in ((functions.fails, 60), (functions.dies, 60), (functions.hangs, 2)):
        ranks.LIMIT_S = limit
        try:
            ranks.run(probe, function, "gloo")
        except Exception as error:
            print(f"{type(error).__name__}: {error}")
    try:
        os.waitpid(-1, os.WNOHANG)
    except ChildProcessError:
        print("no process is left")
"""

FUNCTIONS = """
import os, time
import torch

def fails(probe, rank, count):
    if rank == 1:
        raise ValueError("no such thing")
    torch.distributed.all_reduce(torch.ones(1))

def dies(probe, rank, count):
    os.kill(os.getpid(), 9) if rank == 1 else time.sleep(60)

def hangs(probe, rank, count):
    time.sleep(60)
"""


@pytest.mark.slow
def test_ranks_work_together_and_end(torch_python: str, tmp_path: Path) -> None:
    """Both ways pass; the first error counts, and a rank that dies or hangs ends the others."""
    (tmp_path / "ranks_of_a_test.py").write_text(FUNCTIONS)
    (tmp_path / "script.py").write_text(SCRIPT)
    environment = {"PYTHONPATH": f"{ROOT}:{tmp_path}"}
    done = subprocess.run(
        [torch_python, tmp_path / "script.py"], env=environment, capture_output=True, text=True, check=True, timeout=300
    )
    assert done.stdout.splitlines() == [
        "ValueError: no such thing (in rank 1 of 2)",
        "RuntimeError: rank 1 of 2 ended with wait status 9 and no answer",
        "TimeoutError: 2 ranks on this host gave no answer within 2 s",
        "no process is left",
    ]
