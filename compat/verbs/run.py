"""Launch the images, run their checks and write the report.

(chosen)
(reported)
--jobs N  batches at a time (default: one per GPU; on the CPU one per core, at most 4)
--resume [RUN=latest]  continue a run (default: the latest)
--detach  submit all jobs to the scheduler and return; `compat status` shows them, `--resume` collects them
--seed SEED = 0  seed of every probe (%(default)s)
--full  use the articles' own step counts, however long they take
-q, --quiet  print surprises alone
| -v, --verbose  print each phase and command too
--rerun  run every check, even where nothing changed
--isolation {warm,fresh}  `fresh`: each probe in a process of its own (default: as the matrix says)
--pull {missing,always}  `always`: pull each tag again, since it may have moved (default: as the matrix says)
--confirm MINUTES = 15  time to ask again what newly fails, in a new overlay and with what passed; 0: none (%(default)s)
--compile-cache  keep the code that torch.compile makes between runs; first-compile times are then not cold

compat run
compat run captum --backend docker
compat run --image registry.example.com/team/train:24.1 --lib pyro-ppl
compat run torch-2.13/captum-0.9.0 --probe compile --rerun
compat run --resume
"""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from functools import partial
from pathlib import Path

from torch_compat_matrix.compat.progress import NORMAL, QUIET, Lines, answer, progress, say
from torch_compat_matrix.compat.verbs.plan import plan_of
from torch_compat_matrix.compat.verbs.report import report
from torch_compat_matrix.reports.markdown import SUMMARY_BYTES
from torch_compat_matrix.runner import workflow
from torch_compat_matrix.runner.backends.base import Places, connect, reap
from torch_compat_matrix.runner.backends.here import require_torch
from torch_compat_matrix.runner.confirming import confirm
from torch_compat_matrix.runner.errors import NothingSelected, Status, UsageError, writing
from torch_compat_matrix.runner.execution.durations import Estimate, Remaining
from torch_compat_matrix.runner.model import Plan
from torch_compat_matrix.runner.planning import adapted
from torch_compat_matrix.runner.records.runs import Run, home


def main(options: argparse.Namespace) -> Status:
    if options.baseline not in (None, "none"):  # better now than after the run, which may itself be the latest then
        options.baseline = Run.open(home(), options.baseline).id
    if options.out is not None:  # better now than after the run
        with writing(options.out, "name another folder with --out"):
            options.out.mkdir(parents=True, exist_ok=True)
    loudness = options.verbose - options.quiet
    if options.resume:
        opened = workflow.resume_run(options.resume)
        return work_through(opened, options.out, options.baseline, loudness, options.max_bytes)
    try:
        plan = plan_of(options)
    except NothingSelected:
        if options.backend == "here":
            require_torch()  # an interpreter without torch is no image, whatever is selected
        raise
    if not plan.cells:
        say(f"shard {plan.shard}: the other shards have all the cells" if plan.shard else "nothing new to run")
        return Status.AS_EXPECTED
    if plan.backend == "here" and options.plan is None:
        require_torch()
    settings = workflow.RunSettings(**{name: vars(options)[name] for name in workflow.RunSettings.__slots__})
    asked = adapted(plan, options.isolation, options.pull)
    opened = start(asked, settings, ["compat", *options.arguments], options.target or str(plan.target.get("name", "")))
    if options.detach:
        return leave(opened)
    return work_through(opened, options.out, options.baseline, loudness, options.max_bytes)


def start(plan: Plan, settings: workflow.RunSettings, command: Sequence[str], target: str = "") -> workflow.OpenRun:
    """Open a new run on the plan's backend, which has to answer and to have room."""
    connected = connect(plan.backend, home(), plan.target)
    workflow.make_room(plan, connected, say)
    return workflow.open_run(plan, connected, settings, command, target)


def leave(opened: workflow.OpenRun) -> Status:
    """Submit the run's batches, and return."""
    if not isinstance(opened.backend, Places):
        raise UsageError("no scheduler keeps its launches", "leave out --detach", f"--backend {opened.backend.name}")
    with opened.run.going():
        workflow.engine_for(opened, say=say, leaves=True).run(opened.checks)
    number, run = len(opened.backend.jobs(opened.run.id)), opened.run.id
    answer(f"run {run}: {number} jobs submitted; `compat status {run}` shows them, `compat run --resume {run}` goes on")
    return Status.AS_EXPECTED


def _then(opened: workflow.OpenRun, shown: Lines) -> None:
    """Confirm what newly fails, and record remedies."""
    confirm(opened, shown.say, shown.watch)
    try:
        from torch_compat_matrix.runner.advising import advise
    except ModuleNotFoundError:  # a bare interpreter cannot compare versions: the general remedies stay
        return
    advise(opened, shown.watch)


def work_through(
    opened: workflow.OpenRun,
    out: Path | None = None,
    baseline: str | None = None,
    loudness: int = NORMAL,
    most: int = SUMMARY_BYTES,
) -> Status:
    """Execute the run's checks, print a line per outcome, and report, even after an interruption."""
    reap(opened.backend, say)
    if loudness > QUIET:
        say(f"run {opened.run.id}: {len(opened.checks)} checks on {opened.backend.name}")
    remaining = Remaining(Estimate.load(home()), opened.checks, workflow.jobs_of(opened))
    with progress(len(opened.checks), opened.plan.known, remaining, loudness) as shown:
        try:
            workflow.execute(
                opened, listen=shown.outcome, say=shown.say, watch=shown.watch, then=partial(_then, opened, shown)
            )
        except KeyboardInterrupt:
            report(opened.run, out, baseline, most)
            raise
    return report(opened.run, out, baseline, most)
