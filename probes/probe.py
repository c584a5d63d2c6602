"""A probe at work: its device, settings and parts, its measurements, and the steps that it leaves out."""

from __future__ import annotations

import contextlib
import gc
import os
import re
import time
from typing import Any, Callable, Dict, Iterator, List, Mapping, Optional, Sequence, Tuple

from . import fingerprint, precision
from .contract import Numbers
from .devicework import DeviceWork
from .evidence import LeftOut, NotApplicable, require

MISSING_TOOL = re.compile(
    r"(lib[\w+-]+\.so|shared object|dlopen)[^\n]*(cannot open|not found|no such file)|failed to open libnvrtc"
    r"|find (a )?(working )?(C\+* compiler|triton)|compiler[^\n]* (not found|is not available)|InvalidCxxCompiler"
    r"|Python\.h: No such file|ptxas[^\n]*(not found|No such file)"
    r"|No such file[^\n]*'(\S*/)?(gcc|cc|c\+\+|g\+\+|clang|ptxas|nvcc)'",
    re.IGNORECASE,
)
"""Messages about a missing compiler, header or library, which are no evidence against torch."""


class Probe:
    """A question put to a library: its device and settings, its metrics, notes and parts.

    `device` is a torch.device; `seed` varies between repetitions; `full` asks for the articles' own step counts;
    `thorough`, on a GPU and where the run is full, for work that takes a CPU core too long: compiling for several
    sizes.  `precision` holds the image's and library's settings for float32 (precision.found): probes compare without
    TF32.  From `begin` on, the library's work on a GPU is counted (devicework).
    """

    def __init__(self, device: str, seed: int = 0, full: bool = False) -> None:
        import torch

        self.device = torch.device(device)
        self.seed = seed
        self.full = full
        self.thorough = full or self.device.type == "cuda"
        self.metrics: Dict[str, Dict[str, Any]] = {}
        self.notes: List[str] = []
        self.parts: List[Dict[str, Any]] = []
        self.numerics: Dict[str, Numbers] = {}
        self.failures: List[BaseException] = []
        self.precision = precision.found()
        precision.choose(tf32=False)
        self.work: Optional[DeviceWork] = None

    def begin(self, library: str, elsewhere: str = "") -> None:
        """Count the work of the module `library` on a GPU from here on; raises the error that keeps CUDA from starting.

        `elsewhere` says why another process does its work; this process then leaves the GPU alone.
        """
        if self.device.type == "cuda" and elsewhere:
            self.note(f"device: {elsewhere}")
        elif self.device.type == "cuda":
            self.work = DeviceWork(self.device, library)
            self.work.start()

    @property
    def heavy_backend(self) -> str:
        """The backend that compiles a function of many kernels, such as a training step, or of several shapes.

        On a CPU each of inductor's kernels is a run of g++, of a second or more: there a probe gives inductor one
        function, and has the rest cut up by Dynamo and AOTAutograd alone.
        """
        return "inductor" if self.device.type == "cuda" else "aot_eager"

    @property
    def broken_backend(self) -> str:
        """The backend for a function that breaks into dozens of graphs: on a CPU Dynamo alone takes half a minute."""
        return self.heavy_backend if self.thorough else "eager"

    def metric(self, name: str, value: float, unit: str) -> None:
        """Record a measured number with its unit (`s`, `bytes`, `ratio`, `count`, `1/s`)."""
        self.metrics[name] = {"value": float(value), "unit": unit}

    def note(self, text: str) -> None:
        """Record a finding that is neither a pass nor a failure."""
        self.notes.append(text)

    @contextlib.contextmanager
    def part(self, name: str) -> Iterator[None]:
        """A named step of the probe: its failure is recorded and the next parts still run.

        A kernel's error shows at the part that launched it.  `NotApplicable` inside a part leaves that part out, with
        its reason.
        """
        started = time.perf_counter()
        entry: Dict[str, Any] = {"name": name, "status": "passed"}
        precision.choose(tf32=False)  # an earlier part may have changed it
        if self.work is not None:
            self.work.leave_if_enough()
        try:
            with fingerprint.taking() as results:
                yield
            self.synchronize()
            self.keep(name, results)
        except NotApplicable as error:
            entry.update(status="skipped", message=str(error))
            if isinstance(error, LeftOut):
                self.note(f"{name}: left out: {error}")
        except Exception as error:
            entry.update(
                status="failed", code=getattr(error, "code", ""), message=f"{type(error).__name__}: {error}"[:2000]
            )
            self.failures.append(error)
        finally:
            entry["seconds"] = round(time.perf_counter() - started, 4)
            self.parts.append(entry)

    def keep(self, part: str, results: Mapping[str, Numbers]) -> None:
        """Add the results of a part to the fingerprint: those of the first seed, since inputs differ under others."""
        if self.seed == 0 and not self.full:
            named = {f"{part}: {what}": numbers for what, numbers in results.items()}
            self.numerics.update(list(named.items())[: max(0, fingerprint.MOST_RESULTS - len(self.numerics))])

    def finish(self) -> None:
        """Raise the first failure, with the names of all failed parts; NotApplicable if no part applied.

        On a GPU a pass needs proof that the library worked there.
        """
        proof = None if self.work is None else self.work.numbers()
        failed = [entry["name"] for entry in self.parts if entry["status"] == "failed"]
        if proof is not None:
            self.metric("peak device memory", proof["peak"] or 0, "bytes")
            self.metric("device allocations", proof["allocations"] or 0, "count")
            if proof["operators"] is not None:
                self.metric("device operators", proof["operators"], "count")
        if failed:
            first = self.failures[0]
            self.note("failed parts: " + ", ".join(failed))
            raise first
        if self.parts and all(entry["status"] == "skipped" for entry in self.parts):
            raise NotApplicable("; ".join(entry["name"] + ": " + entry["message"] for entry in self.parts))
        if proof is not None:
            require(proof["allocations"], "wrong-device", f"nothing took memory on {self.device}")
            require(proof["operators"] != 0, "wrong-device", f"the library ran no operator on {self.device}")

    def count_all(self) -> None:
        """Count all work on the device, for a library that leaves all computing to torch."""
        if self.work is not None:
            self.work.library = ""

    def uncounted(self) -> Any:
        """A context in which operators on the device are not counted: around torch.compile, and around timing."""
        return contextlib.nullcontext() if self.work is None else self.work.paused()

    def generator(self, offset: int = 0) -> Any:
        """A torch.Generator on the CPU seeded from the probe's seed: the same data on every device."""
        import torch

        return torch.Generator().manual_seed(self.seed * 1000 + offset)

    def randn(self, *shape: int, offset: int = 0, dtype: Any = None) -> Any:
        """Standard normal data of that shape on the device under test, the same on every device."""
        import torch

        return torch.randn(*shape, generator=self.generator(offset), dtype=dtype or torch.float32).to(self.device)

    def bfloat16(self) -> str:
        """How the device computes in bfloat16, according to torch: `natively`, `by emulation`, or not at all (empty).

        torch is asked as by autocast: without an argument, which newer torch takes for "or emulated".
        """
        import torch

        if self.device.type != "cuda":
            return "natively"
        if not torch.cuda.is_bf16_supported():
            return ""
        return "natively" if torch.cuda.get_device_properties(self.device).major >= 8 else "by emulation"

    def collectives(self) -> str:
        """The backend of a process group with a single member: NCCL on a GPU, gloo elsewhere; both over loopback.

        An image may name an interface (NCCL_SOCKET_IFNAME=eth0), which a container without a network does not have.
        """
        os.environ.update(NCCL_SOCKET_IFNAME="lo", GLOO_SOCKET_IFNAME="lo")
        return "nccl" if self.device.type == "cuda" else "gloo"

    def free_memory(self, needed: int) -> None:
        """Leave the part out on a GPU with less free memory, in bytes, and on a CPU, whose peak is not counted."""
        import torch

        if self.device.type != "cuda":
            raise NotApplicable("peak memory is counted on GPUs only")
        free = int(torch.cuda.mem_get_info()[0])
        if free < needed:
            raise LeftOut(f"needs {needed / 2**30:.0f} GiB of free device memory, here are {free / 2**30:.1f}")

    def synchronize(self) -> None:
        """Wait for the device, so that errors of kernels show here and times are complete."""
        if self.device.type == "cuda":
            import torch

            torch.cuda.synchronize(self.device)

    def seconds(self, function: Callable[[], Any], repeat: int = 5) -> float:
        """Median wall time of a call in seconds, after a first call that does not count."""
        with self.uncounted():
            function()
            self.synchronize()
            times = []
            for _ in range(repeat):
                started = time.perf_counter()
                function()
                self.synchronize()
                times.append(time.perf_counter() - started)
        return sorted(times)[len(times) // 2]

    def device_seconds(self, function: Callable[[], Any], calls: int = 10, repeat: int = 5) -> float:
        """Median time of a call, over `calls` in a row, by the device's own clock; wall time on a CPU."""
        if self.device.type != "cuda":
            return self.seconds(function, repeat)
        import torch

        times = []
        with self.uncounted():
            function()
            for _ in range(repeat):
                begin, end = (torch.cuda.Event(enable_timing=True) for _ in range(2))
                begin.record()
                for _ in range(calls):
                    function()
                end.record()
                self.synchronize()
                times.append(begin.elapsed_time(end) / 1000 / calls)
        return float(sorted(times)[len(times) // 2])

    def peak_memory(self, function: Callable[[], Any]) -> Optional[int]:
        """Peak device memory of a call above the memory held before it, in bytes; None on the CPU.

        A first call does not count: the first product of a process makes a workspace that stays (32 MiB for cuBLAS on
        Hopper), which would count against the first function.
        """
        if self.device.type != "cuda":
            return None
        import torch

        with self.uncounted():
            function()
            gc.collect()
            self.synchronize()
            if self.work is not None:
                self.work.keep_peak()
            torch.cuda.reset_peak_memory_stats(self.device)
            before = torch.cuda.memory_allocated(self.device)
            function()
            self.synchronize()
            return int(torch.cuda.max_memory_allocated(self.device) - before)


def without_missing_tool(ways: Sequence[Tuple[str, Callable[[], Any]]]) -> Tuple[str, Any]:
    """The name and result of the first way whose tools are there; the name tells what earlier ways lack.

    Raises `LeftOut`, with what each way lacks, where no way has its tools; any other error of a way is raised.
    """
    lacking: List[str] = []
    for name, way in ways:
        try:
            result = way()
            return name + "".join(f"; not by {other}" for other in lacking), result
        except NotApplicable as error:
            lacking.append(f"{name}: {error}")
        except Exception as error:
            message = f"{type(error).__name__}: {error}"
            if not isinstance(error, (OSError, ImportError)) and not MISSING_TOOL.search(message):
                raise
            lacking.append(f"{name}: {message}"[:500])
    raise LeftOut("; ".join(lacking))
