"""Whether plain data, read from JSON that anyone may have written, has the shape that a type names."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import is_dataclass
from functools import cache
from types import UnionType
from typing import Any, Literal, Union, get_args, get_origin, get_type_hints, is_typeddict

Fits = Callable[[Any], bool]


@cache
def fits(kind: Any) -> Fits:
    """The test for a type: a TypedDict (unknown keys are ignored), dataclass, collection, union, literal or plain type.

    A float is any finite number.  The test is made once a type, since a report reads 100,000 records.
    """
    origin, inner = get_origin(kind), get_args(kind)
    if kind is Any:
        return lambda value: True
    if is_typeddict(kind):
        return _fits_keys(kind)
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


def _fits_keys(kind: Any) -> Fits:
    tests = tuple((name, fits(hint)) for name, hint in get_type_hints(kind).items())
    required: frozenset[str] = kind.__required_keys__

    def test(value: Any) -> bool:
        if type(value) is not dict or not required <= value.keys():
            return False
        return all(fit(value[name]) for name, fit in tests if name in value)

    return test


def finite(value: Any) -> bool:
    """Whether the value is a number that a report can calculate with."""
    if type(value) is int:
        return -(2**63) <= value < 2**63
    return type(value) is float and math.isfinite(value)
