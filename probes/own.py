"""The probe modules that are not of this bundle: the work order brings their text, `own.NAME` imports them.

They stay in memory: no library can reach them there, and `from ..evidence import close` means what it means in
`libraries`.  The probe host itself never runs them, since they may import a library at their head.
"""

from __future__ import annotations

import os
import sys
from importlib.abc import ExecutionLoader, MetaPathFinder
from importlib.machinery import ModuleSpec
from importlib.util import spec_from_loader
from typing import Any, List, Mapping, Optional

__path__: List[str] = []  # a package without a folder


class _Modules(ExecutionLoader, MetaPathFinder):
    """Finds and loads the modules of a work order (name -> text)."""

    def __init__(self, texts: Mapping[str, str]) -> None:
        self.texts = {f"{__name__}.{name}": text for name, text in texts.items()}

    def find_spec(self, fullname: str, path: Any = None, target: Any = None) -> Optional[ModuleSpec]:
        return spec_from_loader(fullname, self) if fullname in self.texts else None

    def get_source(self, fullname: str) -> str:
        return self.texts[fullname]

    def get_filename(self, fullname: str) -> str:
        return os.path.join(os.path.dirname(__file__), "own", fullname.rpartition(".")[2] + ".py")

    def is_package(self, fullname: str) -> bool:
        return False


_brought = _Modules({})


def install(texts: Mapping[str, str]) -> None:
    """Let this process import these modules, once: the probe host before any fork, a fresh process at its start."""
    global _brought
    _brought = _Modules(texts)
    sys.meta_path.append(_brought)


def has(name: str) -> bool:
    """Whether the order brings a module of that name."""
    return f"{__name__}.{name}" in _brought.texts


def mentions(name: str, variable: str) -> bool:
    """Whether the module names the variable at its head level; it is compiled for that, and not run."""
    try:
        code = _brought.get_code(f"{__name__}.{name}")
    except SyntaxError:  # a newer Python read it: its import tells
        return False
    return code is not None and variable in code.co_names
