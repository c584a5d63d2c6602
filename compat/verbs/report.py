"""Write a run's report again, or one report of several runs, also of other machines.

(reported)
run [RUN ...] = latest  id of a run, or its beginning; a journal; a folder with runs anywhere below it (default: latest)

compat report
compat report --baseline 20260801 --out pages
compat report 20260801 artifacts/h100 night.jsonl --out pages
"""

from __future__ import annotations

import argparse
from pathlib import Path
from tempfile import TemporaryDirectory

from torch_compat_matrix.compat.progress import answer, say
from torch_compat_matrix.reports.ending import ending
from torch_compat_matrix.reports.markdown import SUMMARY_BYTES
from torch_compat_matrix.reports.several import merged
from torch_compat_matrix.reports.standing import Standing
from torch_compat_matrix.reports.table import load
from torch_compat_matrix.reports.write import Compiled, compile_report, table_of, write_report
from torch_compat_matrix.runner.errors import Status, UsageError, writing
from torch_compat_matrix.runner.records import history
from torch_compat_matrix.runner.records.gather import journals
from torch_compat_matrix.runner.records.runs import Run, home
from torch_compat_matrix.runner.workflow import tell

ANOTHER = "name another folder with --out"


def main(options: argparse.Namespace) -> Status:
    (first, *more), most = options.run, options.max_bytes
    if not more and _is_here(first):
        return report(Run.open(home(), first), options.out, options.baseline, most)
    if options.out is None:
        raise UsageError("a report of several runs, or of runs from elsewhere, has no folder", "name one", "--out")
    before = _baseline(options.baseline)
    with TemporaryDirectory() as scratch:
        named = [Run.open(home(), name).journal if _is_here(name) else Path(name) for name in options.run]
        own = (home() / "runs").resolve()  # only our own runs have our history
        found = journals(named, Path(scratch))
        table = merged(table_of(path) if path.resolve().parent.parent == own else load(path) for path in found)
    with writing(options.out, ANOTHER):
        compiled = write_report(table, options.out, before, alone=options.baseline == "none", most=most)
    return _told(compiled)


def _is_here(name: str) -> bool:
    """Whether it names a run of this home, and not a path."""
    return name == "latest" or not Path(name).exists()


def report(run: Run, out: Path | None = None, baseline: str | None = None, most: int = SUMMARY_BYTES) -> Status:
    """Compile the run's report, print its summary and its path."""
    run.header()  # raises NoRun where the journal tells of no run
    before = _baseline(baseline)
    folder = out or run.folder
    with writing(folder, ANOTHER):
        compiled = compile_report(run.journal, folder, before, alone=baseline == "none", most=most)
    try:
        history.sync(home())
    except history.HistoryUnusable as error:  # the report is written all the same: a home may be read-only
        say(f"history not brought up to date: {tell(error)}")
    return _told(compiled, "" if Run.open(home()).id == run.id else run.id)


def _baseline(name: str | None) -> Path | None:
    return Run.open(home(), name).journal if name not in (None, "none") else None


def _told(compiled: Compiled, run: str = "") -> Status:
    for words in ending(compiled.table, run):
        answer(words)
    answer(compiled.summary)
    answer(f"report: {short(compiled.path)}")
    return status_of(compiled)


def status_of(compiled: Compiled) -> Status:
    """The exit status of a run: surprises count, unless the hosts were unhealthy; an unconfirmed one counts last."""
    surprises = [judged.outcome.unconfirmed for judged in compiled.table.surprises]
    if not all(surprises) and compiled.standing is not Standing.UNHEALTHY:
        return Status.SURPRISES
    skipped = compiled.standing is Standing.EMPTY and not compiled.table.incomplete and compiled.table.outcomes
    if not (compiled.standing.finished or skipped):
        return Status.INCOMPLETE
    return Status.UNCONFIRMED if surprises else Status.AS_EXPECTED


def short(path: Path) -> Path:
    """The path relative to this folder, if it is below it."""
    try:
        return path.relative_to(Path.cwd())
    except ValueError:
        return path
