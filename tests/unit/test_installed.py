"""What the tool says where it was installed: nobody there has a checkout to look into."""

from __future__ import annotations

import ast
import re
from pathlib import Path

import pytest

from tests.support import ROOT
from torch_compat_matrix.runner.verdicts.reasons import REASONS

ONLY_HERE = re.compile(
    r"(?<![\w./-])(?:docs|runner|reports|tests|benchmarks|\.ci)/[\w./-]|CONTRIBUTING|docs\.generate|"
    r"pip install \.|\bcheckout\b"
)
MODULES = sorted(path for room in ("compat", "reports", "runner") for path in (ROOT / room).rglob("*.py"))


@pytest.mark.parametrize("path", MODULES, ids=lambda path: str(path.relative_to(ROOT)))
def test_no_message_names_a_file_of_the_checkout(path: Path) -> None:
    """Any text of a module but its docstrings may be part of a message."""
    tree = ast.parse(path.read_text())
    told = {id(node.value) for node in ast.walk(tree) if isinstance(node, ast.Expr)}  # docstrings
    texts = [
        node.value
        for node in ast.walk(tree)
        if isinstance(node, ast.Constant) and isinstance(node.value, str) and id(node) not in told
    ]
    assert [text for text in texts if ONLY_HERE.search(text)] == []


@pytest.mark.parametrize("code", REASONS)
def test_no_remedy_names_a_file_of_the_checkout(code: str) -> None:
    """Nor a cause."""
    templates = REASONS[code].templates
    assert [name for name in ("cause", "remedy") if ONLY_HERE.search(templates[name])] == []
