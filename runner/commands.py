"""The verbs of `compat`: each loads what it needs, acts, reports and gives an exit status."""

from __future__ import annotations

import argparse
import json
import os
import shlex
import sys
from collections.abc import Iterable, Mapping, Sequence
from fnmatch import fnmatchcase
from pathlib import Path
from typing import TYPE_CHECKING, Any

from runner.backends.base import BACKENDS, Backend, Finding, Trouble, connect
from runner.cli import Status
from runner.model import Outcome, Plan
from runner.runs import NoRun, Run, home

if TYPE_CHECKING:
    from runner.engine import Engine


class Failure(Exception):
    """An error to tell the user, and the exit status that goes with it."""

    def __init__(self, status: Status, message: str) -> None:
        super().__init__(message)
        self.status = status


def load_plan(options: argparse.Namespace) -> Plan:
    """The plan that the options ask for: from a plan file, from the matrix, or of what a bare host has installed."""
    from runner import plan as planning

    if options.plan is not None:
        try:
            return planning.plan_from_json(json.loads(options.plan.read_text()))
        except (OSError, ValueError, KeyError, TypeError) as error:
            raise Failure(Status.BAD_MATRIX, f"{options.plan}: not a plan of `compat plan --json`: {error}") from error
    try:
        from runner import matrix
    except ModuleNotFoundError as error:
        if options.backend != "here":
            raise Failure(Status.BAD_MATRIX, f"{error.name} is not installed: pip install -e .") from error
        print(
            f"{options.matrix} not read: {error.name} is not installed here; taking every library that is",
            file=sys.stderr,
        )
        from runner.backends.here import installed

        everything = planning.installed_plan(installed())
        return planning.select(everything, options.selectors, options.probe)
    try:
        return planning.expand(matrix.load(options.matrix), options.backend, options.selectors, options.probe)
    except matrix.MatrixError as error:
        raise Failure(Status.BAD_MATRIX, str(error)) from error
    except planning.SelectionError as error:
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


def make_engine(run: Run, plan: Plan, backend: Backend, settings: dict[str, Any], **more: Any) -> Engine:
    """The engine of a run; `settings` are the ones recorded with it."""
    from runner.engine import Engine
    from runner.index import Index

    index = Index.from_pip(os.environ)
    # without GPUs a few at a time: each launch may take the memory limit, and torch takes every core it finds
    jobs = settings.get("jobs") or len(backend.gpus()) or min(4, len(os.sched_getaffinity(0)))
    return Engine(
        plan=plan,
        backend=backend,
        home=home(),
        folder=run.folder,
        index=index,
        jobs=jobs,
        seed=settings.get("seed", 0),
        full=settings.get("full", False),
        **more,
    )


def run(options: argparse.Namespace) -> Status:
    """Launch every image of the plan, probe, and compile the report."""
    from runner.progress import progress

    if options.resume:
        current = opened(options.resume)
        header, plan = current.header(), current.plan()
        settings, name = header.get("settings", {}), header["backend"]
    else:
        plan, name = load_plan(options), options.backend
        settings = {"jobs": options.jobs, "seed": options.seed, "full": options.full}
        current = None
    backend = connected(name)
    for left in backend.reap():
        print(f"removed what a dead run left behind: {left}", file=sys.stderr)
    if current is None:
        current = Run.create(home(), plan, name, ["compat", *options.arguments], settings)
        done = {}
    else:
        done = {check: outcome for check, outcome in current.outcomes().items() if outcome.verdict.final}
        current.resume()
    checks = [check for check in plan.checks if check.id not in done]
    print(f"run {current.id}: {len(checks)} checks on {name}", file=sys.stderr)
    with progress(len(checks)) as shown:
        engine = make_engine(
            current, plan, backend, settings, listen=shown.outcome, say=shown.say, done=frozenset(done)
        )
        try:
            engine.run(checks)
        except KeyboardInterrupt:
            engine.stop()
            current.finish("interrupted")
            compiled(current, options)
            raise
        engine.estimate.save(home(), engine.follower.look().values())
    current.finish("complete")
    return compiled(current, options)


def compiled(run: Run, options: argparse.Namespace) -> Status:
    """Compile the run's report, say where it is and what it found."""
    from reports.compile import compile_report

    before = baseline(run, options.baseline)
    found = compile_report(run.journal, options.out or run.folder, before)
    print(found.summary)
    print(f"report: {_short(found.path)}")
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


def report(options: argparse.Namespace) -> Status:
    """Compile a recorded run's report again."""
    return compiled(opened(options.run), options)


def plan(options: argparse.Namespace) -> Status:
    """Show what a run would do; nothing is launched, pulled or built."""
    from runner.plan import plan_to_json

    chosen = load_plan(options)
    if options.json is not None:
        options.json.write_text(json.dumps(plan_to_json(chosen), indent=1))
        print(f"plan: {options.json} ({len(chosen.cells)} cells, {len(chosen.checks)} checks)")
        return Status.AS_EXPECTED
    from runner.preview import preview

    print(preview(chosen, connected(options.backend), home()))
    return Status.AS_EXPECTED


