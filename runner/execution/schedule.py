"""Groups cells into batches: longest first, and split where that ends the run sooner."""

from __future__ import annotations

import heapq
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass

from torch_compat_matrix.runner.model import Cell, Check, Image, digest

LAUNCH_S = 4.0
"""The cost of another launch: its start, the import of torch and of torch.compile's modules, on two CPU cores."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Batch:
    """The cells of an image that one launch works through."""

    image: Image
    cells: tuple[Cell, ...]
    submitted: str = ""
    """The job of an earlier session that works through it: its launch's batch."""
    warm: bool = True

    @property
    def number(self) -> int:
        """How many launches of it came before."""
        return int(self.submitted.rpartition("-")[2] or 0)

    @property
    def key(self) -> str:
        return digest([check.id for check in self.checks])

    @property
    def checks(self) -> tuple[Check, ...]:
        return tuple(check for cell in self.cells for check in cell.checks)


def batches(
    images: Iterable[tuple[Image, Sequence[Cell]]], jobs: int, expected: Callable[[Cell], float]
) -> tuple[Batch, ...]:
    """The images' cells in batches, longest expected time (seconds) first.

    An image is split as long as the run waits for its longest batch and another launch saves more than it costs.
    """
    cells = {image.name: (image, part) for image, part in images if part}
    seconds = {name: {cell.id: expected(cell) for cell in part} for name, (_, part) in cells.items()}
    parts = {name: _split(part, 1, seconds[name]) for name, (_, part) in cells.items()}
    while parts:
        longest = max(parts, key=lambda name: max(total for total, _ in parts[name]))
        more = _split(cells[longest][1], len(parts[longest]) + 1, seconds[longest])
        split = {**parts, longest: more}
        if len(more) == len(parts[longest]) or _length(split, jobs) > _length(parts, jobs) - LAUNCH_S:
            break
        parts = split
    timed = [(total, Batch(image=cells[name][0], cells=part)) for name in parts for total, part in parts[name]]
    return tuple(batch for _, batch in sorted(timed, key=lambda pair: -pair[0]))


def _split(cells: Sequence[Cell], parts: int, seconds: Mapping[str, float]) -> list[tuple[float, tuple[Cell, ...]]]:
    """The cells in at most `parts` groups of about equal time, with their times (longest processing time first)."""
    heap: list[tuple[float, int, list[Cell]]] = [(0.0, number, []) for number in range(min(parts, len(cells)))]
    for cell in sorted(cells, key=lambda cell: -seconds[cell.id]):
        total, number, group = heap[0]
        group.append(cell)
        heapq.heapreplace(heap, (total + seconds[cell.id], number, group))
    return [(total, tuple(group)) for total, _, group in heap]


def _length(parts: Mapping[str, Sequence[tuple[float, tuple[Cell, ...]]]], jobs: int) -> float:
    """How long the batches take on so many jobs, each of which begins the longest batch that is left."""
    ends = [0.0] * jobs
    for total in sorted((total for groups in parts.values() for total, _ in groups), reverse=True):
        heapq.heapreplace(ends, ends[0] + total + LAUNCH_S)
    return max(ends)
