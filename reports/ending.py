"""The end of a run's output: a block for each surprise, the most important first."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from torch_compat_matrix.reports.notes import DIFFERS, NEW, UNCONFIRMED, UNEXPLAINED, number
from torch_compat_matrix.reports.table import Table
from torch_compat_matrix.runner.judging import Judged
from torch_compat_matrix.runner.model import Verdict
from torch_compat_matrix.runner.text import one_line

MOST = 10
MOST_WORDS = 300
TITLES = {
    NEW: "new failure",
    DIFFERS: "fails differently",
    UNEXPLAINED: "unexpected failure",
    UNCONFIRMED: "unconfirmed failure",
}


def ending(table: Table, run: str = "") -> Iterator[str]:
    """The surprises in lines: check, reason, since when, message, evidence, remedy and the command that shows the rest.

    Surprises with the same cause share a block.  `run`: the run's id, where it is not the latest.
    """
    shown = [(TITLES.get(note.kind, note.kind), note.members) for note in number(table) if note.members[0].surprise]
    shown += [(judged.surprise, (judged,)) for judged in table.expectations if judged.surprise]
    option = f" --run {run}" if run else ""
    yield from _hosts(table, option)
    for title, members in shown[:MOST]:
        yield from _block(table, title, members, table.shows(members[0].outcome, run=run))
        yield ""
    if more := sum(len(members) for _, members in shown[MOST:]):
        yield f"and {more} more surprises: report.md has all, and `compat show '@failed'{option}` the failures"
        yield ""


def _hosts(table: Table, option: str) -> Iterator[str]:
    """What hosts left without a verdict, a block for each reason: it says nothing about any library."""
    troubled = [outcome for outcome in table.outcomes.values() if outcome.verdict is Verdict.INFRA]
    for reason in dict.fromkeys(outcome.reason for outcome in troubled):
        first, *more = (outcome for outcome in troubled if outcome.reason == reason)
        yield one_line(f"host trouble: {first.check}: {reason}" + (f", and {len(more)} more like it" if more else ""))
        yield from _rows(("", first.detail), ("remedy: ", first.remedy))
        yield f"  {table.shows(first) if table.runs else f'compat show @infra{option}'}"
        yield ""


def _block(table: Table, title: str, members: Sequence[Judged], command: str) -> Iterator[str]:
    first, known = members[0].outcome, members[0].known
    more = f", and {len(members) - 1} more like it" if len(members) > 1 else ""
    reason = f" ({first.reason})" if first.reason else ""
    since = table.since.get(first.check)
    yield one_line(f"{title}: {first.check}: {first.verdict.value}{reason}{more}")
    place = f"{known.place or known.cells}: {known.reason}" if known else ""
    evidence = "" if first.evidence in first.detail else first.evidence
    yield from _rows(
        ("failing ", since.words if since and since.run and first.verdict.broken else ""),
        ("", first.detail),
        ("evidence: ", evidence),
        ("confirmation: ", first.confirmed),
        ("", first.guess),
        ("remedy: ", first.remedy),
        ("known: ", place),
    )
    if first.subject != "expects":
        yield f"  {command}"


def _rows(*rows: tuple[str, str]) -> Iterator[str]:
    """The lines of a block that have words."""
    for title, words in rows:
        if words:
            words = one_line(words)
            yield f"  {title}{words if len(words) <= MOST_WORDS else words[: MOST_WORDS - 3] + '...'}"
