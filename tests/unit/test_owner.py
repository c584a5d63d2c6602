"""Who is dead: told by host, boot, PID namespace, pid and start time together, and never by a bare pid."""

from __future__ import annotations

import os
import tempfile
from pathlib import Path

import pytest

from torch_compat_matrix.runner.backends import here, process
from torch_compat_matrix.runner.backends.base import reap
from torch_compat_matrix.runner.backends.owner import alive, owner

HOST, BOOT, PID, STARTED, NAMESPACE = range(5)


def owner_with(part: int, value: str) -> str:
    """This process's identity with one part replaced."""
    parts = owner().split("/")
    parts[part] = value
    return "/".join(parts)


def test_owner_is_this_process() -> None:
    """It is alive, and its name holds the pid for a person to look for."""
    assert owner().split("/")[PID] == str(os.getpid())
    assert alive(owner())


@pytest.mark.parametrize(
    ("part", "value", "lives"),
    [
        (STARTED, "1", False),  # a later process has the pid
        (PID, "4194305", False),  # above the kernel's greatest pid
        (BOOT, "another-boot", False),
        (HOST, "another-host", True),  # cannot be seen from here
        (NAMESPACE, "pid:[1]", True),
    ],
)
def test_folder_of_a_dead_owner_is_reaped(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, part: int, value: str, lives: bool
) -> None:
    """And nothing that belongs to another host, another PID namespace, or nobody that is known."""
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    for name, identity in (("told", owner_with(part, value)), ("living", owner())):
        (tmp_path / f"compat-{os.getpid()}-{name}").mkdir()
        (tmp_path / f"compat-{os.getpid()}-{name}" / "owner").write_text(identity)
    (tmp_path / "compat-4194305-unknown").mkdir()
    told = f"compat-{os.getpid()}-told"
    assert process.reap() == ([] if lives else [told])
    assert (tmp_path / told).exists() == lives
    assert len(list(tmp_path.iterdir())) == 2 + lives


def test_garbage_ends_no_reaping(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Whoever wrote it: a folder of another program, a pipe, what is no text, an owner that is none."""
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    for name, content in (("binary", b"\xff\xfe"), ("empty", b""), ("slashes", b"////////"), ("long", b"x" * 4096)):
        (tmp_path / f"compat-{name}").mkdir()
        (tmp_path / f"compat-{name}" / "owner").write_bytes(content)
    (tmp_path / "compat-pipe").mkdir()
    os.mkfifo(tmp_path / "compat-pipe" / "owner")
    (tmp_path / "compat-folder" / "owner").mkdir(parents=True)
    (tmp_path / "compat-file").touch()
    assert process.reap() == []
    (tmp_path / "compat-dead").mkdir()
    (tmp_path / "compat-dead" / "owner").write_text(owner_with(PID, "no pid"))
    assert process.reap() == ["compat-dead"]
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path / "absent"))
    assert process.reap() == []


def test_reaping_never_raises_into_a_run(tmp_path: Path) -> None:
    """Whatever a backend runs into, the run is told."""

    class Backend(here.HereBackend):
        def reap(self) -> list[str]:
            raise FileNotFoundError("gone")

    said: list[str] = []
    reap(Backend(tmp_path), said.append)
    assert said == ["leftovers of dead runs were not looked for: FileNotFoundError: gone"]
