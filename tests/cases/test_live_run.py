"""A report of a run that is still going says so, and calls nothing interrupted."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.support import ROOT
from tests.support.environments import HOME

MATRIX = """
images:
  torch-2.13:
    local: { python: "3.11", requires: ["torch==2.13.0", numpy] }
libraries:
  torchbnn: { versions: ["1.2"], probes: [import, autograd], isolation: fresh }
"""
COMPAT = [sys.executable, "-m", "torch_compat_matrix"]
ENVIRON = {**os.environ, "PYTHONPATH": str(ROOT / "src"), "COMPAT_HOME": ""}


@pytest.fixture
def stopped(tmp_path: Path, torch_python: str) -> Iterator[Path]:
    """The folder of a run with one of its two outcomes, whose process is alive but holds still (SIGSTOP)."""
    assert torch_python
    (tmp_path / "matrix.yaml").write_text(MATRIX)
    (tmp_path / ".compat").mkdir()
    (tmp_path / ".compat" / "standins").symlink_to(HOME.absolute() / "standins")
    with subprocess.Popen([*COMPAT, "run"], cwd=tmp_path, env=ENVIRON, stderr=subprocess.DEVNULL) as process:
        try:
            while process.poll() is None and count_outcomes(tmp_path) < 1:
                time.sleep(0.01)
            process.send_signal(signal.SIGSTOP)
            assert count_outcomes(tmp_path) == 1, "the run was over before it could be stopped"
            yield tmp_path
        finally:
            process.send_signal(signal.SIGCONT)
            process.wait()


def count_outcomes(folder: Path) -> int:
    """The outcomes in the journal of the only run."""
    return sum(path.read_text().count('"kind":"outcome"') for path in folder.glob(".compat/runs/*/journal.jsonl"))


@pytest.mark.share
def test_report_and_show_of_a_live_run(stopped: Path) -> None:
    """1 of 2 checks: the report counts them, and `show` knows the check that is still to come."""
    answers = {}
    for verb in (["report"], ["show", "torch-2.13/torchbnn-1.2/autograd"]):
        done = subprocess.run(
            [*COMPAT, *verb], cwd=stopped, env=ENVIRON, capture_output=True, text=True, timeout=60, check=False
        )
        answers[verb[0]] = done.stdout + done.stderr
    (page,) = stopped.glob(".compat/runs/*/report.md")
    for said in (answers["report"], answers["show"], page.read_text()):
        assert "interrupted" not in said
        assert "still" in said or "going" in said
    assert "1 of 2 checks" in page.read_text()
    assert "not in run" not in answers["show"]
