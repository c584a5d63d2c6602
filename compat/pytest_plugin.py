"""`pytest -m matrix`: each check of the plan is an item, which runs through the same engine as `compat run`.

Every pytest session of its environment imports the plugin.  Without `-m matrix` in a folder that holds a matrix, the
plugin loads nothing of ours and changes nothing.
"""

from __future__ import annotations

import datetime as dt
from collections.abc import Iterable, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

if TYPE_CHECKING:
    from torch_compat_matrix.runner.execution.share import Worker
    from torch_compat_matrix.runner.judging import Judged
    from torch_compat_matrix.runner.model import Check, Plan
    from torch_compat_matrix.runner.outcome import Outcome
    from torch_compat_matrix.runner.workflow import OpenRun


class HostTrouble(Exception):
    """Trouble of the host, not of the library: an item's setup raises it, so that pytest shows an error."""


class KnownFailure(Exception):
    """The outcome that a `known:` entry expects."""


class UnexpectedOutcome(Exception):
    """Any other outcome that does not pass; its text is the whole message."""


def pytest_addoption(parser: pytest.Parser) -> None:
    """The options that `compat run` has too."""
    group = parser.getgroup("compat", "compatibility matrix (pytest -m matrix)")
    group.addoption("--compat-matrix", default="matrix.yaml", help="the matrix file (default: matrix.yaml)")
    group.addoption("--compat-backend", help="where images run: docker, local, here (default: as for `compat run`)")
    group.addoption("--compat-rerun", action="store_true", help="run every check, even where nothing changed")
    group.addoption("--compat-locked", action="store_true", help="take nothing newer than matrix.lock has")
    group.addoption(
        "--compat-set",
        action="append",
        default=[],
        metavar="NAME=VALUE",
        help="a variable of the matrix, as `--set` of `compat run`",
    )
    group.addoption(
        "--compat-select", action="append", default=[], metavar="SELECTOR", help="a selector, as in `compat run`"
    )


def pytest_configure(config: pytest.Config) -> None:
    """Act only in a session that asks for the matrix and has one."""
    config.addinivalue_line("markers", "matrix: a check of the compatibility matrix (pytest -m matrix)")
    matrix = (config.invocation_params.dir / config.getoption("compat_matrix")).resolve()
    if not _asks_for_matrix(config) or not matrix.is_file():
        return
    session = MatrixSession(config, matrix)
    config.pluginmanager.register(session, "compat-matrix-session")
    session.open()
    named = [(config.invocation_params.dir / str(argument).partition("::")[0]).resolve() for argument in config.args]
    if matrix not in named:
        config.args = [str(matrix)]  # the project's own tests are not even imported


def _asks_for_matrix(config: pytest.Config) -> bool:
    return str(config.getoption("markexpr") or "").split() == ["matrix"]


@contextmanager
def _as_usage_errors() -> Iterator[None]:
    """Turn the errors that a user sees as one message into those of pytest."""
    from torch_compat_matrix.runner.errors import CompatError, refused
    from torch_compat_matrix.runner.text import printable
    from torch_compat_matrix.runner.workflow import tell

    try:
        yield
    except CompatError as error:
        raise pytest.UsageError(printable(tell(error))) from error
    except OSError as error:
        raise pytest.UsageError(printable(refused(error))) from error


