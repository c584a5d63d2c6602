"""Damage to text and to plain data, from a seed."""

from __future__ import annotations

import math
import random
from typing import Any

VALUES: tuple[Any, ...] = (None, True, -1, 0, 10**400, 1.5, math.nan, "", "text\udcff", [], [1], {}, {"x": []}, [[[]]])

TOKENS = (
    *("&a ", "*a", "<<: *a", "!!int ", "!<x> ", "? ", "- ", ": ", "|\n", ">-\n", "---\n", "...\n", "%YAML 1.9\n"),
    *(
        "\t",
        "\0",
        "\x1b[31m",
        "\x85",
        "\u202e",
        "\ufeff",
        "\ud7ff",
        "\U0001f600",
        "#",
        "'",
        '"',
        "[",
        "{",
        "}",
        "]",
        ",",
    ),
    *("[" * 300, "{a: " * 40, "9" * 400, "1e999", "-0", "0x1F", ".inf", ".nan", "~", "null", "yes", "2026-13-40"),
    *("*", "[!", "a/b/c/d", "[a-", "\\", "(?P<", "((((a*)*)*)*)*b", "==1.0", "name @ file:///x", "latest", "x" * 9000),
)


def damaged(text: str, chance: random.Random) -> bytes:
    """The text with up to four pieces removed, doubled, exchanged, or put in from a list of troublesome tokens."""
    for _ in range(chance.choice((1, 1, 2, 4))):
        lines = text.splitlines(keepends=True) or [""]
        number, place = chance.randrange(len(lines)), chance.randrange(len(text) + 1)
        kind = chance.randrange(7)
        if kind == 0:
            text = text[:place] + chance.choice(TOKENS) + text[place:]
        elif kind == 1:
            text = text[:place] + text[place + chance.randint(1, 30) :]
        elif kind == 2:
            text = text[:place]
        elif kind == 3:
            lines[number] = chance.choice((" ", "    ", "")) + lines[number].lstrip(" ")
            text = "".join(lines)
        elif kind == 4:
            lines.insert(chance.randrange(len(lines)), lines[number])
            text = "".join(lines)
        elif kind == 5:
            head, colon, _ = lines[number].partition(":")
            lines[number] = f"{head}{colon} {chance.choice(TOKENS)}\n"
            text = "".join(lines)
        else:
            other = chance.randrange(len(lines))
            lines[number], lines[other] = lines[other], lines[number]
            text = "".join(lines)
    data = text.encode(errors="replace")
    if chance.random() < 0.05 and data:
        place = chance.randrange(len(data))
        data = data[:place] + bytes([chance.randrange(128, 256)]) + data[place + 1 :]
    return data


def changed(value: Any, chance: random.Random) -> Any:
    """The plain data with one value somewhere in it replaced or removed."""
    if isinstance(value, dict) and value and chance.random() < 0.9:
        key = chance.choice(list(value))
        if chance.random() < 0.15:
            return {name: item for name, item in value.items() if name != key}
        return {**value, key: changed(value[key], chance)}
    if isinstance(value, list) and value and chance.random() < 0.9:
        place = chance.randrange(len(value))
        return [*value[:place], changed(value[place], chance), *value[place + 1 :]]
    return chance.choice(VALUES)
