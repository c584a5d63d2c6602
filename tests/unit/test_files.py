"""Files and folders are replaced whole, by however many at a time, and a failure leaves nothing behind."""

from __future__ import annotations

import os
import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from torch_compat_matrix.runner.files import build_once, cores, replacing, stamps, write_whole


def names(folder: Path) -> set[str]:
    """What lies in the folder."""
    return {path.name for path in folder.iterdir()}


def test_file_is_replaced(tmp_path: Path) -> None:
    """What is no text any more (half a surrogate pair) costs one character, not the file."""
    write_whole(tmp_path / "report.md", ["old"])
    write_whole(tmp_path / "report.md", ["n", "ew \ud800"])
    assert (tmp_path / "report.md").read_text(encoding="utf-8") == "new ?"
    assert names(tmp_path) == {"report.md"}


def test_failed_write_leaves_the_old_file_and_nothing_else(tmp_path: Path) -> None:
    """Also where the pieces themselves fail in the middle."""

    def pieces() -> Iterator[str]:
        yield "half"
        raise KeyboardInterrupt

    (tmp_path / "report.md").write_text("old")
    with pytest.raises(KeyboardInterrupt):
        write_whole(tmp_path / "report.md", pieces())
    assert (tmp_path / "report.md").read_text() == "old"
    assert names(tmp_path) == {"report.md"}


def test_replacement_that_cannot_take_its_place_is_removed(tmp_path: Path) -> None:
    """A file or a folder."""
    (tmp_path / "folder" / "full").mkdir(parents=True)
    with pytest.raises(OSError, match="folder"):
        write_whole(tmp_path / "folder", ["text"])
    with pytest.raises(OSError, match="folder"), replacing(tmp_path / "folder") as partial:
        (partial / "other").mkdir(parents=True)
    assert names(tmp_path) == {"folder"}


def test_writers_at_once_do_not_meet(tmp_path: Path) -> None:
    """Each thread writes to a place of its own; the last to end decides."""
    together = threading.Barrier(2, timeout=10)

    def write(text: str) -> Path:
        with replacing(tmp_path / "facts.json") as partial:
            partial.write_text(text)
            together.wait()
            assert partial.read_text() == text
        return partial

    with ThreadPoolExecutor(2) as pool:
        first, second = pool.map(write, ["first", "second"])
    assert first != second
    assert names(tmp_path) == {"facts.json"}


def test_folder_is_built_once(tmp_path: Path) -> None:
    """Whoever comes second waits for the first; what a killed builder left goes."""
    folder, built = tmp_path / "overlays" / "0123", []

    def build(partial: Path) -> None:
        built.append(partial)
        (partial / "whole").touch()

    (folder.parent / ".0123.killed.partial" / "half").mkdir(parents=True)
    with ThreadPoolExecutor(4) as pool:
        assert set(pool.map(lambda number: build_once(folder, build), range(4))) == {folder}
    assert len(built) == 1
    assert names(folder) == {"whole"}
    assert names(folder.parent) == {"0123", "0123.lock"}


def test_failed_build_leaves_nothing(tmp_path: Path) -> None:
    """So that the next one begins afresh."""

    def build(partial: Path) -> None:
        (partial / "half").touch()
        raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        build_once(tmp_path / "0123", build)
    assert names(tmp_path) == {"0123.lock"}


def test_cores_are_those_of_this_process() -> None:
    """And not those of the machine, of which a job or a container may have been given a few."""
    before = os.sched_getaffinity(0)
    os.sched_setaffinity(0, {min(before)})
    try:
        assert cores() == 1
    finally:
        os.sched_setaffinity(0, before)


def test_a_local_file_that_changes_is_another(tmp_path: Path) -> None:
    """A wheel that was built again under the same name, or a folder with a changed file; nothing else has a stamp."""
    (tmp_path / "src").mkdir()
    (tmp_path / "a b.whl").touch()
    requirements = [
        f"lib @ {(tmp_path / 'a b.whl').as_uri()} ; python_version > '3'",
        f"src@{(tmp_path / 'src').as_uri()}",
    ]
    before = stamps(requirements)
    os.utime(tmp_path / "a b.whl", ns=(1, 1))
    (tmp_path / "src" / "new.py").touch()
    os.utime(tmp_path / "src" / "new.py", ns=(1 << 62, 1 << 62))
    assert stamps(requirements) == [1, 1 << 62] != before
    assert stamps(["lib==1.0", "lib @ https://x.org/lib.whl", "lib @ file:///nowhere/lib.whl"]) == []