class MatrixSession:
    """The plan, the run and its worker in one pytest process; pytest-xdist's workers share the run's folder."""

    def __init__(self, config: pytest.Config, matrix: Path) -> None:
        self.config = config
        self.matrix = matrix
        self.plan: Plan
        self.opened: OpenRun | None = None
        self.worker: Worker | None = None
        self.said: list[str] = []
        """The chosen backend, where none is named."""
        self.going = ExitStack()
        """Lets other processes see that the run is going."""

        self.from_xdist: Mapping[str, Any] = getattr(config, "workerinput", {})
        """What pytest-xdist tells its workers; empty in the process that starts them, and without it."""

    def open(self) -> None:
        """Read the plan and make the run, once: xdist's workers get its folder from the process that started them."""
        from torch_compat_matrix.compat.interrupt import interrupt_on_signals
        from torch_compat_matrix.compat.options import variable
        from torch_compat_matrix.compat.progress import say
        from torch_compat_matrix.runner.backends.base import connect, reap
        from torch_compat_matrix.runner.planning import plan_from
        from torch_compat_matrix.runner.records.runs import Run, home
        from torch_compat_matrix.runner.workflow import OpenRun, RunSettings, make_room, open_run

        option = self.config.getoption
        settings = RunSettings(jobs=self.from_xdist.get("workercount"), rerun=option("compat_rerun"))
        with _as_usage_errors():
            run = Run(Path(self.from_xdist["compat_run"])) if "compat_run" in self.from_xdist else None
            if run is not None:  # the plan of all workers is one: what moves with an index is asked once
                self.plan = run.plan()
                interrupt_on_signals()
                backend = connect(run.header()["backend"], home())
                self.opened = OpenRun(run=run, plan=self.plan, backend=backend, settings=settings)
                return
            self.plan = plan_from(
                self.matrix,
                backend=option("compat_backend"),
                selectors=option("compat_select"),
                say=self.said.append,
                given=dict(map(variable, option("compat_set"))),
                locked=option("compat_locked"),
            )
            if option("collectonly"):
                return
            interrupt_on_signals()
            backend = connect(self.plan.backend, home())
            reap(backend, say)
            make_room(self.plan, backend, say)
            command = ["pytest", *map(str, self.config.invocation_params.args)]
            self.opened = open_run(self.plan, backend, settings, command)
            self.going.enter_context(self.opened.run.going())

    def pytest_report_header(self) -> list[str]:
        """Say which backend was chosen."""
        return [f"compat: {text}" for text in self.said]

    @pytest.hookimpl(optionalhook=True)
    def pytest_configure_node(self, node: Any) -> None:
        """Tell a worker of pytest-xdist, before it starts, the run's folder and its selection."""
        if self.opened is not None:
            node.workerinput["compat_run"] = str(self.opened.run.folder)

    def pytest_collect_file(self, file_path: Path, parent: pytest.Collector) -> MatrixFile | None:
        """Collect the items from the matrix file itself."""
        return MatrixFile.of(parent, self) if file_path == self.matrix else None

    def pytest_collection_finish(self, session: pytest.Session) -> None:
        """Batch and launch only the selected items, which are known now."""
        if self.opened is None:
            return
        from torch_compat_matrix.runner.execution.share import Worker
        from torch_compat_matrix.runner.workflow import engine_for

        checks = [item.check for item in session.items if isinstance(item, CheckItem)]
        with _as_usage_errors():
            engine = engine_for(self.opened, joins=True)
        self.worker = Worker(engine, checks, threads=1 if self.from_xdist else engine.jobs)

    def outcome(self, check: Check) -> Outcome:
        """The check's outcome, waited for."""
        assert self.worker is not None, "items run after they were collected"
        return self.worker.outcome(check)

    @pytest.hookimpl(trylast=True)  # after pytest-xdist has ended its workers
    def pytest_sessionfinish(self, session: pytest.Session, exitstatus: int) -> None:
        """End the checks that still run; the process that made the run compiles its report, once."""
        if self.worker is not None:
            self.worker.stop()
        if self.opened is None or self.from_xdist:
            return
        from torch_compat_matrix.compat.progress import say
        from torch_compat_matrix.runner.backends.base import reap
        from torch_compat_matrix.runner.errors import CompatError, refused
        from torch_compat_matrix.runner.workflow import tell

        if exitstatus == pytest.ExitCode.INTERRUPTED:
            reap(self.opened.backend, say)  # what workers left that pytest-xdist has killed
        try:
            self._report("interrupted" if exitstatus == pytest.ExitCode.INTERRUPTED else "complete")
        except (CompatError, OSError) as error:
            say(f"compat: {refused(error) if isinstance(error, OSError) else tell(error)}")
            session.exitstatus = pytest.ExitCode.INTERNAL_ERROR

    def _report(self, state: str) -> None:
        from torch_compat_matrix.reports.write import compile_report
        from torch_compat_matrix.runner.advising import advise
        from torch_compat_matrix.runner.records import history
        from torch_compat_matrix.runner.records.runs import home
        from torch_compat_matrix.runner.workflow import conclude

        assert self.opened is not None
        run = self.opened.run
        if state == "complete":
            advise(self.opened)
        conclude(run, state)
        self.going.close()
        before = run.baseline(home())
        compile_report(run.journal, run.folder, before.journal if before else None)
        history.sync(home())

    def pytest_terminal_summary(self, terminalreporter: Any) -> None:
        """Say where the report is."""
        if self.opened is not None:
            terminalreporter.write_line(f"report: {self.opened.run.folder / 'report.md'}")


