"""`compat run`: launches the images of the plan, runs their checks and compiles the report."""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from pathlib import Path

from torch_compat_matrix.compat.progress import NORMAL, QUIET, progress, say
from torch_compat_matrix.compat.verbs.plan import plan_of
from torch_compat_matrix.compat.verbs.report import report
from torch_compat_matrix.runner.backends.base import connect, reap
from torch_compat_matrix.runner.backends.here import require_torch
from torch_compat_matrix.runner.errors import NothingSelected, Status, writing
from torch_compat_matrix.runner.execution.durations import Estimate, Remaining
from torch_compat_matrix.runner.model import Plan
from torch_compat_matrix.runner.planning import adapted
from torch_compat_matrix.runner.records.runs import Run, home
from torch_compat_matrix.runner.watch import Watch
from torch_compat_matrix.runner.workflow import OpenRun, RunSettings, execute, jobs_of, make_room, open_run, resume_run


def main(options: argparse.Namespace) -> Status:
    """Start or continue a run, and report on it."""
    if options.baseline not in (None, "none"):  # better now than after the run, which may itself be the latest then
        options.baseline = Run.open(home(), options.baseline).id
    if options.out is not None:  # better now than after the run
        with writing(options.out, "name another folder with --out"):
            options.out.mkdir(parents=True, exist_ok=True)
    if options.resume:
        return work_through(resume_run(options.resume), options.out, options.baseline, options.loudness)
    try:
        plan = plan_of(options)
    except NothingSelected:
        if options.backend == "here":
            require_torch()  # an interpreter without torch is no image, whatever is selected
        raise
    if plan.backend == "here" and options.plan is None:
        require_torch()
    settings = RunSettings(
        jobs=options.jobs,
        seed=options.seed,
        full=options.full,
        rerun=options.rerun,
        compile_cache=options.compile_cache,
    )
    asked = adapted(plan, options.isolation, options.pull)
    opened = start(asked, settings, ["compat", *options.arguments])
    return work_through(opened, options.out, options.baseline, options.loudness)


def start(plan: Plan, settings: RunSettings, command: Sequence[str]) -> OpenRun:
    """Open a new run on the plan's backend, which has to answer and to have room."""
    connected = connect(plan.backend, home())
    make_room(plan, connected, say)
    return open_run(plan, connected, settings, command)


def _advise(opened: OpenRun, watch: Watch) -> None:
    try:
        from torch_compat_matrix.runner.advising import advise
    except ModuleNotFoundError:  # a bare interpreter cannot compare versions: the general remedies stay
        return
    advise(opened, watch)


def work_through(
    opened: OpenRun, out: Path | None = None, baseline: str | None = None, loudness: int = NORMAL
) -> Status:
    """Execute the run's checks, print a line per outcome, and report, even after an interruption."""
    reap(opened.backend, say)
    if loudness > QUIET:
        say(f"run {opened.run.id}: {len(opened.checks)} checks on {opened.backend.name}")
    remaining = Remaining(Estimate.load(home()), opened.checks, jobs_of(opened))
    with progress(len(opened.checks), opened.plan.known, remaining, loudness) as shown:
        try:
            execute(opened, listen=shown.outcome, say=shown.say, watch=shown.watch, advise=_advise)
        except KeyboardInterrupt:
            report(opened.run, out, baseline)
            raise
    return report(opened.run, out, baseline)
