"""A page of Markdown out of parts, within a budget of bytes: the least important part gives way first."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field

from torch_compat_matrix.reports.escape import count


@dataclass(kw_only=True)
class Part:
    """A part of the page, which goes block by block from its end; without a block it is left out."""

    name: str
    """Of one of its blocks, for the line about what was left out: `note`."""
    keep: int
    """The part with the smallest number goes first."""
    head: Sequence[str] = ()
    blocks: list[str] = field(default_factory=list)
    tail: Sequence[str] = ()

    def lines(self) -> Iterator[str]:
        """The part as it is now."""
        if self.blocks:
            yield from (*self.head, *self.blocks, *self.tail)


def grid(
    name: str, keep: int, title: str, headers: Sequence[str], cells: Iterable[Sequence[str]], *, folded: bool = False
) -> Part:
    """A part that is a table of escaped cells, below a title; `folded`: behind it."""
    head, blocks = rows(headers, cells)
    above = f"<details><summary>{title}</summary>" if folded else f"## {title}"
    tail = ["", "</details>", ""] if folded else [""]
    return Part(name=name, keep=keep, head=[above, "", *head], blocks=blocks, tail=tail)


def rows(headers: Sequence[str], cells: Iterable[Sequence[str]]) -> tuple[list[str], list[str]]:
    """The head of a table and its rows, from escaped cells."""
    head = [_row(headers), _row(["---"] * len(headers))]
    return head, [_row(row) for row in cells]


def _row(cells: Sequence[str]) -> str:
    return f"| {' | '.join(cells)} |"


def page(parts: Sequence[Part], most: int | None = None, whole: str = "report.json") -> str:
    """The page in at most so many bytes, and a line that says what was left out, all of which is in `whole`."""
    text = "\n".join(line for part in parts for line in part.lines()).rstrip() + "\n"
    left = len(text.encode()) - (most or 0)
    if most is None or left <= 0:
        return text
    left += ROOM
    gone: Counter[str] = Counter()
    every = ((part, index, place) for index, part in enumerate(parts) for place in range(len(part.blocks)))
    kept = [len(part.blocks) for part in parts]
    # of equal importance the last goes first, and what tells of a new failure after all others
    for part, index, place in sorted(
        every, key=lambda at: (at[0].keep, NEW_MARK in at[0].blocks[at[2]], -at[1], -at[2])
    ):
        if left <= 0:
            break
        left -= len(part.blocks[place].encode()) + 1
        part.blocks[place] = GONE
        gone[part.name] += 1
        kept[index] -= 1
        left -= 0 if kept[index] else sum(len(line.encode()) + 1 for line in (*part.head, *part.tail))
    for part in parts:
        part.blocks = [block for block in part.blocks if block is not GONE]
    named = ", ".join(count(number, name) for name, number in gone.items())
    said = f"Left out here, for want of room: {named}. {whole} has everything."
    return "\n".join([*(line for part in parts for line in part.lines()), "", said]) + "\n"


NEW_MARK = "**new**"
"""Marks a new failure in a box of the table, and begins its note."""
GONE = "\0"
"""Stands for a block that was left out."""
ROOM = 400
"""Bytes for the line about what was left out."""
