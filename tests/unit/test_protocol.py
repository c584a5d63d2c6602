"""The protocol: what is a frame and what is not, and that its page says what its types say."""

from __future__ import annotations

import ast
import re
from pathlib import Path

import pytest

from tests.support import ROOT
from torch_compat_matrix.runner.errors import Trouble
from torch_compat_matrix.runner.execution.protocol import Work, frames, order
from torch_compat_matrix.runner.model import Cell, Image


def test_only_whole_frames_of_this_launch_count() -> None:
    """Noise, other marks, torn frames and replayed ones are passed over; the first `hello` names the mark."""
    lines = [
        b"a library prints\n",
        b"compat/2\n",
        b'compat/2 other 1 {"kind": "facts"}\n',
        b'compat/2 abc 1 {"kind": "hello"}\n',
        b'compat/2 other 2 {"kind": "hello"}\n',
        b'compat/2 abc 2 {"kind": "fac',
        b'compat/2 abc 2 {"kind": "facts"}\n',
        b'compat/2 abc 1 {"kind": "hello"}\n',
        b'compat/2 abc x {"kind": "odd"}\n',
        b'compat/2 abc 3 {"kind": "end"}\n',
    ]
    assert [frame["kind"] for frame in frames(lines)] == ["hello", "facts", "end"]


@pytest.mark.parametrize("numbers", [(1, 2, 4), (1, 3), (2, 3)])
def test_missing_frames_are_noticed(numbers: tuple[int, ...]) -> None:
    """A log that was cut, at its beginning or within, has lost answers."""
    kinds = {1: "hello"}
    lines = [b'compat/2 abc %d {"kind": "%s"}\n' % (n, kinds.get(n, "begin").encode()) for n in numbers]
    with pytest.raises(Trouble, match="frame"):
        list(frames(lines))


def test_order_holds_the_cells() -> None:
    """With the versions that must be imported, and nothing that a library could not know."""
    cell = Cell(image="i", subject="l", version="1", requires=("l==1",), members=("l",))
    work = [Work(cell=cell, overlay=Path("key"), added={"l": "1", "dep": "2"}, versions={"l": "1"})]
    first, second = (order(Image(name="i"), work, device="cpu") for _ in range(2))
    assert first == second
    assert first["cells"][0]["members"] == [{"distribution": "l", "version": "1"}]
    assert first["cells"][0]["added"] == ["dep", "l"]


def test_a_cell_that_replaces_packages_has_a_process_of_its_own() -> None:
    """The warm process has imported some of them with torch; only those that the matrix names may be replaced."""
    requires = ("l==1", "NumPy<2", "torch<3", "member==1")
    cell = Cell(image="i", subject="l", version="1", requires=requires, members=("l", "member"))
    added = {"l": "1", "numpy": "1.26.4", "torch": "2.0", "unasked": "1.0", "member": "1"}

    def ordered(*replaced: str) -> tuple[dict[str, str], str]:
        work = Work(cell=cell, overlay=Path("key"), added=added, replaces=dict.fromkeys(replaced, "9"))
        (only,) = order(Image(name="i"), [work], device="cpu")["cells"]
        return only["replaces"], only["isolation"]

    assert ordered() == ({}, "warm")
    assert ordered("member") == ({"member": "1"}, "warm")
    assert ordered("numpy") == ({"numpy": "1.26.4"}, "fresh")
    assert ordered("torch", "unasked") == ({}, "fresh")


def typed() -> dict[str, dict[str, str]]:
    """TypedDict -> its own keys with their types, as the contract's source has them; a base for required keys aside."""
    found: dict[str, dict[str, str]] = {}
    for node in ast.parse((ROOT / "probes" / "contract.py").read_text()).body:
        if isinstance(node, ast.ClassDef):
            keys = found.setdefault(node.name, {})
            for base in map(ast.unparse, node.bases):
                keys.update(found.pop(base, {}) if base.startswith("_") else {})
            lines = [line for line in node.body if isinstance(line, ast.AnnAssign)]
            keys.update({ast.unparse(line.target): ast.unparse(line.annotation) for line in lines})
    return found


def test_page_has_every_key_and_no_other() -> None:
    """docs/protocol.md says of each TypedDict what its keys are and of which types."""
    found: dict[str, dict[str, str]] = {}
    for section in (ROOT / "docs" / "protocol.md").read_text().split("\n### ")[1:]:
        rows = re.findall(r"^\| `(\w+)` \| `(.+?)` \| \S.* \|$", section, re.MULTILINE)
        found[section.partition("\n")[0]] = dict(rows)
    assert found == typed()
