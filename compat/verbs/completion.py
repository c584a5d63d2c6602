"""Print the code with which a shell completes verbs, options, selectors and runs. bash: eval "$(compat completion
bash)" in ~/.bashrc; zsh likewise; fish: compat completion fish | source.

shell {bash,zsh,fish}  whose code

compat completion bash
compat completion fish
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Iterable
from contextlib import suppress
from pathlib import Path
from typing import Any

import argcomplete
from argcomplete.shell_integration import shellcode

from torch_compat_matrix.compat.options import parser, verbs_of
from torch_compat_matrix.compat.progress import answer
from torch_compat_matrix.runner.errors import Status
from torch_compat_matrix.runner.files import home, read_cache, to_json, write_whole
from torch_compat_matrix.runner.model import MATRIX
from torch_compat_matrix.runner.selector import LABEL, TERMS

SELECTORS = ("selectors", "cell")
"""The arguments of verbs that are selectors."""
RUNS = ("run", "before", "after", "resume", "baseline")


def main(options: argparse.Namespace) -> Status:
    answer(shellcode(["compat"], shell=options.shell))
    return Status.AS_EXPECTED


def complete() -> None:
    """Answer a shell, which asks by way of the environment, and end the process."""
    top = parser()
    for verb, options in verbs_of(top).items():
        for action in options._actions:
            if verb == "numerics" and action.dest in RUNS:
                action.completer = lambda **more: [*_selectors(**more), *_runs()]  # type: ignore[attr-defined]
            elif action.dest in SELECTORS:
                action.completer = _selectors  # type: ignore[attr-defined]
            elif action.dest in RUNS and action.nargs != 0:
                action.completer = _runs  # type: ignore[attr-defined]
    argcomplete.autocomplete(top, exit_method=sys.exit)


def _runs(**_: Any) -> Iterable[str]:
    return sorted(path.parent.name for path in (home() / "runs").glob("*/journal.jsonl"))


def _selectors(prefix: str, parsed_args: argparse.Namespace, **_: Any) -> Iterable[str]:
    """The names and labels of the matrix, and the terms for recorded checks."""
    if prefix.startswith("@run:"):
        return [f"@run:{run}" for run in _runs()]
    if prefix.startswith("@reason:"):
        from torch_compat_matrix.runner.verdicts.reasons import REASONS

        return [f"@reason:{code}" for code in REASONS]
    return [*_names(parsed_args), *(f"@{term}{':' if valued else ''}" for term, valued in TERMS.items())]


def _names(parsed_args: argparse.Namespace) -> Iterable[str]:
    """The words of the matrix: kept until a YAML file beside or below it changes, since to read it takes 0.3 s."""
    matrix = Path(getattr(parsed_args, "matrix", MATRIX)).absolute()
    files = [file for pattern in ("*.y*ml", "*/*.y*ml") for file in sorted(matrix.parent.glob(pattern))]
    stamp = [str(matrix), *(f"{file} {file.stat().st_mtime_ns}" for file in files)]
    path = home() / "selectors.json"
    kept: dict[str, list[str]] = read_cache(path, dict) or {}
    if kept.get("stamp") == stamp and "words" in kept:
        return kept["words"]
    from torch_compat_matrix.runner.errors import CompatError
    from torch_compat_matrix.runner.matrix.expand import all_cells
    from torch_compat_matrix.runner.matrix.load import load
    from torch_compat_matrix.runner.matrix.select import names_of

    try:
        cells = all_cells(load(matrix))
    except (CompatError, OSError):
        return ()
    words = sorted({*names_of(cells), *(f"{LABEL}{label}" for cell in cells for label in cell.labels)})
    with suppress(OSError):  # a home that cannot be written
        write_whole(path, [to_json({"stamp": stamp, "words": words})])
    return words
