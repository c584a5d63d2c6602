"""The probe host: a warm process per image, a forked child per cell, a forked child of that per probe.

It takes a work order (JSON), imports torch without initialising CUDA, and does nothing else in its own process: threads
and CUDA contexts do not survive a fork.  Its answers leave as frames on the descriptor that was standard output when
it started:

    compat/2 MARK SEQUENCE JSON

No output of a library can be mistaken for a frame: descriptor 1 is turned to standard error before any import, and the
mark is new for each launch, made here and named by the first frame.  No library can write one: children do not have
that descriptor, and cannot reach it through this process (walls).  Each answers over a channel of its own, whatever it
says is checked, and it speaks for the probe that it was asked and for no other.
"""

from __future__ import annotations

import argparse
import gc
import importlib
import json
import os
import secrets
import shutil
import signal
import time
from typing import Any, Callable, List, NoReturn, Union, cast

from . import child as work
from . import facts, own, services
from .cell import COMPILE, Cell, Launch, keys_of
from .channel import BadAnswer, Channel, Messages
from .commands import Commands
from .compiling import precompile, prepare
from .contract import ColdFrame, Facts, Frame, WorkOrder
from .exceptions import describe
from .process import Died, Process, TimedOut, stop_with_parent, sweep
from .shared import Changed, Shared, header_folder
from .walls import ADOPT_ORPHANS, hide, prctl

START_S = 30.0
"""Seconds for the start of a fresh process where it is not known how long torch takes to import here."""


class Host:
    """Works through an order; every answer is emitted as soon as it is known.

    Frames are written to `descriptor`; `overlays` is the folder that holds the overlays by their keys; `hidden` says
    whether children are kept from looking into this process; `ahead`, whether the runner compiles ahead for this
    stand-in, and says over the same descriptor what came of it.
    """

    def __init__(self, order: WorkOrder, descriptor: int, overlays: str, hidden: bool, ahead: bool = False) -> None:
        self.order = order
        self.ahead = ahead
        self.runner = Messages(descriptor, "ahead")
        self.descriptor = descriptor
        self.overlays = overlays
        self.hidden = hidden
        self.until = time.monotonic() + order["deadline_s"]
        self.mark = secrets.token_hex(16)
        self.sequence = 0

    def emit(self, frame: Frame) -> None:
        """Write a frame."""
        self.sequence += 1
        body = json.dumps(frame, default=str)
        data = f"compat/2 {self.mark} {self.sequence} {body}\n".encode()
        while data:
            data = data[os.write(self.descriptor, data) :]

    def run(self) -> None:
        """Warm up, tell the facts, then work through the cells in their order, and once more for what compiles."""
        os.write(self.descriptor, b"\n")  # whoever printed before, from a `.pth` file say, may have left a line open
        self.emit({"kind": "hello", "pid": os.getpid()})
        known = facts.gather(self.hidden)  # before any import: setuptools puts its bundled packages on the path
        started = time.monotonic()
        warm = self.order["warm"] and self.warm_up(lambda: importlib.import_module("torch"))
        start_s = 5.0 + 5 * (time.monotonic() - started) if warm else START_S
        self.ask_torch(known)
        self.look_for(known)
        self.emit({"kind": "facts", "facts": known})
        if self.order["device"] == "cuda" and not known["gpus"]:
            self.emit({"kind": "end", "state": "no-device"})  # nothing may pass on a CPU in the GPU's place
            return
        device, name = self.order["device"], known["gpus"][0]["name"] if known["gpus"] else "CPU"
        for distribution in {member["distribution"] for cell in self.order["cells"] for member in cell["members"]}:
            _import_probes(distribution)
        overlays = [os.path.join(self.overlays, key) for cell in self.order["cells"] for key in keys_of(cell)]
        shared = Shared(overlays)
        launch = Launch(
            order=self.order,
            overlays=self.overlays,
            packages=known["packages"],
            device=device,
            device_name=name,
            start_s=start_s,
            warm=warm,
            until=self.until,
            shared=shared,
        )
        cells: List[Union[Cell, Commands]] = [
            (Commands if cell["commands"] else Cell)(cell, launch, self.emit, self.descriptor)
            for cell in self.order["cells"]
        ]
        try:
            self.take_ahead(shared, 0)
            # the children that will call torch.compile and are forked from this process
            compiling = sum(probe == COMPILE for cell in cells if cell.warm for probe, _ in cell.questions)
            if compiling:  # every optimizer of torch imports it
                self.warm_up(lambda: importlib.import_module("torch._dynamo"))
            for cell in cells:
                cell.run(compiling=False)
            if any(cell.questions for cell in cells):
                self.take_ahead(shared, self.order["timeout_s"])
            if compiling:
                self.warm_up(lambda: prepare(device))
                if device == "cpu" and compiling > 1 and not shared.seeded:  # a single child does it for itself
                    self.wait_for(precompile)
                    shared.take_headers()
            for cell in cells:
                cell.run(compiling=True)
        except TimedOut:
            self.emit({"kind": "end", "state": "deadline"})
        except Changed as changed:
            self.emit({"kind": "end", "state": changed.state})
        else:
            self.emit({"kind": "end", "state": "complete"})

    def take_ahead(self, shared: Shared, wait_s: float) -> None:
        """Take what the runner has compiled ahead, if it says within that time what there is."""
        told: Any = self.runner.wait(time.monotonic() + wait_s) if self.ahead else None
        if told is not None:
            self.ahead = False
            if told["sealed"]:
                shared.take_ahead(told["sealed"])

    def warm_up(self, work_for_all: Callable[[], object]) -> bool:
        """Do the common work of all children once, before any fork; return whether it succeeded.

        An exception is left to the children, whose probes then show it.  A crash ends the host after the frame
        `warming`, and the runner launches again with `warm: false`.
        """
        self.emit({"kind": "warming"})
        started = time.perf_counter()
        try:
            work_for_all()
        except BaseException as error:
            self.emit(cast(ColdFrame, {"kind": "cold", **describe(error)}))
            return False
        gc.freeze()  # else each collection in a child copies the pages of all that was imported here
        self.emit({"kind": "warm", "seconds": time.perf_counter() - started})
        return True

    def ask_torch(self, known: Facts) -> None:
        """Add torch's own facts, and on a GPU start CUDA; in a child, since this spoils forks."""
        if "torch" not in known["packages"]:
            return
        on_gpu = self.order["device"] == "cuda"
        process = Process.fork(lambda channel, commands: _torch_facts(channel, on_gpu), self.descriptor)
        try:
            for error in ("torch_error", "cuda_error")[: 1 + on_gpu]:
                try:
                    answer: Any = process.read(time.monotonic() + self.order["timeout_s"])
                    del answer["kind"]
                except (Died, TimedOut, BadAnswer) as lost:
                    answer = {error: {"message": f"{type(lost).__name__}: {lost}", "output": process.output()}}
                known.update(answer)
                if "torch_error" in known:
                    break
        finally:
            process.close()

    def wait_for(self, work_of_a_child: Callable[[], None]) -> None:
        """Let a child that holds no library do something, whether or not it succeeds."""
        process = Process.fork(lambda channel, commands: work_of_a_child(), self.descriptor)
        try:
            process.read(time.monotonic() + self.order["timeout_s"])
        except (Died, TimedOut):
            pass
        finally:
            process.close()

    def look_for(self, known: Facts) -> None:
        """Add the tools and services that `expects:` names."""
        expects = self.order["expects"]
        for name in expects["tools"]:
            path = shutil.which(name)
            if path:
                known["tools"][name] = path
        known["services"] = services.ask(expects["services"])


