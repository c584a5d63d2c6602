"""Whether plain data, read from JSON, is what a TypedDict says."""

from __future__ import annotations

import math
from typing import Any, Iterator, Literal, Union, get_type_hints


def misfits(value: Any, kind: Any, place: str = "") -> Iterator[str]:
    """Each place at which the data is not of the type: a key that lacks or is too many, a value of another type.

    A float is a finite number.
    """
    origin = getattr(kind, "__origin__", None)
    inner: Any = getattr(kind, "__args__", ())
    if hasattr(kind, "__required_keys__") and isinstance(value, dict):
        hints = get_type_hints(kind)
        yield from (f"{place}.{key} lacks" for key in sorted(kind.__required_keys__ - value.keys()))
        yield from (f"{place}.{key[:99]} is no key of {kind.__name__}" for key in sorted(value.keys() - hints.keys()))
        for key in sorted(value.keys() & hints.keys()):
            yield from misfits(value[key], hints[key], f"{place}.{key}")
    elif origin is list and isinstance(value, list):
        for number, item in enumerate(value):
            yield from misfits(item, inner[0], f"{place}[{number}]")
    elif origin is dict and isinstance(value, dict):
        for key, item in value.items():
            yield from misfits(item, inner[1], f"{place}[{key[:99]!r}]")
    elif origin is Union:
        if all(any(True for _ in misfits(value, choice)) for choice in inner):
            yield f"{place} is {_shown(value)}, not {kind}"
    elif value not in inner if origin is Literal else not _plainly(value, kind):
        yield f"{place} is {_shown(value)}, not {' or '.join(map(repr, inner)) or getattr(kind, '__name__', kind)}"


def _plainly(value: Any, kind: Any) -> bool:
    """Whether the value is of a type that is no container; JSON writes a whole float as an integer."""
    if kind is float:
        return type(value) in (float, int) and math.isfinite(value)
    return type(value) is kind


def _shown(value: Any) -> str:
    text = repr(value)
    return text if len(text) < 100 else text[:99] + "..."
