"""Run the same checks several times though nothing changed, and say how often that alone would have been an alarm.

(matrix)
(backend)
selectors [SELECTOR ...]  checks to take (see below); default: all
--probe PROBE ...  take only this probe; may be repeated
--runs N = 5  how often (%(default)s)
--jobs N  batches at a time, as for `compat run`
--json  print it as JSON

compat noise --runs 20
compat noise 'captum-*' --probe sample --json
"""

from __future__ import annotations

import argparse
from collections.abc import Iterator, Mapping

from torch_compat_matrix.compat.progress import say, tell
from torch_compat_matrix.compat.verbs.plan import plan_asked
from torch_compat_matrix.reports.escape import count
from torch_compat_matrix.runner.backends.base import connect, reap
from torch_compat_matrix.runner.comparison.noise import LEVELS, experiment
from torch_compat_matrix.runner.confirming import aside
from torch_compat_matrix.runner.errors import Status, UsageError
from torch_compat_matrix.runner.model import Plan, Verdict, utc_now
from torch_compat_matrix.runner.outcome import Outcome
from torch_compat_matrix.runner.records.journal import append
from torch_compat_matrix.runner.records.runs import Run, home, target_in
from torch_compat_matrix.runner.records.shapes import Noise
from torch_compat_matrix.runner.workflow import RunSettings, make_room

MOST = 10
"""The metrics of the widest spread that are printed."""


def main(options: argparse.Namespace) -> Status:
    """Print and store what was measured; 5 where a run gave no verdict."""
    if options.runs < 2:
        raise UsageError(f"{options.runs} is too few to differ", "take 2 runs or more", "--runs")
    plan = plan_asked(options, options.selectors, options.probe)
    backend = connect(plan.backend, home(), plan.target)
    reap(backend, say)
    make_room(plan, backend, say)
    settings, number = RunSettings(jobs=options.jobs), 0

    def ask(asked: Plan, clean: bool) -> Mapping[str, Outcome]:
        nonlocal number
        number += not clean
        say(f"{'asking again' if clean else f'run {number} of {options.runs}'}: {count(len(asked.checks), 'check')}")
        return aside(asked, backend, settings, "noise", clean=clean, say=say)

    rows = experiment(plan, options.runs, ask)
    devices = target_in({}, Run.all(home() / "noise")[-1].environments().values())
    alarms = {level: sum(row["alarms"][level] for row in rows) for level in LEVELS}
    noise = Noise(date=utc_now(), backend=backend.name, target=devices, runs=options.runs, alarms=alarms, checks=rows)
    append(home() / "noise.jsonl", {"kind": "noise", **noise})
    tell(options.json, noise, _lines(noise))
    return (
        Status.AS_EXPECTED
        if all(Verdict(each).final for row in rows for each in row["verdicts"])
        else Status.INCOMPLETE
    )


def _lines(noise: Noise) -> Iterator[str]:
    rows, pairs = noise["checks"], len(noise["checks"]) * (noise["runs"] - 1)
    flips = sum(row["flips"] for row in rows)
    where = f"on {noise['backend']}, {noise['target']}"
    yield f"{count(len(rows), 'check')} in {noise['runs']} equal runs {where}:"
    yield f"flips: {flips} of {pairs} verdicts differ from the one before ({flips / max(1, pairs):.2%})"
    yield f"false alarms: {', '.join(f'{level} {number}' for level, number in noise['alarms'].items())}"
    for row in sorted(rows, key=lambda row: -row["rate"]):
        if row["flips"]:
            yield f"  {row['check']} flips in {row['rate']:.0%}: {', '.join(row['verdicts'])}"
    spreads = sorted(((spread, row["check"], name) for row in rows for name, spread in row["spread"].items()))
    if spreads:
        middle = spreads[len(spreads) // 2][0]
        yield f"{len(spreads)} metrics spread, largest less smallest of the median: {middle:.0%} in the middle, most:"
        yield from (f"  {spread:.0%}: {check}: {name}" for spread, check, name in spreads[: -MOST - 1 : -1])
