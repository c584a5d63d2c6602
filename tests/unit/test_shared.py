"""What the probe host holds against changes between cells: its own bundle, sealed stand-ins, headers, overlays."""

from __future__ import annotations

import os
import sys
import tempfile
from pathlib import Path

import pytest

from torch_compat_matrix.probes import shared


@pytest.fixture
def place(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder with a bundle, a sealed stand-in, an overlay and a temporary folder with a header."""
    for name in ("bundle/probes/shared.py", "standin/lib/torch.py", "overlay/library.py"):
        (tmp_path / name).parent.mkdir(parents=True)
        (tmp_path / name).write_text("sound")
    (tmp_path / "standin.sealed").touch()
    monkeypatch.setattr(shared, "__file__", str(tmp_path / "bundle" / "probes" / "shared.py"))
    monkeypatch.setattr(sys, "prefix", str(tmp_path / "standin"))
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path / "tmp"))
    header = Path(shared.header_folder(), "precompiled_headers", "a.h")
    header.parent.mkdir(parents=True)
    header.write_text("sound")
    return tmp_path


CHANGES = [
    "bundle/probes/shared.py",
    "bundle/probes/libraries/planted.py",
    "bundle/probes/__pycache__/shared.pyc",
    "bundle/json.py",
    "standin/lib/torch.py",
    "standin/sitecustomize.py",
]


@pytest.mark.parametrize("changed", CHANGES)
def test_a_change_is_noticed(place: Path, changed: str) -> None:
    """Of a file, or by a file that was not there."""
    files = shared.Shared([])
    assert files.change() == ""
    (place / changed).parent.mkdir(exist_ok=True)
    (place / changed).write_text("wrong")
    assert files.change() in (str(place / changed), str(place / "bundle"))


def test_a_folder_that_nobody_sealed_may_change(place: Path) -> None:
    """An interpreter of the user's own, with all that is installed into it meanwhile."""
    (place / "standin.sealed").unlink()
    files = shared.Shared([])
    (place / "standin" / "lib" / "torch.py").write_text("wrong")
    assert files.change() == ""


def test_headers_of_a_cell_end_with_it(place: Path) -> None:
    """Those that the host made stay as they are."""
    header = Path(shared.header_folder(), "precompiled_headers", "a.h")
    files = shared.Shared([])
    planted = header.with_suffix(".h.gch")
    planted.write_text("planted")
    assert files.change() == ""
    assert not planted.exists()
    header.write_text("wrong")
    assert files.change() == str(header)


def test_a_fifo_in_the_place_of_a_file_is_not_read(place: Path) -> None:
    """Nor does it keep the host waiting."""
    files = shared.Shared([])
    (place / "bundle" / "probes" / "shared.py").unlink()
    os.mkfifo(place / "bundle" / "probes" / "shared.py")
    assert files.change() == str(place / "bundle" / "probes" / "shared.py")


def test_an_overlay_is_held_until_its_cell_begins(place: Path) -> None:
    """It belongs to that cell then."""
    overlay = str(place / "overlay")
    files = shared.Shared([overlay])
    assert files.change_of(overlay) == ""
    (place / "overlay" / "library.py").write_text("wrong")
    assert files.change() == ""
    assert files.change_of(overlay) == str(place / "overlay" / "library.py")
