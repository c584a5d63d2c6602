"""How a run stands: only a finished run with a verdict for every check, all as expected, stands clean."""

from __future__ import annotations

from collections import Counter
from enum import Enum

from torch_compat_matrix.reports.table import Table
from torch_compat_matrix.runner.model import Verdict
from torch_compat_matrix.runner.records.runs import COMPLETE, STILL_GOING


class Standing(str, Enum):
    """The states of a run; whatever is not known to be clean is one of the others."""

    CLEAN = "clean"
    SURPRISES = "surprises"
    INCOMPLETE = "incomplete"
    """Some checks have no verdict, or records cannot be read."""
    UNHEALTHY = "unhealthy hosts"
    """Host trouble took the verdict of more checks than have one: what failed beside it proves nothing."""
    EMPTY = "nothing ran"
    STOPPED = "stopped"
    GOING = STILL_GOING

    @property
    def finished(self) -> bool:
        """Whether every check has a verdict that counts."""
        return self in (Standing.CLEAN, Standing.SURPRISES)


def standing(table: Table) -> Standing:
    """How the run stands."""
    if table.state == STILL_GOING:
        return Standing.GOING
    counts = table.counts
    if counts[Verdict.INFRA] > sum(counts[verdict] for verdict in Verdict if verdict.final):
        return Standing.UNHEALTHY
    if table.state != COMPLETE:
        return Standing.STOPPED
    if not counts.keys() - {Verdict.SKIP, Verdict.NOT_RUN, Verdict.INFRA}:
        return Standing.EMPTY
    if table.incomplete or table.waiting or table.unreadable:
        return Standing.INCOMPLETE
    return Standing.SURPRISES if table.surprises else Standing.CLEAN


def opening(table: Table, stands: Standing) -> str:
    """The first sentence of the headline, where the state itself is the news; empty for a finished run."""
    number = len(table.outcomes)
    done = sum(outcome.verdict is not Verdict.NOT_RUN for outcome in table.outcomes.values())
    if stands is Standing.GOING:
        return f"The run is still going: {number - len(table.waiting)} of {number} checks are done."
    if stands is Standing.UNHEALTHY:
        lost = f"{table.counts[Verdict.INFRA]} of {number} checks got no verdict"
        return f"The hosts were unhealthy: {lost} ({troubles(table)})."
    if stands is Standing.STOPPED:
        why = "" if table.state == "interrupted" else f" ({table.state})"
        return f"The run was stopped{why}: {done} of {number} checks are done."
    return "No check ran: this says nothing about any library." if stands is Standing.EMPTY else ""


def troubles(table: Table) -> str:
    """The reasons for which hosts gave no verdict, with the number of checks of each, the commonest first."""
    reasons = Counter(outcome.reason for outcome in table.outcomes.values() if outcome.verdict is Verdict.INFRA)
    return ", ".join(f"{number} {reason}" for reason, number in reasons.most_common(3))
