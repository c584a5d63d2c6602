"""`compat bisect`: the library version, or the day of the index, at which a check turned."""

from __future__ import annotations

import argparse
import datetime as dt
import os
import sys
from collections.abc import Callable, Iterator
from dataclasses import replace
from itertools import islice, takewhile

from runner import bisect
from runner.backends.base import Backend, Trouble
from runner.cli import Status
from runner.commands.common import Failure, connected, load_plan, make_engine
from runner.index import Index
from runner.model import Cell, Check, Outcome, Plan
from runner.runs import Run, home

DAYS = 4 * 365
"""How far back the index is asked where no --good says."""


def main(options: argparse.Namespace) -> Status:
    """Probe in between until two neighbours differ; every step is a check of one recorded run."""
    chosen = {"plan": None, "selectors": [options.cell], "probe": [options.probe] if options.probe else []}
    plan = load_plan(argparse.Namespace(**{**vars(options), **chosen}))
    cell, probe = _asked(plan, options)
    backend = connected(options.backend)
    source = _Steps(plan, cell, probe, backend, options)
    try:
        turn = _by_date(source, options) if options.by == "date" else _by_version(source, options)
    except bisect.NoTurn as error:
        raise Failure(Status.NOTHING_SELECTED, f"{cell.id}/{probe}: {error}") from error
    except Trouble as trouble:
        raise Failure(Status.INCOMPLETE, f"{trouble}\n{trouble.remedy}".rstrip()) from trouble
    finally:
        source.run.finish("complete")
    print("\n".join(_said(turn, options.by)))
    return Status.AS_EXPECTED


def _asked(plan: Plan, options: argparse.Namespace) -> tuple[Cell, str]:
    if len(plan.cells) != 1:
        names = ", ".join(cell.id for cell in plan.cells[:5])
        raise Failure(Status.NOTHING_SELECTED, f"{options.cell} is {len(plan.cells)} cells ({names}); name one of them")
    (cell,) = plan.cells
    if not cell.requires or cell.version == "stack":
        raise Failure(Status.NOTHING_SELECTED, f"{cell.id} has no version of its own: name image/library-version")
    if len(cell.probes) > 1:
        raise Failure(
            Status.NOTHING_SELECTED, f"{cell.id} has several probes: name one, {cell.id}/{cell.probes[-1]}, or --probe"
        )
    return cell, cell.probes[0]


class _Steps:
    """Asks the check at a version or a day; what was asked once is remembered."""

    def __init__(self, plan: Plan, cell: Cell, probe: str, backend: Backend, options: argparse.Namespace) -> None:
        self.plan, self.cell, self.probe, self.backend = plan, cell, probe, backend
        self.run = Run.create(home(), plan, options.backend, ["compat", *options.arguments], {"bisect": True})
        self.seen: dict[str, Outcome] = {}
        self.index = Index.from_pip(os.environ)

    def version(self, version: str) -> Outcome:
        name = self.cell.subject
        requires = (f"{name}=={version}", *self.cell.requires[1:])
        return self._ask(version, replace(self.cell, version=version, requires=requires), self.index)

    def date(self, day: str) -> Outcome:
        index = replace(self.index, uv={**self.index.uv, "UV_EXCLUDE_NEWER": day})
        return self._ask(day, self.cell, index)

    def _ask(self, point: str, cell: Cell, index: Index) -> Outcome:
        if point not in self.seen:
            cell = replace(cell, probes=(self.probe,))
            check = Check(cell=cell, probe=self.probe)
            folder = self.run.folder / "steps" / point
            folder.mkdir(parents=True, exist_ok=True)
            step = Run(folder)
            engine = make_engine(step, replace(self.plan, cells=(cell,)), self.backend, {"jobs": 1}, index=index)
            engine.run([check])
            self.seen[point] = engine.follower.look()[check.id]
            print(f"  {point}: {_verdict(self.seen[point])}", file=sys.stderr, flush=True)
        return self.seen[point]

    def facts(self) -> dict[str, object]:
        """What the image holds."""
        engine = make_engine(self.run, self.plan, self.backend, {"jobs": 1})
        (image,) = self.plan.images
        try:
            return engine.preparation.image(image).facts
        finally:
            engine.stop()


def _by_version(steps: _Steps, options: argparse.Namespace) -> bisect.Turn:
    bad = options.bad or steps.cell.version
    if not bad[0].isdigit():  # latest
        bad = next(bisect.versions_below(steps.cell.subject, "999999", steps.facts(), steps.index))
    right = bisect.passes(steps.version(bad))
    if right is None:
        raise bisect.NoTurn(f"{bad} cannot be judged: {_verdict(steps.seen[bad])}; name another end with --bad")
    older = bisect.versions_below(steps.cell.subject, bad, steps.facts(), steps.index)
    return bisect.search([*_reach(older, steps.version, options.good, right), bad], steps.version)


def _by_date(steps: _Steps, options: argparse.Namespace) -> bisect.Turn:
    bad = _day(options.bad) if options.bad else dt.date.today()
    right = bisect.passes(steps.date(bad.isoformat()))
    days = ((bad - dt.timedelta(days=back)).isoformat() for back in range(1, DAYS))
    good = _day(options.good).isoformat() if options.good else None
    return bisect.search([*_reach(days, steps.date, good, right), bad.isoformat()], steps.date)


def _reach(points: Iterator[str], ask: Callable[[str], Outcome], good: str | None, right: bool | None) -> list[str]:
    """The points between, oldest first: down to the good one, or to the first that is otherwise."""
    if good is None:
        return bisect.back(points, ask, right)
    between = list(islice(takewhile(lambda point: point != good, points), 10_000))
    return [good, *between[::-1]]


def _day(text: str) -> dt.date:
    try:
        return dt.date.fromisoformat(text)
    except ValueError as error:
        raise Failure(Status.BAD_MATRIX, f"{text}: not a day; write it as 2026-01-31") from error


def _said(turn: bisect.Turn, by: str) -> Iterator[str]:
    yield f"{turn.before}: {_verdict(turn.then)}"
    if turn.skipped:
        yield f"{', '.join(turn.skipped)}: cannot be judged, so that the turn may be at any of these"
    yield f"{turn.after}: {_verdict(turn.now)}"
    for words in (turn.now.detail, turn.now.evidence):
        if words:
            yield f"    {words}"
    old, new = (dict(pin.partition("==")[::2] for pin in one.resolved) for one in (turn.then, turn.now))
    changed = [
        f"{name} {old.get(name, 'none')} -> {new.get(name, 'none')}"
        for name in sorted({*old, *new})
        if old.get(name) != new.get(name)
    ]
    yield f"what an install adds changed between the two: {', '.join(changed) or 'nothing'}"
    if by == "date" and not changed:
        yield "no package changed: the image's own, or a flaky check"


def _verdict(outcome: Outcome) -> str:
    return outcome.verdict.value + (f" ({outcome.reason})" if outcome.reason else "")
