"""Turns pydantic's errors about a file into mistakes with place and remedy."""

from __future__ import annotations

import re
from collections.abc import Iterator
from types import UnionType
from typing import Annotated, Any, TypeVar, Union, get_args, get_origin

from pydantic import BaseModel
from pydantic import ValidationError as Invalid

from torch_compat_matrix.runner.errors import did_you_mean
from torch_compat_matrix.runner.matrix.document import Document, MatrixError
from torch_compat_matrix.runner.matrix.entries import FORMS

Model = TypeVar("Model", bound=BaseModel)


def validated(model: type[Model], document: Document) -> Model:
    """The document as that model; MatrixError with every mistake that keeps it from being one."""
    if document.data is None:
        raise MatrixError(document.mistakes)
    try:
        return model.model_validate(document.data)
    except Invalid as invalid:
        for error in invalid.errors():
            _explain(error, model, document)
        raise MatrixError(document.mistakes) from None


def _explain(error: Any, model: type[BaseModel], document: Document) -> None:
    where = tuple(part for part in error["loc"] if part not in ("[key]", *FORMS))
    kind, given = error["type"], error.get("input")
    if kind == "extra_forbidden":
        message = f"unknown key {where[-1]!r}{did_you_mean(str(where[-1]), _keys(model, where[:-1]))}"
    elif kind == "missing":
        message = f"{where[-1]!r} is missing"
    elif kind in ("literal_error", "enum"):
        words = re.findall(r"'([^']*)'", error["ctx"]["expected"])
        message = f"{given!r} is not a known value{did_you_mean(str(given), words)}"
    elif kind.endswith("_type") and given is None:
        message = "no value; give a value or remove the key"
    elif kind == "value_error":
        message = f"{given!r} is {error['ctx']['error']}" if isinstance(given, str) else str(error["ctx"]["error"])
    else:
        message = f"{error['msg']}" + (f", not {given!r}" if isinstance(given, str) else "")
    document.mistake(where, message)


def _keys(model: type[BaseModel], where: tuple[Any, ...]) -> list[str]:
    """The valid keys of the part of the file at `where`."""
    kinds: list[Any] = [model]
    for part in where:
        kinds = [found for kind in kinds for found in _alternatives(_within(kind, part))]
    return [field.alias or name for kind in kinds if _is_model(kind) for name, field in kind.model_fields.items()]


def _within(kind: Any, part: Any) -> Any:
    """The type of a model's key, or of the items of a list or a mapping; None where there is none."""
    if _is_model(kind):
        named = {field.alias or name: field.annotation for name, field in kind.model_fields.items()}
        return named.get(part)
    return get_args(kind)[-1] if get_origin(kind) in (dict, list) else None


def _alternatives(kind: Any) -> Iterator[Any]:
    """The types that a union admits, without what they are annotated with."""
    if get_origin(kind) is Annotated:
        yield from _alternatives(get_args(kind)[0])
    elif get_origin(kind) in (Union, UnionType):
        for argument in get_args(kind):
            yield from _alternatives(argument)
    else:
        yield kind


def _is_model(kind: Any) -> bool:
    return get_origin(kind) is None and isinstance(kind, type) and issubclass(kind, BaseModel)
