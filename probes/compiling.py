"""What a pass of a `compile` probe must show: compiled code that ran, and gives what the eager function gives."""

import importlib
import time
from typing import Any, Callable, Dict, List, Mapping, Optional, Sequence, Tuple

from .evidence import Broken, NotApplicable, Probe, close, require, sound


def prepare(device: str) -> None:
    """Do once what the first torch.compile of each process would do for itself, to fork from; no thread is started.

    On a CPU inductor tries which vector instructions work, by starting an interpreter for each set of them: 1 s with
    torch 2.13, 6 s with 2.9, whose trials import torch, and some seconds more where nothing is compiled yet.
    """
    importlib.import_module("torch._dynamo")
    config: Any = importlib.import_module("torch._inductor.config")
    if config.compile_threads != 1:  # torch 2.0 does not read TORCHINDUCTOR_COMPILE_THREADS, and would start a pool
        config.compile_threads = 1
    importlib.import_module("torch._inductor.compile_fx")
    if device == "cpu":
        importlib.import_module("torch._inductor.codecache").pick_vec_isa()


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
    a function that silently runs eagerly shows as `not-compiled`.  The function must be deterministic, and return a
    tensor or a tuple of tensors.  Metrics: graph breaks, graphs, recompilations, seconds of the first call and the
    compiled/eager time ratio of the last inputs.  Returns the compiled function.
    """
    import torch

    if not hasattr(torch, "compile"):
        raise NotApplicable(f"torch {torch.__version__} has no torch.compile")
    import torch._dynamo as dynamo
    from torch._dynamo.backends.registry import lookup_backend
    from torch._dynamo.utils import counters

    compile_graph = lookup_backend(backend)
    ran = {"count": 0, "graphs": 0}

    def counting(graph: Any, examples: Any) -> Any:
        ran["graphs"] += 1
        code = compile_graph(graph, examples)

        def run(*arguments: Any) -> Any:
            ran["count"] += 1
            return code(*arguments)

        return run

    dynamo.reset()
    counters.clear()
    getattr(dynamo.utils, "_compilation_metrics", counters).clear()
    dynamo.config.suppress_errors = False
    quick = torch.compile(function, backend=counting)
    named = dict(parameters or {})
    first_seconds = 0.0
    for index, arguments in enumerate(inputs):
        shapes = "x".join(str(tuple(a.shape)) for a in arguments if isinstance(a, torch.Tensor))
        label = f"{what} at {shapes}"
        before = ran["count"]
        wanted, wanted_gradients = _run(function, arguments, named, backward, label + ", eager")
        started = time.perf_counter()
        seen, seen_gradients = _run(quick, arguments, named, backward, label + ", compiled")
        probe.synchronize()
        if index == 0:
            first_seconds = time.perf_counter() - started
        require(ran["count"] > before, "not-compiled", f"{label}: no compiled code ran")
        require(
            len(seen) == len(wanted), "compile-mismatch", f"{label}: {len(seen)} results, eager gives {len(wanted)}"
        )
        for number, (left, right) in enumerate(zip(seen, wanted)):
            sound(left, right, f"{label}, compiled result {number}")
            close(left, right, f"{label}, compiled result {number}", rtol, atol, "compile-mismatch")
        for name, right in wanted_gradients.items():
            left = seen_gradients[name]
            require(
                (left is None) == (right is None),
                "compile-mismatch",
                f"{label}: gradient of {name} in one of the two only",
            )
            if left is not None:
                sound(left, right, f"{label}, compiled gradient of {name}")
                close(left, right, f"{label}, compiled gradient of {name}", rtol, atol, "compile-mismatch")
    probe.metric(f"{what}: graphs", ran["graphs"], "count")
    probe.metric(f"{what}: graph breaks", sum(counters["graph_break"].values()), "count")
    recompiled = _recompilations()
    if recompiled is not None:
        probe.metric(f"{what}: recompilations", recompiled, "count")
    probe.metric(f"{what}: first compile", first_seconds, "s")
    # with gradients wanted as before: another mode would be compiled anew
    last = _fresh(inputs[-1], backward)
    eager_seconds = probe.seconds(lambda: function(*last))
    probe.metric(
        f"{what}: compiled/eager time", probe.seconds(lambda: quick(*last)) / max(eager_seconds, 1e-9), "ratio"
    )
    return quick


def _recompilations() -> Optional[int]:
    """Compilations of a frame after its first, by Dynamo's own ids (`frame/compilation`); None where it tells none."""
    import torch._dynamo.utils as utils

    ids = {str(getattr(entry, "compile_id", "")) for entry in getattr(utils, "_compilation_metrics", ())}
    if not any("/" in one for one in ids):
        return None
    return sum(1 for one in ids if "/" in one and not one.endswith("/0"))


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
