"""An image's own checks: each command runs in a process of its own, and what comes back decides."""

from __future__ import annotations

import os
import re
import time
from typing import Any, Callable, Dict, List, Tuple, cast

from . import child as work
from . import facts
from .cell import Launch, confirmed, failed
from .contract import CellOrder, CommandOrder, Frame, ObservationFrame
from .process import Died, Process, TimedOut
from .shared import Changed
from .worker import Seen, finished

NOT_FOUND = 127
"""The status of a command that cannot be started, as a shell has it."""


class Commands:
    """Works through the commands of an image as a Cell works through its probes; `private` must not be inherited."""

    warm = False
    """No command is forked from what the probe host has imported: each starts a program."""

    def __init__(self, order: CellOrder, launch: Launch, emit: Callable[[Frame], None], private: int) -> None:
        self.order = order
        self.until = launch.until
        self.shared = launch.shared
        self.emit = emit
        self.private = private
        self.questions: List[Tuple[str, str]] = []

    def run(self, compiling: bool) -> None:
        """Run all commands, before any cell compiles; one that fails runs again, and counts if it fails again.

        Raises Changed where the next cell would not find the files that the commands found.
        """
        for command in [] if compiling else self.order["commands"]:
            if time.monotonic() > self.until:
                raise TimedOut("the order's time is up")
            names: Dict[str, Any] = {"cell": self.order["id"], "probe": command["name"], "member": ""}
            self.emit(cast(Frame, {"kind": "begin", **names}))
            seen = self.seen(command)
            if failed(seen):
                seen = confirmed(seen, self.seen(command))
                del seen["sure"]
            seen.update(kind="observation", installed="", device_name="", **names)
            self.emit(cast(ObservationFrame, seen))
            if self.shared.change():
                raise Changed

    def seen(self, command: CommandOrder) -> Seen:
        """The result of one run."""
        before, started = facts.oom_counts(), time.perf_counter()
        process = Process.fork(lambda *ends: self.start(command["command"]), self.private)
        until = time.monotonic() + command["timeout_s"]
        try:
            while True:
                process.read(until)
        except TimedOut:
            ended = f"it did not end within {command['timeout_s']:g} s"
        except Died as death:
            ended = _unlike(death.status, command["status"])
        process.kill()
        process.drain()
        lines = process.output().rstrip().splitlines()
        if ended and lines:
            ended += f": {lines[-1][:400]}"
        elif not ended and not re.search(command["output"], process.output(), re.MULTILINE):
            ended = f"its output has no match for {command['output']!r}"
        seen: Seen = {"status": "passed", "seconds": time.perf_counter() - started}
        if ended:
            seen.update(status="failed", code="command-failed", message=ended)
        try:
            return finished(seen, process, before, "fresh")
        finally:
            process.close()

    def start(self, command: List[str]) -> None:
        """Become the command, with a home and a temporary folder of its own."""
        work.enter(cast(work.CellTask, dict(self.order, overlay=None, seeded=self.shared.seeded)))
        try:
            os.execvp(command[0], command)
        except OSError as error:
            print(f"{command[0]}: {error.strerror}", flush=True)
            os._exit(NOT_FOUND)


def _unlike(status: int, wanted: int) -> str:
    """How a command ended, by the status of os.waitpid; empty where as wanted."""
    if os.WIFSIGNALED(status):
        return f"signal {os.WTERMSIG(status)} ended it"
    code = os.WEXITSTATUS(status)
    return "" if code == wanted else f"its exit status is {code}, not {wanted}"
