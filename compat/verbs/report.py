"""`compat report`: compiles a run's report again."""

from __future__ import annotations

import argparse
from pathlib import Path

from torch_compat_matrix.compat.progress import answer, say
from torch_compat_matrix.reports.ending import ending
from torch_compat_matrix.reports.write import compile_report
from torch_compat_matrix.runner.errors import Status, writing
from torch_compat_matrix.runner.records import history
from torch_compat_matrix.runner.records.runs import Run, home
from torch_compat_matrix.runner.workflow import tell


def main(options: argparse.Namespace) -> Status:
    """Compile a recorded run's report again."""
    return report(Run.open(home(), options.run), options.out, options.baseline)


def report(run: Run, out: Path | None = None, baseline: str | None = None) -> Status:
    """Compile the run's report, print its summary and its path."""
    before = run.baseline(home(), baseline)
    folder = out or run.folder
    with writing(folder, "name another folder with --out"):
        compiled = compile_report(run.journal, folder, before.journal if before else None)
    try:
        history.sync(home())
    except history.HistoryUnusable as error:  # the report is written all the same: a home may be read-only
        say(f"history not brought up to date: {tell(error)}")
    latest = Run.all(home())[-1].id == run.id
    for words in ending(compiled.table, "" if latest else run.id):
        answer(words)
    answer(compiled.summary)
    answer(f"report: {short(compiled.path)}")
    if compiled.surprises:
        return Status.SURPRISES
    return Status.INCOMPLETE if compiled.incomplete else Status.AS_EXPECTED


def short(path: Path) -> Path:
    """The path relative to this folder, if it is below it."""
    try:
        return path.relative_to(Path.cwd())
    except ValueError:
        return path
