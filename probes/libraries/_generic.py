"""The generic probes, for a library without its own: what it exports runs; nothing is compared with a truth.

Each torch.nn.Module that the top-level modules export, and that can be made without arguments or as EXAMPLE says, is a
part: forward, backward, compiled.  A pass of these is superficial.
"""

from __future__ import annotations

import importlib
import inspect
import time
from functools import partial
from importlib import metadata
from importlib.machinery import EXTENSION_SUFFIXES
from types import ModuleType
from typing import Any, Callable, Dict, Iterator, List, Tuple

from ..compiling import compiled
from ..evidence import Broken, LeftOut, NotApplicable, close, finite, on_device, require
from ..probe import Probe

BUDGET_S = 40.0
"""Seconds of a probe after which no further module is tried."""

SHAPES = ((4, 16), (2, 3, 32, 32), (2, 8, 16), (16,), (2, 3, 8, 8, 8))
"""The inputs that are tried, all floats, where a module's first layer does not say what it takes."""

NO_INTERFACE = {"tests", "test", "docs", "examples", "benchmarks", "setup", "conftest"}
"""Top-level names that packages ship by mistake."""


def top_levels(distribution: str) -> List[str]:
    """The modules that its RECORD adds, a package for all below it; that of its own name first, private ones last."""
    files = {str(file) for file in metadata.files(distribution) or ()}
    found = set()
    for file in files:
        *folders, name = file.split("/")
        stem = next((name[: -len(end)] for end in (".py", *EXTENSION_SUFFIXES) if name.endswith(end)), "")
        path = folders if stem == "__init__" else [*folders, stem]
        if path and all(part.isidentifier() for part in path) and path[0] not in NO_INTERFACE:
            depths = (depth for depth in range(1, len(path)) if "/".join([*path[:depth], "__init__.py"]) in files)
            found.add(".".join(path[: next(depths, len(path))]))
    own = distribution.replace("-", "_")
    names = found or {own}  # without a RECORD, the name is the best guess
    return sorted(names, key=lambda name: (name.startswith("_"), name.lower() != own, name))


def complete(probes: ModuleType) -> None:
    """Give a probe module that has an EXAMPLE the probes that it does not define."""
    for name, work in (("sample", _forward), ("autograd", _backward), ("compile", _compiled)):
        if not hasattr(probes, name):
            setattr(probes, name, partial(_each, probes, work))


def _each(probes: ModuleType, work: Callable[..., None], probe: Probe) -> None:
    """The work on each exported module, as a part; NotApplicable where there is none."""
    import torch

    probe.count_all()
    examples: Dict[str, Any] = getattr(probes, "EXAMPLE", {})
    names = dict.fromkeys([*examples, *_exported(probes)])
    if not names:
        raise NotApplicable(f"{probes.MODULE} exports no torch.nn.Module, and EXAMPLE names none")
    until = time.monotonic() + BUDGET_S
    for name in names:
        with probe.part(name):
            if time.monotonic() > until:
                raise LeftOut("the modules before it took all the time")
            torch.manual_seed(probe.seed)
            owner, _, attribute = name.rpartition(".")
            kind = getattr(importlib.import_module(owner), attribute)
            instance, inputs = _example(kind, examples[name]) if name in examples else _inspected(kind)
            placed = tuple(each.to(probe.device) if isinstance(each, torch.Tensor) else each for each in inputs)
            work(probe, instance.to(probe.device), placed, name, name in examples)


def _exported(probes: ModuleType) -> Iterator[str]:
    """`module.Class` of every public torch.nn.Module of the library's own top-level modules."""
    import torch

    tops = (probes.MODULE, *getattr(probes, "IMPORTS", ()))
    seen = set()
    for top in tops:
        module = importlib.import_module(top)
        for name in getattr(module, "__all__", None) or [name for name in vars(module) if name[0] != "_"]:
            kind = getattr(module, name, None)
            if not (isinstance(kind, type) and issubclass(kind, torch.nn.Module)) or kind in seen:
                continue
            if any(f"{kind.__module__}.".startswith(f"{own}.") for own in tops):
                seen.add(kind)
                yield f"{top}.{name}"


def _example(kind: Any, example: Callable[[Any], Any]) -> Tuple[Any, Tuple[Any, ...]]:
    import torch

    arguments, options, inputs = example(torch)
    return kind(*arguments, **options), tuple(inputs)