class MatrixFile(pytest.File):
    """matrix.yaml, whose items are the checks of its plan."""

    matrix: MatrixSession

    @classmethod
    def of(cls, parent: pytest.Collector, session: MatrixSession) -> MatrixFile:
        """The file of a session."""
        file: MatrixFile = cls.from_parent(parent, path=session.matrix)
        file.matrix = session
        return file

    def collect(self) -> Iterator[CheckItem]:
        """One item a check."""
        for check in self.matrix.plan.checks:
            yield CheckItem.of(self, check)


class CheckItem(pytest.Item):
    """A check: host trouble is an error, a known failure a strict xfail, and an inapplicable probe a skip."""

    check: Check
    matrix: MatrixSession
    judged: Judged

    @classmethod
    def of(cls, parent: MatrixFile, check: Check) -> CheckItem:
        """The item of a check; a `known:` failure is a strict xfail, so that its pass is as loud as a failure."""
        from torch_compat_matrix.runner.judging import expired, matching

        item: CheckItem = cls.from_parent(parent, name=check.id)
        item.check, item.matrix = check, parent.matrix
        item.add_marker("matrix")
        known = matching(parent.matrix.plan.known, check)
        if known is not None and known.expect.broken and not expired(known, dt.date.today()):
            item.add_marker(pytest.mark.xfail(strict=True, raises=KnownFailure, reason=known.reason))
        return item

    def setup(self) -> None:
        """Wait for the outcome; here host trouble is raised and an inapplicable probe skipped, before any failure."""
        from torch_compat_matrix.runner.errors import refused
        from torch_compat_matrix.runner.judging import judge
        from torch_compat_matrix.runner.model import Verdict
        from torch_compat_matrix.runner.text import one_line

        try:
            outcome = self.matrix.outcome(self.check)
        except OSError as error:  # a full disk
            raise HostTrouble(refused(error)) from None
        self.judged = judge(outcome, self.matrix.plan.known, dt.date.today())
        self.user_properties += _properties(outcome)
        if not outcome.verdict.final:
            raise HostTrouble(f"{outcome.reason}: {outcome.detail}\n{outcome.remedy}")
        if outcome.verdict is Verdict.SKIP and not self.judged.surprise:
            pytest.skip(one_line(f"{outcome.reason}: {outcome.detail}"))

    def runtest(self) -> None:
        """Raise nothing, KnownFailure or UnexpectedOutcome, as the outcome requires."""
        outcome, known, surprise = self.judged.outcome, self.judged.known, self.judged.surprise
        if surprise == "unexpected pass" or (not surprise and not outcome.verdict.broken):
            return  # an unexpected pass is a failure by the item's own mark, a strict xfail
        if known is not None and not surprise:
            raise KnownFailure(known.reason)
        lines = [
            f"{outcome.verdict.value}: {outcome.reason} (blame: {outcome.blame})" if outcome.reason else "",
            outcome.detail,
            outcome.evidence,
            outcome.remedy,
        ]
        if known is not None and surprise == "expired":
            lines.append(f"{known.place}: this `known:` entry expired on {known.expires}")
        raise UnexpectedOutcome("\n".join([*filter(None, lines), f"compat show {outcome.check}"]))

    def repr_failure(self, excinfo: pytest.ExceptionInfo[BaseException], style: Any = None) -> Any:
        """The outcome's own words; a traceback through the runner would say nothing about the library."""
        from torch_compat_matrix.runner.text import printable

        if isinstance(excinfo.value, (HostTrouble, KnownFailure, UnexpectedOutcome)):
            return printable(str(excinfo.value))
        return super().repr_failure(excinfo, style)

    def reportinfo(self) -> tuple[Path, None, str]:
        """Its name in reports: the check's id."""
        return self.path, None, self.name


def _properties(outcome: Outcome) -> Iterable[tuple[str, str]]:
    named = {"reason": outcome.reason, "device": outcome.device, "device_name": outcome.device_name}
    properties = {"verdict": outcome.verdict.value, "grade": outcome.grade, **named, "installed": outcome.installed}
    return [(name, value) for name, value in properties.items() if value]
