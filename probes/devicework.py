"""Proof that the GPU did the library's work: the operators that the library ran on it, and the memory that it took.

**Counted** is each operator of torch (or of the library's own) that computes something on the device while a function
of the library is on the stack: copies between devices, plain fills and views do not count, so that a library which
computes on the CPU and moves its result counts nothing, however much the probe itself computes on the device.  Compiled
code is counted by the graphs that the compiler got, each time that they run.

**Not proved** is that everything ran there: one operator on the device is enough.  Backward passes are not counted,
since they run on a thread that no function of the library is on; nor are kernels that are launched past torch.
torch.profiler would count kernels, but needs CUPTI, which containers and clusters often refuse, and may run but once.
"""

from __future__ import annotations

import contextlib
import sys
from typing import Any, Dict, Iterator, Optional

MOVES = {
    *("_to_copy", "copy_", "clone", "_local_scalar_dense", "_pin_memory", "contiguous", "set_", "resize_"),
    *("empty", "empty_like", "empty_strided", "new_empty", "new_empty_strided", "zeros", "zeros_like", "new_zeros"),
    *("ones", "ones_like", "new_ones", "full", "full_like", "new_full", "fill_", "zero_", "scalar_tensor"),
    *("lift_fresh", "lift_fresh_copy", "arange", "eye", "tensor", "as_tensor", "_assert_async"),
    *("to", "cuda", "cpu", "float", "double", "half", "getitem", "detach", "view", "reshape", "expand"),
}
"""Names of operators and methods that compute nothing: they move, fill, view or make room."""

ENOUGH = 1000
"""Operators after which counting ends: each takes some ten microseconds, and a single operator is proof."""

TORCH_OWN = ("aten", "prim", "prims", "c10d", "_c10d_functional")


class DeviceWork:
    """Counts the work on a GPU from `start` to `numbers`; `library` is the module under test, torch if empty."""

    def __init__(self, device: Any, library: str = "") -> None:
        self.device = device
        self.library = "" if library == "torch" else library
        self.operators = 0
        self.peak = 0
        self.mode: Any = None
        self.allocations = 0

    def start(self) -> None:
        """Begin to count; raises what keeps CUDA from starting."""
        import torch

        torch.cuda.init()  # statistics are empty before
        torch.cuda.reset_peak_memory_stats(self.device)
        self.allocations = self._allocations()
        self.mode = _counting_mode(self)
        if self.mode is not None:
            self.mode.__enter__()

    @contextlib.contextmanager
    def paused(self) -> Iterator[None]:
        """Count no operators: torch.compile runs eagerly beside a counting mode, and times would hold the counting."""
        mode, self.mode = self.mode, None
        if mode is not None:
            mode.__exit__(None, None, None)
        try:
            yield
        finally:
            if mode is not None:
                mode.__enter__()
            self.mode = mode

    def leave_if_enough(self) -> None:
        """Between two parts: end a mode that has counted enough."""
        if self.mode is not None and self.operators >= ENOUGH:
            self.mode.__exit__(None, None, None)
            self.mode = None

    def keep_peak(self) -> None:
        """Remember the peak so far: it is about to be reset."""
        import torch

        self.peak = max(self.peak, int(torch.cuda.max_memory_allocated(self.device)))

    def numbers(self) -> Dict[str, Optional[int]]:
        """Stop; `peak` in bytes, `allocations` by anyone, and `operators` of the library, until there were ENOUGH.

        `operators` is None where this torch cannot count.
        """
        counted = self.mode is not None or self.operators > 0
        if self.mode is not None:
            self.mode.__exit__(None, None, None)
            self.mode = None
        self.keep_peak()
        return {
            "peak": self.peak,
            "allocations": self._allocations() - self.allocations,
            "operators": self.operators if counted else None,
        }

    def _allocations(self) -> int:
        import torch

        return int(torch.cuda.memory_stats(self.device).get("allocation.all.allocated", 0))

    def saw(self, function: Any, out: Any) -> None:
        """Count an operator, if it computed on the device and the library called it."""
        schema = getattr(function, "_schema", None)
        if schema is None or self.operators >= ENOUGH:
            return
        space, _, name = schema.name.partition("::")
        if name in MOVES or not _lies_on(out, self.device.type):
            return
        if all(result.alias_info is not None and not result.alias_info.is_write for result in schema.returns):
            return  # a view
        if space not in TORCH_OWN or not self.library or _on_the_stack(self.library):
            self.operators += 1

    def of_graph(self, graph: Any, examples: Any) -> int:
        """How many operators of a graph that Dynamo hands to its backend compute on the device."""
        made = [
            (getattr(node.target, "__name__", str(node.target)), node.meta["example_value"])
            for node in graph.graph.nodes
            if node.op.startswith("call") and "example_value" in node.meta
        ]
        if not made:  # a Dynamo without the results of its nodes
            return int(_lies_on(list(examples), self.device.type))
        return sum(1 for name, value in made if name not in MOVES and _lies_on(value, self.device.type))


def _counting_mode(work: DeviceWork) -> Any:
    """A mode that shows `work` each operator; None where torch (before 1.13) has none."""
    try:
        from torch.utils._python_dispatch import TorchDispatchMode
    except ImportError:
        return None

    class Counting(TorchDispatchMode):  # type: ignore[misc]
        def __torch_dispatch__(self, function: Any, types: Any, arguments: Any = (), options: Any = None) -> Any:
            out = function(*arguments, **(options or {}))
            work.saw(function, out)
            return out

    return Counting()


def _lies_on(out: Any, device_type: str) -> bool:
    if isinstance(out, (tuple, list)):
        return any(_lies_on(value, device_type) for value in out)
    device = getattr(out, "device", None)
    return device is not None and getattr(device, "type", "") == device_type


def _on_the_stack(library: str) -> bool:
    frame: Any = sys._getframe(2)
    while frame is not None:
        name = str(frame.f_globals.get("__name__", ""))
        if name == library or name.startswith(library + "."):
            return True
        frame = frame.f_back
    return False
