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
import getpass
import importlib
import json
import os
import re
import shutil
import signal
import tempfile
import time
from typing import Any, Callable, Dict, NoReturn

from . import child as work
from . import facts, services
from .cell import Cell
from .compiling import prepare
from .process import Died, Process, TimedOut, stop_with_parent, sweep


class Host:
    """Works through one order; every answer is emitted as soon as it is known."""

    def __init__(self, order: Dict[str, Any], descriptor: int) -> None:
        self.order = order
        self.descriptor = descriptor
        self.sequence = 0
        order["until"] = time.monotonic() + float(order.get("deadline_s") or 10**9)

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
        known = facts.gather()  # before anything is imported: setuptools puts what it bundles on the path
        cells = self.order.get("cells", [])
        self.order["is_warm"] = self.order.get("warm", True) and self.warm_up(lambda: importlib.import_module("torch"))
        self.tell_facts(known)
        forked = [cell for cell in cells if "compile" in cell["probes"] and cell.get("isolation") != "fresh"]
        if self.order["is_warm"] and sum(len(cell["members"]) for cell in forked) > 1:  # one does it for itself
            self.warm_up(lambda: prepare(self.order["device"]))
        state = "complete"
        try:
            for cell in cells:
                overlay = cell.get("overlay") and os.path.join(self.order["overlays"], cell["overlay"])
                whole = dict(cell, overlay=overlay, image_packages=known["packages"])
                Cell(whole, self.order, self.emit, self.descriptor).run()
        except TimedOut:
            state = "deadline"
        self.emit("end", state=state)

    def warm_up(self, work_for_all: Callable[[], object]) -> bool:
        """Do once, before any fork, what every child would do alone; whether it could be done.

        An exception is left to the children, whose probes then show it.  A crash ends the host after the frame
        `warming`, and the runner launches again with `warm: false`.
        """
        self.emit("warming")
        started = time.perf_counter()
        try:
            work_for_all()
        except BaseException as error:
            self.emit("cold", **work.describe(error))
            return False
        self.emit("warm", seconds=time.perf_counter() - started)
        return True

    def tell_facts(self, known: Dict[str, Any]) -> None:
        """The environment's facts; torch and the GPUs speak from a child, since asking them initialises CUDA."""
        if "torch" in known["packages"]:
            process = Process.fork(_torch_facts, self.descriptor)
            try:
                known.update(process.read(time.monotonic() + float(self.order.get("timeout_s", 120))))
            except (Died, TimedOut) as error:
                known["torch_error"] = {"message": f"{type(error).__name__}: {error}", "output": process.output()}
            finally:
                process.close()
        expects = self.order.get("expects") or {}
        known["tools"].update(
            {name: path for name in expects.get("tools", ()) for path in [shutil.which(name)] if path}
        )
        known["services"] = services.ask(expects.get("services", ()))
        if self.order.get("device", "auto") == "auto":
            self.order["device"] = "cuda" if known["gpus"] else "cpu"
        on_gpu = known["gpus"] and self.order["device"] == "cuda"
        self.order["device_name"] = known["gpus"][0]["name"] if on_gpu else "CPU"
        self.emit("facts", facts=known)


def _torch_facts(channel: work.Channel, commands: int) -> None:
    try:
        said = facts.gather_torch()
    except BaseException as error:
        said = {"torch_error": work.describe(error)}
    work.leave(channel, said)


def main(path: str) -> NoReturn:
    """Read the order, keep standard output for frames alone, and work."""
    with open(path) as stream:
        order = json.load(stream)
    descriptor = os.dup(1)  # not inheritable across exec
    os.dup2(2, 1)
    os.environ.setdefault("PYTORCH_NVML_BASED_CUDA_CHECK", "1")
    os.environ.setdefault("TORCHINDUCTOR_COMPILE_THREADS", "1")  # the parent's pool of workers would not survive a fork
    if order.get("threads"):
        os.environ.setdefault("OMP_NUM_THREADS", str(order["threads"]))
    _adopt_orphans()

    def stop(number: int, frame: Any) -> NoReturn:
        sweep(everything=True)
        os._exit(128 + number)

    signal.signal(signal.SIGTERM, stop)
    if order.get("watch_stdin"):
        stop_with_parent()
    if order.get("compile_cache"):
        _keep_headers()
    try:
        Host(order, descriptor).run()
    finally:
        sweep(everything=True)
    os._exit(0)  # taking torch apart module by module would cost most of a second


def _keep_headers() -> None:
    """Inductor precompiles headers (4 s) in the temporary folder, whatever TORCHINDUCTOR_CACHE_DIR says."""
    name = "torchinductor_" + re.sub(r"[\\/:*?\"<>|]", "_", getpass.getuser())
    try:
        os.symlink(os.environ["TORCHINDUCTOR_CACHE_DIR"], os.path.join(tempfile.gettempdir(), name))
    except (FileExistsError, KeyError):
        pass


def _adopt_orphans() -> None:
    """Become the parent of whatever a probe leaves behind (PR_SET_CHILD_SUBREAPER), so that it can be found."""
    try:
        ctypes.CDLL(None).prctl(36, 1, 0, 0, 0)
    except (OSError, AttributeError):
        pass
