"""A run that is still going, seen by `compat report` and `compat show` of another process."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.support import journals
from torch_compat_matrix.compat.cli import main
from torch_compat_matrix.runner.errors import Status
from torch_compat_matrix.runner.records.runs import Run

DONE, OPEN = "gpu-image/torch-installed/import", "stand-in/torchbnn-1.2/compile"


@pytest.fixture
def run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Run:
    """A run with 55 of 56 checks done, and without its end."""
    monkeypatch.setenv("COMPAT_HOME", str(tmp_path))
    run = Run(tmp_path / "runs" / "20300101T000000-abcd")
    records = [record for record in journals.records() if record["kind"] != "end" and record.get("check") != OPEN]
    journals.write(run.journal, records, torn=False)
    return run


def told(run: Run, capsys: pytest.CaptureFixture[str], *arguments: str) -> tuple[int, str]:
    """The status and the words of a command."""
    status = main(arguments)
    captured = capsys.readouterr()
    return status, captured.out + captured.err


def test_report_says_that_the_run_is_going(run: Run, capsys: pytest.CaptureFixture[str]) -> None:
    """With the number of its checks, and calls nothing interrupted."""
    with run.going():
        status, said = told(run, capsys, "report")
    assert status == Status.SURPRISES  # of the checks that are done
    assert "The run is still going: 55 of 56 checks are done." in said
    for name in ("report.md", "report.json", "junit.xml"):
        assert "interrupted" not in (run.folder / name).read_text()
    assert ", still going" in (run.folder / "report.md").read_text()


def test_report_of_a_dead_run(run: Run, capsys: pytest.CaptureFixture[str]) -> None:
    """Its lock is free however it died: what is missing was interrupted."""
    with run.going():
        pass
    _, said = told(run, capsys, "report")
    assert "still going" not in said
    assert "`interrupted` (not-run, blame: host)" in (run.folder / "report.md").read_text()


def test_show_of_a_check_that_is_open(run: Run, capsys: pytest.CaptureFixture[str]) -> None:
    """Says that its turn is to come, or that the run is over."""
    with run.going():
        status, said = told(run, capsys, "show", OPEN)
    assert (status, said) == (5, f"{OPEN}: not yet\nrun {run.id} is still going: 55 of 56 checks are done\n")
    status, said = told(run, capsys, "show", OPEN)
    assert (status, said) == (5, f"{OPEN}: not run\nrun {run.id} ended early: `compat run --resume {run.id}` goes on\n")


def test_show_of_a_cell_half_done(run: Run, capsys: pytest.CaptureFixture[str]) -> None:
    """Shows what is done, and names the rest."""
    with run.going():
        status, said = told(run, capsys, "show", "stand-in/torchbnn-1.2")
    assert status == 0
    assert "stand-in/torchbnn-1.2/sample: pass (flaky)" in said
    assert f"{OPEN}: not yet\nrun {run.id} is still going" in said


def test_show_of_a_check_that_is_done(run: Run, capsys: pytest.CaptureFixture[str]) -> None:
    """Says nothing of the rest of the run."""
    with run.going():
        status, said = told(run, capsys, "show", DONE)
    assert status == 0
    assert "still going" not in said


def test_a_run_that_is_going_cannot_be_resumed(run: Run, capsys: pytest.CaptureFixture[str]) -> None:
    """Two processes would run the same checks."""
    with run.going():
        status, said = told(run, capsys, "run", "--resume", run.id)
    assert status == 2
    assert f"run {run.id}: the run is still going" in said
