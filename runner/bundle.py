"""The distributions that have probes, read from the files of probes/libraries, which are never imported here."""

from __future__ import annotations

import ast
import symtable
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from functools import cache
from importlib.util import decode_source
from pathlib import Path
from typing import Any

from torch_compat_matrix.runner.model import PROBES
from torch_compat_matrix.runner.pins import canonical

BUNDLE = Path(__file__).resolve().parent.parent / "probes"
"""The folder that is sent into every image."""

NAME = "compat_probes"
"""The bundle's name inside an image, where `probes` may be another module."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Entry:
    """A library's probe module, as far as the host reads it."""

    distribution: str
    probes: frozenset[str] = frozenset(PROBES)
    """The probes that it has an answer to, be it that they do not apply."""
    problem: str = ""
    """File and cause, where the module cannot be used."""


@cache
def catalogue() -> Mapping[str, Entry]:
    """Distribution -> its module in probes/libraries; a module that is wrong stands under the name of its file."""
    entries = (_entry(path) for path in sorted((BUNDLE / "libraries").glob("[a-z]*.py")))
    return {entry.distribution: entry for entry in entries}


def answered(probes: Iterable[str], members: Iterable[str]) -> tuple[str, ...]:
    """Those of the probes, in their order, that the modules of the members have an answer to."""
    wanted = set(probes)
    has = {probe for name in members for probe in (catalogue()[name].probes if name in catalogue() else PROBES)}
    return tuple(probe for probe in PROBES if probe in wanted & has)


class _Wrong(Exception):
    """Why a probe module cannot be used."""


def _entry(path: Path) -> Entry:
    try:
        text = decode_source(path.read_bytes())
        declared = _declared(ast.parse(text, path.name))
        distribution = canonical(declared["DISTRIBUTION"])
        if distribution.replace("-", "_") != path.stem:
            raise _Wrong(f"the probes of {distribution} belong in {distribution.replace('-', '_')}.py")
        symbols = symtable.symtable(text, path.name, "exec").get_symbols()
    except SyntaxError as error:
        problem = f"line {error.lineno}: {error.msg}" if error.lineno else error.msg
    except (_Wrong, OSError, ValueError) as error:
        problem = str(error)
    else:
        defined = {symbol.get_name() for symbol in symbols if symbol.is_assigned() or symbol.is_imported()}
        probes = {"import", *declared.get("NOT_APPLICABLE", ()), *defined}
        return Entry(distribution=declared["DISTRIBUTION"], probes=frozenset(probes.intersection(PROBES)))
    return Entry(distribution=path.stem.replace("_", "-"), problem=f"{place_of(path.stem)}: {problem}")


def place_of(distribution: str) -> str:
    """The file of a distribution's probes, for messages."""
    return f"probes/libraries/{canonical(distribution).replace('-', '_')}.py"


_CONSTANTS = {"DISTRIBUTION": str, "MODULE": str, "IMPORTS": tuple, "NOT_APPLICABLE": dict}
"""The constants that the host and the import probe read, and their types."""

_KINDS = {str: "string", tuple: "tuple of strings", dict: "dict of strings"}


def _declared(module: ast.Module) -> dict[str, Any]:
    """The values of those constants, which a module writes out."""
    declared: dict[str, Any] = {}
    for node in module.body:
        if not isinstance(node, ast.Assign | ast.AnnAssign) or node.value is None:
            continue
        for target in node.targets if isinstance(node, ast.Assign) else (node.target,):
            if isinstance(target, ast.Name) and target.id in _CONSTANTS:
                declared[target.id] = _value(target.id, node.value)
    for name in ("DISTRIBUTION", "MODULE"):
        if name not in declared:
            raise _Wrong(f"no `{name} = ...`")
    return declared


def _value(name: str, node: ast.expr) -> Any:
    try:
        value = ast.literal_eval(node)
    except ValueError:
        raise _Wrong(f"line {node.lineno}: {name} is not written out") from None
    kind = _CONSTANTS[name]
    parts = (*value, *value.values()) if isinstance(value, dict) else value
    if not isinstance(value, kind) or not all(isinstance(part, str) for part in parts):
        raise _Wrong(f"line {node.lineno}: {name} is not a {_KINDS[kind]}")
    return value
