"""What the probe host holds against changes between cells: its own bundle, sealed stand-ins, headers, overlays."""

from __future__ import annotations

import os
import shutil
import sys
import tempfile
from pathlib import Path

import pytest

from torch_compat_matrix.probes import shared
from torch_compat_matrix.runner.packages import manifest


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


def test_what_a_cell_leaves_in_the_temporary_folder_ends_with_it(place: Path) -> None:
    """It may fill a container's memory, or wait there for a library of the next cell; what was there stays."""
    (place / "tmp" / "of-the-host").touch()
    files = shared.Shared([])
    (place / "tmp" / "cell" / "home").mkdir(parents=True)
    (place / "tmp" / "link").symlink_to(place / "overlay")
    assert files.change() == ""
    assert {path.name for path in (place / "tmp").iterdir()} == {"of-the-host", Path(shared.header_folder()).name}
    assert (place / "overlay" / "library.py").exists()


def test_what_was_compiled_ahead_is_held_too(place: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """What the runner has sealed: each cache gets what it lacks of it, and no cell may change the source."""
    trial, header = place / "standin-compiled" / "trials" / "ab" / "a.so", Path("precompiled_headers", "b.h.gch")
    source = place / "standin-compiled" / "headers" / header
    for path in (trial, source, source.with_name("locks") / "b.lock"):
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text("ahead")
    monkeypatch.setenv("TORCHINDUCTOR_CACHE_DIR", str(place / "cache"))
    manifest.seal(place / "standin-compiled")
    files = shared.Shared([])
    assert not files.seeded
    files.take_ahead(manifest.read(place / "standin-compiled"))
    assert files.seeded and shared.seed()
    linked, copied = Path(shared.header_folder(), header), place / "cache" / "ab" / "a.so"
    assert linked.readlink() == source
    assert not linked.with_name("locks").exists()
    copied.write_text("the cell's own")
    assert files.change() == ""
    source.chmod(0o644)
    linked.write_text("wrong")
    assert files.change() == str(source)


@pytest.mark.parametrize("before", [True, False], ids=["where they were", "before there were any"])
def test_a_link_does_not_lead_headers_elsewhere(place: Path, before: bool) -> None:
    """To a folder where a cell has put some for the cells after it."""
    folder = Path(shared.header_folder())
    shutil.rmtree(folder)
    if before:
        folder.mkdir()
    files = shared.Shared([])
    if before:
        folder.rmdir()
    folder.symlink_to(place / "overlay")
    assert files.change() == (str(folder) if before else "")
    assert folder.is_symlink() is before


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
    files.require_own([overlay], unchanged=True)
    (place / "overlay" / "library.py").write_text("wrong")
    assert files.change() == ""
    files.require_own([overlay])
    with pytest.raises(shared.Changed) as changed:
        files.require_own([overlay], unchanged=True)
    assert changed.value.state == "changed"


@pytest.mark.parametrize("before", [True, False], ids=["before the launch", "meanwhile"])
def test_an_overlay_without_its_files_is_lost(place: Path, before: bool) -> None:
    """Whoever has removed it; a cell that adds nothing has none."""
    files = shared.Shared([str(place / "overlay")])
    files.require_own([], unchanged=True)
    (place / "overlay" / "library.py").unlink()
    if before:
        files = shared.Shared([str(place / "overlay")])
    with pytest.raises(shared.Lost):
        files.require_own([str(place / "overlay")])
