"""From observations to the outcome of a check."""

from __future__ import annotations

from typing import Any

from torch_compat_matrix.runner.execution.collect import Collector
from torch_compat_matrix.runner.execution.protocol import Work
from torch_compat_matrix.runner.model import Cell, Limits


def observation(member: str, **more: Any) -> Any:
    """A member's pass."""
    whole = {"kind": "observation", "cell": "i/s-stack", "probe": "sample", "member": member, "status": "passed"}
    return {**whole, "isolation": "fork", "installed": "1.0", "device_name": "CPU", "device": "cpu", **more}


def test_parts_of_a_stack_name_their_member() -> None:
    """The check has an outcome once each member has answered, with the parts of all."""
    cell = Cell(image="i", subject="s", version="stack", requires=(), members=("a", "b"), probes=("sample",))
    collector = Collector([Work(cell=cell)], Limits())
    part = {"name": "draws", "status": "passed", "seconds": 0.5}
    assert collector.add(observation("a", parts=[part])) is None
    outcome = collector.add(observation("b", parts=[part, {**part, "name": "moments"}]))
    assert outcome is not None
    assert [part["name"] for part in outcome.parts] == ["a: draws", "b: draws", "b: moments"]
    assert outcome.installed == "a 1.0, b 1.0"
