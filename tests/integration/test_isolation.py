"""Warm probes give the verdicts of fresh processes, over the whole catalogue."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from tests.support import ROOT
from tests.support.environments import HOME
from torch_compat_matrix.runner.outcome import Outcome
from torch_compat_matrix.runner.records.runs import Run


def outcomes(home: Path, isolation: str, selector: str) -> dict[str, Outcome]:
    """What a run of the shipped matrix comes to."""
    home.mkdir()
    (home / "standins").symlink_to(HOME.absolute() / "standins")
    command = [sys.executable, "-m", "torch_compat_matrix", "run", "--isolation", isolation, selector]
    done = subprocess.run(command, cwd=ROOT, env={**os.environ, "COMPAT_HOME": str(home)}, check=False)
    assert done.returncode in (0, 1)
    return Run.open(home).outcomes()


def same(tmp_path: Path, selector: str) -> None:
    """The same verdict and reason, check for check; and the isolation that was asked for, where something ran."""
    warm, fresh = (outcomes(tmp_path / isolation, isolation, selector) for isolation in ("warm", "fresh"))
    assert {one.isolation for one in fresh.values()} <= {"", "fresh"}
    assert "fork" in {one.isolation for one in warm.values()}
    differing = {
        check: (one.verdict.value, one.reason, fresh[check].verdict.value, fresh[check].reason)
        for check, one in warm.items()
        if (one.verdict, one.reason) != (fresh[check].verdict, fresh[check].reason)
    }
    assert warm.keys() == fresh.keys()
    assert differing == {}


@pytest.mark.slow
def test_one_library(torch_python: str, tmp_path: Path) -> None:
    """A quick share."""
    assert torch_python
    same(tmp_path, "torch-2.13/torchbnn-1.2")


@pytest.mark.slow
@pytest.mark.parametrize("selector", ["torch-2.13/*", "torch-2.9/torch[va]*"])
def test_whole_catalogue(torch_python: str, tmp_path: Path, selector: str) -> None:
    """Every library and version of the shipped matrix on the small stand-in, or on one that holds the library."""
    assert torch_python
    same(tmp_path, selector)
