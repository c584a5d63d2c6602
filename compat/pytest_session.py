"""A session of `pytest -m matrix`: its plan, its run, and an item for each check."""

from __future__ import annotations

import datetime as dt
from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

import pytest

from torch_compat_matrix.compat.interrupt import interrupt_on_signals
from torch_compat_matrix.compat.options import variable
from torch_compat_matrix.compat.progress import say
from torch_compat_matrix.reports.write import compile_report
from torch_compat_matrix.runner.advising import advise
from torch_compat_matrix.runner.backends.base import connect, reap
from torch_compat_matrix.runner.confirming import confirm
from torch_compat_matrix.runner.errors import CompatError, Status, UsageError, refused
from torch_compat_matrix.runner.execution.share import Worker
from torch_compat_matrix.runner.judging import Judged, expired, judge, matching
from torch_compat_matrix.runner.model import Check, Plan, Verdict
from torch_compat_matrix.runner.outcome import Outcome
from torch_compat_matrix.runner.planning import plan_from
from torch_compat_matrix.runner.records.runs import Run, home
from torch_compat_matrix.runner.storage import parsed_size
from torch_compat_matrix.runner.text import one_line, printable
from torch_compat_matrix.runner.workflow import OpenRun, RunSettings, conclude, engine_for, make_room, open_run, tell


class HostTrouble(Exception):
    """Trouble of the host, not of the library: an item's setup raises it, so that pytest shows an error."""


class KnownFailure(Exception):
    """The outcome that a `known:` entry expects."""


class UnexpectedOutcome(Exception):
    """Any other outcome that does not pass; its text is the whole message."""


@contextmanager
def _as_usage_errors() -> Iterator[None]:
    """Turn the errors that a user sees as one message into those of pytest."""
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
        self.most: int
        """Bytes of report.md."""
        self.said: list[str] = []
        """The chosen backend, where none is named."""
        self.checks: list[Check] = []
        """Those of the selected items."""
        self.confirmed: Mapping[str, Outcome] | None = None
        """All outcomes, once what newly fails was asked again."""
        self.unconfirmed = False
        """Whether an item is no failure because nobody could confirm it."""
        self.going = ExitStack()
        """Lets other processes see that the run is going."""

        self.from_xdist: Mapping[str, Any] = getattr(config, "workerinput", {})
        """What pytest-xdist tells its workers; empty in the process that starts them, and without it."""

    def open(self) -> None:
        """Read the plan and make the run, once: xdist's workers get its folder from the process that started them."""
        option = self.config.getoption
        minutes = option("compat_confirm")
        settings = RunSettings(jobs=self.from_xdist.get("workercount"), rerun=option("compat_rerun"), confirm=minutes)
        with _as_usage_errors():
            if minutes and option("dist", "no") != "no":
                why = "no worker of pytest-xdist has all outcomes"
                raise UsageError(why, "leave out -n: checks run side by side without it", "--compat-confirm")
            self.most = parsed_size(option("compat_max_bytes"))
            run = Run(Path(self.from_xdist["compat_run"])) if "compat_run" in self.from_xdist else None
            if run is not None:  # the plan of all workers is one: what moves with an index is asked once
                self.plan = run.plan()
                interrupt_on_signals()
                backend = connect(run.header()["backend"], home(), self.plan.target)
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
            backend = connect(self.plan.backend, home(), self.plan.target)
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
        if file_path != self.matrix:
            return None
        file: MatrixFile = MatrixFile.from_parent(parent, path=self.matrix)
        file.matrix = self
        return file

    def pytest_collection_finish(self, session: pytest.Session) -> None:
        """Batch and launch only the selected items, which are known now."""
        if self.opened is None:
            return
        self.checks = [item.check for item in session.items if isinstance(item, CheckItem)]
        with _as_usage_errors():
            engine = engine_for(self.opened, joins=True)
        self.worker = Worker(engine, self.checks, threads=1 if self.from_xdist else engine.jobs)

    def outcome(self, check: Check) -> Outcome:
        """The check's outcome, waited for: with --compat-confirm until every item's is there, and confirmed."""
        assert self.worker is not None and self.opened is not None, "items run after they were collected"
        if self.opened.settings.confirm and self.confirmed is None:
            for each in self.checks:
                self.worker.outcome(each)
            confirm(self.opened, say, lambda phase: None)
            self.confirmed = self.opened.run.outcomes()
        return self.confirmed[check.id] if self.confirmed else self.worker.outcome(check)

    @pytest.hookimpl(trylast=True)  # after pytest-xdist has ended its workers
    def pytest_sessionfinish(self, session: pytest.Session, exitstatus: int) -> None:
        """End the checks that still run; the process that made the run compiles its report, once."""
        if self.worker is not None:
            self.worker.stop()
        if self.opened is None or self.from_xdist:
            return
        if exitstatus == pytest.ExitCode.INTERRUPTED:
            reap(self.opened.backend, say)  # what workers left that pytest-xdist has killed
        try:
            self._report("interrupted" if exitstatus == pytest.ExitCode.INTERRUPTED else "complete")
        except (CompatError, OSError) as error:
            say(f"compat: {refused(error) if isinstance(error, OSError) else tell(error)}")
            session.exitstatus = pytest.ExitCode.INTERNAL_ERROR
        if self.unconfirmed and session.exitstatus == pytest.ExitCode.OK:
            session.exitstatus = int(Status.UNCONFIRMED)

    def _report(self, state: str) -> None:
        assert self.opened is not None
        run = self.opened.run
        if state == "complete":
            advise(self.opened)
        conclude(run, state)
        self.going.close()
        compile_report(run.journal, run.folder, most=self.most)

    def pytest_terminal_summary(self, terminalreporter: Any) -> None:
        """Say where the report is."""
        if self.opened is not None:
            terminalreporter.write_line(f"report: {self.opened.run.folder / 'report.md'}")


