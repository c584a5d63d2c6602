"""Show the jobs of a run that a scheduler has, or that nobody has collected: state, and why they wait.

run [RUN] = latest  id of the run, or its beginning (%(default)s)
--json  print the jobs as JSON

compat status
compat status 20260801 --json
"""

from __future__ import annotations

import argparse
from collections import Counter
from collections.abc import Iterator, Sequence

from tabulate import tabulate

from torch_compat_matrix.compat.answers import JobRow
from torch_compat_matrix.compat.progress import tell
from torch_compat_matrix.runner.backends.base import Job, Places, connect
from torch_compat_matrix.runner.errors import Status, UsageError
from torch_compat_matrix.runner.records.runs import Run, home

MOST = 40
"""Jobs that are shown, apart from `--json`."""


def placed(run: Run) -> Places:
    """The backend of the run; UsageError where no scheduler has its launches."""
    name = run.header()["backend"]
    backend = connect(name, home(), run.plan().target)
    if not isinstance(backend, Places):
        raise UsageError(f"it ran on {name}, and no scheduler has jobs of it", "`compat runs` lists runs", run.id)
    return backend


def main(options: argparse.Namespace) -> Status:
    run = Run.open(home(), options.run)
    jobs = placed(run).jobs(run.id)
    rows = [_row(job) for job in jobs]
    tell(options.json, rows, _lines(run, jobs, rows))
    return Status.AS_EXPECTED


def _lines(run: Run, jobs: Sequence[Job], rows: Sequence[JobRow]) -> Iterator[str]:
    """A table of the jobs, then what is answered and what can be done."""
    if rows:
        shown = [row.values() for row in rows[:MOST]]
        yield tabulate(shown, headers=list(rows[0]), tablefmt="simple", disable_numparse=True)
    states = Counter(job.state.lower() for job in jobs)
    told = ", ".join(f"{number} {state}" for state, number in states.most_common())
    more = f" (the first {MOST} are shown)" if len(rows) > MOST else ""
    end = "" if run.is_going() or run.ended() else f"; `compat run --resume {run.id}` goes on"
    answered = f"{len(run.outcomes())} of {len(run.plan().checks)} checks answered"
    yield f"run {run.id}: {answered}, {len(rows)} jobs{told and ': '}{told}{more}{end}"


def _row(job: Job) -> JobRow:
    first, *more = [cell["id"] for cell in job.order["cells"]] or ["facts of an image"]
    waiting = f"waiting {job.waits_s / 60:.0f} min: {job.reason}" if job.waits_s else ""
    return {
        "job": job.id,
        "state": waiting or " ".join(filter(None, (job.state.lower(), job.reason.replace("None", "")))),
        "covers": f"{first} and {len(more)} more" if more else first,
    }
