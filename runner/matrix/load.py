"""matrix.yaml -> Matrix, or every mistake in it with its place and remedy."""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator
from difflib import get_close_matches
from pathlib import Path
from typing import Any

from packaging.requirements import Requirement
from packaging.utils import canonicalize_name
from pydantic import BaseModel
from pydantic import ValidationError as Invalid

from torch_compat_matrix.runner.bundle import catalogue
from torch_compat_matrix.runner.matrix import claims
from torch_compat_matrix.runner.matrix.document import Document, MatrixError, read
from torch_compat_matrix.runner.matrix.expand import TooMany, all_cells, members_of
from torch_compat_matrix.runner.matrix.schema import Matrix
from torch_compat_matrix.runner.model import expectation_id
from torch_compat_matrix.runner.selector import matches


def load(path: Path) -> Matrix:
    """Read the file; MatrixError with every mistake at once."""
    document = read(path)
    if document.data is None:
        raise MatrixError(document.mistakes)
    try:
        matrix = Matrix.model_validate(document.data)
    except Invalid as invalid:
        for error in invalid.errors():
            _explain(error, document)
        raise MatrixError(document.mistakes) from None
    for where, message in _senseless(matrix):
        document.mistake(where, message)
    if document.mistakes:
        raise MatrixError(document.mistakes)
    matrix._source = str(path)
    beside = path.with_name("claims.yaml")
    if beside.exists():
        matrix._claims = claims.load(beside)
    matrix._places = tuple(document.place(("known", index)) for index in range(len(matrix.known)))
    return matrix


def near(word: str, words: Iterable[str]) -> str:
    """`; did you mean ...?`, or what there is to choose from."""
    choice = sorted(set(words))
    found = get_close_matches(word, choice, n=1, cutoff=0.5)
    if found:
        return f"; did you mean {found[0]!r}?"
    return f"; there are: {', '.join(choice[:12])}{', ...' if len(choice) > 12 else ''}" if choice else ""


def _explain(error: Any, document: Document) -> None:
    where = tuple(part for part in error["loc"] if part != "[key]")
    kind, given = error["type"], error.get("input")
    if kind == "extra_forbidden":
        message = f"unknown key {where[-1]!r}{near(str(where[-1]), _keys(where[:-1]))}"
    elif kind == "missing":
        message = f"{where[-1]!r} is missing"
    elif kind in ("literal_error", "enum"):
        words = re.findall(r"'([^']*)'", error["ctx"]["expected"])
        message = f"{given!r} is not one of those known{near(str(given), words)}"
    elif kind.endswith("_type") and given is None:
        message = "nothing stands here; give a value or remove the key"
    elif kind == "value_error":
        message = f"{given!r} is {error['ctx']['error']}" if isinstance(given, str) else str(error["ctx"]["error"])
    else:
        message = f"{error['msg']}" + (f", not {given!r}" if isinstance(given, str) else "")
    document.mistake(where, message)


def _keys(where: tuple[Any, ...]) -> list[str]:
    """The keys that the part of the file at `where` may have."""
    kind: Any = Matrix
    for part in where:
        if isinstance(kind, type) and issubclass(kind, BaseModel):
            names = {field.alias or name: field.annotation for name, field in kind.model_fields.items()}
            kind = names.get(part)
        else:
            arguments = [one for one in getattr(kind, "__args__", ()) if one is not type(None)]
            kind = arguments[-1] if arguments else None
        if not (isinstance(kind, type) and issubclass(kind, BaseModel)):
            models = [
                one for one in getattr(kind, "__args__", ()) if isinstance(one, type) and issubclass(one, BaseModel)
            ]
            kind = models[0] if models and type(None) in kind.__args__ else kind
    if isinstance(kind, type) and issubclass(kind, BaseModel):
        return [field.alias or name for name, field in kind.model_fields.items()]
    return []


def _senseless(matrix: Matrix) -> Iterator[tuple[tuple[str | int, ...], str]]:
    """What each part says correctly and the whole does not bear out."""
    probed = set(catalogue())
    for name in matrix.libraries:
        if name not in probed:
            yield (
                ("libraries", name),
                f"there are no probes for {name!r} in probes/libraries (docs/adding-a-library.md){near(name, probed)}",
            )
    for name, stack in matrix.stacks.items():
        if name in matrix.libraries:
            yield ("stacks", name), f"{name!r} is a library too; check ids could not tell them apart: rename the stack"
        if not members_of(stack.requires):
            yield ("stacks", name, "requires"), f"none of these has probes in probes/libraries{near('', probed)}"
    for name, image in matrix.images.items():
        if image.tag is None and image.local is None:
            yield ("images", name), "neither `tag:` nor `local:`: no backend could launch it"
        if image.digest and not image.tag:
            yield ("images", name, "digest"), "a digest pins a tag: give `tag:` as well"
    for index, included in enumerate(matrix.include):
        if included.library not in matrix.libraries:
            message = f"no library {included.library!r}{near(included.library, matrix.libraries)}"
            yield ("include", index, "library"), message

    try:
        cells = all_cells(matrix)
    except TooMany as error:
        yield (), str(error)
        return
    ids = {check.id for cell in cells for check in cell.checks} | set(_expectations(matrix))
    everything = all_cells(matrix, excluded=True)
    for index, excluded in enumerate(matrix.exclude):
        if not any(matches(excluded.cells, cell.id) for cell in everything):
            message = f"matches no cell{near(excluded.cells, [cell.id for cell in everything][:5000])}"
            yield ("exclude", index, "cells"), message
    for index, known in enumerate(matrix.known):
        if not any(matches(known.cells, one) for one in ids):
            yield ("known", index, "cells"), f"matches no check{near(known.cells, [cell.id for cell in cells][:5000])}"
    for name, selectors in matrix.selections.items():
        for index, selector in enumerate(selectors):
            if not any(matches(selector, one) for one in ids):
                message = f"matches no check{near(selector, [cell.id for cell in cells][:5000])}"
                yield ("selections", name, index), message


def _expectations(matrix: Matrix) -> Iterator[str]:
    """The ids under which a report judges what the images are said to hold (reports/expects.py)."""
    for name, image in matrix.images.items():
        said = image.expects
        for what in ("torch", "cuda", "cudnn", "python", "os"):
            if getattr(said, what):
                yield expectation_id(name, what)
        for what in (
            *(canonicalize_name(Requirement(one).name) for one in said.preinstalled),
            *said.tools,
            *said.services,
        ):
            yield expectation_id(name, what)
