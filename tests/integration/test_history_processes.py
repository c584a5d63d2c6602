"""The history, written by several processes at once."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from tests.support import ROOT
from tests.unit.test_history import outcome, run
from torch_compat_matrix.runner.records import history


@pytest.mark.parametrize("damaged", [False, True], ids=["whole", "damaged"])
def test_processes_may_write_at_once(tmp_path: Path, damaged: bool) -> None:
    """Each brings in whatever is missing; a damaged file is set aside only once."""
    if damaged:
        (tmp_path / "history.sqlite").write_bytes(b"no database" * 1000)
    for number in range(1, 9):
        run(tmp_path, number, outcome(key=str(number)))
    imports = "from pathlib import Path; from torch_compat_matrix.runner.records import history"
    script = f"{imports}; history.sync(Path({str(tmp_path)!r}))"
    processes = [subprocess.Popen([sys.executable, "-c", script], cwd=ROOT) for _ in range(4)]
    assert [process.wait() for process in processes] == [0] * 4
    assert not damaged or (tmp_path / "history.sqlite.damaged").read_bytes().startswith(b"no database")
    assert len(history.settled(tmp_path, map(str, range(1, 9)))) == 8
