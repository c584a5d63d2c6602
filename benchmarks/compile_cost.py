"""CPU seconds that each `compile` probe takes to compile for a GPU, on a machine without one.

`python -m benchmarks.compile_cost [LIBRARY ...] [--arch 75 80 90]` runs under an interpreter that holds a CUDA build of
torch with its Triton, and the libraries.  **Real** are Dynamo, AOTAutograd, inductor's lowering for "cuda", Triton and
its ptxas, for each of the GPU's sizes and with one compile thread, as in the probe host's children; caches are empty.
**Stood in for**: the probe's tensors lie on the CPU.  Each graph that inductor is given is compiled for a GPU from a
copy whose tensors are fakes on "cuda", and is then run as it is on the CPU.  That work is not counted, nor are the
eager runs that a compiled one is compared with.  **Missing**: loading and launching kernels, CUDA's own start, trials
that choose between kernels or pad a product, second trials of reductions that need many registers, and what a CPU
graph holds differently (its attention is an operator of its own, here as there no kernel of Triton's).
"""

from __future__ import annotations

import argparse
import copy
import functools
import json
import os
import resource
import sys
import tempfile
import traceback
from importlib import import_module
from pathlib import Path
from types import SimpleNamespace
from typing import Any, Callable

from benchmarks import contenders
from torch_compat_matrix.probes import compiling
from torch_compat_matrix.probes.child import answer, probe_module
from torch_compat_matrix.probes.probe import Probe

LIBRARIES = (
    *("torch", "pyro-ppl", "gpytorch", "botorch", "captum", "torchbnn", "open-clip-torch", "transformers"),
    *("torchvision", "torchaudio"),
)
"""Those whose probe compiles; DeepSpeed's three small layers are left out, since its engine starts CUDA."""

MULTIPROCESSORS = {75: 40, 80: 108, 90: 132}  # of a T4, an A100 and an H100
HEAD = "| library | arch | status | kernels | CPU seconds | of these Triton and ptxas | of these g++ for guards |"


spent = functools.partial(contenders.spent, resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN)


class Clock:
    """CPU seconds, children's included, that pass inside the functions that it wraps; nested ones count once."""

    def __init__(self) -> None:
        self.seconds = 0.0
        self.calls = 0
        self.depth = 0

    def around(self, function: Callable[..., Any], when: Callable[..., bool] = lambda *_: True) -> Callable[..., Any]:
        """The function, counted where `when` holds for its positional arguments."""

        @functools.wraps(function)
        def counted(*arguments: Any, **options: Any) -> Any:
            if not when(*arguments):
                return function(*arguments, **options)
            started, self.depth, self.calls = spent(), self.depth + 1, self.calls + 1
            try:
                return function(*arguments, **options)
            finally:
                self.depth -= 1
                if not self.depth:
                    self.seconds += spent() - started

        return counted


