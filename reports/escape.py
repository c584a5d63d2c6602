"""Recorded words as Markdown that shows just them, and tables of them."""

from __future__ import annotations

import re
from collections.abc import Sequence


def grid(rows: Sequence[Sequence[str]], headers: Sequence[str]) -> str:
    """Rows of Markdown as a table."""
    from tabulate import tabulate  # only now: a bare host can compile everything but this

    return tabulate(rows, headers=headers, tablefmt="pipe", disable_numparse=True)


def count(number: int, what: str) -> str:
    """A number of things, in the plural where it is not one."""
    return f"{number} {what}{'' if number == 1 else 's'}"


def text(words: str) -> str:
    """Recorded words as Markdown that shows just them, on one line, in a table cell as well."""
    return _escape(re.sub(r"\s+", " ", words).strip())


def prose(words: str) -> str:
    """Recorded words in which pairs of backticks set off code, as the registry's own texts have them."""
    parts = re.split(r"`([^`]+)`", re.sub(r"\s+", " ", words).strip())
    return "".join(code(part) if index % 2 else _escape(part) for index, part in enumerate(parts))


def _escape(line: str) -> str:
    return re.sub(r"[\\`*\[\]<>|~&]|(?<![A-Za-z0-9])_|_(?![A-Za-z0-9])", lambda m: f"&#{ord(m[0])};", line)


def code(words: str) -> str:
    """Recorded words as a code span, whatever backticks they hold."""
    line = re.sub(r"\s+", " ", words).strip() or " "
    fence = "`" * (max((len(run) for run in re.findall(r"`+", line)), default=0) + 1)
    pad = " " if line.startswith("`") or line.endswith("`") else ""
    return f"{fence}{pad}{line}{pad}{fence}"
