"""`compat clean`, and the disk that a run needs: on real folders, file systems and processes."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path

import pytest

from tests.integration.test_cli import compat
from torch_compat_matrix.runner.storage import InUse

MATRIX = """
images:
  a: { local: { python: host, requires: ["torch==2.13.0"] } }
libraries:
  torchbnn: { versions: ["1.2"], probes: [import] }
"""


@pytest.fixture
def place(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A matrix and a home: one stand-in that was used a year ago, an overlay that was used now, a run; no engine."""
    monkeypatch.setenv("DOCKER_HOST", f"unix://{tmp_path}/none.sock")  # other tests' volumes would go
    (tmp_path / "matrix.yaml").write_text(MATRIX)
    for folder in ("standins/old", "overlays/new", "runs/20250101T000000000-abcd", "overlays/.x.1.partial"):
        (tmp_path / ".compat" / folder).mkdir(parents=True)
        (tmp_path / ".compat" / folder / "journal.jsonl").write_text("{}\n" * 1000)
    old = tmp_path / ".compat" / "standins" / "old"
    for path in (old / "journal.jsonl", old, tmp_path / ".compat" / "runs" / "20250101T000000000-abcd"):
        os.utime(path, (1e9, 1e9))
    (tmp_path / ".compat" / "in-use.lock").touch()
    return tmp_path


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """A file system of 10 MB."""
    disk = tmp_path / "disk"
    disk.mkdir()
    subprocess.run(["mount", "-t", "tmpfs", "-o", "size=10m", "tmpfs", disk], check=True)
    yield disk
    subprocess.run(["umount", disk], check=True)


def left(place: Path) -> set[str]:
    """The entries of the home."""
    return {f"{path.parent.name}/{path.name}" for path in (place / ".compat").glob("*/*")}


def test_clean_removes_what_no_run_has_used_for_long(place: Path) -> None:
    """And what a killed process left; a dry run removes nothing and names the same; runs stay."""
    before = left(place)
    told = compat(place, "clean", "--dry-run")
    assert "would remove standins/old: " in told and "would remove leftovers/.x.1.partial: " in told
    assert "overlays/new" not in told and left(place) == before
    told = compat(place, "clean")
    assert "removed standins/old: " in told and "kept: overlays 1 (" in told
    assert left(place) == {"overlays/new", "runs/20250101T000000000-abcd"}


def test_runs_go_only_where_they_are_named(place: Path) -> None:
    """`--all` means all that can be made again."""
    compat(place, "clean", "--all")
    assert left(place) == {"runs/20250101T000000000-abcd"}
    compat(place, "clean", "--all", "--runs")
    assert left(place) == set()


def test_a_size_keeps_the_latest(place: Path) -> None:
    """A size alone asks for no age."""
    assert "removed standins/old" in compat(place, "clean", "--to-size", "5kB")
    assert "overlays/new" in left(place)
    assert "not a size" in compat(place, "clean", "--to-size", "much", status=2)


def test_clean_waits_for_no_run(place: Path) -> None:
    """While a run is at work its packages stay, and the message says when to clean."""
    with closing(InUse(place / ".compat")):
        assert "a run is at work here" in compat(place, "clean", status=5)
        assert "would remove standins/old" in compat(place, "clean", "--dry-run")
    assert "standins/old" in left(place)


def test_doctor_sweeps_what_killed_runs_left(place: Path) -> None:
    """What was compiled ahead for a stand-in, too; unless a run is at work, which may be making it."""
    half = place / ".compat" / "standins" / ".08e2341e2c21ab5e-compiled.fb21cccb8a3e8b2c.partial"
    half.mkdir()
    with closing(InUse(place / ".compat")):
        compat(place, "doctor", "--backend", "local")
    assert half.is_dir()
    assert f"removed leftovers/{half.name}" in compat(place, "doctor", "--backend", "local")
    assert left(place) == {"overlays/new", "standins/old", "runs/20250101T000000000-abcd"}


def test_a_home_that_is_not_ours_is_named(place: Path) -> None:
    """Its `facts` or `runs` would be somebody else's."""
    (place / "thesis" / "runs" / "marathon").mkdir(parents=True)
    for home, why in (("matrix.yaml", "it is no folder"), ("thesis", "it holds files, and none that a run has left")):
        told = compat(place, "clean", "--all", "--runs", "--dry-run", status=2, COMPAT_HOME=str(place / home))
        assert told.count("\n") == 2 and f"compat: {place / home}: {why}" in told and "COMPAT_HOME" in told
    (place / "empty").mkdir()
    compat(place, "clean", COMPAT_HOME=str(place / "empty"))


def test_a_limit_of_the_home_is_kept_by_each_run(place: Path) -> None:
    """The longest unused goes before the run begins; what a killed run left goes in any case."""
    code = (
        "from pathlib import Path; from torch_compat_matrix.runner import planning, workflow as w\n"
        "from torch_compat_matrix.runner.backends.base import connect\n"
        "w.make_room(planning.plan_from(Path('matrix.yaml'), backend='local'), connect('local', w.home()), print)"
    )
    environment = {**os.environ, "COMPAT_HOME": str(place / ".compat"), "COMPAT_HOME_LIMIT": "5kB"}
    done = subprocess.run(
        [sys.executable, "-c", code], cwd=place, env=environment, capture_output=True, text=True, check=True
    )
    assert "removed standins/old" in done.stdout and "removed leftovers/.x.1.partial" in done.stdout
    assert "overlays/new" in left(place)


def test_a_run_that_the_disk_cannot_hold_does_not_begin(place: Path, small_disk: Path) -> None:
    """It would fail after a long download; doctor says the same."""
    home = str(small_disk / "home")
    told = compat(place, "run", status=4, COMPAT_HOME=home)
    assert "0.0 GB free in" in told and "1.0 GB needed" in told and "compat clean" in told
    assert not list(small_disk.rglob("journal.jsonl"))
    assert "no  disk: 0.0 GB free" in compat(
        place, "doctor", "--backend", "local", status=4, COMPAT_HOME=str(small_disk / "home")
    )


def test_here_without_torch_refuses_at_once(place: Path) -> None:
    """An overlay with a torch of its own would be judged in the place of the interpreter."""
    told = compat(place, "run", "--backend", "here", status=4)
    assert "has no torch" in told and "start compat with the interpreter that holds torch" in told
    assert "no  torch here" in compat(place, "doctor", "--backend", "here", status=4)
