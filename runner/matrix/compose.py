"""Several files, variables, defaults and inheritance -> one document, in which every value still has its own place."""

from __future__ import annotations

import glob
import os
import re
from collections.abc import Iterator, Mapping
from graphlib import CycleError, TopologicalSorter
from pathlib import Path
from typing import Any

from torch_compat_matrix.runner.errors import did_you_mean
from torch_compat_matrix.runner.matrix.document import Document, Path_, read

SOURCES = ("index", "extra-index", "find-links")
"""The keys of URLs that may name variables for user and password, which are read when packages are fetched."""
WITH_VARIABLES = ("tag", "digest", "versions", *SOURCES)
"""The keys of an image or a library whose values may hold `${NAME}`; anywhere else it is text like any other."""
OF_ITS_TAG = ("digest", "claim")
"""The keys that an image with a tag of its own does not inherit, since they belong to the other tag."""

_VARIABLE = re.compile(r"\$\{(?:(\w+)(?::-([^}]*))?\})?")
_USER = re.compile(r"(?<=://)[^/?#\s]*@")


def gather(path: Path, chain: tuple[Path, ...] = (), seen: set[Path] | None = None) -> Document:
    """The document of a file and of all that it includes; each file counts once."""
    document, chain, seen = read(path), (*chain, path.resolve()), set() if seen is None else seen
    seen.add(chain[-1])
    included = document.data.get("include") if isinstance(document.data, dict) else None
    for index, pattern in enumerate(list(included) if isinstance(included, list) else ()):
        if not isinstance(pattern, str):
            continue  # cells
        names = glob.glob(pattern, root_dir=path.parent)  # noqa: PTH207 - a path may be absolute, or no pattern at all
        files = [path.parent / name for name in sorted(names)]
        if not files:
            document.mistake(("include", index), f"there is no file {pattern!r} in {path.parent}")
        for file in files:
            if file.resolve() in chain:
                document.mistake(("include", index), f"{file} includes itself: remove one of the `include:` entries")
            elif file.resolve() not in seen:
                other = gather(file, chain, seen)
                _merge(document, other)
                if other.data is None:
                    document.data = None  # what lacks a part would have mistakes that are none
                    return document
    return document


def _merge(document: Document, other: Document) -> None:
    """Add the other's parts: names to mappings, entries to lists; what both define is a mistake."""
    document.mistakes += other.mistakes
    document.lines |= other.lines
    if not isinstance(other.data, dict):
        if other.data is not None:
            document.note(other.place(()), "not a matrix: its keys are those of a matrix file, like `images:`")
        return
    before = {key: len(value) for key, value in document.data.items() if isinstance(value, list)}
    for key, value in other.data.items():
        own = document.data.setdefault(key, type(value)() if isinstance(value, (dict, list)) else value)
        if isinstance(own, list) and isinstance(value, list):
            own += value
        elif isinstance(own, dict) and isinstance(value, dict):
            for name in own.keys() & value.keys():
                _twice(document, other, (key, name))
            own |= {name: part for name, part in value.items() if name not in own}
        elif (key,) in document.places:
            _twice(document, other, (key,))
    for where, place in other.places.items():
        if len(where) > 1 and isinstance(where[1], int):
            where = (where[0], where[1] + before.get(str(where[0]), 0), *where[2:])
        document.places.setdefault(where, place)


def _twice(document: Document, other: Document, where: Path_) -> None:
    message = f"{where[-1]!r} is also at {document.place(where)}: give it in one file only"
    document.note(other.place(where), message)


def fill_in(document: Document, given: Mapping[str, str]) -> None:
    """Replace the variables, by the `given` ones and by those of the environment; an unset variable is a mistake."""

    def filled(value: Any, where: Path_, reads: bool) -> Any:
        if isinstance(value, dict):
            entry = len(where) > 1 and not any(isinstance(part, str) for part in where[2:])
            wanted = WITH_VARIABLES if entry else ()
            return {key: filled(item, (*where, key), reads or key in wanted) for key, item in value.items()}
        if isinstance(value, list):
            return [filled(item, (*where, index), reads) for index, item in enumerate(value)]
        return replaced(value, where) if reads and isinstance(value, str) and "${" in value else value

    def replaced(text: str, where: Path_) -> str:
        user = _USER.search(text) if any(part in SOURCES for part in where) else None
        kept = range(*user.span()) if user else range(0)

        def value_of(match: re.Match[str]) -> str:
            name, default = match.groups()
            secret = match.start() in kept
            value = os.environ.get(name or "") if secret else given.get(name or "") or os.environ.get(name or "")
            if name is None:
                document.mistake(where, "`${` begins a variable: write `${NAME}` or `${NAME:-default}`")
            elif not value and (default is None or secret):
                remedy = "set it in the environment" + ("" if secret else f", or give `--set {name}=VALUE`")
                document.mistake(where, f"the variable {name} is not set; {remedy}")
            return match[0] if secret else value or default or ""

        return _VARIABLE.sub(value_of, text)

    for head in ("images", "libraries", "stacks", "include", "defaults"):
        if isinstance(document.data, dict) and head in document.data:
            document.data[head] = filled(document.data[head], (head,), False)


