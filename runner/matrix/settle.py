"""A matrix whose versions and tags move -> the same matrix with exact ones."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from fnmatch import fnmatchcase

from torch_compat_matrix.runner.matrix.document import MatrixError, Path_
from torch_compat_matrix.runner.matrix.entries import VersionItem
from torch_compat_matrix.runner.matrix.schema import Matrix
from torch_compat_matrix.runner.matrix.versions import Moving, moving, wheel_of
from torch_compat_matrix.runner.model import repository


def movings(matrix: Matrix) -> Iterator[tuple[str, Moving]]:
    """Each library with each of its moving versions."""
    listed = [(library, entry.versions) for library, entry in matrix.entries]
    listed += [(rule.library, rule.versions) for _, rule in matrix.included]
    for library, versions in listed:
        yield from ((library, spec) for spec in map(_moving, versions) if spec)


def settle(matrix: Matrix, taken: Mapping[str, Sequence[str]]) -> Matrix:
    """The matrix with what was taken in place of what moves; MatrixError where that is nothing.

    `taken`: `library spec` -> versions, `image tag` -> tags; an image whose pattern it lacks stays one image, for its
    stand-in.  No release since a day is no mistake: the library then has fewer cells.
    """
    document = replace(matrix.document, mistakes=[])

    def exact(library: str, written: Sequence[VersionItem], where: Path_) -> list[str]:
        found: list[str] = []
        for index, item in enumerate(written):
            spec = _moving(item)
            if isinstance(item, str) and wheel_of(item):
                item = str(document.file((*where, index)).parent / item)
            versions = [str(item)] if spec is None else taken[f"{library} {spec}"]
            if not versions and spec is not None and spec.since is None:
                message = f"the package index has no release of {library} within `{spec}`; correct it"
                document.mistake((*where, index), message)
            found += versions
        return found

    libraries = {}
    for name, written in matrix.libraries.items():
        entries = [
            entry.model_copy(update={"versions": exact(name, entry.versions, (*path, "versions"))})
            for path, entry in matrix.entry_paths(name)
        ]
        libraries[name] = entries if isinstance(written, list) else entries[0]
    include = [*matrix.include]
    for index, rule in matrix.included:
        where = "include", index, "versions"
        include[index] = rule.model_copy(update={"versions": exact(rule.library, rule.versions, where)})
    images = {}
    for name, image in matrix.images.items():
        if f"{name} {image.tag}" not in taken:
            images[name] = image
            continue
        found = taken[f"{name} {image.tag}"]
        if not found:
            message = f"no tag of {repository(image.tag or '')} is {image.pattern!r}; correct the pattern"
            document.mistake(("images", name, "tag"), message)
        for tag in found:
            tagged = image.model_copy(update={"tag": f"{repository(image.tag or '')}:{tag}", "newest": None})
            images[f"{name}-{tag}"] = tagged
    if document.mistakes:
        raise MatrixError(document.mistakes)
    return matrix.model_copy(update={"libraries": libraries, "include": include, "images": images})


def foresee(matrix: Matrix, asked: Sequence[str] = ()) -> Matrix:
    """The matrix with stand-ins for what moves: whatever selectors, its own too, name and could be taken one day."""
    selectors = [*asked, *(rule.cells for rule in matrix.exclude), *(rule.cells for rule in matrix.known)]
    selectors += [rule.images for _, rule in matrix.included]
    selectors += [selector for named in matrix.selections.values() for selector in named]
    parts = {re.sub(r"\[!?(.).*?\]", r"\1", part) for selector in selectors for part in selector.split("/")}

    def named(name: str) -> list[str]:
        begins = re.compile(re.sub(r"[-_.]+", "[-_.]", name) + r"-([^@]+)(?:@.*)?", re.IGNORECASE)
        return [found[1] for found in map(begins.fullmatch, sorted(parts)) if found]

    taken = {
        f"{library} {spec}": [*filter(spec.may_name, named(library)), "*"] for library, spec in movings(matrix)
    } | {
        f"{name} {image.tag}": [
            *(tag for tag in named(name) if "*" in tag or "?" in tag or fnmatchcase(tag, image.pattern)),
            "*",
        ]
        for name, image in matrix.images.items()
        if image.moves
    }
    return settle(matrix, taken)


def _moving(item: VersionItem) -> Moving | None:
    return moving(item) if isinstance(item, str) else item.moving
