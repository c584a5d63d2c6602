"""No cell can change what another sees: overlays and stand-ins are checked before each launch, and mended."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.integration.test_overlay import facts
from tests.support.tinywheels import wheel
from torch_compat_matrix.probes.shared import stamps
from torch_compat_matrix.runner.backends import process
from torch_compat_matrix.runner.model import Local
from torch_compat_matrix.runner.packages import manifest, overlay, standin
from torch_compat_matrix.runner.packages.pip_config import Index
from torch_compat_matrix.runner.packages.uv import version
from torch_compat_matrix.runner.storage import contents, leftovers

FACTS = facts()


@pytest.fixture
def index(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Index:
    """Find-links with one small package, and a cache of uv's of our own."""
    assert version()
    (tmp_path / "wheels").mkdir()
    wheel(tmp_path / "wheels", "poisoner", "1.0", files={"poisoned.py": "VALUE = 'sound'\n", "empty.py": ""})
    monkeypatch.setenv("UV_CACHE_DIR", str(tmp_path / "uv"))
    return Index.from_pip(
        {"PIP_NO_INDEX": "1", "PIP_FIND_LINKS": str(tmp_path / "wheels"), "PIP_CONFIG_FILE": os.devnull}
    )


def change(path: Path) -> None:
    """Write to a file as root can, whatever its mode."""
    path.chmod(0o644)
    path.write_text("VALUE = 'poisoned'\n")
    path.chmod(0o444)


def put_a_pipe(path: Path) -> None:
    """Put a pipe in a file's place, which whoever reads it would wait for."""
    path.unlink()
    os.mkfifo(path)


DAMAGES: dict[str, Callable[[Path], object]] = {
    "changed": lambda folder: change(folder / "poisoned.py"),
    "removed": lambda folder: (folder / "poisoned.py").unlink(),
    "pipe": lambda folder: put_a_pipe(folder / "empty.py"),
    "terabyte": lambda folder: os.truncate(folder / "poisoned.py", 1 << 40),
    "manifest": lambda folder: put_a_pipe(manifest.manifest_of(folder)),
}

ADDITIONS: dict[str, Callable[[Path], object]] = {
    "file": lambda folder: (folder / "json.py").write_text("raise SystemExit\n"),
    "link": lambda folder: (folder / "json").symlink_to("/etc"),
}


@pytest.mark.parametrize("kind", DAMAGES)
def test_a_damaged_overlay_is_built_again(index: Index, tmp_path: Path, kind: str) -> None:
    """From sound files: those of uv's cache are others, which a library cannot reach by its own."""
    folder = overlay.build(["poisoner==1.0"], FACTS, index, tmp_path)
    assert manifest.damage(folder) == ""
    DAMAGES[kind](folder)
    assert manifest.damage(folder)
    before = folder.stat().st_ino
    assert overlay.build(["poisoner==1.0"], FACTS, index, tmp_path) == folder
    assert folder.stat().st_ino != before
    assert manifest.damage(folder) == "" and (folder / "poisoned.py").read_text() == "VALUE = 'sound'\n"
    overlay.build(["poisoner==1.0"], FACTS, index, tmp_path)
    assert not list(folder.parent.glob(".*"))


@pytest.mark.parametrize("kind", ADDITIONS)
def test_what_was_added_to_an_overlay_is_removed(index: Index, tmp_path: Path, kind: str) -> None:
    """Nothing need be built again for it, which takes minutes for a stand-in."""
    folder = overlay.build(["poisoner==1.0"], FACTS, index, tmp_path)
    before = folder.stat().st_ino
    ADDITIONS[kind](folder)
    assert overlay.build(["poisoner==1.0"], FACTS, index, tmp_path).stat().st_ino == before
    assert not list(folder.glob("json*")) and manifest.damage(folder) == ""


def test_a_link_in_the_place_of_an_overlay_is_replaced(index: Index, tmp_path: Path) -> None:
    """Nothing is removed from the folder to which it leads."""
    folder = overlay.build(["poisoner==1.0"], FACTS, index, tmp_path)
    (tmp_path / "user").mkdir()
    (tmp_path / "user" / "thesis.tex").touch()
    folder.rename(folder.with_name("gone"))
    folder.symlink_to(tmp_path / "user")
    overlay.build(["poisoner==1.0"], FACTS, index, tmp_path)
    assert (folder / "poisoned.py").is_file() and not folder.is_symlink()
    assert (tmp_path / "user" / "thesis.tex").exists()


