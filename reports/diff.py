"""Two runs compared: what fails newly, what is fixed, and what else changed between them, the likely cause first."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from reports.table import Table
from runner.model import Outcome


@dataclass(frozen=True, kw_only=True, slots=True)
class Changes:
    """What changed from the baseline to the run, by check; `causes` are changes of the environments."""

    baseline: str
    failing: tuple[Outcome, ...]
    fixed: tuple[Outcome, ...]
    other: tuple[tuple[Outcome, Outcome], ...]
    """(before, after) where both fail, for another reason or with another verdict."""
    new: tuple[str, ...]
    gone: tuple[str, ...]
    causes: tuple[str, ...]


def compare(before: Table, after: Table) -> Changes:
    """What the later run shows that the earlier did not; checks without a verdict in either say nothing."""
    failing, fixed, other = [], [], []
    for check, now in after.outcomes.items():
        then = before.outcomes.get(check)
        if then is None or not (then.verdict.final and now.verdict.final):
            continue
        if now.verdict.broken and not then.verdict.broken:
            failing.append(now)
        elif then.verdict.broken and not now.verdict.broken:
            fixed.append(now)
        elif now.verdict.broken and (then.verdict, then.reason) != (now.verdict, now.reason):
            other.append((then, now))
    return Changes(
        baseline=before.run,
        failing=tuple(failing),
        fixed=tuple(fixed),
        other=tuple(other),
        new=tuple(check for check in after.outcomes if check not in before.outcomes),
        gone=tuple(check for check in before.outcomes if check not in after.outcomes),
        causes=tuple(_causes(before, after)),
    )


def _causes(before: Table, after: Table) -> Iterator[str]:
    """Changes of the environments, those that explain most first: image, torch, driver, GPU, then packages."""
    then, now = _by_image(before), _by_image(after)
    for name in now:
        if name not in then:
            continue
        for what, value in _aspects(now[name]).items():
            old = _aspects(then[name])[what]
            if old != value:
                yield f"{name}: {what} {old or 'none'} -> {value or 'none'}"
    for name in now:
        if name in then:
            old_packages, new_packages = then[name]["facts"]["packages"], now[name]["facts"]["packages"]
            for package in sorted(old_packages.keys() | new_packages.keys()):
                old, new = old_packages.get(package, "none"), new_packages.get(package, "none")
                if old != new:
                    yield f"{name}: {package} {old} -> {new}"
    yield from _resolved(before, after)


def _resolved(before: Table, after: Table) -> Iterator[str]:
    seen = set()
    for check, now in after.outcomes.items():
        then = before.outcomes.get(check)
        cell = check.rpartition("/")[0]
        if then is None or cell in seen or not (then.resolved and now.resolved):
            continue
        seen.add(cell)
        changed = sorted(set(now.resolved) - set(then.resolved))
        if changed:
            yield f"{cell}: now installs {', '.join(changed)}"


def _by_image(table: Table) -> Mapping[str, Mapping[str, Any]]:
    return {record["image"]: record for record in table.environments.values()}


def _aspects(record: Mapping[str, Any]) -> Mapping[str, str]:
    facts = record["facts"]
    torch = facts.get("torch") or {}
    return {
        "digest": str(record.get("digest") or ""),
        "torch": str(torch.get("version") or ""),
        "CUDA": str(torch.get("cuda") or ""),
        "driver": str(facts.get("driver") or ""),
        "GPU": ", ".join(gpu["name"] for gpu in facts.get("gpus", ())),
        "Python": str(facts.get("python") or ""),
    }
