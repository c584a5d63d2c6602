"""A cell's temporary folder leaves room for the names of sockets, however long TMPDIR and the cell's id are."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

import pytest

from tests.support import ROOT
from torch_compat_matrix.runner.backends import process
from torch_compat_matrix.runner.backends.base import Command, connect
from torch_compat_matrix.runner.errors import BackendUnusable
from torch_compat_matrix.runner.packages import uv

LISTENS = "import sys\nfrom multiprocessing.connection import Listener\nListener().close(); sys.exit(7)"
"""As a worker of torch's DataLoader does before it hands over its first batch."""


@pytest.fixture
def deep(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A temporary folder below which no socket can be."""
    folder = tmp_path / ("x" * 90)
    folder.mkdir()
    monkeypatch.setattr(tempfile, "tempdir", str(folder))
    return folder


def links() -> list[Path]:
    """The links to launches of this process."""
    return [link for place in process.SHORT_PLACES for link in Path(place).glob(f"compat-{os.getpid()}-*")]


def test_libraries_can_listen_below_a_long_tmpdir(deep: Path, tmp_path: Path) -> None:
    """Nothing is left of the link either."""
    order = {"cells": [{"id": f"image/{'y' * 90}-1.0", "overlay": None}], "threads": 0, "device": "cpu"}
    command = Command(words=["python", "listens.py"], files={"listens.py": LISTENS.encode()})
    assert process.interact(sys.executable, order, {}, command, home=tmp_path, gpu=None) == 7
    assert list(deep.iterdir()) == links() == []


def test_link_of_a_killed_launcher_is_reaped(deep: Path) -> None:
    """With the folder that it leads to."""
    code = "import os; from torch_compat_matrix.runner.backends.process import *\nwith launch_folder(): os._exit(1)"
    environment = {**os.environ, "TMPDIR": str(deep)}
    subprocess.run([sys.executable, "-c", code], cwd=ROOT, env=environment, check=False)
    (folder,) = deep.iterdir()
    assert any(Path(place, folder.name).is_symlink() for place in process.SHORT_PLACES)
    assert folder.name in process.reap()
    assert not any(Path(place, folder.name).is_symlink() for place in process.SHORT_PLACES)
    assert list(deep.iterdir()) == []


def test_a_temporary_folder_that_a_library_removed_is_made_again(deep: Path) -> None:
    """For what the next cell installs, and for its launch."""
    deep.rmdir()
    assert uv.finish(["cat"], {}, stdin="given", timeout_s=60).out == "given"
    shutil.rmtree(deep)
    with process.launch_folder() as folder:
        assert (folder / "owner").exists()


@pytest.mark.parametrize("backend", ["local", "here"])
def test_one_line_before_anything_runs_where_no_name_is_short(
    backend: str, deep: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """And nowhere is room for a link."""
    monkeypatch.setattr(process, "SHORT_PLACES", (str(tmp_path / "missing"),))
    with pytest.raises(BackendUnusable, match="too long for the names of sockets below it") as refused:
        connect(backend, tmp_path)
    assert "Set TMPDIR" in refused.value.remedy
    assert list(deep.iterdir()) == []
