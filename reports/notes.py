"""One note a cause: the outcomes that need explaining, grouped by signature over cells and images, by importance."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import TypeVar

from torch_compat_matrix.reports.changes import Changes
from torch_compat_matrix.reports.table import Table, waits
from torch_compat_matrix.runner.judging import Judged, wants_gpu
from torch_compat_matrix.runner.model import COMMANDS, Verdict
from torch_compat_matrix.runner.outcome import Outcome
from torch_compat_matrix.runner.pins import canonical
from torch_compat_matrix.runner.signature import words_of

NEW, DIFFERS, UNEXPLAINED, LOST = "new", "fails differently", "unexplained", "lost"
EXPECTED_NO_LONGER, EXPIRED, UNCONFIRMED = "unexpected pass", "expired", "unconfirmed"
NO_VERDICT, WANTS_GPU, SKIPPED, KNOWN, NOTED = "no verdict", "wants a GPU", "skipped", "known", "noted"
QUARANTINED = "quarantined"
MOST_VERSIONS = 6
"""The versions, or ranges of them, that a place names."""
Value = TypeVar("Value")
KINDS = (
    *(NEW, DIFFERS, UNEXPLAINED, EXPECTED_NO_LONGER, EXPIRED, LOST, UNCONFIRMED),
    *(NO_VERDICT, QUARANTINED, WANTS_GPU, SKIPPED, KNOWN, NOTED),
)
"""The kinds of notes, the most important first."""
URGENT = KINDS[: KINDS.index(NO_VERDICT)]
"""Those that somebody has to act on."""


@dataclass(frozen=True, slots=True)
class Note:
    """Outcomes with the same cause, under one number."""

    number: int
    members: tuple[Judged, ...]
    kind: str = ""

    @property
    def cells(self) -> tuple[str, ...]:
        """The cells that it concerns."""
        return tuple(dict.fromkeys(judged.outcome.cell for judged in self.members))


@lru_cache(1)  # each file of a report has them
def number(table: Table, changes: Changes | None = None) -> tuple[Note, ...]:
    """The notes, by kind, and among those of a kind by reach: how many cells and owners each concerns."""
    states = changes.states if changes else {check: since.state for check, since in table.since.items()}
    groups: dict[tuple[str, ...], list[Judged]] = {}
    blocked, causes = table.blocked, dict[tuple[str, str], tuple[str, ...]]()
    # what is blocked comes last, and counts under the library that blocks it
    for judged in sorted(table.judged, key=lambda judged: judged.outcome.check in blocked):
        outcome = judged.outcome
        cause = causes.get((outcome.image, blocked.get(outcome.check, "")), _cause(outcome))
        if outcome.verdict.broken:
            causes.setdefault((outcome.image, canonical(outcome.subject)), cause)
        if kind := kind_of(judged, states):
            groups.setdefault((kind, *cause), []).append(judged)

    def importance(group: tuple[tuple[str, ...], list[Judged]]) -> tuple[int, int, int]:
        outcomes = [judged.outcome for judged in group[1]]
        cells, owners = ({getattr(outcome, name) for outcome in outcomes} for name in ("cell", "owner"))
        return KINDS.index(group[0][0]), -len(cells), -len(owners)

    ordered = sorted(groups.items(), key=importance)
    return tuple(Note(place, tuple(members), key[0]) for place, (key, members) in enumerate(ordered, 1))


def kind_of(judged: Judged, states: Mapping[str, str]) -> str:
    """Why an outcome needs a note; empty where it needs none."""
    outcome, state = judged.outcome, states.get(judged.outcome.check, "")
    if judged.surprise:
        if outcome.unconfirmed:
            return UNCONFIRMED
        failure = {"new": NEW, "differs": DIFFERS}.get(state, UNEXPLAINED)
        return failure if judged.surprise == "unexpected failure" else judged.surprise
    if waits(outcome):
        return ""
    if outcome.quarantined:
        return QUARANTINED
    if state == "lost":  # a skip, too: the check had a verdict
        return LOST
    if not outcome.verdict.final:
        return NO_VERDICT
    if outcome.verdict is Verdict.PASS:
        return NOTED if outcome.flaky or outcome.caveats else ""
    if outcome.verdict is Verdict.SKIP:
        return "" if outcome.reason in ("import-failed", "not-applicable") else SKIPPED
    return KNOWN if judged.known or not wants_gpu(outcome) else WANTS_GPU


def _cause(outcome: Outcome) -> tuple[str, ...]:
    """What outcomes of one note have in common."""
    if outcome.signature:
        return outcome.verdict.value, outcome.reason, outcome.signature
    words = (*outcome.caveats.values(), *outcome.attempts) if outcome.verdict is Verdict.PASS else (outcome.detail,)
    subject = outcome.subject if outcome.verdict is Verdict.PASS else ""
    return subject, outcome.verdict.value, outcome.reason, words_of(" ".join(words))


def places(table: Table, outcomes: Sequence[Outcome]) -> Iterator[str]:
    """Where outcomes are, by library: `captum 0.6.0, 0.8.0-0.9.0 in torch-2.6, torch-2.9`."""
    where: dict[str, dict[str, dict[str, None]]] = {}
    for outcome in outcomes:
        where.setdefault(outcome.subject, {}).setdefault(outcome.version, {})[outcome.image] = None
    for subject, versions in where.items():
        keys = [(version, tuple(versions.get(version, ()))) for own, version in table.rows if own == subject]
        named: dict[tuple[str, ...], list[str]] = {}
        for folded, images in fold(keys):
            named.setdefault(images, []).append(folded)
        named.pop((), None)
        for images, found in named.items():
            more = f" and {len(found) - MOST_VERSIONS} more" if len(found) > MOST_VERSIONS else ""
            what = "commands" if subject == COMMANDS else f"{subject} {', '.join(found[:MOST_VERSIONS])}{more}".strip()
            everywhere = len(images) > 1 and images == table.images
            yield f"{what} in {'all images' if everywhere else ', '.join(images)}"


def fold(versions: Sequence[tuple[str, Value]]) -> Iterator[tuple[str, Value]]:
    """Neighbouring versions with equal values under one name: `0.7.0-0.9.0`."""
    start = 0
    for end in range(1, len(versions) + 1):
        if end == len(versions) or versions[end][1] != versions[start][1]:
            first, last = versions[start][0], versions[end - 1][0]
            yield first if first == last else f"{first}-{last}", versions[start][1]
            start = end
