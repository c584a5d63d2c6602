"""`pytest -m matrix`: each check of the plan is an item, run through the same engine as `compat run`."""

from __future__ import annotations

import argparse
import datetime as dt
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from torch_compat_matrix.compat.verbs import common as commands
from torch_compat_matrix.runner.execution.share import Worker
from torch_compat_matrix.runner.judging import expired, judge, matching
from torch_compat_matrix.runner.model import Check, Known, Outcome, Plan, Verdict
from torch_compat_matrix.runner.records.runs import Run, home

RUN = pytest.StashKey[Run]()
PLAN = pytest.StashKey[Plan]()
WORKER = pytest.StashKey[Worker]()


class HostTrouble(Exception):
    """The host, not the library: raised in a fixture, pytest shows it as an error and not as a failure."""


class KnownFailure(Exception):
    """The outcome that a `known:` entry expects."""


def pytest_addoption(parser: pytest.Parser) -> None:
    """The options that `compat run` has too."""
    group = parser.getgroup("matrix", "compatibility matrix (pytest -m matrix)")
    group.addoption("--matrix", default="matrix.yaml", help="the matrix file (default: matrix.yaml)")
    group.addoption("--backend", default="local", help="where images run: local, docker or here (default: local)")
    group.addoption("--fresh", action="store_true", help="run every check, also those that nothing changed for")
    group.addoption("--select", action="append", default=[], metavar="SELECTOR", help="selector as of `compat run`")


def _active(config: pytest.Config) -> bool:
    """Whether the marker expression asks for the matrix; plain `pytest` must not even read matrix.yaml."""
    expression = str(config.getoption("markexpr") or "")
    return "matrix" in expression and "not matrix" not in expression


def pytest_configure(config: pytest.Config) -> None:
    """Make the run, once: the workers of pytest-xdist are told its folder by the process that started them."""
    if not _active(config) or config.getoption("collectonly"):
        return
    given = getattr(config, "workerinput", {}).get("compat_run")
    if given:
        config.stash[RUN] = Run(Path(given))
        return
    name = config.getoption("backend")
    try:
        commands.connected(name).reap()
    except commands.Failure as failure:
        raise pytest.UsageError(str(failure)) from failure
    command = ["pytest", *map(str, config.invocation_params.args)]
    config.stash[RUN] = Run.create(home(), _plan(config), name, command, {})


@pytest.hookimpl(optionalhook=True)
def pytest_configure_node(node: Any) -> None:
    """pytest-xdist is about to start a worker."""
    if RUN in node.config.stash:
        node.workerinput["compat_run"] = str(node.config.stash[RUN].folder)


def _plan(config: pytest.Config) -> Plan:
    if PLAN not in config.stash:
        options = argparse.Namespace(
            matrix=Path(config.getoption("matrix")),
            backend=config.getoption("backend"),
            selectors=config.getoption("select"),
            probe=[],
            plan=None,
        )
        try:
            config.stash[PLAN] = commands.load_plan(options)
        except commands.Failure as failure:
            raise pytest.UsageError(str(failure)) from failure
    return config.stash[PLAN]


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    """One item a check; a `known:` failure is a strict xfail, so that its pass is reported as loudly as a failure."""
    if "check" not in metafunc.fixturenames:
        return
    if not _active(metafunc.config):
        metafunc.parametrize("check", [])
        return
    plan = _plan(metafunc.config)
    metafunc.parametrize("check", [_param(check, matching(plan.known, check)) for check in plan.checks])


def _param(check: Check, known: Known | None) -> Any:
    marks = []
    if known is not None and known.expect.broken and not expired(known, dt.date.today()):
        marks = [pytest.mark.xfail(strict=True, raises=KnownFailure, reason=known.reason)]
    return pytest.param(check, id=check.id, marks=marks)


def pytest_collection_finish(session: pytest.Session) -> None:
    """The selected items are known now: only they are batched and launched."""
    config = session.config
    if RUN not in config.stash:
        return
    parameters = [item.callspec.params for item in session.items if hasattr(item, "callspec")]
    checks = [found["check"] for found in parameters if "check" in found]
    run, plan = config.stash[RUN], _plan(config)
    backend = commands.connected(config.getoption("backend"))
    workers = int(getattr(config, "workerinput", {}).get("workercount", 0))
    engine = commands.make_engine(run, plan, backend, {"jobs": workers, "fresh": config.getoption("fresh")})
    engine.follower.offset = 0  # outcomes that other workers have recorded by now count
    config.stash[WORKER] = Worker(engine, checks, threads=1 if workers else engine.jobs)


@pytest.fixture
def plan(request: pytest.FixtureRequest) -> Plan:
    """The plan of this session."""
    return _plan(request.config)


@pytest.fixture
def outcome(request: pytest.FixtureRequest, check: Check, record_property: Any) -> Outcome:
    """The check's outcome; host trouble is an error here, and what cannot be asked is a skip."""
    found = request.config.stash[WORKER].outcome(check)
    for name in ("verdict", "reason", "device", "device_name", "installed"):
        value = getattr(found, name)
        if value:
            record_property(name, value.value if isinstance(value, Verdict) else value)
    if not found.verdict.final:
        raise HostTrouble(f"{found.reason}: {found.detail}\n{found.remedy}")
    if found.verdict is Verdict.SKIP and not judge(found, _plan(request.config).known, dt.date.today()).surprise:
        pytest.skip(f"{found.reason}: {found.detail}")
    return found


@pytest.fixture
def verdict(check: Check, outcome: Outcome, plan: Plan) -> Callable[[], None]:
    """Raises, when it is called, what the outcome comes to: nothing, the known failure, or an unexpected one."""
    judged = judge(outcome, plan.known, dt.date.today())
    known = judged.known

    def tell() -> None:
        if judged.surprise == "unexpected pass" or (outcome.verdict is Verdict.PASS and not judged.surprise):
            return  # an unexpected pass is a failure by the item's own mark, a strict xfail
        if known is not None and not judged.surprise:
            raise KnownFailure(known.reason)
        lines = [
            f"{outcome.verdict.value}: {outcome.reason} (blame: {outcome.blame})",
            outcome.detail,
            outcome.evidence,
            outcome.remedy,
        ]
        if known is not None and judged.surprise == "expired":
            lines.append(f"{known.place}: this `known:` entry expired on {known.expires}")
        pytest.fail("\n".join([*filter(None, lines), f"compat show {outcome.check}"]), pytrace=False)

    return tell


def pytest_sessionfinish(session: pytest.Session) -> None:
    """End what still runs; the process that made the run compiles its report, once."""
    config = session.config
    if WORKER in config.stash:
        config.stash[WORKER].stop()
    if RUN in config.stash and not hasattr(config, "workerinput"):
        from torch_compat_matrix.reports.write import compile_report

        run = config.stash[RUN]
        run.finish("complete")
        compile_report(run.journal, run.folder, commands.baseline(run, None))
        commands.synced()


def pytest_terminal_summary(terminalreporter: Any, config: pytest.Config) -> None:
    """Say where the report is."""
    if RUN in config.stash:
        terminalreporter.write_line(f"report: {config.stash[RUN].folder / 'report.md'}")
