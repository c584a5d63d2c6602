"""What a GPU would do to a probe, done on a CPU with the real torch: run inside an environment by tests/integration.

`python -m tests.support.simulated CASE [ARGUMENT ...]` prints what came of the case as one line of JSON; without a case
it reads cases from standard input, each a line of JSON, and answers each in a fork of its own, so that they share what
importing torch takes.
"""

from __future__ import annotations

import contextlib
import importlib
import json
import os
import sys
import traceback
import types
import weakref
from collections.abc import Callable, Iterator
from typing import Any
from unittest import mock

import torch
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.utils._python_dispatch import TorchDispatchMode

from torch_compat_matrix.probes import compiling, evidence, precision
from torch_compat_matrix.probes.child import answer
from torch_compat_matrix.probes.devicework import DeviceWork
from torch_compat_matrix.probes.libraries import _torch_image as image
from torch_compat_matrix.probes.libraries import deepspeed
from torch_compat_matrix.probes.probe import Probe

WORKSPACE = 32 << 20
"""Bytes that cuBLAS keeps for itself on Hopper from its first product on (pytorch#120925)."""


class Tf32(TorchDispatchMode):  # type: ignore[misc]
    """Products and convolutions round their float32 factors to ten bits of mantissa wherever the flags allow it."""

    def __torch_dispatch__(self, function: Any, types: Any, arguments: Any = (), options: Any = None) -> Any:
        name = function.overloadpacket.__name__
        allowed = (name in ("mm", "addmm", "bmm", "baddbmm") and torch.backends.cuda.matmul.allow_tf32) or (
            "convolution" in name and torch.backends.cudnn.allow_tf32
        )
        if allowed:
            arguments = [rounded(each) for each in arguments]
        return function(*arguments, **(options or {}))


def rounded(value: Any) -> Any:
    """A float32 tensor as TF32 keeps it: rounded to the nearest of ten bits of mantissa."""
    if not isinstance(value, torch.Tensor) or value.dtype != torch.float32:
        return value
    return ((value.contiguous().view(torch.int32) + 0x1000) & ~0x1FFF).view(torch.float32)


class Allocator(TorchDispatchMode):  # type: ignore[misc]
    """Counts the bytes of living tensors as a GPU's allocator would; the first product makes a workspace that stays."""

    def __init__(self, workspace: int) -> None:
        super().__init__()
        self.workspace = workspace
        self.held = 0
        self.peak = 0

    def __torch_dispatch__(self, function: Any, types: Any, arguments: Any = (), options: Any = None) -> Any:
        out = function(*arguments, **(options or {}))
        if function.overloadpacket.__name__ in ("mm", "addmm"):
            self.take(self.workspace)
            self.workspace = 0
        for tensor in out if isinstance(out, (tuple, list)) else (out,):
            if isinstance(tensor, torch.Tensor) and all(info.alias_info is None for info in function._schema.returns):
                size = tensor.untyped_storage().nbytes()
                self.take(size)
                weakref.finalize(tensor.untyped_storage(), self.take, -size)
        return out

    def take(self, size: int) -> None:
        """That many bytes more, or fewer."""
        self.held += size
        self.peak = max(self.peak, self.held)


@contextlib.contextmanager
def fake_cuda(**changes: Any) -> Iterator[None]:
    """torch.cuda's questions, answered as by a sound GPU unless told otherwise."""
    answers: dict[str, Callable[..., Any]] = {
        "init": lambda: None,
        "synchronize": lambda device=None: None,
        "reset_peak_memory_stats": lambda device=None: None,
        "max_memory_allocated": lambda device=None: 1 << 20,
        "memory_allocated": lambda device=None: 0,
        "memory_stats": mock.Mock(side_effect=[{"allocation.all.allocated": count} for count in (3, 9)]),
        "get_device_properties": lambda device=None: types.SimpleNamespace(major=8, minor=0),
        "is_bf16_supported": lambda: True,
        **changes,
    }
    with contextlib.ExitStack() as stack:
        for name, reply in answers.items():
            stack.enter_context(mock.patch.object(torch.cuda, name, reply, create=True))
        yield


def on_gpu() -> Any:
    """A probe that believes in a GPU, whose tensors lie on the CPU all the same."""
    probe = Probe("cpu")
    probe.device = mock.Mock(type="cuda", wraps=None)
    probe.randn = lambda *shape, offset=0, dtype=None: Probe("cpu").randn(*shape, offset=offset, dtype=dtype)  # type: ignore[method-assign]
    return probe


