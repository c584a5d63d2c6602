"""The distributions that have probes, read from the files of their modules, which are never imported here."""

from __future__ import annotations

import ast
import hashlib
import symtable
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field, replace
from difflib import get_close_matches
from functools import cache
from importlib import metadata
from importlib.util import decode_source, find_spec
from pathlib import Path
from typing import Any

from torch_compat_matrix.runner.files import read_whole
from torch_compat_matrix.runner.model import PROBES, Module, digest
from torch_compat_matrix.runner.pins import canonical, name_of

BUNDLE = Path(__file__).resolve().parent.parent / "probes"
"""The folder that is sent into every image."""

NAME = "compat_probes"
"""The bundle's name inside an image, where `probes` may be another module."""

ENTRY_POINTS = "compat.probes"
"""The group of entry points by which an installed package brings probes: each names a package of probe modules."""

MOST_BYTES = 1 << 20
"""Bytes of a probe module."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Entry:
    """A library's probe module, as far as the host reads it."""

    distribution: str
    probes: frozenset[str] = frozenset(PROBES)
    """The probes that it has an answer to, be it that they do not apply."""
    problem: str = ""
    """File and cause, where the module cannot be used."""
    place: str = ""
    """The module's file, for messages."""
    module: Module | None = None
    """The module, where it is not of our own bundle."""
    generic: frozenset[str] = frozenset()
    """The probes that are generic ones (probes/libraries/_generic.py)."""
    covers: Mapping[str, str] = field(default_factory=dict)
    """The library's leading public entry points -> `probe/part` that exercises each; empty where none does."""

    @property
    def gaps(self) -> tuple[str, ...]:
        """The entry points that no part exercises."""
        return tuple(name for name, part in self.covers.items() if not part)


@dataclass(frozen=True, kw_only=True, slots=True)
class Catalogue:
    """The libraries that have probes."""

    entries: Mapping[str, Entry]
    """Distribution -> its module; a module that is wrong stands under the name of its file."""
    helpers: tuple[Module, ...] = ()
    """Further modules, `_NAME.py`, that those of the user import."""
    problems: tuple[tuple[str, str], ...] = ()
    """(folder, file and cause) of a helper that cannot be used."""

    @property
    def modules(self) -> tuple[Module, ...]:
        """All that is not of our own bundle."""
        return (*(entry.module for entry in self.entries.values() if entry.module), *self.helpers)

    def answered(self, probes: Iterable[str], members: Iterable[str]) -> tuple[str, ...]:
        """Those of the probes, in their order, that the modules of the members have an answer to."""
        wanted = set(probes)
        has = {probe for name in members for probe in (self.entries[name].probes if name in self.entries else PROBES)}
        return tuple(probe for probe in PROBES if probe in wanted & has)

    def superficial(self, members: Iterable[str]) -> tuple[str, ...]:
        """The probes whose pass is superficial, since they are generic for one of the members."""
        generic = {probe for name in members if name in self.entries for probe in self.entries[name].generic}
        return tuple(probe for probe in PROBES if probe in generic)

    def with_generic(self, names: Iterable[str]) -> Catalogue:
        """These libraries too: the generic probes for each that has none."""
        missing = [name for name in names if name not in self.entries]
        return replace(self, entries={**self.entries, **{name: self._generic(name) for name in missing}})

    def _generic(self, name: str) -> Entry:
        near = get_close_matches(name, self.entries, n=1, cutoff=0.8)
        origin = f"generic probes of {name}{f' (did you mean {near[0]!r}?)' if near else ''}"
        module = Module(name=name.replace("-", "_"), origin=origin, text=_GENERIC.format(name))
        return Entry(distribution=name, place=origin, module=module, generic=frozenset(PROBES))

    def members_of(self, requires: Iterable[str]) -> tuple[str, ...]:
        """The distributions among the requirements that have probes, each once: markers may choose between them."""
        return tuple(name for name in dict.fromkeys(map(name_of, requires)) if name in self.entries)


_GENERIC = (Path(__file__).with_name("data") / "generic.txt").read_text()
"""The probe module of a library that has none."""


@cache
def catalogue() -> Catalogue:
    """The libraries of our own bundle, probes/libraries."""
    entries = (_entry(path, place_of(path.stem)) for path in sorted((BUNDLE / "libraries").glob("[a-z]*.py")))
    return Catalogue(entries={entry.distribution: entry for entry in entries})


