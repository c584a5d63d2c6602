"""List the recorded runs: kind, state, what each covered, verdicts, size.

--last N = 20  at most so many, the newest (%(default)s)
--json  print the list as JSON

compat runs
compat runs --last 5 --json
"""

from __future__ import annotations

import argparse
from collections import Counter

from tabulate import tabulate

from torch_compat_matrix.compat.answers import RunRow
from torch_compat_matrix.compat.progress import answer, answer_json
from torch_compat_matrix.runner.errors import Status
from torch_compat_matrix.runner.records.runs import NoRun, Run, home
from torch_compat_matrix.runner.storage import shown_size, size


def main(options: argparse.Namespace) -> Status:
    runs = Run.all(home())[::-1][: options.last]
    if not runs and not options.json:
        answer(f"{home()}: no run yet; `compat run` makes one")
        return Status.AS_EXPECTED
    rows = [_row(run) for run in runs]
    if options.json:
        answer_json(rows)
    else:
        answer(tabulate([row.values() for row in rows], headers=list(rows[0]), tablefmt="simple"))
    return Status.AS_EXPECTED


def _row(run: Run) -> RunRow:
    try:
        header, plan, outcomes = run.header(), run.plan(), run.outcomes()
    except NoRun:
        return RunRow(run=run.id, kind="", state="never began", backend="", checks="", covers="", verdicts="", size="")
    unended = "submitted" if (home() / "jobs" / run.id).is_dir() else "interrupted"
    state = "still going" if run.is_going() else "complete" if run.ended() else unended
    verdicts = Counter(outcome.grade or outcome.verdict.value for outcome in outcomes.values())
    images = [image.name for image in plan.images if plan.cells_of(image)]
    subjects = list(dict.fromkeys(cell.subject for cell in plan.cells))
    return {
        "run": run.id,
        "kind": "comparison" if run.compares else "matrix",
        "state": state,
        "backend": header["backend"],
        "checks": f"{len(outcomes)} of {len(plan.checks)}",
        "covers": f"{_few(images)} x {_few(subjects)}",
        "verdicts": ", ".join(f"{number} {verdict}" for verdict, number in verdicts.most_common()),
        "size": shown_size(size(run.folder)),
    }


def _few(names: list[str]) -> str:
    return ", ".join(names) if len(names) < 4 else f"{', '.join(names[:2])} and {len(names) - 2} more"
