"""Estimates the time of a cell from earlier runs, to order and split batches and for `compat plan`."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from torch_compat_matrix.runner.files import read_cache, to_json, write_whole
from torch_compat_matrix.runner.model import Cell, Outcome
from torch_compat_matrix.runner.shapes import finite

UNKNOWN = {"import": 1.5, "sample": 3.0, "autograd": 3.0, "compile": 15.0}
"""Seconds for a probe that never ran: the medians of the shipped probes on one CPU core."""


@dataclass(frozen=True)
class Estimate:
    """Seconds by check id, as last measured on this machine."""

    seconds: dict[str, float]

    @classmethod
    def load(cls, home: Path) -> Estimate:
        """The durations of earlier runs; empty where there are none or the file is damaged."""
        return cls(read_cache(home / "durations.json", _seconds) or {})

    def save(self, home: Path, outcomes: Iterable[Outcome]) -> None:
        """Keep the durations of checks that really ran."""
        measured = {
            outcome.check: outcome.seconds for outcome in outcomes if outcome.seconds > 0 and not outcome.reused
        }
        write_whole(home / "durations.json", [to_json(dict(sorted({**self.seconds, **measured}.items())), indent=0)])

    def cell(self, cell: Cell) -> float:
        """Expected seconds of all the cell's checks."""
        return sum(self.seconds.get(check.id, UNKNOWN.get(check.probe, 5.0)) for check in cell.checks)


def _seconds(data: Any) -> dict[str, float]:
    return {name: float(value) for name, value in data.items() if finite(value)}
