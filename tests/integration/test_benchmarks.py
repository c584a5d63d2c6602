"""The benchmark of contenders in parallel runs; its figures are measured on an idle machine."""

from __future__ import annotations

import subprocess
import sys

import pytest

from tests.support import ROOT


@pytest.mark.slow
def test_contenders_run_in_parallel() -> None:
    """One cell and its import, by each of them."""
    pytest.importorskip("nox")
    command = [sys.executable, "-m", "benchmarks", "--parallel", "--no-docker", "--probe", "import"]
    ran = subprocess.run([*command, "numpy-2.2/torchbnn-1.2"], cwd=ROOT, capture_output=True, text=True, check=False)
    assert ran.returncode == 0, ran.stderr
    assert [line.split("|")[1].strip() for line in ran.stdout.splitlines()[-3:]] == [
        "compat run, warm",
        "tox run-parallel, warm",
        "nox under xargs -P, warm",
    ]
