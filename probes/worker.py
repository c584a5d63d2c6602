"""A process that imports a cell's libraries and answers probes: forked from the warm host, or started fresh."""

from __future__ import annotations

import os
import signal
import time
from typing import Any, Dict, List, Optional

from . import child as work
from . import facts
from .channel import BadAnswer, Messages, one_way
from .contract import Answer
from .fingerprint import too_large
from .process import Died, Process, TimedOut, cores_of, is_descendant, sweep
from .typed import misfits

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
        self.timeout_s = task.get("timeouts", {}).get("import", task["timeout_s"])
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
        before, started = facts.oom_counts(), time.perf_counter()
        try:
            seen = checked(self.process.read(time.monotonic() + self.timeout_s + self.start_s))
        except (Died, TimedOut, BadAnswer) as error:
            seen = self._unanswered(error, started, self.process.pid)
        self.start_s = 0.0
        return finished(seen, self.process, before, self.isolation)

    def ask(self, probe: str, member: str, limit: float, fork: bool) -> Seen:
        """The answer to a probe within `limit` seconds, of a child forked for it or of the process itself."""
        before, started = facts.oom_counts(), time.perf_counter()
        self.process.forget_output()
        reader, writer = (end.detach() for end in one_way())
        answers = Messages(reader, "started", "result")
        self.process.send({"probe": probe, "member": member, "fork": fork}, writer)
        os.close(writer)
        message: Seen = {}
        answer: Seen = {}
        pid = 0 if fork else self.process.pid
        until = time.monotonic() + limit
        try:
            while message.get("kind") != "ended":
                message = self.process.read(until, answers)
                if message["kind"] == "started":
                    pid = started_child(message)
                elif message["kind"] == "result":
                    answer = message
            answer = answer or answers.rest() or {}
        except (Died, TimedOut, BadAnswer) as error:
            answer = self._unanswered(error, started, pid)
        else:
            answer = judged(answer, message, started)
        finally:
            answers.close()
        return finished(answer, self.process, before, "fork" if fork else "fresh")

    def _unanswered(self, error: Exception, started: float, pid: int) -> Seen:
        """End the process `pid`, which gave no answer, after its stacks; the worker outlives a child of its own."""
        if isinstance(error, Died):
            return death(error.status, started)
        seconds = time.perf_counter() - started
        busy = waiting = 0.0
        if isinstance(error, TimedOut):
            busy, waiting = cores_of(pid or self.process.pid)
            ask_for_stacks(pid)
        if pid not in (0, self.process.pid):
            kill_session(pid)
            try:
                while self.process.read(time.monotonic() + GRACE)["kind"] != "ended":
                    pass
            except (TimedOut, Died, BadAnswer):
                self.process.kill()
        else:
            self.process.kill()
        if isinstance(error, BadAnswer):
            return bad_answer(error, started)
        metrics = {
            "cores in use at the limit": {"value": busy, "unit": "cores"},
            "cores waited for at the limit": {"value": waiting, "unit": "cores"},
            "load of the host at the limit": {"value": os.getloadavg()[0], "unit": "processes"},
        }
        message = f"no answer after {seconds:.0f} s, while it kept {busy:.1f} cores busy"
        return {"status": "timeout", "message": message, "seconds": seconds, "metrics": metrics}

    def close(self) -> None:
        """End it and its leftovers."""
        self.process.close()
        sweep()


def checked(message: Seen) -> Seen:
    """The answer of a child; BadAnswer where it is none, and where it does not say how it failed."""
    wrong = next(misfits(message, Answer, "the answer"), None)
    if wrong is None and too_large(message.get("numerics", {})):
        wrong = "the answer's numerics are more than a fingerprint"
    if wrong is None and message["status"] != "passed" and "message" not in message:
        wrong = f"the answer {message['status']!r} comes without a message"
    if wrong is not None:
        raise BadAnswer(wrong)
    return {name: value for name, value in message.items() if name != "kind"}


def started_child(message: Seen) -> int:
    """The number of the child that answers, 0 where it has ended; BadAnswer for any other: it must not be killed."""
    pid = message.get("pid")
    if type(pid) is int and is_descendant(pid):
        return pid
    if type(pid) is int and not os.path.exists(f"/proc/{pid}"):
        return 0
    raise BadAnswer(f"it says that it is process {pid!r:.99}")


def judged(answer: Seen, ended: Seen, started: float) -> Seen:
    """The answer of a child that ended as its worker says, with its peak memory."""
    status, memory = ended.get("status"), ended.get("maxrss")
    try:
        if type(status) is not int or type(memory) is not int:
            raise BadAnswer(f"the child ended with {(status, memory)!r:.99}")
        seen = checked(answer) if answer else death(status, started)
    except BadAnswer as error:
        return bad_answer(error, started)
    metrics = {"peak host memory": {"value": memory, "unit": "bytes"}}
    return dict(seen, metrics={**seen.get("metrics", {}), **metrics})


def bad_answer(error: BadAnswer, started: float) -> Seen:
    """The observation of a child whose answer is none."""
    seconds = time.perf_counter() - started
    return {"status": "failed", "code": "bad-answer", "message": str(error), "seconds": seconds}


def finished(seen: Seen, process: Process, oom_before: List[Optional[int]], isolation: str) -> Seen:
    """Add the host's own knowledge: output, memory kills, leftover processes."""
    process.drain()
    left = sweep()
    if left:
        seen["notes"] = [*seen.get("notes", []), f"left {left} processes running, which were killed"]
    seen.update(
        isolation=isolation,
        output=process.output(),
        output_bytes=process.output_bytes,
    )
    kills = facts.oom_kills(oom_before)
    if kills is not None:
        seen["oom_kills"] = kills
    return seen


def death(status: int, started: float) -> Seen:
    """The observation of a child that ended without an answer; exit status 0 alone is never a pass."""
    seen: Seen = {"status": "died", "seconds": time.perf_counter() - started, "exit": None, "signal": None}
    if os.WIFSIGNALED(status):
        number = os.WTERMSIG(status)
        name = next((known.name for known in signal.Signals if known == number), "real-time")  # 35 to 63 have no name
        seen.update(signal=number, message=f"killed by signal {number} ({name})")
    else:
        seen.update(exit=os.WEXITSTATUS(status), message=f"ended with status {os.WEXITSTATUS(status)} and no answer")
    return seen


def ask_for_stacks(pid: int) -> None:
    """Let a child that is about to be killed print where it is, among its output."""
    if pid:
        try:
            os.kill(pid, signal.SIGUSR1)
        except (ProcessLookupError, PermissionError):
            return
        time.sleep(0.2)


def kill_session(leader: int) -> None:
    """End a probe's child with all that stayed in its session."""
    if leader:
        try:
            os.killpg(leader, signal.SIGKILL)
        except (ProcessLookupError, PermissionError):
            pass
