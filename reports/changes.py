"""Two runs compared: new failures, fixed checks, and the other changes between the runs, the likely cause first."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass
from typing import Any

from torch_compat_matrix.reports.table import Table
from torch_compat_matrix.runner import numerics
from torch_compat_matrix.runner.numerics import Comparison
from torch_compat_matrix.runner.outcome import Outcome
from torch_compat_matrix.runner.pins import changes as changed_pins
from torch_compat_matrix.runner.pins import read_pins
from torch_compat_matrix.runner.text import one_line


@dataclass(frozen=True, kw_only=True, slots=True)
class Cause:
    """A change of an environment, or of the packages that a cell installs."""

    scope: str
    """The image, or the cell, that it concerns."""
    what: str


@dataclass(frozen=True, kw_only=True, slots=True)
class Changes:
    """What changed from the baseline to the run, by check."""

    baseline: str
    failing: tuple[Outcome, ...]
    fixed: tuple[Outcome, ...]
    other: tuple[tuple[Outcome, Outcome], ...]
    """(before, after) where both fail, but with different reasons or verdicts."""
    new: tuple[str, ...]
    gone: tuple[str, ...]
    causes: tuple[Cause, ...]
    """The other changes between the two runs, the likely cause first."""
    numerics: tuple[Comparison, ...]
    """The cells of both runs whose numbers can be compared."""
    first: Mapping[str, int]
    """Image or cell -> the place in `causes` of the first cause that concerns it."""

    @property
    def moved(self) -> tuple[Outcome, ...]:
        """The outcomes that differ from those of the baseline."""
        return (*self.failing, *self.fixed, *(now for _, now in self.other))

    def cause_of(self, outcome: Outcome) -> str:
        """The likeliest cause of the outcome among the changes; empty where none of them concerns the check."""
        places = [self.first[scope] for scope in (outcome.cell, outcome.image) if scope in self.first]
        return self.causes[min(places)].what if places else ""


def compare(before: Table, after: Table) -> Changes:
    """The changes from the earlier run to the later; a check without a verdict in either run is left out."""
    failing, fixed, other = [], [], []
    common = [check for check in after.outcomes if check in before.outcomes]
    asked: Counter[str] = Counter()
    moved: Counter[str] = Counter()
    for check, now in after.outcomes.items():
        then = before.outcomes.get(check)
        if then is None or not (then.verdict.final and now.verdict.final):
            continue
        scopes = now.image, now.cell
        asked.update(scopes)
        if now.verdict.broken and not then.verdict.broken:
            failing.append(now)
        elif then.verdict.broken and not (now.verdict.broken or now.flaky):
            fixed.append(now)
        elif now.verdict.broken and (then.verdict, then.reason) != (now.verdict, now.reason):
            other.append((then, now))
        else:
            continue
        moved.update(scopes)
    total = len(failing) + len(fixed) + len(other)
    unsorted = (*_of_images(before, after), *_of_cells(before, after))
    causes = tuple(sorted(unsorted, key=lambda cause: -_likeness(moved[cause.scope], asked[cause.scope], total)))
    return Changes(
        baseline=before.run,
        failing=tuple(failing),
        fixed=tuple(fixed),
        other=tuple(other),
        new=tuple(check for check in after.outcomes if check not in before.outcomes),
        gone=tuple(check for check in before.outcomes if check not in after.outcomes),
        causes=causes,
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
    then, now = _by_image(before), _by_image(after)
    common = [name for name in now if name in then]
    for name in common:
        old, new = _aspects(then[name]), _aspects(now[name])
        changed = [f"{what} {old[what] or 'none'} -> {new[what] or 'none'}" for what in new if old[what] != new[what]]
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


def as_json(changes: Changes) -> dict[str, Any]:
    """The changes as plain data."""
    return {
        "baseline": changes.baseline,
        "failing": [outcome.check for outcome in changes.failing],
        "fixed": [outcome.check for outcome in changes.fixed],
        "other": [now.check for _, now in changes.other],
        "new": changes.new,
        "gone": changes.gone,
        "causes": [cause.what for cause in changes.causes],
        "numerics": [asdict(comparison) for comparison in changes.numerics if comparison.differing],
        "likely": {outcome.check: cause for outcome in changes.moved for cause in [changes.cause_of(outcome)] if cause},
    }


def _by_image(table: Table) -> Mapping[str, Mapping[str, Any]]:
    return {record["image"]: record for record in table.environments.values()}


def _aspects(record: Mapping[str, Any]) -> Mapping[str, str]:
    facts = record["facts"]
    torch = facts.get("torch") or {}
    return {
        "torch": str(torch.get("version") or ""),
        "CUDA": str(torch.get("cuda") or ""),
        "driver": str(facts.get("driver") or ""),
        "GPU": ", ".join(gpu["name"] for gpu in facts.get("gpus", ())),
        "Python": str(facts.get("python") or ""),
        "digest": str(record.get("digest") or ""),
    }