class MatrixFile(pytest.File):
    """matrix.yaml, whose items are the checks of its plan."""

    matrix: MatrixSession

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
        item: CheckItem = cls.from_parent(parent, name=check.id)
        item.check, item.matrix = check, parent.matrix
        item.add_marker("matrix")
        known = matching(parent.matrix.plan.known, check)
        if known is not None and known.expect.broken and not expired(known, dt.date.today()):
            item.add_marker(pytest.mark.xfail(strict=True, raises=KnownFailure, reason=known.reason))
        return item

    def setup(self) -> None:
        """Wait for the outcome; here host trouble is raised and an inapplicable probe skipped, before any failure."""
        try:
            outcome = self.matrix.outcome(self.check)
        except OSError as error:  # a full disk
            raise HostTrouble(refused(error)) from None
        self.judged = judge(outcome, self.matrix.plan.known, dt.date.today())
        shown = ("reason", "device", "device_name", "installed")
        properties = {"verdict": outcome.verdict.value, "grade": outcome.grade}
        properties |= {name: getattr(outcome, name) for name in shown}
        self.user_properties += [(name, value) for name, value in properties.items() if value]
        if not outcome.verdict.final:
            raise HostTrouble(f"{outcome.reason}: {outcome.detail}\n{outcome.remedy}")
        if outcome.verdict is Verdict.SKIP and not self.judged.surprise:
            pytest.skip(one_line(f"{outcome.reason}: {outcome.detail}"))

    def runtest(self) -> None:
        """Raise nothing, KnownFailure or UnexpectedOutcome, as the outcome requires."""
        outcome, known, surprise = self.judged.outcome, self.judged.known, self.judged.surprise
        marked = known is not None and not known.bound
        if outcome.quarantined and not surprise and (outcome.verdict.broken or marked):
            pytest.xfail(f"quarantined: {outcome.quarantined}")
        if outcome.unconfirmed and surprise == "unexpected failure":
            self.matrix.unconfirmed = True
            pytest.xfail(f"unconfirmed: {outcome.unconfirmed}")
        if (surprise == "unexpected pass" and marked) or (not surprise and not outcome.verdict.broken):
            return  # an unexpected pass is a failure by the item's own mark, a strict xfail
        if known is not None and not surprise:
            if known.bound:  # only the outcome told that it holds, so that the item has no mark
                pytest.xfail(known.reason)
            raise KnownFailure(known.reason)
        lines = [
            f"{outcome.verdict.value}: {outcome.reason} (blame: {outcome.blame})" if outcome.reason else "",
            outcome.detail,
            outcome.evidence,
            f"confirmation: {outcome.confirmed}" if outcome.confirmed else "",
            outcome.remedy,
        ]
        if known is not None and surprise == "expired":
            lines.append(f"{known.place}: this `known:` entry expired on {known.expires}")
        raise UnexpectedOutcome("\n".join([*filter(None, lines), f"compat show {outcome.check}"]))

    def repr_failure(self, excinfo: pytest.ExceptionInfo[BaseException], style: Any = None) -> Any:
        """The outcome's own words; a traceback through the runner would say nothing about the library."""
        if isinstance(excinfo.value, (HostTrouble, KnownFailure, UnexpectedOutcome)):
            return printable(str(excinfo.value))
        return super().repr_failure(excinfo, style)

    def reportinfo(self) -> tuple[Path, None, str]:
        """Its name in reports: the check's id."""
        return self.path, None, self.name
