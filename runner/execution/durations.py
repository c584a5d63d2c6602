"""Estimates the time of a cell from earlier runs, to order and split batches and for `compat plan`."""

from __future__ import annotations

import json
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

from torch_compat_matrix.runner.files import write_whole
from torch_compat_matrix.runner.model import Cell, Outcome

UNKNOWN = {"import": 1.5, "sample": 3.0, "autograd": 3.0, "compile": 15.0}
"""Seconds for a probe that never ran: the medians of the shipped probes on one CPU core."""


@dataclass(frozen=True)
class Estimate:
    """Seconds by check id, as last measured on this machine."""

    seconds: dict[str, float]

    @classmethod
    def load(cls, home: Path) -> Estimate:
        """The durations of earlier runs; empty where there are none or the file is damaged."""
        try:
            seconds = json.loads((home / "durations.json").read_text())
        except (OSError, ValueError):
            seconds = {}
        return cls({name: float(value) for name, value in seconds.items() if isinstance(value, int | float)})

    def save(self, home: Path, outcomes: Iterable[Outcome]) -> None:
        """Keep the durations of checks that really ran."""
        measured = {
            outcome.check: outcome.seconds for outcome in outcomes if outcome.seconds > 0 and not outcome.reused
        }
        write_whole(home / "durations.json", [json.dumps({**self.seconds, **measured}, indent=0, sort_keys=True)])

    def cell(self, cell: Cell) -> float:
        """Expected seconds of all the cell's checks."""
        return sum(self.seconds.get(check.id, UNKNOWN.get(check.probe, 5.0)) for check in cell.checks)