def planted(kind: str, times: str = "1") -> Any:
    """What a probe says on a GPU of a library that works there, or on the CPU and moves its result, so many times."""
    library = types.ModuleType("planted")
    bodies = {
        "sound": "def double(x):\n    return (2 * x).sin()",
        "disguised": "def double(x):\n    return (2 * x.cpu()).sin().to(x.device)",
        "moves": "def double(x):\n    return x.cpu().to(x.device).clone()",
    }
    exec(bodies[kind], library.__dict__)

    def sample(probe: Probe) -> None:
        x = torch.ones(3, device=probe.device)
        with probe.part("product"):
            for _ in range(int(times)):
                y = library.double(x)
            evidence.on_device(y, probe.device, "product")
            (y + x).exp()  # what the probe does itself on the device is not the library's work
        with probe.part("counting"):
            probe.note("goes on" if probe.work and probe.work.mode else "is over")

    module = types.ModuleType("torch_compat_matrix.probes.libraries.planted")
    module.__dict__.update(DISTRIBUTION="planted", MODULE="planted", sample=sample)
    sys.modules[module.__name__] = module
    with fake_cuda(), FakeTensorMode():
        return answer("sample", "planted", {"device": "cuda"})


def planted_graph(kind: str) -> Any:
    """Operators on the device in what Dynamo hands to its backend; `meta` is the device under test."""

    def sound(x: Any) -> Any:
        return (2 * x).sin()

    def disguised(x: Any) -> Any:
        return (2 * torch.ones(3)).sin().to("meta")

    work, seen = DeviceWork(torch.device("meta")), []

    def backend(graph: Any, examples: Any) -> Any:
        seen.append(work.of_graph(graph, examples))
        return graph.forward

    torch.compile({"sound": sound, "disguised": disguised}[kind], backend=backend)(torch.ones(3, device="meta"))
    return seen


def tf32_alarms(chosen: str, seeds: str) -> Any:
    """How many of so many seeds raise an alarm where image and library allow TF32 everywhere.

    A residual block in float32 is compared with itself as a kernel of TF32 would compute it where it may; and torch's
    own product and convolution with float64.
    """
    alarms = 0
    for seed in range(int(seeds)):
        precision.choose(tf32=True)
        probe = Probe("cpu", seed)
        if chosen == "met":
            precision.choose(tf32=True)
        try:
            with Tf32():
                image.matrix_product(probe)
                image.convolution(probe)
            torch.manual_seed(seed)
            block = torch.nn.Sequential(torch.nn.Conv2d(4, 4, 3, padding=1), torch.nn.ReLU(), torch.nn.Conv2d(4, 4, 3))
            exact = gradient(block, probe)
            with Tf32():
                evidence.close(gradient(block, probe), exact, "residual block", 2e-3, 2e-4)
        except evidence.Broken:
            alarms += 1
    return alarms


def gradient(block: Any, probe: Probe) -> Any:
    """The input's gradient."""
    x = probe.randn(2, 4, 6, 6).requires_grad_()
    block(x).square().sum().backward()
    return x.grad


def tf32_part(factor: str, seeds: str) -> Any:
    """What the part that tests TF32 finds over so many seeds, where products in float32 are off by a factor."""
    exact = torch.Tensor.__matmul__

    def product(left: Any, right: Any) -> Any:
        return exact(left, right) * (float(factor) if left.dtype == torch.float32 else 1)

    found = set()
    for seed in range(int(seeds)):
        probe = on_gpu()
        probe.randn = Probe("cpu", seed).randn
        with fake_cuda(), mock.patch.object(torch.Tensor, "__matmul__", product), Tf32():
            try:
                image.tf32(probe)
                found.add("")
            except evidence.Broken as error:
                found.add(error.code)
    return sorted(found)


