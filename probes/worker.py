"""A process that imports a cell's libraries and answers probes: forked from the warm host, or started fresh."""

from __future__ import annotations

import os
import signal
import time
from typing import Any, Dict, Optional

from . import child as work
from . import facts
from .process import Died, Process, TimedOut, sweep

GRACE = 5.0
"""Seconds in which a worker must report the end of its killed child."""

Seen = Dict[str, Any]
"""The answer of a member to a probe, on its way to becoming an observation."""


class Worker:
    """Imports the members of a task in their order, then answers probes on them.

    With `start_s`, the seconds that a process needs to start and import torch, it is a process of its own; without, it
    is forked from this one.  `private` is a descriptor that it must not inherit.
    """

    def __init__(
        self, task: work.CellTask, settings: work.Settings, private: int, start_s: Optional[float] = None
    ) -> None:
        self.members = [member["distribution"] for member in task["members"]]
        self.timeout_s = task["timeout_s"]
        self.start_s = start_s or 0.0
        if start_s is None:
            self.isolation = "fork"
            self.process = Process.fork(
                lambda channel, commands: work.serve(task, settings, channel, commands), private
            )
        else:
            self.isolation = "fresh"
            self.process = Process.start({"cell": task, "settings": settings})

    @property
    def ended(self) -> bool:
        """Whether it answers nothing more."""
        return self.process.ended

    def imported(self) -> Seen:
        """The result of the next member's import; an import that ends the process, or takes too long, is its last."""
        before, started = facts.oom_kills(), time.perf_counter()
        try:
            seen = self.process.read(time.monotonic() + self.timeout_s + self.start_s)
        except (Died, TimedOut) as error:
            seen = self._unanswered(error, started, self.process.pid)
        self.start_s = 0.0
        return finished(seen, self.process, before, self.isolation)

    def ask(self, probe: str, member: str, limit: float, fork: bool) -> Seen:
        """The answer to a probe within `limit` seconds, of a child forked for it or of the process itself."""
        before, started = facts.oom_kills(), time.perf_counter()
        self.process.forget_output()
        self.process.send({"probe": probe, "member": member, "fork": fork})
        answer: Seen = {}
        pid = 0 if fork else self.process.pid
        until = time.monotonic() + limit
        try:
            while True:
                message = self.process.read(until)
                if message["kind"] == "started":
                    pid = message["pid"]
                elif message["kind"] == "result":
                    answer = message
                elif message["kind"] == "ended":
                    break
            answer = answer or death(message["status"], started)
            metrics = {"peak host memory": {"value": message["maxrss"], "unit": "bytes"}}
            answer["metrics"] = {**answer.get("metrics", {}), **metrics}
        except (Died, TimedOut) as error:
            answer = self._unanswered(error, started, pid)
        return finished(answer, self.process, before, "fork" if fork else "fresh")

    def _unanswered(self, error: Exception, started: float, pid: int) -> Seen:
        """End the process `pid`, which gave no answer, after its stacks; the worker outlives a child of its own."""
        if isinstance(error, Died):
            return death(error.status, started)
        seconds = time.perf_counter() - started
        ask_for_stacks(pid)
        if pid != self.process.pid:
            kill_session(pid)
            try:
                while self.process.read(time.monotonic() + GRACE)["kind"] != "ended":
                    pass
            except (TimedOut, Died):
                self.process.kill()
        else:
            self.process.kill()
        return {"status": "timeout", "message": f"no answer after {seconds:.0f} s", "seconds": seconds}

    def close(self) -> None:
        """End it and its leftovers."""
        self.process.close()
        sweep()


def finished(seen: Seen, process: Process, oom_before: int, isolation: str) -> Seen:
    """Add the host's own knowledge: output, memory kills, leftover processes."""
    process.drain()
    left = sweep()
    if left:
        seen["notes"] = [*seen.get("notes", []), f"left {left} processes running, which were killed"]
    seen.update(
        isolation=isolation,
        oom_kills=max(0, facts.oom_kills() - oom_before),
        output=process.output(),
        output_bytes=process.output_bytes,
    )
    return seen


def death(status: int, started: float) -> Seen:
    """The observation of a child that ended without an answer; exit status 0 alone is never a pass."""
    seen: Seen = {"status": "died", "seconds": time.perf_counter() - started, "exit": None, "signal": None}
    if os.WIFSIGNALED(status):
        number = os.WTERMSIG(status)
        seen.update(signal=number, message=f"killed by signal {number} ({signal.Signals(number).name})")
    else:
        seen.update(exit=os.WEXITSTATUS(status), message=f"ended with status {os.WEXITSTATUS(status)} and no answer")
    return seen


def ask_for_stacks(pid: int) -> None:
    """Let a child that is about to be killed print where it is, among its output."""
    if pid:
        try:
            os.kill(pid, signal.SIGUSR1)
        except ProcessLookupError:
            return
        time.sleep(0.2)


def kill_session(leader: int) -> None:
    """End a probe's child with all that stayed in its session."""
    if leader:
        try:
            os.killpg(leader, signal.SIGKILL)
        except ProcessLookupError:
            pass
