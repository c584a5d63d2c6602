"""The probe host: one warm process an image, a forked child a cell, a forked child of that a probe.

It takes a work order (JSON), imports torch without initialising CUDA, and does nothing else in its own process: threads
and CUDA contexts do not survive a fork.  What it has to say leaves as frames on the descriptor that was standard output
when it started:

    compat/1 NONCE SEQUENCE JSON

Nothing that a library prints can be taken for a frame: descriptor 1 is turned to standard error before anything is
imported, children write to pipes, and the nonce is new for each launch.
"""

from __future__ import annotations

import argparse
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
from typing import Any, Callable, List, NoReturn, Tuple, cast

from . import child as work
from . import facts, services
from .cell import Cell, Launch
from .compiling import prepare
from .contract import CellOrder, ColdFrame, Facts, Frame, GpuFacts, WorkOrder
from .process import Died, Process, TimedOut, stop_with_parent, sweep


class Host:
    """Works through one order; every answer is emitted as soon as it is known.

    `descriptor` is where frames are written, `overlays` the folder that holds the overlays by their keys.
    """

    def __init__(self, order: WorkOrder, descriptor: int, overlays: str) -> None:
        self.order = order
        self.descriptor = descriptor
        self.overlays = overlays
        self.until = time.monotonic() + order["deadline_s"]
        self.sequence = 0

    def emit(self, frame: Frame) -> None:
        """Write one frame."""
        self.sequence += 1
        body = json.dumps(frame, default=str)
        data = f"compat/1 {self.order['nonce']} {self.sequence} {body}\n".encode()
        while data:
            data = data[os.write(self.descriptor, data) :]

    def run(self) -> None:
        """Warm up, tell the facts, then the cells in the order given."""
        self.emit({"kind": "hello", "pid": os.getpid()})
        known = facts.gather()  # before anything is imported: setuptools puts what it bundles on the path
        warm = self.order["warm"] and self.warm_up(lambda: importlib.import_module("torch"))
        self.ask_torch(known)
        self.look_for(known)
        self.emit({"kind": "facts", "facts": known})
        device, name = device_under_test(self.order, known["gpus"])
        if warm and _compiles_in_forks(self.order["cells"]) > 1:  # one does it for itself
            self.warm_up(lambda: prepare(device))
        launch = Launch(
            order=self.order,
            overlays=self.overlays,
            packages=known["packages"],
            device=device,
            device_name=name,
            warm=warm,
            until=self.until,
        )
        try:
            for cell in self.order["cells"]:
                Cell(cell, launch, self.emit, self.descriptor).run()
        except TimedOut:
            self.emit({"kind": "end", "state": "deadline"})
        else:
            self.emit({"kind": "end", "state": "complete"})

    def warm_up(self, work_for_all: Callable[[], object]) -> bool:
        """Do once, before any fork, what every child would do alone; whether it could be done.

        An exception is left to the children, whose probes then show it.  A crash ends the host after the frame
        `warming`, and the runner launches again with `warm: false`.
        """
        self.emit({"kind": "warming"})
        started = time.perf_counter()
        try:
            work_for_all()
        except BaseException as error:
            self.emit(cast(ColdFrame, {"kind": "cold", **work.describe(error)}))
            return False
        self.emit({"kind": "warm", "seconds": time.perf_counter() - started})
        return True

    def ask_torch(self, known: Facts) -> None:
        """Add what torch says of itself and of the GPUs; it is asked in a child, since the answer initialises CUDA."""
        if "torch" not in known["packages"]:
            return
        process = Process.fork(_torch_facts, self.descriptor)
        try:
            said: Any = process.read(time.monotonic() + self.order["timeout_s"])
            known.update(said)
        except (Died, TimedOut) as error:
            known["torch_error"] = {"message": f"{type(error).__name__}: {error}", "output": process.output()}
        finally:
            process.close()

    def look_for(self, known: Facts) -> None:
        """Add the tools and services that the image is said to offer."""
        expects = self.order["expects"]
        for name in expects["tools"]:
            path = shutil.which(name)
            if path:
                known["tools"][name] = path
        known["services"] = services.ask(expects["services"])


def device_under_test(order: WorkOrder, gpus: List[GpuFacts]) -> Tuple[str, str]:
    """Kind and name of the device that the probes work on; `auto` is a GPU where torch sees one."""
    device = ("cuda" if gpus else "cpu") if order["device"] == "auto" else order["device"]
    return device, gpus[0]["name"] if gpus and device == "cuda" else "CPU"


def _compiles_in_forks(cells: List[CellOrder]) -> int:
    """How many forked children will call torch.compile."""
    return sum(len(cell["members"]) for cell in cells if "compile" in cell["probes"] and cell["isolation"] != "fresh")


def _torch_facts(channel: work.Channel, commands: int) -> None:
    try:
        said = facts.gather_torch()
    except BaseException as error:
        said = {"torch_error": work.describe(error)}
    work.leave(channel, said)


def main(arguments: List[str]) -> NoReturn:
    """Read the order, keep standard output for frames alone, and work."""
    parser = argparse.ArgumentParser()
    parser.add_argument("order", help="file that holds the work order")
    parser.add_argument("--overlays", default="", help="folder that holds the overlays by their keys")
    parser.add_argument("--watch-stdin", action="store_true", help="end when standard input is closed")
    options = parser.parse_args(arguments)
    with open(options.order) as stream:
        order: WorkOrder = json.load(stream)
    descriptor = os.dup(1)  # not inheritable across exec
    os.dup2(2, 1)
    os.environ.setdefault("PYTORCH_NVML_BASED_CUDA_CHECK", "1")
    os.environ.setdefault("TORCHINDUCTOR_COMPILE_THREADS", "1")  # the parent's pool of workers would not survive a fork
    if order["threads"]:
        os.environ.setdefault("OMP_NUM_THREADS", str(order["threads"]))
    _adopt_orphans()

    def stop(number: int, frame: Any) -> NoReturn:
        sweep(everything=True)
        os._exit(128 + number)

    signal.signal(signal.SIGTERM, stop)
    if options.watch_stdin:
        stop_with_parent()
    if order["compile_cache"]:
        _keep_headers()
    try:
        Host(order, descriptor, options.overlays).run()
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
