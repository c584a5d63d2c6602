"""Each library's leading entry points, and the parts that exercise them."""

from __future__ import annotations

import ast
from collections.abc import Iterator

import pytest

from docs.generate import coverage
from tests.support import ROOT
from torch_compat_matrix.runner.bundle import Entry, catalogue

LIBRARIES = ROOT / "probes" / "libraries"
ENTRIES = list(catalogue().entries.values())


def sources(name: str) -> Iterator[ast.Module]:
    """A module of probes/libraries, and those of its folder that it imports."""
    tree = ast.parse((LIBRARIES / f"{name}.py").read_text())
    yield tree
    for node in ast.walk(tree):
        if isinstance(node, ast.ImportFrom) and node.level == 1:
            for helper in [node.module] if node.module else [alias.name for alias in node.names]:
                yield from sources(str(helper))


def parts(entry: Entry) -> set[str]:
    """The texts by which the library's modules may name a part: of `probe.part`, or of a table of parts."""
    found = set()
    for tree in sources(entry.distribution.replace("-", "_")):
        table = [node for node in tree.body if isinstance(node, ast.Assign) and ast.unparse(node).startswith("COVERS")]
        left = {inner for node in table for inner in ast.walk(node)}
        for node in ast.walk(tree):
            if isinstance(node, ast.Constant) and isinstance(node.value, str) and node not in left:
                found.add(node.value)
    return found


@pytest.mark.parametrize("entry", ENTRIES, ids=[entry.distribution for entry in ENTRIES])
def test_each_entry_point_names_a_part_that_exists(entry: Entry) -> None:
    """`probe/part`, or `probe` where it has none; that the part runs is shown by the slow test of the budget."""
    assert entry.covers, "no COVERS"
    known = parts(entry)
    for name, place in entry.covers.items():
        probe, _, part = place.partition("/")
        assert not place or probe in entry.probes, f"{name}: no probe {probe!r}"
        assert not part or part in known, f"{name}: no part {part!r}"


def test_the_page_is_the_one_that_the_modules_give() -> None:
    """docs/coverage.md is what COVERS says (`python -m docs.generate` writes it)."""
    assert (ROOT / "docs" / "coverage.md").read_text() == coverage()
