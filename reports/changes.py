"""A run compared: new failures, fixed checks, lost evidence, and what else changed, the likely cause first."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass, replace
from typing import Any

from torch_compat_matrix.reports.details import facts
from torch_compat_matrix.reports.escape import count
from torch_compat_matrix.reports.table import Table, waits
from torch_compat_matrix.runner import numerics
from torch_compat_matrix.runner.numerics import Comparison
from torch_compat_matrix.runner.outcome import Outcome
from torch_compat_matrix.runner.pins import changes as changed_pins
from torch_compat_matrix.runner.pins import read_pins
from torch_compat_matrix.runner.records.since import State, state_of
from torch_compat_matrix.runner.signature import short
from torch_compat_matrix.runner.text import one_line

OWN = "each check's own last verdict"
"""The baseline where no run is named."""
ASPECTS = ("torch", "CUDA", "driver", "GPU", "Python", "digest")
"""What of an environment, beside its packages, may be the cause of a change."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Cause:
    """A change of an environment, or of the packages that a cell installs."""

    scope: str
    """The image, or the cell, that it concerns."""
    what: str


@dataclass(frozen=True, kw_only=True, eq=False)
class Changes:
    """What changed from the baseline to the run, by check; equal to itself alone."""

    baseline: str
    """The run, or `OWN`."""
    covered: int
    """The checks of the run that have a verdict in the baseline."""
    states: Mapping[str, State]
    """Check -> how it stands to the baseline."""
    failing: tuple[Outcome, ...]
    """Newly: unconfirmed, as long as no other run has confirmed them."""
    fixed: tuple[Outcome, ...]
    other: tuple[tuple[Outcome, Outcome], ...]
    """(before, after) where both fail, but differently."""
    lost: tuple[Outcome, ...]
    """Without a verdict now, and with one in the baseline."""
    new: tuple[str, ...]
    gone: tuple[str, ...]
    causes: tuple[Cause, ...]
    """The other changes, the likely cause first."""
    numerics: tuple[Comparison, ...]
    """The cells of both sides whose numbers can be compared."""
    first: Mapping[str, int]
    """Image or cell -> the place in `causes` of the first cause that concerns it."""

    @property
    def moved(self) -> tuple[Outcome, ...]:
        """The outcomes that differ from those of the baseline."""
        return (*self.failing, *self.fixed, *(now for _, now in self.other))

    @property
    def counts(self) -> str:
        """The changes in words; `nothing changed` where there are none."""
        named = {
            "newly failing": len(self.failing),
            "fixed": len(self.fixed),
            "failing differently": len(self.other),
            "without the verdict of before": len(self.lost),
        }
        said = [f"{number} {what}" for what, number in named.items() if number]
        return ", ".join(said if self.failing else ["none newly failing", *said]) if said else "nothing changed"

    def coverage(self, checks: int) -> str:
        """The baseline with its coverage."""
        whole = "all" if self.covered == checks else str(self.covered)
        return f"{self.baseline}, which covers {whole} of {count(checks, 'check')}"

    def cause_of(self, outcome: Outcome) -> str:
        """The likeliest cause of the outcome among the changes; empty where none of them concerns the check."""
        places = [self.first[scope] for scope in (outcome.cell, outcome.image) if scope in self.first]
        return self.causes[min(places)].what if places else ""


def own_baseline(table: Table) -> Table:
    """The last verdicts of the checks before their run, each with its environment, as one table."""
    bases = {check: since.base for check, since in table.since.items() if since.base}
    environments: dict[str, Mapping[str, Any]] = {}
    for seen in sorted(bases.values(), key=lambda seen: seen.run):  # the newest environment of an image stays
        if seen.environment:
            environments.pop(seen.outcome.environment, None)
            environments[seen.outcome.environment] = seen.environment
    outcomes = {check: seen.outcome for check, seen in bases.items()}
    return replace(table, header={**table.header, "run": OWN}, outcomes=outcomes, environments=environments)


