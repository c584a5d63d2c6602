"""Who is dead: told by host, boot, PID namespace, pid and start time together, and never by a bare pid."""

from __future__ import annotations

import os
import tempfile
from pathlib import Path

import pytest

from torch_compat_matrix.runner.backends import process
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