def extended(folders: Mapping[str, Path]) -> Catalogue:
    """Our libraries, then those of installed packages, then those of the folders (name for messages -> folder).

    A later module takes the place of an earlier one for the same distribution.  Nothing is imported.
    """
    entries, helpers, problems = dict(catalogue().entries), dict[str, Module](), list[tuple[str, str]]()
    for name, folder in (*_of_packages(), *folders.items()):
        for path in sorted(folder.glob("[a-z]*.py")):
            entry = _entry(path, f"{name.rstrip('/')}/{path.name}", own=True)
            entries[entry.distribution] = entry
        for path in sorted(folder.glob("_[a-z]*.py")):
            place = f"{name.rstrip('/')}/{path.name}"
            try:
                text = _text(path)
                ast.parse(text, path.name)
            except _UNREADABLE as error:
                problems.append((name, f"{place}: {_cause(error)}"))
                continue
            first = helpers.setdefault(path.stem, Module(name=path.stem, origin=place, text=text))
            if first.text != text:
                problems.append((name, f"{place} and {first.origin} have one name: rename one of them"))
    return Catalogue(entries=entries, helpers=tuple(helpers.values()), problems=tuple(problems))


def _of_packages() -> Iterator[tuple[str, Path]]:
    """The folders of probe modules that the entry points of installed packages name, which are not imported."""
    for point in metadata.entry_points(group=ENTRY_POINTS):
        top, *rest = point.value.split(".")
        found = find_spec(top)
        for place in (found and found.submodule_search_locations) or ():
            yield point.value.replace(".", "/"), Path(place, *rest)


class _Wrong(Exception):
    """Why a probe module cannot be used."""


_UNREADABLE = (_Wrong, SyntaxError, OSError, ValueError)


def _text(path: Path) -> str:
    return decode_source(read_whole(path, MOST_BYTES))


def _entry(path: Path, place: str, own: bool = False) -> Entry:
    try:
        text = _text(path)
        declared = _declared(ast.parse(text, path.name))
        distribution = canonical(declared["DISTRIBUTION"])
        if distribution.replace("-", "_") != path.stem:
            raise _Wrong(f"the probes of {distribution} belong in {distribution.replace('-', '_')}.py")
        symbols = symtable.symtable(text, path.name, "exec").get_symbols()
    except _UNREADABLE as error:
        return Entry(distribution=path.stem.replace("_", "-"), problem=f"{place}: {_cause(error)}", place=place)
    defined = {symbol.get_name() for symbol in symbols if symbol.is_assigned() or symbol.is_imported()}
    probes = {"import", *declared.get("NOT_APPLICABLE", ()), *defined}.intersection(PROBES)
    generic = frozenset(PROBES) - probes if "EXAMPLE" in defined else frozenset()
    replaces = own and distribution in catalogue().entries
    module = Module(name=path.stem, origin=place, text=text, replaces=replaces) if own else None
    return Entry(
        distribution=distribution,
        probes=frozenset(probes | generic),
        place=place,
        module=module,
        generic=generic,
        covers=declared.get("COVERS", {}),
    )


def _cause(error: Exception) -> str:
    if isinstance(error, SyntaxError):
        return f"line {error.lineno}: {error.msg}" if error.lineno else error.msg
    return error.strerror or str(error) if isinstance(error, OSError) else str(error)


def place_of(distribution: str) -> str:
    """The file of a distribution's probes, for messages."""
    return f"probes/libraries/{canonical(distribution).replace('-', '_')}.py"


_CONSTANTS = {"DISTRIBUTION": str, "MODULE": str, "IMPORTS": tuple, "NOT_APPLICABLE": dict, "COVERS": dict}
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


@cache
def probes_of(member: str, modules: tuple[Module, ...] = ()) -> str:
    """A hash of the code that asks this library: its probes and the probe host."""
    libraries, stem = BUNDLE / "libraries", member.replace("-", "_")
    brought = [each for each in modules if each.name == stem]
    texts = [each.text.encode() for each in (*brought, *(each for each in modules if each.name[0] == "_")) if brought]
    own = [] if brought else libraries.glob(f"{stem}.py")
    shared = sorted([*BUNDLE.glob("*.py"), *libraries.glob("_*.py")])
    parts = [*(path.read_bytes() for path in (*shared, *own)), *texts]
    return hashlib.sha256(b"\0".join(parts)).hexdigest()


def asked_by(members: Iterable[str], modules: tuple[Module, ...] = ()) -> str:
    """The version of the probes of a cell with these members; outcomes carry it as `probed_by`."""
    return digest([probes_of(member, modules) for member in members])
