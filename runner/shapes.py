"""Plain data, read from JSON that anyone may have written: has it the shape of a type, and the value made of it."""

from __future__ import annotations

import datetime as dt
import math
from collections.abc import Callable, Mapping
from dataclasses import MISSING, fields, is_dataclass
from enum import Enum
from functools import cache
from types import UnionType
from typing import Any, Literal, Union, get_args, get_origin, get_type_hints, is_typeddict

Fits = Callable[[Any], bool]


def fits(kind: Any) -> Fits:
    """The test for a type: a TypedDict, dataclass, collection, union, literal or plain type. A float is finite.

    Keys with the types of their values (`name?` may be missing, others are ignored), and a list of a type, do for one.
    """
    if isinstance(kind, dict):
        required = frozenset(name for name in kind if not name.endswith("?"))
        tests = tuple((name.rstrip("?"), fits(inner)) for name, inner in kind.items())

        def test(value: Any) -> bool:
            if type(value) is not dict or not required <= value.keys():
                return False
            return all(fit(value[name]) for name, fit in tests if name in value)

        return test
    if isinstance(kind, list):
        item = fits(kind[0])
        return lambda value: type(value) is list and all(map(item, value))
    return _fits(kind)


@cache  # once a type, since a report reads 100,000 records
def _fits(kind: Any) -> Fits:
    origin, inner = get_origin(kind), get_args(kind)
    if kind is Any:
        return lambda value: True
    if is_typeddict(kind):
        hints, required = get_type_hints(kind), kind.__required_keys__
        return fits({name if name in required else f"{name}?": hint for name, hint in hints.items()})
    if is_dataclass(kind):
        fields = tuple((name, fits(hint)) for name, hint in get_type_hints(kind).items())
        return lambda value: type(value) is kind and all(fit(getattr(value, name)) for name, fit in fields)
    if origin in (list, tuple):
        item = fits(inner[0])
        return lambda value: type(value) is origin and all(map(item, value))
    if origin is Mapping or origin is dict:
        content = fits(inner[1])
        return lambda value: type(value) is dict and all(map(content, value.values()))  # keys of JSON are text
    if origin in (Union, UnionType):
        choices = tuple(map(fits, inner))
        return lambda value: any(choice(value) for choice in choices)
    if origin is Literal:
        return lambda value: value in inner
    if kind is float:
        return finite
    return lambda value: type(value) is kind


def keys_of(kind: Any) -> dict[str, Any]:
    """The keys of a dataclass's plain data, for `fits`: one with a default may be missing, and an enum is text."""
    plain = {}
    for each in fields(kind):
        hint = get_type_hints(kind)[each.name]
        if get_origin(hint) is tuple:
            hint = [get_args(hint)[0]]
        elif isinstance(hint, type) and issubclass(hint, Enum):
            hint = str
        required = each.default is each.default_factory is MISSING
        plain[each.name if required else f"{each.name}?"] = hint
    return plain


@cache
def maker(kind: Any) -> Callable[[Any], Any]:
    """What makes a value of the type, and of the dataclasses in it, from plain data; it raises where that is none."""
    origin, inner = get_origin(kind), get_args(kind)
    if isinstance(kind, type) and is_dataclass(kind):
        makers = {name: maker(hint) for name, hint in get_type_hints(kind).items()}
        return lambda data: kind(**{name: makers.get(name, _same)(value) for name, value in data.items()})
    if origin in (tuple, Mapping):
        item = maker(inner[origin is Mapping])
        if origin is tuple:
            return lambda data: tuple(map(item, data))
        return lambda data: {name: item(value) for name, value in data.items()}
    if origin in (Union, UnionType):  # of a type and None
        make = maker(inner[0])
        return lambda data: None if data is None else make(data)
    if kind is dt.date:
        return dt.date.fromisoformat
    return kind if isinstance(kind, type) and issubclass(kind, Enum) else _same


def _same(value: Any) -> Any:
    return value


def finite(value: Any) -> bool:
    """Whether the value is a number that a report can calculate with."""
    if type(value) is int:
        return -(2**63) <= value < 2**63
    return type(value) is float and math.isfinite(value)
