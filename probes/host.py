"""The probe host: one warm process an image, a forked child a cell, a forked child of that a probe.

It takes a work order (JSON), imports torch without initialising CUDA, and does nothing else in its own process: threads
and CUDA contexts do not survive a fork.  What it has to say leaves as frames on the descriptor that was standard output
when it started:

    compat/1 NONCE SEQUENCE JSON

Nothing that a library prints can be taken for a frame: descriptor 1 is turned to standard error before anything is
imported, children write to pipes, and the nonce is new for each launch.
"""

from __future__ import annotations

import ctypes
import importlib
import json
import os
import signal
import time
from typing import Any, Dict, NoReturn, Optional

from . import child as work
from . import facts
from .process import Died, Process, TimedOut, stop_with_parent, sweep

GRACE = 5.0
"""Seconds in which a cell's process must say that its killed child has ended."""


class Deadline(Exception):
    """The order's time is up."""


class Host:
    """Works through one order; every answer is emitted as soon as it is known."""

    def __init__(self, order: Dict[str, Any], descriptor: int) -> None:
        self.order = order
        self.descriptor = descriptor
        self.sequence = 0
        self.warm = False
        self.packages: Dict[str, str] = {}
        self.deadline = time.monotonic() + float(order.get("deadline_s") or 10**9)

    def emit(self, kind: str, **fields: Any) -> None:
        """Write one frame."""
        self.sequence += 1
        body = json.dumps({"kind": kind, **fields}, default=str)
        data = f"compat/1 {self.order['nonce']} {self.sequence} {body}\n".encode()
        while data:
            data = data[os.write(self.descriptor, data) :]

    def run(self) -> None:
        """Warm up, tell the facts, then the cells in the order given."""
        self.emit("hello", pid=os.getpid())
        cells = self.order.get("cells", [])
        if self.order.get("warm", True):
            self.warm_up(compiling=any("compile" in cell["probes"] for cell in cells))
        self.tell_facts()
        state = "complete"
        try:
            for cell in cells:
                self.cell(cell)
        except Deadline:
            state = "deadline"
        self.emit("end", state=state)

    def warm_up(self, compiling: bool) -> None:
        """Import torch, and what torch.compile needs, once for all cells.

        An exception is left to the children, whose import probe then shows it.  A crash ends the host after the
        frame `warming`, and the runner launches again with `warm: false`.
        """
        self.emit("warming")
        started = time.perf_counter()
        try:
            importlib.import_module("torch")
            self.warm = True
            if compiling:
                importlib.import_module("torch._dynamo")
                importlib.import_module("torch._inductor.compile_fx")
        except BaseException as error:
            self.emit("cold", **work.describe(error))
        else:
            self.emit("warm", seconds=time.perf_counter() - started)

    def tell_facts(self) -> None:
        """The environment's facts; torch and the GPUs speak from a child, since asking initialises CUDA."""
        known = facts.gather()
        self.packages = known["packages"]
        if "torch" in self.packages:
            process = Process.fork(self._torch_facts, self.descriptor)
            try:
                message = process.read(time.monotonic() + float(self.order.get("timeout_s", 120)))
                known.update(message)
            except (Died, TimedOut) as error:
                known["torch_error"] = {"message": f"{type(error).__name__}: {error}", "output": process.output()}
            finally:
                process.close()
        if self.order.get("device", "auto") == "auto":
            self.order["device"] = "cuda" if known["gpus"] else "cpu"
        self.device_name = known["gpus"][0]["name"] if known["gpus"] and self.order["device"] == "cuda" else "CPU"
        self.emit("facts", facts=known, device=self.order["device"], device_name=self.device_name)

    @staticmethod
    def _torch_facts(channel: work.Channel, commands: int) -> None:
        try:
            said = facts.gather_torch()
        except BaseException as error:
            said = {"torch_error": work.describe(error)}
        work.leave(channel, said)

    def cell(self, cell: Dict[str, Any]) -> None:
        """All checks of one cell: import first, since the others build on it."""
        cell = dict(cell, image_packages=self.packages)
        if self.order.get("overlays") and cell.get("overlay"):
            cell["overlay"] = os.path.join(self.order["overlays"], cell["overlay"])
        fresh = cell.get("isolation") == "fresh" or not self.warm
        process = None if fresh else self.fork_cell(cell)
        imports = self.imports(cell, process)
        why_fresh = ""
        if process is not None and any(seen.get("cuda_initialised") for seen in imports.values()):
            why_fresh = "importing initialises CUDA, so each probe ran in a process of its own"
        if why_fresh or (process is not None and any(seen["isolation"] == "fresh" for seen in imports.values())):
            self.end_cell(process)
            process = None
        for name in cell["probes"]:
            for member in cell["members"]:
                self.check_deadline()
                distribution = member["distribution"]
                self.emit("begin", cell=cell["id"], probe=name, member=distribution)
                seen = imports[distribution]
                if name == "import":
                    if seen["status"] == "passed" and hasattr(work.probe_module(distribution), "imported"):
                        more = self.ask(process, cell, distribution, name)
                        seen = dict(more, metrics={**seen.get("metrics", {}), **more.get("metrics", {})})
                elif seen["status"] == "passed":
                    seen = self.ask(process, cell, distribution, name)
                    if process is not None and process.ended:
                        self.end_cell(process)
                        process = self.fork_cell(cell) if seen["isolation"] == "fork" else None
                elif "import" in cell["probes"]:
                    seen = {"status": "skipped", "code": "import-failed", "message": f"{distribution} does not import", "isolation": seen["isolation"]}
                notes = [*seen.get("notes", []), *([why_fresh] if why_fresh else [])]
                self.observe(cell, name, distribution, dict(seen, notes=notes, installed=imports[distribution].get("installed", "")))
        self.end_cell(process)

    def observe(self, cell: Dict[str, Any], probe: str, member: str, seen: Dict[str, Any]) -> None:
        """Emit one observation, with the device that the probe itself saw its work on."""
        seen = {key: value for key, value in seen.items() if key not in ("kind", "member")}
        device = seen.get("device", "")
        self.emit("observation", cell=cell["id"], probe=probe, member=member, **dict(seen, device_name=self.device_name if device else ""))

    def fork_cell(self, cell: Dict[str, Any]) -> Process:
        return Process.fork(lambda channel, commands: work.serve(cell, self.order, channel, commands), self.descriptor)

    def end_cell(self, process: Optional[Process]) -> None:
        if process is not None:
            process.close()
            sweep()

    def imports(self, cell: Dict[str, Any], process: Optional[Process]) -> Dict[str, Dict[str, Any]]:
        """Import observation of each member, by distribution."""
        imports: Dict[str, Dict[str, Any]] = {}
        for member in cell["members"]:
            distribution = member["distribution"]
            self.emit("begin", cell=cell["id"], probe="import", member=distribution)
            seen = None
            if process is not None and not process.ended:
                seen = self.forked_import(process, cell, distribution)
            if seen is None or seen["status"] in ("died", "timeout"):
                seen = self.confirmed(seen, self.in_fresh(cell, distribution, "import"))
            imports[distribution] = seen
        return imports

    def forked_import(self, process: Process, cell: Dict[str, Any], distribution: str) -> Dict[str, Any]:
        before, started = facts.oom_kills(), time.perf_counter()
        try:
            while True:
                message = process.read(time.monotonic() + cell["timeout_s"])
                if message.get("kind") == "imported":
                    return self.finished(dict(message), process, before, "fork")
        except (Died, TimedOut) as error:
            process.kill()
            return self.finished(self.unanswered(error, started), process, before, "fork")

    def ask(self, process: Optional[Process], cell: Dict[str, Any], member: str, probe: str) -> Dict[str, Any]:
        """One probe's observation; a crash or time-out in a forked child is confirmed in a fresh process.

        A fork inherits what the warm process imported, so that its crash alone would not be proof against the library.
        """
        if process is None:
            return self.in_fresh(cell, member, probe)
        seen = self.in_fork(process, cell, member, probe)
        if seen["status"] in ("died", "timeout") and not seen.get("oom_kills"):
            self.check_deadline()
            seen = self.confirmed(seen, self.in_fresh(cell, member, probe))
        return seen

    def confirmed(self, forked: Optional[Dict[str, Any]], fresh: Dict[str, Any]) -> Dict[str, Any]:
        if forked is None:
            return fresh
        said = f"in a forked child first: {forked['message']}; this is what a fresh process showed"
        return dict(fresh, notes=[*fresh.get("notes", []), said], attempts=[forked["status"]])

    def in_fork(self, process: Process, cell: Dict[str, Any], member: str, probe: str) -> Dict[str, Any]:
        before, started = facts.oom_kills(), time.perf_counter()
        process.forget_output()
        process.send({"probe": probe, "member": member})
        answer: Dict[str, Any] = {}
        session = 0
        until = time.monotonic() + cell["timeout_s"]
        try:
            while True:
                message = process.read(until)
                if message["kind"] == "started":
                    session = message["pid"]
                elif message["kind"] == "ended":
                    break
                elif message["kind"] == "result":
                    answer = message
            if not answer:
                answer = _death(message["status"], started)
            answer["metrics"] = {**answer.get("metrics", {}), "peak host memory": {"value": message["maxrss"], "unit": "bytes"}}
        except TimedOut as error:
            answer = self.unanswered(error, started)
            _kill_session(session)
            try:
                while process.read(time.monotonic() + GRACE)["kind"] != "ended":
                    pass
            except (TimedOut, Died):
                process.kill()
        except Died as error:
            answer = self.unanswered(error, started)
        return self.finished(answer, process, before, "fork")

    def in_fresh(self, cell: Dict[str, Any], member: str, probe: str) -> Dict[str, Any]:
        """The same in a process of its own, which imports torch and the library itself."""
        before, started = facts.oom_kills(), time.perf_counter()
        order = {key: self.order[key] for key in ("device", "seed", "full") if key in self.order}
        process = Process.start({"cell": cell, "order": order, "probe": probe, "member": member}, self.descriptor)
        try:
            message: Dict[str, Any] = {}
            until = time.monotonic() + cell["timeout_s"]
            while message.get("kind") != "result":
                message = process.read(until)
            return self.finished(message, process, before, "fresh")
        except (Died, TimedOut) as error:
            process.kill()
            return self.finished(self.unanswered(error, started), process, before, "fresh")
        finally:
            process.close()

    def finished(self, seen: Dict[str, Any], process: Process, oom_before: int, isolation: str) -> Dict[str, Any]:
        """Add what only the host knows: output, memory kills, processes left behind."""
        process.drain()
        left = sweep()
        seen.update(isolation=isolation, oom_kills=max(0, facts.oom_kills() - oom_before), output=process.output(), output_bytes=process.output_bytes)
        if left:
            seen["notes"] = [*seen.get("notes", []), f"left {left} processes running, which were killed"]
        return seen

    def unanswered(self, error: Exception, started: float) -> Dict[str, Any]:
        if isinstance(error, TimedOut):
            seconds = time.perf_counter() - started
            return {"status": "timeout", "message": f"no answer after {seconds:.0f} s", "seconds": seconds}
        return _death(error.status if isinstance(error, Died) else 0, started)

    def check_deadline(self) -> None:
        if time.monotonic() > self.deadline:
            raise Deadline


