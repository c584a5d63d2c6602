"""The evidence of a `compile` probe: compiled code ran, and gives the eager function's result."""

import contextlib
import importlib
import os
import shutil
import time
from typing import Any, Callable, Dict, List, Mapping, Optional, Sequence, Tuple

from .evidence import Broken, NotApplicable, close, require, sound
from .probe import Probe
from .shared import HEADERS, TRIALS, header_folder


def prepare(device: str) -> None:
    """Do once, before forks, the set-up of each process's first torch.compile; no thread is started.

    Inductor tries which vector instructions work, by a run of g++ and an interpreter for each set of them: 3 s each,
    more with 2.9, whose trials import torch.  A GPU's child needs them too where shapes vary, since Dynamo's guards are
    C++; without a compiler for it they are Python.
    """
    importlib.import_module("torch._dynamo")
    config: Any = importlib.import_module("torch._inductor.config")
    if config.compile_threads != 1:  # torch 2.0 does not read TORCHINDUCTOR_COMPILE_THREADS, and would start a pool
        config.compile_threads = 1
    importlib.import_module("torch._inductor.compile_fx")
    try:
        _keep_best_instructions()
        importlib.import_module("torch._inductor.codecache").pick_vec_isa()
    except Exception:
        if device == "cpu":
            raise


def precompile() -> None:
    """Compile anything, for the headers that torch precompiles (4 s) and finds again in every fork."""
    import torch

    torch.compile(lambda data: data + 1)(torch.ones(8))


def ahead(folder: str) -> None:
    """Leave in a folder what g++ makes for each process's first torch.compile on a CPU, for `shared.seed`."""
    os.environ["TORCHINDUCTOR_CACHE_DIR"] = os.path.join(folder, TRIALS)
    prepare("cpu")
    os.environ["TORCHINDUCTOR_CACHE_DIR"] = os.path.join(folder, "spare")
    precompile()
    shutil.rmtree(os.path.join(folder, "spare"))
    if os.path.isdir(header_folder()):  # torch 2.6 precompiles none
        shutil.move(header_folder(), os.path.join(folder, HEADERS))
    for name in (TRIALS, HEADERS):
        os.makedirs(os.path.join(folder, name), exist_ok=True)


def _keep_best_instructions() -> None:
    """Leave inductor the first set of vector instructions that works: it takes that one, and tries the others too."""
    with contextlib.suppress(ImportError, AttributeError):  # before torch 2.5
        isas: Any = importlib.import_module("torch._inductor.cpu_vec_isa")
        has = isas.x86_isa_checker()
        for number, isa in enumerate(isas.supported_vec_isa_list):
            if "ATEN_CPU_CAPABILITY" not in os.environ and all(flag in has for flag in str(isa).split()) and isa:
                del isas.supported_vec_isa_list[number + 1 :]


def compiled(
    probe: Probe,
    function: Callable[..., Any],
    inputs: Sequence[Tuple[Any, ...]],
    what: str,
    parameters: Optional[Mapping[str, Any]] = None,
    backward: bool = True,
    backend: str = "inductor",
    rtol: Optional[float] = None,
    atol: Optional[float] = None,
) -> Any:
    """`torch.compile(function)` equals the eager function, forward and backward, for every tuple of inputs.

    `inputs` should hold several shapes.  The backend is wrapped so that every execution of compiled code is counted:
    a function that silently runs eagerly shows as `not-compiled`.  Compiled code runs before eager code does, which may
    fill caches that the compiler cannot see into.  The function must be deterministic, and return a tensor or a tuple
    of tensors.  Metrics: graph breaks, graphs, whether the first call gave one graph without a break (which is what
    `fullgraph=True` asks for), recompilations, seconds of the first call, kernels and cache hits of inductor, and the
    compiled/eager time ratio of the first inputs, whose shape is compiled as a static one; of a training step too where
    the probe is thorough.  Returns the compiled function.
    """
    with probe.uncounted():
        return _compiled(probe, function, inputs, what, dict(parameters or {}), backward, backend, (rtol, atol))