def _import_probes(distribution: str) -> None:
    """Import our probes of a library before it runs, so that this process never takes them from a changed file.

    The user's own are in memory, and may import the library at their head: they run in its children alone.
    """
    try:
        if not own.has(work.stem(distribution)):
            work.probe_module(distribution)
    except BaseException:
        pass  # the library's own child shows this


def _torch_facts(channel: Channel, on_gpu: bool) -> None:
    """Send how torch was built and, on a GPU, in a second message how CUDA started."""
    try:
        channel.say({"kind": "facts", "torch": facts.gather_torch()})
    except BaseException as error:
        work.leave(channel, {"kind": "facts", "torch_error": describe(error)})
    if not on_gpu:
        os._exit(0)
    try:
        work.leave(channel, {"kind": "facts", "gpus": facts.start_cuda()})
    except BaseException as error:
        work.leave(channel, {"kind": "facts", "cuda_error": describe(error)})


def main(arguments: List[str]) -> NoReturn:
    """Read the order, reserve standard output for frames, and work."""
    parser = argparse.ArgumentParser()
    parser.add_argument("order", help="file that holds the work order; - for the first line of standard input")
    parser.add_argument("--overlays", default="", help="folder that holds the overlays by their keys")
    parser.add_argument("--compiled-ahead", action="store_true", help="the runner will say what it has compiled ahead")
    parser.add_argument("--watch-stdin", action="store_true", help="end when standard input is closed")
    options = parser.parse_args(arguments)
    order: WorkOrder = json.loads(_order(options.order))
    own.install(order["modules"])
    hidden = hide()
    descriptor = os.dup(1)  # not inheritable across exec
    os.dup2(2, 1)
    settle(order["threads"])
    prctl(ADOPT_ORPHANS, 1)  # a probe's leftover processes, so that they can be found

    def stop(number: int, frame: Any) -> NoReturn:
        sweep(everything=True)
        os._exit(128 + number)

    if os.getpid() != 1:  # no signal reaches process 1 of a container from inside, unless it handles that
        signal.signal(signal.SIGTERM, stop)
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    if options.watch_stdin:
        stop_with_parent()
    os.dup2(os.open(os.devnull, os.O_RDONLY), 0)
    if order["compile_cache"]:
        _keep_headers()
    try:
        Host(order, descriptor, options.overlays, hidden, options.compiled_ahead).run()
    except BaseException:
        work.show_lowered_limits()
        raise
    finally:
        sweep(everything=True)
    os._exit(0)  # unloading torch module by module would take most of a second


def settle(threads: int) -> None:
    """Set the variables with which all of a cell's processes run; `threads` is their share of the cores, 0 all."""
    os.environ.setdefault("PYTORCH_NVML_BASED_CUDA_CHECK", "1")
    os.environ.setdefault("TORCHINDUCTOR_COMPILE_THREADS", "1")  # the parent's pool of workers would not survive a fork
    if threads:
        os.environ.setdefault("OMP_NUM_THREADS", str(threads))


def _order(name: str) -> bytes:
    """The content of the file, or the first line of standard input, where nothing behind it is read."""
    if name != "-":
        with open(name, "rb") as stream:
            return stream.read()
    line = b""
    while not line.endswith(b"\n"):
        byte = os.read(0, 1)
        if not byte:
            raise EOFError("standard input ends within the order")
        line += byte
    return line


def _keep_headers() -> None:
    """Inductor precompiles headers (4 s) in the temporary folder, whatever TORCHINDUCTOR_CACHE_DIR says."""
    try:
        os.symlink(os.environ["TORCHINDUCTOR_CACHE_DIR"], header_folder())
    except (FileExistsError, KeyError):
        pass
