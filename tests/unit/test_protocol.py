"""Frames: what lacks the launch's nonce, is torn or comes twice is not a result."""

from __future__ import annotations

from pathlib import Path

from torch_compat_matrix.runner.execution.protocol import Work, frames, order
from torch_compat_matrix.runner.model import Cell, Image


def test_only_whole_frames_of_this_launch_count() -> None:
    """Noise, other nonces, torn frames and replayed ones are passed over."""
    lines = [
        b"a library prints\n",
        b'compat/1 other 1 {"kind": "forged"}\n',
        b'compat/1 abc 1 {"kind": "hello"}\n',
        b'compat/1 abc 2 {"kind": "fac',
        b'compat/1 abc 2 {"kind": "facts"}\n',
        b'compat/1 abc 1 {"kind": "hello"}\n',
        b'compat/1 abc x {"kind": "odd"}\n',
        b'compat/1 abc 3 {"kind": "end"}\n',
    ]
    assert [frame["kind"] for frame in frames(lines, "abc")] == ["hello", "facts", "end"]


def test_each_launch_has_a_nonce_of_its_own() -> None:
    """What one launch printed cannot be replayed into another."""
    cell = Cell(image="i", subject="l", version="1", requires=("l==1",), members=("l",))
    work = [Work(cell=cell, overlay=Path("key"), added={"l": "1", "dep": "2"}, versions={"l": "1"})]
    first, second = (order(Image(name="i"), work, device="cpu") for _ in range(2))
    assert first["nonce"] != second["nonce"]
    assert first["cells"][0]["members"] == [{"distribution": "l", "version": "1"}]
    assert first["cells"][0]["added"] == ["dep", "l"]
