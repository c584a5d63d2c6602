"""What several verbs of `compat` need: the plan, the backend, a run, the engine, the compiled report."""

from __future__ import annotations

import argparse
import json
import os
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

from torch_compat_matrix.runner.backends.base import BACKENDS, Backend, connect
from torch_compat_matrix.runner.errors import Failure, Status, Trouble
from torch_compat_matrix.runner.matrix.select import SelectionError, installed_plan, select
from torch_compat_matrix.runner.model import Plan
from torch_compat_matrix.runner.records.runs import NoRun, Run, home

if TYPE_CHECKING:
    from torch_compat_matrix.runner.execution.engine import Engine


def load_plan(options: argparse.Namespace) -> Plan:
    """The plan that the options ask for: from a plan file, from the matrix, or of what a bare host has installed."""
    if options.plan is not None:
        try:
            return Plan.from_json(json.loads(options.plan.read_text()))
        except (OSError, ValueError, KeyError, TypeError) as error:
            raise Failure(Status.BAD_MATRIX, f"{options.plan}: not a plan of `compat plan --json`: {error}") from error
    try:
        from torch_compat_matrix.runner.matrix import expand as planning
        from torch_compat_matrix.runner.matrix import load as matrix
        from torch_compat_matrix.runner.matrix.document import MatrixError
    except ModuleNotFoundError as error:
        if options.backend != "here":
            raise Failure(Status.BAD_MATRIX, f"{error.name} is not installed: pip install -e .") from error
        print(
            f"{options.matrix} not read: {error.name} is not installed here; taking every library that is",
            file=sys.stderr,
        )
        from torch_compat_matrix.runner.backends.here import installed

        everything = installed_plan(installed())
        return select(everything, options.selectors, options.probe)
    try:
        return planning.expand(matrix.load(options.matrix), options.backend, options.selectors, options.probe)
    except MatrixError as error:
        raise Failure(Status.BAD_MATRIX, str(error)) from error
    except SelectionError as error:
        raise Failure(Status.NOTHING_SELECTED, str(error)) from error


def connected(name: str) -> Backend:
    """The backend, or the failure that says what to do about it."""
    try:
        return connect(name, home())
    except KeyError:
        raise Failure(Status.NO_BACKEND, f"no backend {name!r}; there are: {', '.join(BACKENDS)}") from None
    except Trouble as trouble:
        raise Failure(Status.NO_BACKEND, f"--backend {name}: {trouble}\n{trouble.remedy}".rstrip()) from trouble


def opened(name: str) -> Run:
    """The run of that name."""
    try:
        return Run.open(home(), name)
    except NoRun as error:
        raise Failure(Status.NOTHING_SELECTED, str(error)) from error


def synced(folder: Path | None = None) -> None:
    """Bring the history, of the home folder unless another is named, up to date with its journals."""
    import sqlite3

    from torch_compat_matrix.runner.records import history

    try:
        history.sync(folder or home())
    except history.NewerHistory as error:
        raise Failure(Status.INCOMPLETE, str(error)) from error
    except sqlite3.OperationalError as error:
        raise Failure(
            Status.INCOMPLETE, f"{(folder or home()) / 'history.sqlite'}: {error}; free the disk, or move the file away"
        ) from error


def make_engine(run: Run, plan: Plan, backend: Backend, settings: dict[str, Any], **more: Any) -> Engine:
    """The engine of a run; `settings` are the ones recorded with it."""
    from functools import partial

    from torch_compat_matrix.runner.execution.engine import Engine
    from torch_compat_matrix.runner.packages.pip_config import Index
    from torch_compat_matrix.runner.records import history

    if not settings.get("fresh"):
        synced()
        more["settled"] = partial(history.settled, home())
    index = more.pop("index", None) or Index.from_pip(os.environ)
    # a few at a time where no GPU sets the number: each launch may take the memory limit, and torch every core it finds
    jobs = settings.get("jobs") or max(len(backend.gpus()), min(4, len(os.sched_getaffinity(0))))
    return Engine(
        plan=plan,
        backend=backend,
        home=home(),
        folder=run.folder,
        index=index,
        jobs=jobs,
        seed=settings.get("seed", 0),
        full=settings.get("full", False),
        compile_cache=settings.get("compile_cache", False),
        **more,
    )


def compiled(run: Run, options: argparse.Namespace) -> Status:
    """Compile the run's report, say where it is and what it found."""
    from torch_compat_matrix.reports.write import compile_report

    before = baseline(run, options.baseline)
    found = compile_report(run.journal, options.out or run.folder, before)
    synced()
    print(found.summary)
    print(f"report: {short(found.path)}")
    if found.surprises:
        return Status.SURPRISES
    return Status.INCOMPLETE if found.incomplete else Status.AS_EXPECTED


def baseline(run: Run, name: str | None) -> Path | None:
    """The journal to compare with: of the run named, else of the last complete run before on the same backend."""
    if name == "none":
        return None
    if name is not None:
        return opened(name).journal
    backend = run.header()["backend"]
    for earlier in reversed([one for one in Run.all(home()) if one.id < run.id]):
        try:
            if earlier.header()["backend"] == backend and earlier.ended():
                return earlier.journal
        except NoRun:
            continue
    return None


def short(path: Path) -> Path:
    try:
        return path.relative_to(Path.cwd())
    except ValueError:
        return path