def flags_at_comparisons() -> Any:
    """Comparisons of torch's own probes in float32 with a TF32 flag on, where image and library set them all."""
    wrong: list[str] = []
    compared = [0]
    exact = evidence.close

    def close(actual: Any, expected: Any, what: str, *more: Any, **options: Any) -> None:
        compared[0] += 1
        if "tf32" in (precision.found()["products"], precision.found()["convolutions"]):
            wrong.append(what)
        exact(actual, expected, what, *more, **options)

    for name, module in list(sys.modules.items()):
        if name.startswith("torch_compat_matrix.probes") and hasattr(module, "close"):
            module.close = close  # type: ignore[attr-defined]
    original = Probe.part

    @contextlib.contextmanager
    def part(self: Probe, name: str) -> Iterator[None]:  # each leaves the flags set
        with original(self, name):
            yield
        precision.choose(tf32=True)

    Probe.part = part  # type: ignore[method-assign]
    statuses = []
    for name in ("sample", "autograd"):
        precision.choose(tf32=True)
        statuses.append(answer(name, "torch", {"device": "cpu"})["status"])
    return {"statuses": statuses, "compared": compared[0], "wrong": wrong}


def readable_flags() -> Any:
    """What each API says of precision, from each state that an image may be in: none of them raises after a choice."""
    states: list[Callable[[], Any]] = [
        lambda: None,
        lambda: torch.set_float32_matmul_precision("medium"),
        lambda: setattr(torch.backends.cudnn, "allow_tf32", True),
    ]
    if hasattr(torch.backends.cudnn, "conv"):
        states += [
            lambda: setattr(torch.backends, "fp32_precision", "tf32"),
            lambda: setattr(torch.backends.cuda.matmul, "fp32_precision", "tf32"),
            lambda: setattr(torch.backends.cudnn.conv, "fp32_precision", "ieee"),
        ]
    seen = []
    for state in states:
        state()
        before = precision.found()
        precision.choose(tf32=False)
        old = (torch.backends.cuda.matmul.allow_tf32, torch.backends.cudnn.allow_tf32)
        seen.append([before, precision.found(), old, torch.get_float32_matmul_precision()])
    return seen


def _raises(error: Exception) -> Callable[..., Any]:
    def function(*arguments: Any, **options: Any) -> Any:
        raise error

    return function


def run_time_kernel(jiterator: str, compile: str) -> Any:
    """The part of the kernel compiled at run time, where its two ways raise these."""
    errors = {
        "nvrtc": OSError("libnvrtc.so.12: cannot open shared object file: No such file or directory"),
        "dlopen": RuntimeError("Error in dlopen: libnvrtc.so: cannot open shared object file: No such file"),
        "compiler": RuntimeError("Failed to find C compiler. Please specify via CC environment variable."),
        "illegal": RuntimeError("CUDA error: an illegal memory access was encountered"),
    }

    def way(name: str) -> Callable[..., Any]:
        return (lambda left, right: left + right) if name == "works" else _raises(errors[name])

    probe = on_gpu()
    ways = types.SimpleNamespace(_create_jit_fn=lambda code: way(jiterator))
    with (
        fake_cuda(jiterator=ways),
        mock.patch.object(torch, "compile", lambda function: way(compile)),
        probe.part("kernel"),
    ):
        image.vector_add(probe)
    return {**probe.parts[0], "notes": probe.notes}


def attention(refusing: str, words: str) -> Any:
    """The part of attention where one backend, or the default, raises these words."""
    exact = torch.nn.functional.scaled_dot_product_attention
    everything = len(torch.nn.attention._cur_sdpa_kernel_backends())

    def attend(*arguments: Any) -> Any:
        enabled = [backend.name.lower() for backend in torch.nn.attention._cur_sdpa_kernel_backends()]
        if enabled == [refusing] or (refusing == "default" and len(enabled) == everything):
            raise RuntimeError(words)
        return exact(*arguments)

    probe = Probe("cpu")
    with mock.patch.object(torch.nn.functional, "scaled_dot_product_attention", attend), probe.part("attention"):
        image.attention(probe)
    return {**probe.parts[0], "notes": probe.notes}


def old_card() -> Any:
    """The parts in short dtypes on a card without bfloat16."""
    probe = on_gpu()
    with fake_cuda(is_bf16_supported=lambda: False), probe.part("product"):
        image.short_product(probe)
    return {**probe.parts[0], "notes": probe.notes}


def scaled_step(optimiser: str) -> str:
    """The code of what a step in fp16 finds, with an optimiser that steps or not."""
    layer = torch.nn.Linear(64, 32)
    step = torch.optim.SGD.step if optimiser == "steps" else lambda self: None
    try:
        with mock.patch.object(torch.optim.SGD, "step", step):
            image.scaled_step(torch, layer, Probe("cpu").randn(16, 64))
    except evidence.Broken as error:
        return error.code
    return ""