def _inspected(kind: Any) -> Tuple[Any, Tuple[Any, ...]]:
    """An instance made without arguments, and inputs with which it runs on the CPU; NotApplicable without them."""
    import torch

    needed = _needed(kind)
    if needed:
        raise NotApplicable(f"it needs {', '.join(needed)}: say so in EXAMPLE")
    try:
        instance = kind()
    except Exception as error:
        raise NotApplicable(f"it cannot be made without arguments: {type(error).__name__}: {error}"[:300]) from error
    takes = _needed(instance.forward)
    for shape in (*_first_layer(instance), *SHAPES):
        inputs = tuple(torch.randn(shape) for _ in takes)
        try:
            with torch.no_grad():
                _results(instance(*inputs))
        except Exception:
            continue
        return instance, inputs
    raise NotApplicable(f"no input was found for its forward({', '.join(takes)}): give one in EXAMPLE")


def _needed(function: Any) -> List[str]:
    """The names of the arguments that it cannot do without."""
    try:
        arguments = inspect.signature(function).parameters.values()
    except (TypeError, ValueError):
        return []
    no_variable = (inspect.Parameter.VAR_POSITIONAL, inspect.Parameter.VAR_KEYWORD)
    return [each.name for each in arguments if each.default is each.empty and each.kind not in no_variable]


def _first_layer(instance: Any) -> Iterator[Tuple[int, ...]]:
    """The shape that the first layer with a known number of features or channels takes."""
    for layer in instance.modules():
        if isinstance(getattr(layer, "in_features", None), int):
            yield (4, layer.in_features)
            return
        if isinstance(getattr(layer, "in_channels", None), int):
            yield (2, layer.in_channels, *(16 for _ in getattr(layer, "kernel_size", (1,))))
            return


def _results(out: Any) -> List[Any]:
    """The tensors of a result; NotApplicable where it is neither a tensor nor several."""
    import torch

    results = list(out) if isinstance(out, (tuple, list)) else [out]
    if not results or not all(isinstance(each, torch.Tensor) for each in results):
        raise NotApplicable(f"it gives a {type(out).__name__}, neither a tensor nor a tuple of tensors")
    return results


def _forward(probe: Probe, instance: Any, inputs: Tuple[Any, ...], what: str, declared: bool) -> None:
    import torch

    with torch.no_grad():
        for result in _results(instance(*inputs)):
            on_device(result, probe.device, what)
            if declared:  # what inspection found may lie outside of a function's domain
                finite(result, what)


def _backward(probe: Probe, instance: Any, inputs: Tuple[Any, ...], what: str, declared: bool) -> None:
    import torch

    parameters = [parameter for parameter in instance.parameters() if parameter.requires_grad]
    leaves = [each for each in inputs if isinstance(each, torch.Tensor) and each.is_floating_point()]
    for leaf in leaves:
        leaf.requires_grad_()
    results = _results(instance(*inputs))
    attached = [result for result in results if result.requires_grad]
    if not attached and not (parameters and any(result.is_floating_point() for result in results)):
        raise NotApplicable("nothing of it can be differentiated")
    require(attached, "no-gradient", f"{what}: no result is attached to the graph")
    torch.autograd.backward(attached, [torch.ones_like(result) for result in attached])
    gradients = [each.grad for each in (*parameters, *leaves) if each.grad is not None]
    require(gradients, "no-gradient", f"{what}: no gradient reaches a parameter or an input")
    for gradient in gradients:
        on_device(gradient, probe.device, f"{what}: a gradient")
        if declared:
            finite(gradient, f"{what}: a gradient")


def _compiled(probe: Probe, instance: Any, inputs: Tuple[Any, ...], what: str, declared: bool) -> None:
    import torch

    instance.eval()
    results = _results(instance(*inputs))
    torch.manual_seed(probe.seed + 1)
    try:
        for result, again in zip(results, _results(instance(*inputs))):
            close(again, result, what)
    except Broken as error:
        raise NotApplicable(f"two calls differ, so that compiled code cannot be compared: {error}") from error
    named = {name: parameter for name, parameter in instance.named_parameters() if parameter.requires_grad}
    compiled(probe, instance, [inputs], what, named, backward=any(result.requires_grad for result in results))
