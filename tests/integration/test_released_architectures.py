"""The tables of preflight against what a torch carries of its own release."""

from __future__ import annotations

import ast
from pathlib import Path

from torch_compat_matrix.runner.verdicts.preflight import TABLES


def test_the_tables_say_what_torch_says_of_its_own_release(torch_python: str) -> None:
    """torch 2.13 lists the architectures of its release, to advise on another build; the file is read, not imported."""
    (path,) = Path(torch_python).parent.parent.glob("lib/python*/site-packages/torch/cuda/__init__.py")
    release = next(
        ast.literal_eval(node.value)
        for node in ast.parse(path.read_text()).body
        if isinstance(node, ast.AnnAssign)
        and ast.unparse(node.target) == "PYTORCH_RELEASES_CODE_CC"
        and node.value is not None
    )
    for machine in ("x86_64", "aarch64"):
        rows = {
            row.split()[1]: {int(number.removesuffix("+PTX")) for number in architectures.split()}
            for row, architectures in TABLES[f"torch {machine}"].items()
            if row.split()[0] == "2.13"
        }
        assert rows == {cuda: processors[machine] for cuda, processors in release.items()}
