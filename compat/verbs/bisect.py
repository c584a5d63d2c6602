"""Find the library version, or the day of the package index, at which a check's verdict changed.

(matrix)
(backend)
cell CELL  a check (or a cell and --probe): image/library-version/probe
--probe PROBE  the probe, where CELL names none
--good VERSION|DATE  where the check passes (default: search for such a point)
--bad VERSION|DATE  where the check fails (default: the cell's own version, or today)
--by {version,date} = version  search among versions or days (%(default)s)

compat bisect torch-2.13/pyro-ppl-1.8.0/import --good 1.9.1
compat bisect torch-2.13/captum-0.9.0 --probe compile --by date --good 2026-01-01
"""

from __future__ import annotations

import argparse
import datetime as dt
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import replace
from itertools import takewhile
from typing import Any, TypeVar

from packaging.version import Version

from torch_compat_matrix.compat.progress import answer, say
from torch_compat_matrix.compat.verbs.plan import plan_asked
from torch_compat_matrix.runner.advice import bisection as bisect
from torch_compat_matrix.runner.backends.base import Backend, connect
from torch_compat_matrix.runner.errors import NothingSelected, Status, UsageError
from torch_compat_matrix.runner.execution.engine import Engine
from torch_compat_matrix.runner.model import LATEST, Cell, Plan, Verdict
from torch_compat_matrix.runner.outcome import Outcome
from torch_compat_matrix.runner.packages.pip_config import Index
from torch_compat_matrix.runner.pins import canonical, changes, read_pins
from torch_compat_matrix.runner.records import history
from torch_compat_matrix.runner.records.runs import Run, home
from torch_compat_matrix.runner.text import one_line
from torch_compat_matrix.runner.workflow import OpenRun, RunSettings, engine_for

Value = TypeVar("Value")
DAYS = 4 * 365
"""How many days back the search goes without --good."""


def main(options: argparse.Namespace) -> Status:
    plan = plan_asked(options, [options.cell], [options.probe] if options.probe else [])
    cell, probe = _asked(plan, options)
    backend = connect(plan.backend, home(), plan.target)
    steps = Steps(plan, replace(cell, probes=(probe,)), backend, ["compat", *options.arguments])
    try:
        turn = _by_date(steps, options) if options.by == "date" else _by_version(steps, options)
    except bisect.NoTurn as error:
        raise bisect.NoTurn(str(error), place=f"{cell.id}/{probe}") from error
    answer("\n".join(_lines(turn, options.by)))
    return Status.AS_EXPECTED


def _asked(plan: Plan, options: argparse.Namespace) -> tuple[Cell, str]:
    if len(plan.cells) != 1:
        names = ", ".join(cell.id for cell in plan.cells[:5])
        raise NothingSelected(f"{options.cell} selects {len(plan.cells)} cells ({names}); name one of them")
    (cell,) = plan.cells
    if not cell.requires or (cell.version == "stack" and options.by == "version"):
        raise NothingSelected(f"{cell.id} has no version of its own: name image/library-version")
    if len(cell.probes) > 1:
        raise NothingSelected(f"{cell.id} has several probes: name one, {cell.id}/{cell.probes[-1]}, or --probe")
    return cell, cell.probes[0]


class Steps:
    """Runs the checks at a version, a day or another point, once each.

    The runs of the steps are kept apart from the others: none may become the latest run or a baseline.
    """

    def __init__(self, plan: Plan, cell: Cell, backend: Backend, command: Sequence[str]) -> None:
        self.plan, self.cell, self.backend, self.command = plan, cell, backend, command
        self.home = home() / "bisects"
        self.seen: dict[str, Outcome] = {}
        self.each: dict[str, list[Outcome]] = {}
        """Point -> the outcomes of all probes, of which `seen` has the worst."""
        self.index = Index.from_pip().beside(cell)
        self.engine: Engine | None = None

    def version(self, version: str) -> Outcome:
        """The outcome at a version of the library."""
        requires = (f"{self.cell.subject}=={version}", *self.cell.requires[1:])
        return self.ask(version, replace(self.cell, version=version, requires=requires), self.index)

    def date(self, day: str) -> Outcome:
        """The outcome with the index as it was at the end of a day, in UTC."""
        return self.ask(day, self.cell, self.until(day))

    def own(self) -> str:
        """The version that the cell installs; the newest on the index where it cannot be installed."""
        if self.cell.version != LATEST:
            return self.cell.version
        outcome = self.ask(LATEST, self.cell, self.index)
        added = read_pins(outcome.resolved)
        version = added.get(canonical(self.cell.subject)) or outcome.installed or next(self.below(""), "")
        if not version:
            raise bisect.NoTurn(f"the index has no version of {self.cell.subject} for the image's Python")
        return version

    def below(self, version: str) -> Iterator[str]:
        """The releases older than a version, newest first."""
        return bisect.versions_below(self.cell.subject, version, self.facts(), self.index)

    def until(self, day: str) -> Index:
        return replace(self.index, uv={**self.index.uv, "UV_EXCLUDE_NEWER": f"{day}T23:59:59Z"})

    def ask(self, point: str, cell: Cell, index: Index) -> Outcome:
        """The worst outcome of the cell's probes, with that index."""
        if point not in self.seen:
            plan = replace(self.plan, cells=(cell,))
            run = Run.create(self.home, plan, self.backend.name, self.command, {"bisect": point})
            history.sync(home())
            settings = RunSettings(jobs=1, rerun=True)
            opened = OpenRun(run=run, plan=plan, backend=self.backend, settings=settings)
            self.engine = engine_for(opened, index=index, settled=self._settled)
            self.engine.run(cell.checks)
            run.finish("complete")
            history.sync(self.home)
            self.each[point] = [self.engine.follower.look()[check.id] for check in cell.checks]
            self.seen[point] = min(self.each[point], key=_rank)
            reused = f", reused from {self.seen[point].reused}" if self.seen[point].reused else ""
            say(f"  {point}: {_verdict(self.seen[point])}{reused}")
        return self.seen[point]

    def _settled(self, keys: Iterable[str]) -> dict[str, tuple[Outcome, Mapping[str, Any]]]:
        """The settled outcomes of runs and earlier steps; none where the two differ."""
        wanted = list(keys)
        runs, steps = history.settled(home(), wanted), history.settled(self.home, wanted)
        differ = {key for key in runs.keys() & steps.keys() if _verdict(runs[key][0]) != _verdict(steps[key][0])}
        return {key: pair for key, pair in {**runs, **steps}.items() if key not in differ}

    def facts(self) -> Mapping[str, Any]:
        """The facts of the image, as the first step found them; Trouble where it could not be launched."""
        assert self.engine is not None, "a step comes before its neighbours are listed"
        return self.engine.preparation.image(self.plan.images[0]).facts


