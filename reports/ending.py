"""The end of a run's output: a block for each surprise, the most important first."""

from __future__ import annotations

from collections.abc import Iterator

from torch_compat_matrix.reports.table import Table
from torch_compat_matrix.runner.judging import Judged
from torch_compat_matrix.runner.model import Verdict
from torch_compat_matrix.runner.text import one_line

MOST = 10
MOST_WORDS = 300
URGENT = (Verdict.CRASH, Verdict.FAIL, Verdict.OOM, Verdict.TIMEOUT, Verdict.UNSUPPORTED)


def ending(table: Table, run: str = "") -> Iterator[str]:
    """The surprises in lines: check, reason, message, evidence, remedy and the command that shows the rest.

    Surprises of one image with the same message share a block.  `run`: the run's id, where it is not the latest.
    """
    groups: dict[tuple[str, ...], list[Judged]] = {}
    for judged in table.surprises:
        outcome = judged.outcome
        key = (judged.surprise, outcome.image, outcome.verdict.value, outcome.reason, outcome.detail, outcome.evidence)
        groups.setdefault(key, []).append(judged)
    shown = sorted(groups.values(), key=lambda members: _urgency(members[0]))
    option = f" --run {run}" if run else ""
    for members in shown[:MOST]:
        yield from _block(members, option)
        yield ""
    if more := sum(map(len, shown[MOST:])):
        yield f"and {more} more surprises: report.md has all, and `compat show '@failed'{option}` the failures"
        yield ""


def _urgency(judged: Judged) -> tuple[bool, int]:
    """What works no longer comes before what works again or only has to be reviewed."""
    verdict = judged.outcome.verdict
    return judged.surprise != "unexpected failure", URGENT.index(verdict) if verdict in URGENT else len(URGENT)


def _block(members: list[Judged], option: str) -> Iterator[str]:
    first, known = members[0].outcome, members[0].known
    more = f", and {len(members) - 1} more like it" if len(members) > 1 else ""
    reason = f" ({first.reason})" if first.reason else ""
    yield one_line(f"{members[0].surprise}: {first.check}: {first.verdict.value}{reason}{more}")
    place = f"{known.place or known.cells}: {known.reason}" if known else ""
    evidence = "" if first.evidence in first.detail else first.evidence
    rows = (
        ("", first.detail),
        ("evidence: ", evidence),
        ("", first.guess),
        ("remedy: ", first.remedy),
        ("known: ", place),
    )
    for title, words in rows:
        if words:
            words = one_line(words)
            yield f"  {title}{words if len(words) <= MOST_WORDS else words[: MOST_WORDS - 3] + '...'}"
    if first.subject != "expects":
        yield f"  compat show {first.check}{option}"
