"""Show the verdicts of checks, run after run; without a cell: the flaky checks.

cell [CELL]  a cell or check, or a glob over them
--json  print it as JSON
--last N = 20  show at most N runs (%(default)s)

compat history
compat history captum-0.9.0 --last 5
"""

from __future__ import annotations

import argparse
from collections.abc import Iterator, Sequence

from torch_compat_matrix.compat.answers import History, SeenOutcome, Timeline
from torch_compat_matrix.compat.progress import say_unreadable, tell
from torch_compat_matrix.runner.errors import NothingSelected, Status
from torch_compat_matrix.runner.outcome import Outcome
from torch_compat_matrix.runner.planning import chosen
from torch_compat_matrix.runner.records import history
from torch_compat_matrix.runner.records.runs import home
from torch_compat_matrix.runner.text import one_line


def main(options: argparse.Namespace) -> Status:
    history.sync(home())
    say_unreadable(history.unreadable(home()), "the journals")
    if options.cell is None:
        checks = history.flaky(home())
        tell(options.json, History(timelines=[], flaky=checks), _flaky(checks))
        return Status.AS_EXPECTED
    timelines = history.timelines(home(), chosen(options.cell), options.last)
    if not timelines:
        raise NothingSelected(f"{options.cell}: in no recorded run; `compat plan` lists the cells of the matrix")
    rows = [Timeline(check=check, outcomes=[*map(_seen, seen)]) for check, seen in timelines.items()]
    lines = (line for check, seen in timelines.items() for line in (check, *_lines(seen)))
    tell(options.json, History(timelines=rows, flaky=[]), lines)
    return Status.AS_EXPECTED


def _seen(entry: tuple[str, Outcome]) -> SeenOutcome:
    run, outcome = entry
    verdict, started = outcome.verdict.value, outcome.started
    return SeenOutcome(run=run, started=started, verdict=verdict, reason=outcome.reason, detail=outcome.detail)


def _flaky(checks: Sequence[history.Flaky]) -> Iterator[str]:
    for flaky in checks:
        before = f" and {len(flaky.runs) - 1} runs before" if len(flaky.runs) > 1 else ""
        counts = f"{flaky.passes} passes and {flaky.failures} failures"
        yield f"{flaky.check}: {counts}, though nothing changed, in {flaky.runs[-1]}{before}"
    yield f"flaky checks: {len(checks)}" if checks else "no flaky check; name a cell to see its verdicts"


def _lines(seen: Sequence[tuple[str, Outcome]]) -> Iterator[str]:
    """A line for each change of verdict, with its likely cause since the run before; repetitions are counted."""
    before: Outcome | None = None
    same = 0
    for run, outcome in seen:
        if before is not None and (before.verdict, before.reason) == (outcome.verdict, outcome.reason):
            same += 1
            before = outcome
            continue
        if same:
            yield f"  ... the same in {same} more"
        why = one_line(f"{outcome.reason}: {outcome.detail}") if outcome.reason else ""
        yield f"  {run}  {outcome.shown} {why}".rstrip()
        if before is not None:
            yield f"      since {outcome.started}: {_changed(before, outcome)}"
        before, same = outcome, 0
    if same:
        yield f"  ... the same in {same} more, last in {seen[-1][0]}"


def _changed(before: Outcome, outcome: Outcome) -> str:
    """The likely cause of the change, as far as it is recorded."""
    if changed := sorted(set(outcome.resolved) - set(before.resolved)):
        return f"now installs {', '.join(changed)}"
    if outcome.environment != before.environment:
        return "in another environment (`compat diff` shows the changes)"
    if outcome.key and outcome.key == before.key:
        return "nothing that the check depends on changed: flaky"
    return "in the same environment; probes, rules, limits or settings may have changed"