def show(options: argparse.Namespace) -> Status:
    """Everything that a run recorded of a cell or check."""
    current = opened(options.run)
    found = [outcome for outcome in current.outcomes().values() if _named(outcome, options.cell)]
    if not found:
        planned = sorted({cell.id for cell in current.plan().cells})
        from difflib import get_close_matches

        near = get_close_matches(options.cell, planned, n=3, cutoff=0.4) or planned[:5]
        raise Failure(
            Status.NOTHING_SELECTED, f"{options.cell}: not in run {current.id}; it has, for example: {', '.join(near)}"
        )
    header = current.header()
    environments = current.environments()
    for outcome in found:
        print("\n".join(describe(outcome, header, environments.get(outcome.environment, {}))), end="\n\n")
    return Status.AS_EXPECTED


def _named(outcome: Outcome, wanted: str) -> bool:
    return any(
        fnmatchcase(name, wanted)
        for name in (outcome.check, outcome.check.rpartition("/")[0], f"{outcome.subject}-{outcome.version}")
    )


def describe(outcome: Outcome, header: dict[str, Any], environment: dict[str, Any]) -> Iterable[str]:
    """An outcome in lines: verdict, evidence, environment, and the command that reproduces it."""
    settings = header.get("settings", {})
    yield f"{outcome.check}: {outcome.verdict.value}{' (flaky)' if outcome.flaky else ''}"
    facts = environment.get("facts", {})
    torch = facts.get("torch") or {}
    stand_in = " (a stand-in, not the image)" if environment.get("stand_in") else ""
    rows = {
        "reason": f"{outcome.reason}, blame: {outcome.blame}" if outcome.reason else "",
        "detail": outcome.detail,
        "evidence": outcome.evidence,
        "remedy": outcome.remedy,
        "device": f"{outcome.device} ({outcome.device_name})" if outcome.device else "",
        "image": f"{environment['reference']}{stand_in}" if environment else "",
        "digest": environment.get("digest", ""),
        "environment": (
            f"Python {facts['python']}, torch {torch.get('version')}, CUDA {torch.get('cuda') or 'none'}, "
            f"driver {facts.get('driver') or 'none'}, {facts.get('os')}"
            if facts
            else ""
        ),
        "installed": outcome.installed,
        "added to the image": ", ".join(outcome.resolved),
        "drift": ", ".join(outcome.drift),
        "isolation": outcome.isolation,
        "attempts before": ", ".join(outcome.attempts),
        "metrics": ", ".join(f"{name} {_number(one)}" for name, one in outcome.metrics.items()),
        "notes": "; ".join(outcome.notes),
        "when": f"{outcome.started}, {outcome.seconds:.1f} s",
    }
    for name, text in rows.items():
        if text:
            yield f"  {name + ':':<20}{text}"
    for name, text in (("traceback", outcome.traceback), ("output", outcome.output)):
        if text:
            yield f"  {name}:"
            yield from (f"    {line}" for line in text.rstrip().splitlines())
    again = ["compat", "run", "--backend", header["backend"], "--seed", str(settings.get("seed", 0)), outcome.check]
    again += ["--full"] if settings.get("full") else []
    source = header["plan"].get("source", "")
    again += ["--matrix", source] if source.endswith(".yaml") and source != "matrix.yaml" else []
    yield f"  {'reproduce:':<20}{shlex.join(again)}"


def _number(metric: Mapping[str, Any]) -> str:
    value = metric["value"]
    return f"{value:.4g} {metric['unit']}"


def doctor(options: argparse.Namespace) -> Status:
    """What works here, backend by backend."""
    worst = Status.AS_EXPECTED
    for name in [options.backend] if options.backend else list(BACKENDS):
        print(f"{name}:")
        findings: Sequence[Finding]
        try:
            backend = connect(name, home())
            gpus = backend.gpus()
            gpu = Finding(
                what="GPU",
                works=bool(gpus),
                detail=", ".join(f"{gpu.name} ({gpu.uuid}, driver {gpu.driver})" for gpu in gpus) or "none seen",
                remedy="" if gpus else "outcomes will say CPU; `nvidia-smi` must list a GPU for anything else",
            )
            findings = [*backend.doctor(), gpu]
        except (Trouble, ModuleNotFoundError) as trouble:
            findings = [
                Finding(
                    what=name, works=False, detail=str(trouble), remedy=getattr(trouble, "remedy", "pip install -e .")
                )
            ]
            worst = Status.NO_BACKEND if options.backend else worst
        for finding in findings:
            print(f"  {'ok ' if finding.works else 'no '} {finding.what}: {finding.detail}")
            if finding.remedy:
                print(f"       -> {finding.remedy}")
    return worst


def docs(options: argparse.Namespace) -> Status:
    """Write docs/matrix.schema.json and docs/reasons/ of the checkout at hand."""
    from runner.pages import pages
    from runner.schema import schema

    folder = Path("docs")
    (folder / "reasons").mkdir(parents=True, exist_ok=True)
    (folder / "matrix.schema.json").write_text(schema())
    for name, content in pages().items():
        (folder / "reasons" / name).write_text(content)
    print(f"written: {folder / 'matrix.schema.json'}, {folder / 'reasons'}")
    return Status.AS_EXPECTED


def _short(path: Path) -> Path:
    try:
        return path.relative_to(Path.cwd())
    except ValueError:
        return path
