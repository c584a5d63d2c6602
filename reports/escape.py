"""Escapes recorded text for Markdown."""

from __future__ import annotations

import re

from torch_compat_matrix.runner.text import one_line, printable

_MARKUP = re.compile(
    r"[\\`*\[\]<|~&$]|(?<![A-Za-z0-9])_|_(?![A-Za-z0-9])|^[#+=>-]|(?:(?<=^\d)|(?<=^\d\d)|(?<=^\d{3}))[.)](?=\s|$)"
)
"""Characters that may begin markup: anywhere, at the edge of a word, or at the beginning of a line."""


def count(number: int, what: str) -> str:
    """A number and its noun, in the plural unless the number is 1."""
    return f"{number} {what}{'' if number == 1 else 's'}"


def text(words: str) -> str:
    """Recorded text escaped for one line of Markdown, which may be in a table."""
    return _escape(one_line(printable(words)))


def prose(words: str) -> str:
    """Recorded text escaped for Markdown, except that pairs of backticks set off code, as in the registry's texts."""
    parts = re.split(r"`([^`]+)`", one_line(printable(words)))
    return "".join(code(part) if index % 2 else _escape(part) for index, part in enumerate(parts))


def _escape(line: str) -> str:
    return _MARKUP.sub(r"\\\g<0>", line)


def code(words: str) -> str:
    """Recorded text as a code span, whatever backticks it holds."""
    line = one_line(printable(words)) or " "
    fence = "`" * (max((len(run) for run in re.findall(r"`+", line)), default=0) + 1)
    pad = " " if line.startswith("`") or line.endswith("`") else ""
    return f"{fence}{pad}{line}{pad}{fence}"