def _death(status: int, started: float) -> Dict[str, Any]:
    """A child that ended without an answer; exit status 0 without a frame is never a pass."""
    seen: Dict[str, Any] = {"status": "died", "seconds": time.perf_counter() - started, "exit": None, "signal": None}
    if os.WIFSIGNALED(status):
        number = os.WTERMSIG(status)
        seen.update(signal=number, message=f"killed by signal {number} ({signal.Signals(number).name})")
    else:
        seen.update(exit=os.WEXITSTATUS(status), message=f"ended with status {os.WEXITSTATUS(status)} and no answer")
    return seen


def _kill_session(leader: int) -> None:
    if leader:
        try:
            os.killpg(leader, signal.SIGKILL)
        except ProcessLookupError:
            pass


def main(path: str) -> int:
    """Read the order, keep standard output for frames alone, and work."""
    with open(path) as stream:
        order = json.load(stream)
    descriptor = os.dup(1)  # not inheritable across exec
    os.dup2(2, 1)
    os.environ.setdefault("PYTORCH_NVML_BASED_CUDA_CHECK", "1")
    os.environ.setdefault("TORCHINDUCTOR_COMPILE_THREADS", "1")  # a pool of workers in the parent would not survive a fork
    _adopt_orphans()

    def stop(number: int, frame: Any) -> NoReturn:
        sweep(everything=True)
        os._exit(128 + number)

    signal.signal(signal.SIGTERM, stop)
    if order.get("watch_stdin"):
        stop_with_parent()
    try:
        Host(order, descriptor).run()
    finally:
        sweep(everything=True)
    return 0


def _adopt_orphans() -> None:
    """Become the parent of whatever a probe leaves behind (PR_SET_CHILD_SUBREAPER), so that it can be found."""
    try:
        ctypes.CDLL(None).prctl(36, 1, 0, 0, 0)
    except (OSError, AttributeError):
        pass
