"""The evidence that a pass needs: device, dtype, moments, seeds, gradients, learning.

A probe calls these on the library's results; each raises `Broken` with a stable reason code at the first sign of a
broken library.  torch is imported inside the functions: the probe host reads this module
before it knows whether the image holds torch at all.
"""

from __future__ import annotations

import contextlib
import gc
import math
import os
import re
import time
from typing import Any, Callable, Dict, Iterator, List, Mapping, Optional, Sequence, Tuple

from . import precision
from .devicework import DeviceWork

CODES = {
    "wrong-version": "the imported module is not the requested version",
    "wrong-location": "the module was not imported from its install",
    "environment-changed": "torch or another package of the image is no longer the image's own",
    "wrong-device": "a result is not on the device under test, or the library did not work there",
    "wrong-dtype": "a result has another dtype than its input",
    "wrong-shape": "a result has another shape than it must have",
    "wrong-value": "a result differs from its reference by more than the stated tolerance",
    "wrong-moments": "draws do not have the mean or the spread that they must have",
    "not-finite": "a result holds NaN or infinity",
    "seed-ignored": "the same seed does not give the same draw",
    "repeated-draw": "another seed, or the next draw, gives the same draw again",
    "no-gradient": "no gradient reaches a parameter",
    "zero-gradient": "the gradient of a parameter is zero where it cannot be",
    "wrong-gradient": "a gradient differs from its float64 reference or from finite differences",
    "does-not-train": "the loss does not fall in training",
    "not-compiled": "torch.compile ran the function eagerly",
    "compile-mismatch": "the compiled function gives another result than the eager one",
}
"""Reason codes of evidence, with their meaning; the runner's rules find further codes in exceptions."""

TOLERANCE = {
    "float16": (2e-2, 2e-2),
    "bfloat16": (5e-2, 5e-2),
    "float32": (1e-4, 1e-5),
    "float64": (1e-7, 1e-9),
}
"""dtype -> (relative, absolute) tolerance: about a thousand units in the last place, as torch.testing's are ten."""

SIGMAS = 6.5
"""How many standard errors a moment may be off: two-sided 8e-11 for one number, below 1e-7 for a thousand."""


class Broken(Exception):
    """The library does not do what it should."""

    def __init__(self, code: str, message: str) -> None:
        super().__init__(message)
        self.code = code


class NotApplicable(Exception):
    """The probe does not apply here, for the reason in the message; shown as a skip, never as a pass."""


class LeftOut(NotApplicable):
    """A part that cannot run for lack of a tool or on an old device; the message is noted, the other parts decide."""


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
        """The backend that compiles a function of many kernels, such as a training step: C++ takes half a minute."""
        return "inductor" if self.device.type == "cuda" else "aot_eager"

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
            yield
            self.synchronize()
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


def require(condition: Any, code: str, message: str) -> None:
    """Raise `Broken(code, message)` unless the condition holds."""
    if code not in CODES:
        raise KeyError(f"unknown reason code {code!r}")
    if not condition:
        raise Broken(code, message)


def on_device(tensor: Any, device: Any, what: str) -> None:
    """Require that the tensor lies on the device under test."""
    require(tensor.device.type == device.type, "wrong-device", f"{what} is on {tensor.device}, not on {device}")


def of_dtype(tensor: Any, dtype: Any, what: str) -> None:
    """Require that the tensor has this dtype."""
    require(tensor.dtype == dtype, "wrong-dtype", f"{what} is {tensor.dtype}, not {dtype}")


def of_shape(tensor: Any, shape: Sequence[int], what: str) -> None:
    """Require that the tensor has this shape."""
    require(
        tuple(tensor.shape) == tuple(shape),
        "wrong-shape",
        f"{what} has shape {tuple(tensor.shape)}, not {tuple(shape)}",
    )


def finite(tensor: Any, what: str) -> None:
    """Require that no element is NaN or infinite."""
    import torch

    bad = int((~torch.isfinite(tensor)).sum())
    require(bad == 0, "not-finite", f"{what} has {bad} of {tensor.numel()} elements that are NaN or infinite")


def sound(tensor: Any, like: Any, what: str) -> None:
    """Require that the tensor is finite, and has the device and dtype of `like`."""
    on_device(tensor, like.device, what)
    of_dtype(tensor, like.dtype, what)
    finite(tensor, what)


def close(
    actual: Any,
    expected: Any,
    what: str,
    rtol: Optional[float] = None,
    atol: Optional[float] = None,
    code: str = "wrong-value",
) -> None:
    """Require that every element lies within the tolerance of the coarser dtype (TOLERANCE), or within the given one.

    The absolute tolerance is scaled by the largest reference element, so that sums of large terms are not blamed.
    """
    import torch

    actual, expected = torch.as_tensor(actual).detach().cpu(), torch.as_tensor(expected).detach().cpu()
    of_shape(actual, expected.shape, what)
    finite(actual, what)
    coarse = [TOLERANCE.get(str(t.dtype).replace("torch.", ""), (0.0, 0.0)) for t in (actual, expected)]
    rtol = max(r for r, _ in coarse) if rtol is None else rtol
    atol = max(a for _, a in coarse) if atol is None else atol
    actual, expected = actual.double(), expected.double()
    if not expected.numel():
        return
    scale = max(1.0, float(expected.abs().max()))
    off = (actual - expected).abs() - rtol * expected.abs()
    worst = float((actual - expected).abs().max())
    require(
        float(off.max()) <= atol * scale,
        code,
        f"{what} is off by up to {worst:.3g} (rtol {rtol:g}, atol {atol * scale:g})",
    )


