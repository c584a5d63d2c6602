"""Whether an outcome is a surprise: one answer for the table, pytest and the exit status."""

from __future__ import annotations

import datetime as dt
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

from torch_compat_matrix.runner.model import Check, Known, Verdict
from torch_compat_matrix.runner.outcome import Outcome
from torch_compat_matrix.runner.selector import first

Surprise = Literal["", "unexpected failure", "unexpected pass", "expired"]


@dataclass(frozen=True, kw_only=True, slots=True)
class Judged:
    """An outcome with the known issue that covers it."""

    outcome: Outcome
    known: Known | None = None
    surprise: Surprise = ""


def judge(outcome: Outcome, known: Sequence[Known], today: dt.date) -> Judged:
    """The outcome with the entry that covers it; an expired entry is a surprise whatever the verdict."""
    entry = matching(known, outcome)
    return Judged(outcome=outcome, known=entry, surprise=_surprise(outcome, entry, today))


def _surprise(outcome: Outcome, entry: Known | None, today: dt.date) -> Surprise:
    if entry is not None:
        if expired(entry, today):
            return "expired"
        if entry.expect is outcome.verdict and entry.code in (None, outcome.reason):
            return ""
        if outcome.verdict is Verdict.PASS and entry.expect.broken and not outcome.flaky:
            return "unexpected pass"
    return "unexpected failure" if outcome.verdict.broken else ""


def expired(entry: Known, today: dt.date) -> bool:
    """Whether the entry must be reviewed."""
    return entry.expires is not None and entry.expires < today


def matching(known: Sequence[Known], check: Check | Outcome) -> Known | None:
    """The first `known:` entry that covers the check: it decides, whatever entries follow."""
    place = first([entry.cells for entry in known], check.address)
    return None if place is None else known[place]
