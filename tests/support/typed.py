"""Whether plain data, read from JSON, is what a TypedDict says."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, Literal, Union, get_args, get_origin, get_type_hints, is_typeddict


def misfits(value: Any, kind: Any, place: str = "") -> Iterator[str]:
    """Each place at which the data is not of the type: a key that lacks or is too many, a value of another type."""
    origin, inner = get_origin(kind), get_args(kind)
    if is_typeddict(kind) and isinstance(value, dict):
        hints = get_type_hints(kind)
        yield from (f"{place}.{key} lacks" for key in sorted(kind.__required_keys__ - value.keys()))
        yield from (f"{place}.{key} is no key of {kind.__name__}" for key in sorted(value.keys() - hints.keys()))
        for key in value.keys() & hints.keys():
            yield from misfits(value[key], hints[key], f"{place}.{key}")
    elif origin is list and isinstance(value, list):
        for number, item in enumerate(value):
            yield from misfits(item, inner[0], f"{place}[{number}]")
    elif origin is dict and isinstance(value, dict):
        for key, item in value.items():
            yield from misfits(item, inner[1], f"{place}[{key!r}]")
    elif origin is Union:
        if all(list(misfits(value, choice)) for choice in inner):
            yield f"{place} is {value!r}, not {kind}"
    elif value not in inner if origin is Literal else not _plainly(value, kind):
        yield f"{place} is {value!r}, not {kind}"


def _plainly(value: Any, kind: Any) -> bool:
    """Whether the value is of a type that is no container; JSON writes a whole float as an integer."""
    return type(value) is kind or (kind is float and type(value) is int)
