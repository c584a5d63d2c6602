"""Estimates the time of a cell from earlier runs, to order and split batches and for `compat plan`."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from torch_compat_matrix.runner.files import read_cache, to_json, write_whole
from torch_compat_matrix.runner.model import Cell, Check
from torch_compat_matrix.runner.outcome import Outcome
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

        def parse(data: Any) -> dict[str, float]:
            return {name: float(value) for name, value in data.items() if finite(value)}

        return cls(read_cache(home / "durations.json", parse) or {})

    def save(self, home: Path, outcomes: Iterable[Outcome]) -> None:
        """Keep the durations of checks that really ran."""
        measured = {
            outcome.check: outcome.seconds for outcome in outcomes if outcome.seconds > 0 and not outcome.reused
        }
        write_whole(home / "durations.json", [to_json(dict(sorted({**self.seconds, **measured}.items())), indent=0)])

    def check(self, check: Check) -> float:
        """Expected seconds of a check; one of an entry beside it is as good as its own."""
        alike = replace(check, cell=replace(check.cell, label="")).id
        return self.seconds.get(check.id) or self.seconds.get(alike) or UNKNOWN.get(check.probe, 5.0)

    def cell(self, cell: Cell) -> float:
        """Expected seconds of all the cell's checks."""
        return sum(map(self.check, cell.checks))


PRIOR_S = 20.0
"""How much probing the expected pace of a run counts for against its measured pace."""


class Remaining:
    """The time that a run still takes: the expected seconds of its open checks at the pace of those that have ended."""

    def __init__(self, estimate: Estimate, checks: Iterable[Check], jobs: int = 1) -> None:
        self.open = {check.id: estimate.check(check) for check in checks}
        self.jobs = jobs
        self.probed = 0.0
        self.began = self.ended = self.at_end = 0.0

    def begin(self, now: float) -> None:
        """A probe begins, at that second of some clock."""
        self.began = self.began or now

    def end(self, check: str, now: float, reused: bool = False) -> None:
        """A check has its outcome."""
        expected = self.open.pop(check, 0.0)
        self.probed += 0.0 if reused else expected
        took = now - self.began if self.began else 0.0
        pace = (took + PRIOR_S) / (self.probed + PRIOR_S * self.jobs)
        self.ended, self.at_end = now, sum(self.open.values()) * pace

    def seconds(self, now: float) -> float:
        """Seconds from now on; 0 where the open checks take longer than expected."""
        if not self.ended:
            return sum(self.open.values()) / self.jobs
        return max(0.0, self.at_end - (now - self.ended))