def _by_version(steps: Steps, options: argparse.Namespace) -> bisect.Turn:
    for text in filter(None, (options.good, options.bad)):
        _read(text, Version, "version; write one like 1.9.1")
    bad = options.bad or steps.own()
    right = _judged(bad, steps.version(bad))
    if options.good is None:
        return bisect.search([*bisect.back(steps.below(bad), steps.version, right), bad], steps.version)
    low, high = sorted((options.good, bad), key=Version)
    between = takewhile(lambda version: Version(version) > Version(low), steps.below(high))
    return bisect.search([low, *reversed([*between]), high], steps.version)


def _by_date(steps: Steps, options: argparse.Namespace) -> bisect.Turn:
    good, bad = (
        _read(text, dt.date.fromisoformat, "day; write it as 2026-01-31") if text else None
        for text in (options.good, options.bad)
    )
    bad = bad or dt.datetime.now(dt.timezone.utc).date()
    outcome = steps.date(bad.isoformat())
    if not bisect.tells_days(steps.cell.members[0], steps.facts(), steps.until(bad.isoformat())):
        raise bisect.NoTurn(
            "the index does not tell when its files were uploaded; use an index that does, like PyPI, or `--by version`"
        )
    right = _judged(bad.isoformat(), outcome)
    if good is None:
        days = [(bad - dt.timedelta(days=back)).isoformat() for back in range(1, DAYS)]
        return bisect.search([*bisect.back(days, steps.date, right), bad.isoformat()], steps.date)
    low, high = sorted((good, bad))
    points = [(low + dt.timedelta(days=number)).isoformat() for number in range((high - low).days + 1)]
    return bisect.search(points, steps.date)


def _judged(point: str, outcome: Outcome) -> bool:
    right = bisect.passes(outcome)
    if right is None:
        raise bisect.NoTurn(f"{point} cannot be judged: {_verdict(outcome)}; name another end with --bad")
    return right


def _read(text: str, parse: Callable[[str], Value], remedy: str) -> Value:
    try:
        return parse(text)
    except ValueError as error:
        raise UsageError(f"{text}: not a {remedy}") from error


def _lines(turn: bisect.Turn, by: str) -> Iterator[str]:
    yield f"{turn.before}: {_verdict(turn.then)}"
    if turn.skipped:
        yield f"{', '.join(turn.skipped)}: cannot be judged, so the change may be at any of these"
    yield f"{turn.after}: {_verdict(turn.now)}"
    for words in (turn.now.detail, turn.now.evidence):
        if words:
            yield f"    {one_line(words)}"
    changed = changes(read_pins(turn.then.resolved), read_pins(turn.now.resolved))
    yield f"installed packages that changed between the two: {', '.join(changed) or 'none'}"
    if by == "date" and not changed:
        yield "no installed package changed: the library is the image's own, or the check is flaky"


def _rank(outcome: Outcome) -> int:
    """Failures first, then host trouble, then passes: what does not apply says nothing."""
    return 0 if outcome.verdict.broken else 1 if not outcome.verdict.final else 2 + (outcome.verdict is Verdict.SKIP)


def _verdict(outcome: Outcome) -> str:
    return outcome.verdict.value + (f" ({outcome.reason})" if outcome.reason else "")
