"""`python bytecode.py FOLDER`: write the bytecode of an overlay's libraries, and of what they import from it at once.

A library is a package that no other one there requires.  Of what the others hold, most is never imported: 9 of 10 files
for GPyTorch, which brings scikit-learn and SciPy.  Nothing is run; what a function imports is left out.
"""

from __future__ import annotations

import importlib.util
import marshal
import re
import sys
from contextlib import suppress
from importlib.metadata import distributions
from modulefinder import Module, ModuleFinder
from pathlib import Path
from types import CodeType
from typing import Any

DEEPEST = 5000
"""Frames of Python; the finder takes some eight for each import within an import."""


class Imports(ModuleFinder):
    """Follows the imports of a module's own level."""

    def scan_code(self, co: CodeType, m: Module) -> None:
        """Leave out the code of functions and classes."""
        constants = tuple(None if isinstance(constant, CodeType) else constant for constant in co.co_consts)
        super().scan_code(co.replace(co_consts=constants), m)

    def find_module(self, name: str, path: Any, parent: Any = None) -> Any:
        """Pass over a package without code of its own, which the finder does not know."""
        try:
            return super().find_module(name, path, parent)
        except AttributeError as error:
            raise ImportError(name) from error


def canonical(name: str) -> str:
    """A distribution's name as two spellings of it have in common."""
    return re.sub(r"[-_.]+", "-", name).lower()


def modules(folder: str) -> list[str]:
    """The modules of the libraries, without their tests."""
    found = list(distributions(path=[folder]))
    needs = [need for one in found for need in one.requires or () if "extra ==" not in need]
    needed = {canonical(re.split(r"[^\w.-]", need, maxsplit=1)[0]) for need in needs}
    libraries = [one for one in found if canonical(one.metadata["Name"]) not in needed] or found
    names = [str(path)[: -len(".py")] for one in libraries for path in one.files or () if path.suffix == ".py"]
    names = [name.removesuffix("/__init__").replace("/", ".") for name in names if not re.search(r"\btests?/", name)]
    return [name for name in names if all(map(str.isidentifier, name.split(".")))]


def compile_all(folder: str) -> None:
    """Write the bytecode as the interpreter would that imported it."""
    sys.setrecursionlimit(DEEPEST)
    finder = Imports([folder])
    for name in modules(folder):
        with suppress(ImportError, SyntaxError, ValueError, RecursionError):  # what is left is compiled at each import
            finder.import_hook(name)
    for module in finder.modules.values():
        code, path = (getattr(module, name, None) for name in ("__code__", "__file__"))
        if code is not None and path is not None:
            status, target = Path(path).stat(), Path(importlib.util.cache_from_source(path))
            stamps = [number.to_bytes(4, "little") for number in (0, int(status.st_mtime), status.st_size)]
            target.parent.mkdir(exist_ok=True)
            target.write_bytes(b"".join([importlib.util.MAGIC_NUMBER, *stamps, marshal.dumps(code)]))


if __name__ == "__main__":
    compile_all(sys.argv[1])