class Gpu:
    """What torch and Triton are told of the GPU: set `arch` before anything is compiled, as nobody asks twice."""

    arch = 80

    def properties(self, *_: Any) -> SimpleNamespace:
        """What torch.cuda.get_device_properties gives."""
        return SimpleNamespace(
            name=f"sm_{self.arch}",
            major=self.arch // 10,
            minor=self.arch % 10,
            multi_processor_count=MULTIPROCESSORS.get(self.arch, 100),
            regs_per_multiprocessor=65536,
            max_threads_per_multi_processor=1024 if self.arch == 75 else 2048,
            warp_size=32,
            total_memory=16 << 30,
            gcnArchName="",
        )

    def take_the_place(self) -> None:
        """Make torch and Triton believe in this GPU; before Dynamo is imported, which keeps torch.cuda's functions."""
        torch: Any = import_module("torch")
        torch.cuda.is_available = lambda: True
        torch.cuda.device_count = lambda: 1
        torch.cuda.current_device = lambda: 0
        torch.cuda.get_device_properties = self.properties
        torch.cuda.get_device_capability = lambda *_: divmod(self.arch, 10)
        torch.cuda.is_bf16_supported = lambda *_, **__: self.arch >= 80
        torch.cuda.get_rng_state = lambda *_: torch.empty(0)  # Dynamo keeps and restores it
        torch.cuda._exchange_device = torch.cuda._maybe_exchange_device = lambda _: 0
        torch.cuda.set_rng_state = lambda *_: None
        torch.accelerator.current_device_index = lambda: 0
        fake_tensor: Any = import_module("torch._subclasses.fake_tensor")
        fake_tensor.init_gpu_context = lambda *_: None
        # torch's own methods ask CUDA which device is current, its operators do not
        aten, fake = torch.ops.aten, fake_tensor.FakeTensor
        item = fake.__getitem__
        fake.__getitem__ = lambda of, at: aten.select.int(of, 0, at) if isinstance(at, int) else item(of, at)
        fake.__invert__ = lambda of: aten.bitwise_not.default(of)
        fake.copy_ = lambda to, source, *flags: aten.copy_.default(to, source, *flags)
        driver: Any = import_module("triton.runtime.driver")
        compiler: Any = import_module("triton.backends.compiler")
        driver.driver.set_active(
            SimpleNamespace(
                get_current_target=lambda: compiler.GPUTarget("cuda", self.arch, 32),
                get_current_device=lambda: 0,
                get_active_torch_device=lambda: torch.device("cuda", 0),
                utils=SimpleNamespace(
                    get_device_properties=lambda *_: {"max_shared_mem": 65536 if self.arch == 75 else 166912}
                ),
            )
        )


def compile_for_cuda(ran: Clock) -> None:
    """Let inductor compile each graph for "cuda" and load nothing; what it gives back runs the graph on the CPU."""
    import torch

    compile_fx: Any = import_module("torch._inductor.compile_fx")
    heuristics: Any = import_module("torch._inductor.runtime.triton_heuristics")
    import_module("torch._inductor.runtime.triton_helpers").set_driver_to_gpu = lambda: None  # type: ignore[attr-defined]
    import_module("torch._functorch.config").enable_autograd_cache = False  # type: ignore[attr-defined]

    def launchers(autotuner: Any) -> None:
        autotuner.launchers = [None for _ in autotuner.compile_results]

    heuristics.CachingAutotuner._make_launchers = launchers
    heuristics.CachingAutotuner._dynamic_scale_rblock = lambda _: None

    joint_graph: Any = import_module("torch._inductor.fx_passes.joint_graph")
    learn_patterns = joint_graph.lazy_init

    def learn_patterns_without_gpu() -> None:
        available, torch.cuda.is_available = torch.cuda.is_available, lambda: False
        try:
            learn_patterns()  # the same patterns, with examples on the CPU: it makes real tensors of them
        finally:
            torch.cuda.is_available = available

    joint_graph.lazy_init = learn_patterns_without_gpu
    for_inductor = compile_fx.compile_fx_inner

    def inner(graph: Any, examples: Any, **options: Any) -> Any:
        for_inductor(*_on_cuda(graph, examples), **options)

        def run(arguments: list[Any]) -> Any:
            inputs = list(arguments)
            arguments.clear()
            return ran.around(graph.forward)(*inputs)

        run._boxed_call = True  # type: ignore[attr-defined]
        return run

    compile_fx.compile_fx = functools.partial(compile_fx.compile_fx, inner_compile=inner)


