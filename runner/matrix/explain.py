"""Turns pydantic's errors about a file into mistakes with place and remedy."""

from __future__ import annotations

import re
from typing import Any

from pydantic import BaseModel
from pydantic import ValidationError as Invalid

from torch_compat_matrix.runner.errors import did_you_mean
from torch_compat_matrix.runner.matrix.document import Document


def explain(invalid: Invalid, model: type[BaseModel], document: Document) -> None:
    """Note every mistake that kept the document from being the model."""
    for error in invalid.errors():
        _explain(error, model, document)


def _explain(error: Any, model: type[BaseModel], document: Document) -> None:
    where = tuple(part for part in error["loc"] if part != "[key]")
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
    kind: Any = model
    for part in where:
        if isinstance(kind, type) and issubclass(kind, BaseModel):
            names = {field.alias or name: field.annotation for name, field in kind.model_fields.items()}
            kind = names.get(part)
        else:
            arguments = [argument for argument in getattr(kind, "__args__", ()) if argument is not type(None)]
            kind = arguments[-1] if arguments else None
        if not (isinstance(kind, type) and issubclass(kind, BaseModel)):
            models = [
                argument
                for argument in getattr(kind, "__args__", ())
                if isinstance(argument, type) and issubclass(argument, BaseModel)
            ]
            kind = models[0] if models and type(None) in kind.__args__ else kind
    if isinstance(kind, type) and issubclass(kind, BaseModel):
        return [field.alias or name for name, field in kind.model_fields.items()]
    return []
