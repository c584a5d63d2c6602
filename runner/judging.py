"""Whether an outcome is a surprise: one answer for the table, pytest and the exit status."""

from __future__ import annotations

import datetime as dt
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

from torch_compat_matrix.runner.model import Check, Known, Verdict
from torch_compat_matrix.runner.outcome import Outcome
from torch_compat_matrix.runner.pins import within
from torch_compat_matrix.runner.selector import first

NO_GPU, CPU = "no-gpu", "cpu"
"""The reason of a library without the GPU that it needs, and the target of a launch without one."""

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
        if outcome.quarantined:
            return ""
        if entry.expect is outcome.verdict and entry.code in (None, outcome.reason):
            return ""
        if outcome.verdict is Verdict.PASS and entry.expect.broken and not outcome.flaky:
            return "unexpected pass"
    counts = not (wants_gpu(outcome) or outcome.quarantined)
    return "unexpected failure" if outcome.verdict.broken and counts else ""


def wants_gpu(outcome: Outcome) -> bool:
    """Whether the library only lacks the GPU that its host does not have: no surprise, whoever expected it."""
    return outcome.reason == NO_GPU and outcome.target == CPU


def expired(entry: Known, today: dt.date) -> bool:
    """Whether the entry must be reviewed."""
    return entry.expires is not None and entry.expires < today


def matching(known: Sequence[Known], check: Check | Outcome) -> Known | None:
    """The first `known:` entry that covers the check: it decides, whatever entries follow.

    None for a check that an entry covers of which only the outcome can tell whether it holds.
    """
    while (place := first([entry.cells for entry in known], check.address)) is not None:
        entry = known[place]
        if not entry.bound or (isinstance(check, Outcome) and _holds(entry, check)):
            return entry
        if not isinstance(check, Outcome):
            return None
        known = known[place + 1 :]
    return None


def _holds(entry: Known, outcome: Outcome) -> bool:
    """Whether the outcome has the version, the image, the target and the signature that the entry is bound to."""
    version = outcome.installed or outcome.version.partition("@")[0]
    kinds = {outcome.named or outcome.target, *([CPU if outcome.target == CPU else "gpu"] if outcome.target else [])}
    return (
        (not entry.version or within(f"x{entry.version}", version))
        and (not entry.digest or entry.digest == outcome.digest)
        and (not entry.target or entry.target in kinds)
        # a pass has no signature: it is the entry's unexpected pass
        and (not entry.signature or not outcome.signature or outcome.signature.startswith(entry.signature.strip("#")))
    )
