"""Progress of a run: a live view on a terminal, plain lines with a heartbeat anywhere else."""

from __future__ import annotations

import datetime as dt
import sys
import threading
import time
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, TextIO

from torch_compat_matrix.runner.files import to_json
from torch_compat_matrix.runner.judging import Judged, judge
from torch_compat_matrix.runner.model import SUITE, Known, Verdict
from torch_compat_matrix.runner.outcome import Outcome
from torch_compat_matrix.runner.text import fit, one_line, printable
from torch_compat_matrix.runner.watch import Phase

if TYPE_CHECKING:
    from rich.console import Console, RenderableType

    from torch_compat_matrix.runner.execution.durations import Remaining

STYLES = {Verdict.PASS: "green", Verdict.SKIP: "dim", Verdict.INFRA: "magenta", Verdict.UNSUPPORTED: "yellow"}
HEARTBEAT_S = 30.0
QUIET, NORMAL, VERBOSE = -1, 0, 1
FOLDED = ("resolve", "fetch")
"""The phases of cells, of which many go on at a time: one row each for all of them."""
MOST_ROWS = 12
MOST_WORDS = 200


def say(text: str) -> None:
    """Print a remark to standard error, apart from the answer."""
    print(printable(text), file=sys.stderr, flush=True)


def answer(text: str, end: str = "\n") -> None:
    """Print the answer to standard output."""
    print(printable(text), end=end)


def answer_json(data: Any) -> None:
    """Print the answer as JSON."""
    answer(to_json(fit(data), indent=1))


def tell(as_json: bool, data: Any, lines: Iterable[str]) -> None:
    """Print the answer as JSON, or in lines."""
    if as_json:
        answer_json(data)
    else:
        answer("\n".join(lines))


def say_unreadable(records: int, where: str) -> None:
    """Say that evidence was lost: how many records of these journals cannot be read."""
    if records:
        say(f"{where}: {records} record{'' if records == 1 else 's'} cannot be read")


@dataclass
class Lines:
    """A line per outcome, safe for logs and for CI, and every half minute a line of what runs and what is left.

    A new failure comes with its message and remedy, once each; passes of earlier runs are folded into a line.
    `quiet` shows surprises alone, `verbose` each phase and command too.
    """

    total: int
    stream: TextIO
    known: Sequence[Known] = ()
    remaining: Remaining | None = None
    loudness: int = NORMAL
    counts: Counter[str] = field(default_factory=Counter)
    jobs: dict[str, tuple[Phase, float]] = field(default_factory=dict)
    """Each job's phase, and when it began."""
    reused: Counter[str] = field(default_factory=Counter)
    """Passes of earlier runs that are still to be told, by run."""
    told: set[tuple[str, str, str]] = field(default_factory=set)
    lock: Any = field(default_factory=threading.RLock)

    def say(self, text: str) -> None:
        """Print a remark between outcomes."""
        if self.loudness > QUIET:
            self.print(text)

    def print(self, text: str, style: str = "") -> None:
        """Print lines; the style is for terminals."""
        with self.lock:
            print(printable(text), file=self.stream, flush=True)

    def watch(self, phase: Phase) -> None:
        """Take in what a job does now."""
        now = time.monotonic()
        with self.lock:
            last, since = self.jobs.get(phase.job, (None, now))
            if self.remaining is not None and phase.what == "probe":
                self.remaining.begin(now)
            if phase.command:
                if self.loudness == VERBOSE:
                    self.print(f"  $ {phase.command}", "dim")
                return
            same = last is not None and (last.what, last.subject) == (phase.what, phase.subject)
            if not phase.what:
                self.jobs.pop(phase.job, None)
            else:
                self.jobs[phase.job] = (phase, since if same else now)
            if same:
                return
            if self.loudness == VERBOSE:
                if last is not None:
                    self.print(f"  {last.what} {last.subject}: {now - since:.1f} s", "dim")
            elif phase.what == "prepare":
                self.say(f"preparing {phase.subject}")

    def outcome(self, outcome: Outcome) -> None:
        """Count and show an outcome."""
        with self.lock:
            self.counts[outcome.grade or outcome.verdict.value] += 1
            if self.remaining is not None:
                self.remaining.end(outcome.check, time.monotonic(), bool(outcome.reused))
            judged = judge(outcome, self.known, dt.date.today())
            plain = outcome.verdict is Verdict.PASS and not (outcome.grade or judged.surprise)
            if outcome.reused and plain and self.loudness != VERBOSE:
                self.reused[outcome.reused] += 1
                return
            self.unfold()
            if self.loudness > QUIET or judged.surprise:
                self.show(judged)

    def show(self, judged: Judged) -> None:
        """Print `[3/28] pass image/library-version/probe cpu 1.2 s`; below a new failure, its message and remedy."""
        outcome = judged.outcome
        as_known = judged.known is not None and not judged.surprise
        style = "dim" if as_known else STYLES.get(outcome.verdict, "red")
        self.print(f"[{self.done}/{self.total}] {line(outcome)}{'  known' if as_known else ''}", style)
        told = (outcome.reason, outcome.detail, outcome.remedy)
        if (judged.surprise or not outcome.verdict.final) and told not in self.told:
            self.told.add(told)
            for words in (outcome.detail, outcome.remedy and f"-> {outcome.remedy}"):
                if words:
                    self.print(f"      {cut(words)}", style)

    def unfold(self) -> None:
        """Tell the passes of earlier runs, a line a run."""
        for run, number in self.reused.items():
            self.say(f"[{self.done}/{self.total}] {number} pass{'' if number == 1 else 'es'} reused from run {run}")
        self.reused.clear()

    def beat(self) -> None:
        """Print what runs, and how much is done and left."""
        with self.lock:
            self.unfold()
            rows = "; ".join(f"{words} ({seconds})" for words, seconds in self.rows())
            self.say(one_line(f"... {self.state}{rows and f': {rows}'}"))

    @property
    def done(self) -> int:
        return self.counts.total()

    @property
    def state(self) -> str:
        """`3 of 28 checks, about 2 min left`."""
        seconds = self.remaining.seconds(time.monotonic()) if self.remaining is not None else 0
        left = f", about {span(seconds)} left" if seconds and self.done < self.total else ""
        return f"{self.done} of {self.total} checks{left}"

    def rows(self) -> Iterator[tuple[str, str]]:
        """What each job does, and for how long."""
        now, jobs = time.monotonic(), list(self.jobs.values())
        for what in FOLDED:
            folded = [(phase, since) for phase, since in jobs if phase.what == what]
            if folded:
                more = f" and {len(folded) - 1} more" if len(folded) > 1 else ""
                yield f"{what} {folded[0][0].subject}{more}", span(now - min(since for _, since in folded))
        rest = [(phase, since) for phase, since in jobs if phase.what not in FOLDED]
        for phase, since in rest[:MOST_ROWS]:
            yield f"{phase.what} {phase.subject}{_bytes(phase)}", span(now - since)
        if len(rest) > MOST_ROWS:
            yield f"and {len(rest) - MOST_ROWS} more", ""