def _on_cuda(graph: Any, examples: Any) -> tuple[Any, list[Any]]:
    """A copy of the graph that makes its tensors on "cuda", and fakes there for its examples and its constants."""
    import torch

    cuda = torch.device("cuda", 0)
    moved = torch.fx.GraphModule(graph, copy.deepcopy(graph.graph))
    moved.meta.update(graph.meta)
    tensors = list(examples)
    first = next(node for node in moved.graph.nodes if node.op != "placeholder")
    for node in list(moved.graph.nodes):
        node.args, node.kwargs = torch.fx.node.map_aggregate(
            (node.args, node.kwargs), lambda given: cuda if isinstance(given, torch.device) else given
        )
        if node.op == "get_attr" and isinstance(node.meta.get("val"), torch.Tensor) and node.meta["val"].dim():
            with moved.graph.inserting_before(first):
                constant = moved.graph.placeholder(f"constant_{len(tensors)}")
            constant.meta.update(node.meta)
            tensors.append(node.meta["val"])
            node.replace_all_uses_with(constant)
            if node is not first:
                moved.graph.erase_node(node)
    moved.recompile()

    def fake(example: Any) -> Any:
        if not isinstance(example, torch.Tensor):
            return example
        with example.fake_mode:
            return torch.empty_strided(example.shape, example.stride(), dtype=example.dtype, device=cuda)

    return moved, [fake(example) for example in tensors]


def measure(library: str, arch: int, gpu: Gpu) -> dict[str, Any]:
    """Ask the `compile` probe in this process, which must be a fork of its own."""
    import torch

    torch.set_num_threads(1)
    gpu.arch = arch
    ran, triton, guards = Clock(), Clock(), Clock()
    compile_for_cuda(ran)
    autotuner: Any = import_module("torch._inductor.runtime.triton_heuristics").CachingAutotuner
    autotuner._precompile_config = triton.around(autotuner._precompile_config)
    cpp: Any = import_module("torch._inductor.codecache").CppCodeCache
    cpp.load = guards.around(cpp.load)
    here: Any = compiling
    here._times = ran.around(here._times)
    here._run = ran.around(here._run, lambda *given: given[-1].endswith(", eager"))
    here.close = here.sound = lambda *_: None  # values that the CPU computes judge nothing
    started = spent()
    seen = answer("compile", library, {"device": "cpu", "seed": 0})
    return {
        "status": seen["status"],
        "told": [seen.get("traceback"), *(part for part in seen.get("parts", []) if part["status"] == "failed")],
        "kernels": triton.calls,
        "cpu": spent() - started - ran.seconds,
        "triton": triton.seconds,
        "guards": guards.seconds,
    }


def in_a_fork(library: str, arch: int, gpu: Gpu) -> dict[str, Any]:
    """Measure in a fork, as the probe host asks, with caches of its own."""
    with tempfile.TemporaryDirectory() as folder:
        answered = Path(folder) / "answer.json"
        pid = os.fork()
        if pid == 0:
            os.environ.update(TORCHINDUCTOR_CACHE_DIR=f"{folder}/inductor", TRITON_CACHE_DIR=f"{folder}/triton")
            try:
                answered.write_text(json.dumps(measure(library, arch, gpu)))
            except BaseException:
                traceback.print_exc()
            sys.stderr.flush()
            os._exit(0)
        os.waitpid(pid, 0)
        if not answered.exists():
            raise SystemExit(f"nothing was measured of {library} for sm_{arch}")
        return dict(json.loads(answered.read_text()))


def main() -> None:
    """Print a row for each architecture and library."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("libraries", nargs="*", metavar="LIBRARY", default=LIBRARIES)
    parser.add_argument("--arch", nargs="+", type=int, default=[75, 80, 90])
    options = parser.parse_args()
    os.environ["TORCHINDUCTOR_COMPILE_THREADS"] = "1"
    gpu = Gpu()
    gpu.take_the_place()
    compiling.prepare("cuda")
    probe: Any = Probe
    probe.heavy_backend, probe.thorough = "inductor", property(lambda _: True, lambda *_: None)  # as on a GPU
    print(HEAD)
    print("|---" * 7 + "|")
    for arch in options.arch:
        for library in options.libraries:
            import_module(probe_module(library).MODULE)
            seen = in_a_fork(library, arch, gpu)
            numbers = " | ".join(f"{seen[name]:.1f}" for name in ("cpu", "triton", "guards"))
            print(f"| {library} | sm_{arch} | {seen['status']} | {seen['kernels']} | {numbers} |", flush=True)
            if seen["status"] != "passed":
                print(*seen["told"], sep="\n", file=sys.stderr)


if __name__ == "__main__":
    main()
