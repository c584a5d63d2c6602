"""Works through a cell: a child imports its library, a child of that answers each probe."""

from __future__ import annotations

import os
import signal
import time
from typing import Any, Callable, Dict, List, NamedTuple, Optional, cast

from . import child as work
from . import facts
from .contract import CellOrder, Frame, ObservationFrame, WorkOrder
from .process import Died, Process, TimedOut, sweep

GRACE = 5.0
"""Seconds in which a cell's process must report the end of its killed child."""

APART = "importing touches the CUDA driver, which spoils forks, so each probe ran in a process of its own"

Seen = Dict[str, Any]
"""The answer of a member to a probe, on its way to becoming an observation."""


class Launch(NamedTuple):
    """The data that all cells of a launch share: the order, and the host's own facts and decisions."""

    order: WorkOrder
    overlays: str
    """The folder that holds the overlays by their keys."""
    packages: Dict[str, str]
    """Distribution -> version of the image's packages."""
    device: str
    device_name: str
    start_s: float
    """Seconds beyond its limit that a fresh process has to start and import torch, which a fork need not do."""
    warm: bool
    """Whether torch is imported in the host, so that children are forked from it."""
    until: float
    """The order's deadline (time.monotonic)."""


class Cell:
    """Works through a cell of the order; `emit` writes a frame, `private` is the descriptor that it writes to."""

    def __init__(self, order: CellOrder, launch: Launch, emit: Callable[[Frame], None], private: int) -> None:
        overlay = order["overlay"] and os.path.join(launch.overlays, order["overlay"])
        whole: Any = dict(order, overlay=overlay, image_packages=launch.packages)
        self.cell: work.CellTask = whole
        self.settings: work.Settings = {
            "device": launch.device,
            "seed": launch.order["seed"],
            "full": launch.order["full"],
        }
        self.launch = launch
        self.emit = emit
        self.private = private
        self.process: Optional[Process] = None
        self.apart: List[str] = []
        """Members whose import spoils forks for CUDA: each of their probes gets its own process."""

    def run(self) -> None:
        """Run all checks of the cell: import first, since the others build on it."""
        if self.launch.warm and self.cell["isolation"] != "fresh":
            self.fork()
        try:
            imports = {member["distribution"]: self.imported(member["distribution"]) for member in self.cell["members"]}
            self.set_apart(imports)
            for probe in self.cell["probes"]:
                for member, seen in imports.items():
                    self.in_time()
                    self.begin(probe, member)
                    self.observe(probe, member, self.seen(probe, member, seen), seen.get("installed", ""))
        finally:
            self.end()

    def set_apart(self, imports: Dict[str, Seen]) -> None:
        """Keep members that spoil forks out of the cell's process, so that the others can still be forked from it."""
        while self.process is not None:
            spoiler = next((member for member, seen in imports.items() if seen.get("spoils_forks")), None)
            if spoiler is None:
                return
            self.apart.append(spoiler)
            self.end()
            rest = [member for member in imports if member not in self.apart]
            if rest:
                self.fork()
                imports = {member: self.imported(member) for member in rest}

    def in_time(self) -> None:
        """Raise TimedOut once the order's time is up."""
        if time.monotonic() > self.launch.until:
            raise TimedOut("the order's time is up")

    def limit(self, probe: str) -> float:
        """Seconds that the probe may take."""
        return self.cell["compile_timeout_s"] if probe == "compile" else self.cell["timeout_s"]

    def begin(self, probe: str, member: str) -> None:
        """Tell the runner which probe begins."""
        self.emit({"kind": "begin", "cell": self.cell["id"], "probe": probe, "member": member})

    def seen(self, probe: str, member: str, imported: Seen) -> Seen:
        """The answer of a member to a probe, given the result of its import."""
        if imported["status"] != "passed":
            if probe == "import" or "import" not in self.cell["probes"]:
                return imported
            message = f"{member} does not import"
            return {
                "status": "skipped",
                "code": "import-failed",
                "message": message,
                "isolation": imported["isolation"],
            }
        if probe != "import":
            return self.ask(probe, member)
        if not hasattr(work.probe_module(member), "imported"):
            return imported
        more = self.ask(probe, member)
        return dict(more, metrics={**imported["metrics"], **more.get("metrics", {})})

    def observe(self, probe: str, member: str, seen: Seen, installed: str) -> None:
        """Emit an observation, with the device on which the probe saw its work."""
        name = self.launch.device_name if seen.get("device") else ""
        seen = dict(seen, kind="observation", member=member, cell=self.cell["id"], probe=probe, device_name=name)
        seen["installed"] = installed
        if member in self.apart:
            seen["notes"] = [*seen.get("notes", []), APART]
        self.emit(cast(ObservationFrame, seen))

    def fork(self) -> None:
        """Fork the cell's process from the warm host."""
        members = [member for member in self.cell["members"] if member["distribution"] not in self.apart]
        cell, settings = cast(work.CellTask, dict(self.cell, members=members)), self.settings
        self.process = Process.fork(
            lambda channel, commands: work.serve(cell, settings, channel, commands), self.private
        )

    def end(self) -> None:
        """End the cell's process and its leftovers; later probes run in fresh processes."""
        if self.process is not None:
            self.process.close()
            self.process = None
            sweep()

    def imported(self, member: str) -> Seen:
        """The result of a member's import; a crash or time-out in the forked child is confirmed in a fresh process."""
        self.begin("import", member)
        if self.process is None:
            return self.in_fresh("import", member)
        before, started = facts.oom_kills(), time.perf_counter()
        try:
            message: Seen = {}
            while message.get("kind") != "imported":
                message = self.process.read(time.monotonic() + self.cell["timeout_s"])
            return finished(message, self.process, before, "fork")
        except (Died, TimedOut) as error:
            forked = unanswered(error, started)
            self.end()
            return confirmed(forked, self.in_fresh("import", member))

    def ask(self, probe: str, member: str) -> Seen:
        """The answer to a probe; a crash or time-out in a forked child is confirmed in a fresh process.

        A fork inherits what the warm process imported, so that its crash alone would not be proof against the library.
        """
        if self.process is None or member in self.apart:
            return self.in_fresh(probe, member)
        seen = self.in_fork(self.process, probe, member)
        lost = self.process.ended
        if seen["status"] in ("died", "timeout") and not seen.get("oom_kills"):
            self.in_time()
            if lost:
                self.end()
            return confirmed(seen, self.in_fresh(probe, member))
        if lost:
            self.end()
            self.fork()
        return seen

    def in_fork(self, process: Process, probe: str, member: str) -> Seen:
        """The answer of a child forked from the cell's process."""
        before, started = facts.oom_kills(), time.perf_counter()
        process.forget_output()
        process.send({"probe": probe, "member": member})
        answer: Seen = {}
        session = 0
        until = time.monotonic() + self.limit(probe)
        try:
            while True:
                message = process.read(until)
                if message["kind"] == "started":
                    session = message["pid"]
                elif message["kind"] == "result":
                    answer = message
                elif message["kind"] == "ended":
                    break
            answer = answer or death(message["status"], started)
            metrics = {"peak host memory": {"value": message["maxrss"], "unit": "bytes"}}
            answer["metrics"] = {**answer.get("metrics", {}), **metrics}
        except TimedOut as error:
            answer = unanswered(error, started)
            ask_for_stacks(session)
            kill_session(session)
            try:
                while process.read(time.monotonic() + GRACE)["kind"] != "ended":
                    pass
            except (TimedOut, Died):
                process.kill()
        except Died as error:
            answer = unanswered(error, started)
        return finished(answer, process, before, "fork")

    def in_fresh(self, probe: str, member: str) -> Seen:
        """The answer of a process of its own, which imports torch and the library itself."""
        before, started = facts.oom_kills(), time.perf_counter()
        command = {"cell": self.cell, "settings": self.settings, "probe": probe, "member": member}
        process = Process.start(command, self.private)
        try:
            message: Seen = {}
            limit, imported = self.limit(probe), False
            until = time.monotonic() + limit + self.launch.start_s
            while message.get("kind") != "result":
                message = process.read(until)
                if message.get("kind") == "imported" and not imported:
                    imported, until = True, time.monotonic() + limit
            return finished(message, process, before, "fresh")
        except (Died, TimedOut) as error:
            if isinstance(error, TimedOut):
                ask_for_stacks(process.pid)
            process.kill()
            return finished(unanswered(error, started), process, before, "fresh")
        finally:
            process.close()


def confirmed(forked: Seen, fresh: Seen) -> Seen:
    """The answer of the fresh process, with a note about the forked attempt."""
    said = f"in a forked child first: {forked['message']}; this is what a fresh process showed"
    return dict(fresh, notes=[*fresh.get("notes", []), said], attempts=[forked["status"]])


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


def unanswered(error: Exception, started: float) -> Seen:
    """The observation of a child that gave no answer."""
    if isinstance(error, Died):
        return death(error.status, started)
    seconds = time.perf_counter() - started
    return {"status": "timeout", "message": f"no answer after {seconds:.0f} s", "seconds": seconds}


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