def locate(document: Document) -> None:
    """Make relative paths absolute, each against the file that holds it."""

    def absolute(path: str, place: Path_) -> str:
        return str((document.file(place).parent / path).absolute())

    for head in ("images", "libraries", "stacks"):
        default = (("defaults", head), _mapping(_mapping(document.data, "defaults"), head))
        for where, entry in [*_entries(document.data, head), default]:
            links = entry.get("find-links")
            links = links if isinstance(links, list) else []
            for index, link in enumerate(links):
                if isinstance(link, str) and "://" not in link:
                    place = (*where, "find-links", index)
                    links[index] = path = absolute(link, place)
                    if not os.access(path, os.R_OK) or re.search(r"[\s,]", path):
                        document.mistake(place, f"there is no folder {path}, or its path holds spaces or commas")
            suite = _mapping(entry, "suite")
            source = suite.get("source")
            if isinstance(source, str) and source != "sdist" and "://" not in source:
                place = (*where, "suite", "source")
                suite["source"] = absolute(source, place)
                if not os.path.isdir(suite["source"]):  # noqa: PTH112
                    document.mistake(place, f"there is no folder {suite['source']}; write sdist, git+URL@COMMIT or one")
            mounts = _mapping(entry, "mounts")
            for inside, path in mounts.items():
                if isinstance(path, str):
                    mounts[inside] = absolute(path, (*where, "mounts", inside))


def inherit(document: Document) -> None:
    """Give each image what it `extends:`, and each image and library the `defaults:` that it does not say otherwise."""
    data = document.data
    defaults, images = _mapping(data, "defaults"), _mapping(data, "images")
    bases = {name: entry["extends"] for name, entry in images.items() if isinstance(entry, dict) and "extends" in entry}
    if not (defaults or bases):
        return
    inside: dict[Path_, dict[Path_, str]] = {}
    for where, place in document.places.items():
        inside.setdefault(where[:2], {})[where[2:]] = place

    def fill(where: Path_, entry: dict[str, Any], source: Path_, base: Any) -> None:
        if not isinstance(base, dict):
            return
        left_out = ("extends", *(OF_ITS_TAG if "tag" in entry else ()))
        base = {key: value for key, value in base.items() if key not in left_out}
        for rest, place in inside.get(source, {}).items():
            if rest and rest[0] in base:
                document.places.setdefault((*where, *rest), place)
                inside.setdefault(where[:2], {}).setdefault((*where[2:], *rest), place)
        entry.update(_under(base, entry))

    for name in _bases_first(document, images, bases):
        fill(("images", name), images[name], ("images", bases[name]), images[bases[name]])
    for head in ("images", "libraries"):
        for where, entry in _entries(data, head):
            fill(where, entry, ("defaults", head), defaults.get(head))


def _bases_first(document: Document, images: Mapping[str, Any], bases: Mapping[str, Any]) -> list[str]:
    """The images that extend another, each after the image that it extends."""
    for name, base in bases.items():
        if not isinstance(base, str) or base not in images:
            message = f"there is no image {base!r}{did_you_mean(str(base), images)}"
            document.mistake(("images", name, "extends"), message)
    known = {
        name: [base] for name, base in bases.items() if isinstance(base, str) and isinstance(images.get(base), dict)
    }
    try:
        return [name for name in TopologicalSorter(known).static_order() if name in known]
    except CycleError as error:
        circle: list[str] = error.args[1][::-1]
        document.mistake(("images", circle[0], "extends"), f"an image extends itself: {' -> '.join(circle)}")
        return []


def _mapping(data: Any, key: str) -> dict[str, Any]:
    """The mapping under the key; empty where there is none."""
    value = data.get(key) if isinstance(data, dict) else None
    return value if isinstance(value, dict) else {}


def _entries(data: Any, head: str) -> Iterator[tuple[Path_, dict[str, Any]]]:
    """Each entry of the part of the file, with its place; a library may have several."""
    for name, value in _mapping(data, head).items():
        several = list(enumerate(value)) if isinstance(value, list) else []
        for where, entry in [((head, name), value), *(((head, name, index), item) for index, item in several)]:
            if isinstance(entry, dict):
                yield where, entry


def _under(base: Mapping[str, Any], own: Mapping[str, Any]) -> dict[str, Any]:
    """The base with whatever the own entry says instead: deep for mappings, whole for lists and values."""
    merged = dict(base)
    for key, value in own.items():
        below = base.get(key)
        merged[key] = _under(below, value) if isinstance(below, dict) and isinstance(value, dict) else value
    return merged