def compare(before: Table, after: Table) -> Changes:
    """The changes to the later run; a check that the baseline gave no verdict has its own last one for a base."""
    states: dict[str, State] = {}
    moved: dict[State, list[tuple[Outcome, Outcome]]] = {}
    asked: Counter[str] = Counter()
    covered = 0
    for check, now in after.outcomes.items():
        then = before.outcomes.get(check)
        if then is None or not then.verdict.tells:
            since = after.since.get(check)
            then = since.base.outcome if since and since.base else None
        else:
            covered += 1
        if waits(now):
            continue
        states[check] = state_of(now, then)
        if then is None:
            continue
        asked.update((now.image, now.cell))
        if states[check] not in ("still", "same"):
            moved.setdefault(states[check], []).append((then, now))
    differing = [*moved.get("new", ()), *moved.get("fixed", ()), *moved.get("differs", ())]
    scopes = Counter(scope for _, now in differing for scope in (now.image, now.cell))
    unsorted = (*_of_images(before, after), *_of_cells(before, after))
    causes = sorted(unsorted, key=lambda cause: -_likeness(scopes[cause.scope], asked[cause.scope], len(differing)))
    common = [check for check in after.outcomes if check in before.outcomes]
    return Changes(
        baseline=before.run,
        covered=covered,
        states=states,
        failing=tuple(now for _, now in moved.get("new", ())),
        fixed=tuple(now for _, now in moved.get("fixed", ())),
        other=tuple(moved.get("differs", ())),
        lost=tuple(now for _, now in moved.get("lost", ())),
        new=tuple(check for check, now in after.outcomes.items() if check not in before.outcomes and now.verdict.tells),
        gone=tuple(check for check in before.outcomes if check not in after.outcomes),
        causes=tuple(causes),
        numerics=tuple(numerics.compare(*([side.outcomes[check] for check in common] for side in (before, after)))),
        first={causes[place].scope: place for place in reversed(range(len(causes)))},
    )


def _likeness(moved: int, asked: int, total: int) -> float:
    """How well "the checks that depend on this change differ, and no others do" describes the two runs.

    The harmonic mean (F1) of the share that differs among the checks that depend on it, and of its share in all that
    differ.
    """
    return 2 * moved / (asked + total) if moved else 0.0


def _of_images(before: Table, after: Table) -> Iterator[Cause]:
    """Changes of the environments: torch, driver, GPU first, then digest and packages."""
    then, now = ({record["image"]: record for record in table.environments.values()} for table in (before, after))
    for name in filter(then.__contains__, now):
        old, new = ([facts(record).get(what, "none") for what in ASPECTS] for record in (then[name], now[name]))
        changed = [f"{what} {was} -> {has}" for what, was, has in zip(ASPECTS, old, new, strict=True) if was != has]
        packages = [record["facts"].get("packages", {}) for record in (then[name], now[name])]
        for change in (*changed, *changed_pins(*packages)):
            yield Cause(scope=name, what=one_line(f"{name}: {change}"))


def _of_cells(before: Table, after: Table) -> Iterator[Cause]:
    """Changes of the packages that a cell installs."""
    seen = set()
    for check, now in after.outcomes.items():
        then, cell = before.outcomes.get(check), now.cell
        if then is None or cell in seen or not (then.resolved and now.resolved):
            continue
        seen.add(cell)
        changed = changed_pins(read_pins(then.resolved), read_pins(now.resolved))
        if changed:
            yield Cause(scope=cell, what=one_line(f"{cell}: installs {', '.join(changed)}"))


def how_differently(then: Outcome, now: Outcome) -> str:
    """Both reasons; where they are the same, both signatures."""
    if then.reason != now.reason:
        return f"{then.reason} -> {now.reason}"
    return f"{now.reason}, {short(then.signature)} -> {short(now.signature)}"


def as_json(changes: Changes) -> dict[str, Any]:
    """The changes as plain data."""
    return {
        "baseline": changes.baseline,
        "covered": changes.covered,
        "failing": [outcome.check for outcome in changes.failing],
        "fixed": [outcome.check for outcome in changes.fixed],
        "other": [now.check for _, now in changes.other],
        "lost": [outcome.check for outcome in changes.lost],
        "new": changes.new,
        "gone": changes.gone,
        "causes": [cause.what for cause in changes.causes],
        "numerics": [asdict(comparison) for comparison in changes.numerics if comparison.differing],
        "likely": {outcome.check: cause for outcome in changes.moved for cause in [changes.cause_of(outcome)] if cause},
    }