class Live(Lines):
    """The same lines above a view of what runs, which needs no heartbeat."""

    def __init__(self, total: int, console: Console, **settings: Any) -> None:
        super().__init__(total, sys.stderr, **settings)
        self.console = console

    def print(self, text: str, style: str = "") -> None:
        """Print above the view."""
        self.console.print(printable(text), style=style or None, markup=False, highlight=False)

    def __rich__(self) -> RenderableType:
        from rich.console import Group
        from rich.progress_bar import ProgressBar
        from rich.table import Table
        from rich.text import Text

        # no lock: whoever prints holds ours and waits for the view's, which is held here
        counts = Counter(dict(self.counts)).most_common()
        reused = sum(self.reused.values())
        said = [self.state, *(f"{count} {verdict}" for verdict, count in counts)]
        jobs, bar = Table.grid(padding=(0, 2)), Table.grid(padding=(0, 2))
        for words, seconds in self.rows():
            jobs.add_row(Text(printable(words), overflow="ellipsis", no_wrap=True), Text(seconds, style="dim"))
        said += [f"{reused} of them reused"] if reused else []
        bar.add_row(ProgressBar(total=max(1, self.total), completed=self.done, width=20), Text(", ".join(said)))
        return Group(jobs, bar)


def line(outcome: Outcome) -> str:
    """An outcome in one line; the device is always named, so that a CPU pass is not taken for a GPU's."""
    where = f" {outcome.device}" if outcome.device else ""
    why = f"  {outcome.reason}" if outcome.reason else ""
    flaky = "  flaky" if outcome.flaky else ""
    missing = sum(part["status"] == "skipped" for part in outcome.parts)
    # of upstream's own tests only those that failed are parts
    upstreams = outcome.probe == SUITE
    left = f"{missing} failed at the reference too" if upstreams else f"without {missing} of {len(outcome.parts)} parts"
    partly = f"  {left}" if outcome.verdict is Verdict.PASS and missing else ""
    reused = f"  reused from {outcome.reused}" if outcome.reused else ""
    rest = one_line(f"{outcome.check}{where} {outcome.seconds:.1f} s{why}{flaky}{partly}{reused}")
    return f"{outcome.shown:<11} {rest}"


def cut(words: str) -> str:
    """The words on one line, and no more of them than a terminal shows."""
    words = one_line(words)
    return words if len(words) <= MOST_WORDS else f"{words[: MOST_WORDS - 3]}..."


def span(seconds: float) -> str:
    """`40 s`, `3 min`, `1 h 20 min`."""
    if seconds < 90:
        return f"{seconds:.0f} s"
    minutes = round(seconds / 60)
    return f"{minutes} min" if minutes < 60 else f"{minutes // 60} h {minutes % 60} min"


def _bytes(phase: Phase) -> str:
    if not phase.done:
        return ""
    from torch_compat_matrix.runner.storage import shown_size

    return f", {shown_size(phase.done)}{f' of {shown_size(phase.total)}' if phase.total else ''}"


@contextmanager
def progress(
    total: int, known: Sequence[Known] = (), remaining: Remaining | None = None, loudness: int = NORMAL
) -> Iterator[Lines]:
    """A live view on a terminal that rich knows, plain lines on standard error otherwise, and where few are wanted."""
    settings: dict[str, Any] = {"known": known, "remaining": remaining, "loudness": loudness}
    console = _console() if loudness > QUIET and sys.stderr.isatty() else None
    if console is None:
        lines = Lines(total, sys.stderr, **settings)
        with _beating(lines):
            yield lines
        lines.unfold()
        return
    from rich.live import Live as View

    live = Live(total, console, **settings)
    with View(get_renderable=live.__rich__, console=console, transient=True):
        yield live
        live.unfold()


def _console() -> Console | None:
    try:
        from rich.console import Console
    except ImportError:  # a bare host of the `here` backend
        return None
    console = Console(stderr=True)
    return None if console.is_dumb_terminal else console


@contextmanager
def _beating(lines: Lines) -> Iterator[None]:
    over = threading.Event()

    def beat() -> None:
        while not over.wait(HEARTBEAT_S):
            lines.beat()

    heart = threading.Thread(target=beat, daemon=True)
    heart.start()
    try:
        yield
    finally:
        over.set()
        heart.join()