def optional_build(nvcc: str) -> Any:
    """DeepSpeed's op of `--full` where torch sees a GPU, with nvcc in that folder or nowhere."""
    probe = Probe("cpu", full=True)
    module = types.ModuleType("deepspeed.ops.adam")
    sys.modules.update({"deepspeed": types.ModuleType("deepspeed"), "deepspeed.ops": types.ModuleType("deepspeed.ops")})
    sys.modules[module.__name__] = module
    module.DeepSpeedCPUAdam = lambda parameters, lr, adamw_mode: torch.optim.Adam(parameters, lr=lr)  # type: ignore[attr-defined]
    home = mock.patch("torch.utils.cpp_extension.CUDA_HOME", nvcc or None)
    with fake_cuda(is_available=lambda: True), home, probe.part("op"):
        deepspeed._built_just_in_time(probe)
    return {**probe.parts[0], "notes": probe.notes}


def loopback() -> Any:
    """The variables of a process group's libraries, which the image had set otherwise."""
    os.environ.update(NCCL_SOCKET_IFNAME="eth0", GLOO_SOCKET_IFNAME="eth0")
    probe = Probe("cpu")
    with probe.part("all-reduce"):
        image.all_reduce(probe)
    return [probe.parts[0]["status"], os.environ["NCCL_SOCKET_IFNAME"], os.environ["GLOO_SOCKET_IFNAME"]]


def memory_ratio(workspace: str) -> Any:
    """Peaks of a step with two optimisers' states and of one with none, the first product making a workspace."""
    width = 1024

    def step(optimiser: Any) -> None:
        network = torch.nn.Linear(width, width)
        steps = optimiser(network.parameters())
        for _ in range(2):
            steps.zero_grad()
            network(torch.ones(4, width)).sum().backward()
            steps.step()

    probe = on_gpu()
    allocator = Allocator(int(workspace))
    changes = {
        "reset_peak_memory_stats": lambda device=None: setattr(allocator, "peak", allocator.held),
        "max_memory_allocated": lambda device=None: allocator.peak,
        "memory_allocated": lambda device=None: allocator.held,
    }
    with fake_cuda(**changes), allocator:
        adam = probe.peak_memory(lambda: step(lambda parameters: torch.optim.Adam(parameters, foreach=False)))
        plain = probe.peak_memory(lambda: step(lambda parameters: torch.optim.SGD(parameters, lr=0.1, foreach=False)))
    return adam / plain


def compiled_twice() -> Any:
    """Metrics of the same function compiled in one process and, with the caches of the first, again."""
    seen = []
    for _ in range(2):
        probe = Probe("cpu", full=True)
        inputs = [(probe.randn(rows, 8),) for rows in (4, 6)]
        compiling.compiled(probe, lambda x: x.sin().sum(1), inputs, "sum")
        seen.append({name: metric["value"] for name, metric in probe.metrics.items()})
    return seen


def serve(descriptor: int) -> None:
    """Answer each case that is asked for in a child; a case that raises answers with its traceback."""
    for name in ("torch._dynamo", "torch._inductor"):  # every optimizer imports the first
        importlib.import_module(name)
    while line := sys.stdin.readline():
        pid = os.fork()
        if pid == 0:
            case, *arguments = json.loads(line)
            try:
                answered = {"result": globals()[case](*arguments)}
            except BaseException:
                answered = {"error": traceback.format_exc()}
            with os.fdopen(descriptor, "w") as stream:
                stream.write(json.dumps(answered, default=str) + "\n")
            os._exit(0)
        if os.waitpid(pid, 0)[1]:
            os.write(descriptor, b'{"error": "the child died"}\n')


def main() -> None:
    """Print what came of the cases on the descriptor that was standard output."""
    descriptor = os.dup(1)
    os.dup2(2, 1)
    torch.set_num_threads(1)
    if len(sys.argv) == 1:
        serve(descriptor)
        return
    result = globals()[sys.argv[1]](*sys.argv[2:])
    with os.fdopen(descriptor, "w") as stream:
        stream.write(json.dumps(result, default=str))


if __name__ == "__main__":
    main()