def _compiled(
    probe: Probe,
    function: Callable[..., Any],
    inputs: Sequence[Tuple[Any, ...]],
    what: str,
    named: Dict[str, Any],
    backward: bool,
    backend: str,
    tolerance: Tuple[Optional[float], Optional[float]],
) -> Any:
    import torch

    if not hasattr(torch, "compile"):
        raise NotApplicable(f"torch {torch.__version__} has no torch.compile")
    import torch._dynamo as dynamo
    from torch._dynamo.backends.registry import lookup_backend
    from torch._dynamo.utils import counters

    _keep_best_instructions()
    compile_graph = lookup_backend(backend)
    ran = {"count": 0, "graphs": 0}
    kernels_before = _kernels()

    def counting(graph: Any, examples: Any) -> Any:
        ran["graphs"] += 1
        on_device = probe.work.of_graph(graph, examples) if probe.work is not None else 0  # before inductor changes it
        code = compile_graph(graph, examples)

        def run(*arguments: Any) -> Any:
            ran["count"] += 1
            if probe.work is not None:
                probe.work.operators += on_device
            return code(*arguments)

        return run

    dynamo.reset()
    counters.clear()
    getattr(dynamo.utils, "_compilation_metrics", counters).clear()
    dynamo.config.suppress_errors = False
    quick = torch.compile(function, backend=counting)
    first_seconds, whole = 0.0, False
    for index, arguments in enumerate(inputs):
        shapes = "x".join(str(tuple(a.shape)) for a in arguments if isinstance(a, torch.Tensor))
        label = f"{what} at {shapes}"
        before = ran["count"]
        started = time.perf_counter()
        seen, seen_gradients = _run(quick, arguments, named, backward, label + ", compiled")
        probe.synchronize()
        if index == 0:
            first_seconds = time.perf_counter() - started
            whole = ran["graphs"] == 1 and not counters["graph_break"]
        wanted, wanted_gradients = _run(function, arguments, named, backward, label + ", eager")
        require(ran["count"] > before, "not-compiled", f"{label}: no compiled code ran")
        require(
            len(seen) == len(wanted), "compile-mismatch", f"{label}: {len(seen)} results, eager gives {len(wanted)}"
        )
        for number, (left, right) in enumerate(zip(seen, wanted)):
            sound(left, right, f"{label}, compiled result {number}")
            close(left, right, f"{label}, compiled result {number}", *tolerance, "compile-mismatch")
        for name, right in wanted_gradients.items():
            left = seen_gradients[name]
            require(
                (left is None) == (right is None),
                "compile-mismatch",
                f"{label}: only one of the two has a gradient of {name}",
            )
            if left is not None:
                sound(left, right, f"{label}, compiled gradient of {name}")
                close(left, right, f"{label}, compiled gradient of {name}", *tolerance, "compile-mismatch")
        if index == 0:
            _times(probe, function, quick, arguments, backward, what)
    probe.metric(f"{what}: graphs", ran["graphs"], "count")
    probe.metric(f"{what}: compiles with fullgraph", whole, "count")
    probe.metric(f"{what}: graph breaks", sum(counters["graph_break"].values()), "count")
    recompiled = _recompilations()
    if recompiled is not None:
        probe.metric(f"{what}: recompilations", recompiled, "count")
    probe.metric(f"{what}: first compile", first_seconds, "s")
    if backend == "inductor":
        hits = counters["inductor"]["fxgraph_cache_hit"] + counters["aot_autograd"]["autograd_cache_hit"]
        # a launch keeps its caches; Triton has its own, so that a kernel may be an old one even without a hit
        probe.metric(f"{what}: compile cache hits", hits, "count")
        kernels = _kernels() - kernels_before
        probe.metric(f"{what}: kernels", kernels, "count")
        probe.metric("kernels", kernels + probe.metrics.get("kernels", {"value": 0})["value"], "count")
    return quick


def _times(
    probe: Probe,
    function: Callable[..., Any],
    quick: Callable[..., Any],
    arguments: Tuple[Any, ...],
    backward: bool,
    what: str,
) -> None:
    """Time compiled against eager, before another shape makes the compiler write code for any shape."""
    import torch

    fresh = _fresh(arguments, backward)  # with gradients wanted as before: another mode would be compiled anew

    def step(called: Callable[..., Any]) -> None:
        out = called(*fresh)
        results = [result for result in (out if isinstance(out, (tuple, list)) else [out]) if result.requires_grad]
        torch.autograd.backward(results, [torch.ones_like(result) for result in results])

    eager, fast = (probe.seconds(lambda called=called: called(*fresh)) for called in (function, quick))  # type: ignore[misc]
    probe.metric(f"{what}: compiled/eager time", fast / max(eager, 1e-9), "ratio")
    if backward and probe.thorough:
        eager, fast = (probe.seconds(lambda called=called: step(called)) for called in (function, quick))  # type: ignore[misc]
        probe.metric(f"{what}: compiled/eager time of a training step", fast / max(eager, 1e-9), "ratio")


def _kernels() -> int:
    """The number of kernels that inductor wrote in this process: Triton's on a GPU, C++ loops on a CPU."""
    metrics: Any = importlib.import_module("torch._inductor.metrics")
    return int(metrics.generated_kernel_count)


def _recompilations() -> Optional[int]:
    """Compilations of a frame after its first, by Dynamo's ids (`frame/compilation`); None where Dynamo has no ids."""
    import torch._dynamo.utils as utils

    ids = {str(getattr(entry, "compile_id", "")) for entry in getattr(utils, "_compilation_metrics", ())}
    if not any("/" in compilation for compilation in ids):
        return None
    return sum(1 for compilation in ids if "/" in compilation and not compilation.endswith("/0"))


def _fresh(arguments: Tuple[Any, ...], backward: bool) -> List[Any]:
    """The arguments as new leaves of the graph."""
    import torch

    return [
        a.detach().clone().requires_grad_(backward and a.is_floating_point()) if isinstance(a, torch.Tensor) else a
        for a in arguments
    ]


def _run(
    function: Callable[..., Any], arguments: Tuple[Any, ...], named: Mapping[str, Any], backward: bool, what: str
) -> Tuple[List[Any], Dict[str, Any]]:
    """Results and gradients (of floating inputs and named parameters) of one call with a fixed cotangent."""
    import torch

    fresh = _fresh(arguments, backward)
    for parameter in named.values():
        parameter.grad = None
    torch.manual_seed(0)
    out = function(*fresh)
    results = list(out) if isinstance(out, (tuple, list)) else [out]
    gradients: Dict[str, Any] = {}
    if backward:
        total = None
        for result in results:
            if result.requires_grad:
                weight = torch.linspace(0.5, 1.5, max(result.numel(), 1), dtype=torch.float64).reshape(result.shape)
                term = (result * weight.to(result)).sum()
                total = term if total is None else total + term
        if total is None:
            raise Broken("no-gradient", f"{what}: no result is attached to the graph")
        total.backward()
        gradients = {
            f"input {i}": a.grad for i, a in enumerate(fresh) if isinstance(a, torch.Tensor) and a.requires_grad
        }
        gradients.update({name: None if p.grad is None else p.grad.clone() for name, p in named.items()})
    return [r.detach() for r in results], gradients
