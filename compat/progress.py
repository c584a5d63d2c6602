"""Progress of a run: a live bar on a terminal, plain lines anywhere else."""

from __future__ import annotations

import sys
import threading
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, TextIO

from torch_compat_matrix.runner.model import Outcome, Verdict
from torch_compat_matrix.runner.text import one_line, printable

if TYPE_CHECKING:
    from rich.progress import Progress as Bar

STYLES = {Verdict.PASS: "green", Verdict.SKIP: "dim", Verdict.INFRA: "magenta", Verdict.UNSUPPORTED: "yellow"}


def say(text: str) -> None:
    """Print a remark to standard error, apart from the answer."""
    print(printable(text), file=sys.stderr, flush=True)


def answer(text: str, end: str = "\n") -> None:
    """Print the answer to standard output."""
    print(printable(text), end=end)


def say_unreadable(records: int, where: str) -> None:
    """Say that evidence was lost: how many records of these journals cannot be read."""
    if records:
        say(f"{where}: {records} record{'' if records == 1 else 's'} cannot be read")


class Lines:
    """One line per outcome, safe for logs and for CI."""

    def __init__(self, total: int, stream: TextIO) -> None:
        self.total = total
        self.stream = stream
        self.counts: Counter[Verdict] = Counter()
        self.lock = threading.Lock()

    def say(self, text: str) -> None:
        """Print a remark between outcomes."""
        with self.lock:
            print(printable(text), file=self.stream, flush=True)

    def outcome(self, outcome: Outcome) -> None:
        """Count and show an outcome."""
        with self.lock:
            self.counts[outcome.verdict] += 1
            self.show(outcome)

    def show(self, outcome: Outcome) -> None:
        """Print `[3/28] pass image/library-version/probe cpu 1.2 s`."""
        done = sum(self.counts.values())
        print(printable(f"[{done}/{self.total}] {line(outcome)}"), file=self.stream, flush=True)


class Live(Lines):
    """The same lines above a bar that counts and times."""

    def __init__(self, total: int, bar: Bar) -> None:
        super().__init__(total, sys.stderr)
        self.bar = bar
        self.task = bar.add_task("checks", total=total)

    def say(self, text: str) -> None:
        """Print a remark above the bar."""
        self.bar.console.print(printable(text), markup=False, highlight=False)

    def show(self, outcome: Outcome) -> None:
        """Print a coloured line above the bar, and advance the bar."""
        style = STYLES.get(outcome.verdict, "red")
        self.bar.console.print(printable(line(outcome)), style=style, markup=False, highlight=False)
        summary = ", ".join(f"{count} {verdict.value}" for verdict, count in self.counts.most_common())
        self.bar.update(self.task, advance=1, description=summary)


def line(outcome: Outcome) -> str:
    """An outcome in one line; the device is always named, so that a CPU pass is not taken for a GPU's."""
    where = f" {outcome.device}" if outcome.device else ""
    why = f"  {outcome.reason}" if outcome.reason else ""
    flaky = "  flaky" if outcome.flaky else ""
    reused = f"  reused from {outcome.reused}" if outcome.reused else ""
    rest = one_line(f"{outcome.check}{where} {outcome.seconds:.1f} s{why}{flaky}{reused}")
    return f"{outcome.verdict.value:<11} {rest}"


@contextmanager
def progress(total: int) -> Iterator[Lines]:
    """A live bar on a terminal that rich knows, plain lines on standard error otherwise."""
    if not sys.stderr.isatty():
        yield Lines(total, sys.stderr)
        return
    try:
        from rich.console import Console
        from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn
    except ImportError:  # a bare host of the `here` backend
        yield Lines(total, sys.stderr)
        return
    columns = (BarColumn(), MofNCompleteColumn(), TimeElapsedColumn(), TextColumn("{task.description}"))
    with Progress(*columns, console=Console(stderr=True)) as bar:
        yield Live(total, bar)