def test_a_change_that_keeps_size_and_times_is_seen(index: Index, tmp_path: Path) -> None:
    """A library may set a file's times back; it cannot set the time of change."""
    folder = overlay.build(["poisoner==1.0"], FACTS, index, tmp_path)
    path = folder / "poisoned.py"
    status = path.stat()
    path.chmod(0o644)
    path.write_text("VALUE = 'SOUND'\n")
    path.chmod(0o444)
    os.utime(path, ns=(status.st_atime_ns, status.st_mtime_ns))
    assert path.stat().st_size == status.st_size and path.stat().st_mtime_ns == status.st_mtime_ns
    assert manifest.damage(folder) == "poisoned.py was changed"


def test_a_home_that_was_moved_is_sound(index: Index, tmp_path: Path) -> None:
    """The cache of a CI comes back with other times and inodes; it is read once, and not again."""
    folder = overlay.build(["poisoner==1.0"], FACTS, index, tmp_path)
    shutil.copytree(folder.parent, tmp_path / "moved")
    moved = tmp_path / "moved" / folder.name
    before = manifest.manifest_of(moved).read_text()
    assert manifest.damage(moved) == ""
    assert manifest.manifest_of(moved).read_text() != before


def test_a_garbled_manifest_is_damage(index: Index, tmp_path: Path) -> None:
    """Nobody knows then what the folder held."""
    folder = overlay.build(["poisoner==1.0"], FACTS, index, tmp_path)
    manifest.manifest_of(folder).write_text("{")
    assert "manifest" in manifest.damage(folder)
    overlay.build(["poisoner==1.0"], FACTS, index, tmp_path)
    assert manifest.damage(folder) == ""


def test_a_damaged_stand_in_is_built_again(index: Index, tmp_path: Path) -> None:
    """Also one that was built before there were manifests is known from then on."""
    local = Local(python=".".join(map(str, sys.version_info[:2])), requires=("poisoner==1.0",))
    built = standin.build(local, tmp_path, index, gpu=False)
    (module,) = built.python.parent.parent.glob("lib/*/site-packages/poisoned.py")
    change(module)
    again = standin.build(local, tmp_path, index, gpu=False)
    said = subprocess.run(
        [again.python, "-c", "import poisoned; print(poisoned.VALUE)"], capture_output=True, text=True, check=True
    )
    assert said.stdout == "sound\n" and again == built
    folder = built.python.parent.parent
    manifest.manifest_of(folder).unlink()
    inode = folder.stat().st_ino
    standin.build(local, tmp_path, index, gpu=False)
    assert folder.stat().st_ino == inode and manifest.is_sealed(folder)


def test_a_library_cannot_write_to_the_cache_of_the_installer(index: Index, tmp_path: Path) -> None:
    """The files of an overlay are its own."""
    folder = overlay.build(["poisoner==1.0"], FACTS, index, tmp_path)
    assert {path.stat().st_nlink for path in folder.rglob("*") if path.is_file()} == {1}


def test_another_build_of_a_version_is_another_overlay(index: Index, tmp_path: Path) -> None:
    """A private index may offer other content under the same name and version."""
    first = overlay.build(["poisoner==1.0"], FACTS, index, tmp_path)
    wheel(tmp_path / "wheels", "poisoner", "1.0", files={"poisoned.py": "VALUE = 'rebuilt'\n"})
    overlay.offered.cache_clear()  # each process asks once
    second = overlay.build(["poisoner==1.0"], FACTS, index, tmp_path)
    assert second != first
    assert (second / "poisoned.py").read_text() == "VALUE = 'rebuilt'\n"
    assert (first / "poisoned.py").read_text() == "VALUE = 'sound'\n"


def dig(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A folder of 1,100 levels below that one, with a file at its end: more than Python recurses."""
    with monkeypatch.context() as patch:
        patch.chdir(folder)
        for _ in range(1100):
            Path("d").mkdir()
            os.chdir("d")
        Path("file").write_text("x" * 10_000)


def test_a_folder_of_any_depth_is_measured_checked_and_removed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Python's own walk and removal recurse, which a library can lead to their end."""
    folder = tmp_path / "overlays" / "key"
    folder.mkdir(parents=True)
    (folder / "module.py").touch()
    manifest.seal(folder)
    dig(folder, monkeypatch)
    (kept,) = contents(tmp_path)
    assert kept.size >= 10_000
    assert leftovers(tmp_path) == []
    assert len(stamps(str(folder))) == 2
    assert manifest.damage(folder) == ""  # what was added is removed
    kept.remove()
    assert list(folder.parent.iterdir()) == []
    with process.launch_folder() as launched:
        dig(launched, monkeypatch)
    assert not launched.exists()