def moments(draws: Any, mean: Any, std: Any, what: str, sigmas: float = SIGMAS) -> None:
    """Require that mean and standard deviation of independent draws (first axis) lie within `sigmas` standard errors.

    The standard error of the mean is std / sqrt(n), that of the deviation std * sqrt((kurtosis - 1) / 4n) with the
    sample's kurtosis, at least the normal's 3 (delta method).  20,000 draws show a scale that is off by 2 percent of
    a normal's.
    """
    import torch

    draws = draws.detach().double().cpu()
    count = draws.shape[0]
    mean = torch.as_tensor(mean).detach().double().cpu()
    std = torch.as_tensor(std).detach().double().cpu()
    finite(draws, what)
    seen_mean, seen_std = draws.mean(0), draws.std(0)
    z_mean = ((seen_mean - mean).abs() / (std / math.sqrt(count))).max()
    require(
        float(z_mean) <= sigmas,
        "wrong-moments",
        f"mean of {what} is {float(z_mean):.1f} standard errors from its analytic value ({count} draws)",
    )
    kurtosis = (((draws - seen_mean) / seen_std.clamp_min(1e-300)) ** 4).mean(0).clamp_min(3.0)
    z_std = ((seen_std - std).abs() / (std * ((kurtosis - 1) / (4 * count)).sqrt())).max()
    require(
        float(z_std) <= sigmas,
        "wrong-moments",
        f"standard deviation of {what} is {float(z_std):.1f} standard errors from its analytic value ({count} draws)",
    )


def seeded(draw: Callable[[], Any], what: str, seed: Callable[[int], Any]) -> None:
    """Require that the same seed gives the same draw, and that another seed and the next draw give others."""
    import torch

    seed(1)
    first, following = draw().detach().clone(), draw().detach().clone()
    seed(1)
    again = draw().detach()
    seed(2)
    other = draw().detach()
    require(torch.equal(first, again), "seed-ignored", f"{what}: seed 1 gave two different draws")
    require(not torch.equal(first, other), "repeated-draw", f"{what}: seeds 1 and 2 gave the same draw")
    require(not torch.equal(first, following), "repeated-draw", f"{what}: two draws in a row are the same")


def reached(named: Mapping[str, Any], what: str, may_be_zero: Sequence[str] = ()) -> None:
    """Require that every named parameter has a finite, nonzero gradient on its own device after a backward pass."""
    require(len(named) > 0, "no-gradient", f"{what} has no parameters to reach")
    for name, parameter in named.items():
        gradient = parameter.grad
        require(gradient is not None, "no-gradient", f"{what}: no gradient reaches {name}")
        on_device(gradient, parameter.device, f"{what}: gradient of {name}")
        finite(gradient, f"{what}: gradient of {name}")
        require(
            name in may_be_zero or bool((gradient != 0).any()), "zero-gradient", f"{what}: gradient of {name} is zero"
        )


def differentiable(
    function: Callable[..., Any], inputs: Sequence[Any], what: str, step: float = 1e-6, rtol: float = 1e-4
) -> None:
    """Require that autograd's derivative of a scalar function equals central differences, along a direction per input.

    Inputs are float64 tensors (differences in float32 would drown in rounding); the function must be deterministic.
    With a direction per input, a gradient that is detached, zero or wrong in one input cannot hide behind another.
    """
    import torch

    inputs = [tensor.detach().double().requires_grad_() for tensor in inputs]
    value = function(*inputs)
    require(value.requires_grad, "no-gradient", f"{what} is detached from its inputs")
    gradients = torch.autograd.grad(value, inputs, allow_unused=True)
    generator = torch.Generator().manual_seed(7)
    for index, (tensor, gradient) in enumerate(zip(inputs, gradients)):
        require(gradient is not None, "no-gradient", f"{what}: no gradient reaches input {index}")
        finite(gradient, f"{what}: gradient of input {index}")
        direction = torch.randn(tensor.shape, generator=generator, dtype=torch.float64).to(tensor.device)
        shifted = list(inputs)
        with torch.no_grad():
            shifted[index] = tensor + step * direction
            above = function(*shifted)
            shifted[index] = tensor - step * direction
            below = function(*shifted)
        numeric = float((above - below).detach()) / (2 * step)
        analytic = float((gradient * direction).sum())
        scale = max(abs(numeric), float(gradient.norm()) * 1e-2, 1e-8)
        require(
            abs(numeric - analytic) <= rtol * scale + 1e-7,
            "wrong-gradient",
            f"{what}: derivative along input {index} is {analytic:.6g}, finite differences give {numeric:.6g}",
        )


def falls(losses: Sequence[float], what: str, drop: float = 0.1) -> None:
    """Require that the mean loss of the last fifth is below the first fifth's by `drop` of the first's magnitude."""
    require(all(math.isfinite(loss) for loss in losses), "not-finite", f"{what}: the loss became NaN or infinite")
    fifth = max(1, len(losses) // 5)
    first, last = sum(losses[:fifth]) / fifth, sum(losses[-fifth:]) / fifth
    require(
        last < first - drop * abs(first),
        "does-not-train",
        f"{what}: loss went from {first:.4g} to {last:.4g} in {len(losses)} steps, less than {drop:.0%} down",
    )
