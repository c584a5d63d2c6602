"""From observations to the outcome of a check."""

from __future__ import annotations

from typing import Any

import pytest

from torch_compat_matrix.runner.backends.base import Exit
from torch_compat_matrix.runner.execution.collect import Collector
from torch_compat_matrix.runner.execution.protocol import Work
from torch_compat_matrix.runner.model import Cell, Limits, Verdict


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


@pytest.mark.parametrize(
    ("stand_in", "said", "reason", "blame"),
    [
        (True, "libc10_cuda.so: cannot open shared object file: No such file or directory", "no-stand-in", "matrix"),
        (False, "libc10_cuda.so: cannot open shared object file: No such file or directory", "cpu-only-torch", "image"),
        (True, "operator torchvision::nms does not exist", "no-stand-in", "matrix"),
        (False, "operator torchvision::nms does not exist", "missing-operator", "image"),
        (True, "libavutil.so.56: cannot open shared object file", "missing-shared-library", "image"),
    ],
)
def test_the_build_of_a_stand_ins_torch_is_not_the_images_fault(
    stand_in: bool, said: str, reason: str, blame: str
) -> None:
    """The image has its own torch, of which the stand-in says nothing."""
    cell = Cell(image="i", subject="s", version="stack", requires=(), members=("a",), probes=("sample",))
    collector = Collector([Work(cell=cell)], Limits(), stand_in=stand_in, misfits=stand_in)
    outcome = collector.add(observation("a", status="raised", exception=["OSError"], message=said, traceback=""))
    assert outcome is not None
    assert (outcome.reason, outcome.blame) == (reason, blame)


@pytest.mark.parametrize(("flaky", "disagreed"), [(False, True), (True, False)])
def test_pass_after_a_failure(flaky: bool, disagreed: bool) -> None:
    """After a fresh process's failure it is flaky; after a fork's alone it is a pass, and a fault of ours."""
    cell = Cell(image="i", subject="s", version="stack", requires=(), members=("a", "b"), probes=("sample",))
    collector = Collector([Work(cell=cell)], Limits())
    assert collector.add(observation("a")) is None
    outcome = collector.add(observation("b", attempts=["died"], flaky=flaky, isolation="fresh"))
    assert outcome is not None
    assert (outcome.verdict, outcome.attempts) == (Verdict.PASS, ("crash",))
    assert (outcome.flaky, outcome.warm_disagreed) == (flaky, disagreed)


def test_a_replaced_package_is_told_and_counts() -> None:
    """With both versions beside the verdict, and in the reason, which speaks of the version that was there."""
    cell = Cell(image="i", subject="s", version="stack", requires=("a==1", "numpy<2"), members=("a",))
    work = Work(cell=cell, added={"a": "1", "numpy": "1.26.4"}, replaces={"numpy": "2.4.6"})
    collector = Collector([work], Limits())
    facts: Any = {"packages": {"numpy": "2.4.6"}, "torch": None}
    collector.enter(facts, "e")
    outcome = collector.add(observation("a"))
    assert outcome is not None
    assert outcome.replaced == ("numpy 2.4.6 -> 1.26.4",)
    assert outcome.install_note == "numpy 2.4.6 -> 1.26.4, as the matrix asks"
    raised = "numpy.dtype size changed, may indicate binary incompatibility. Expected 96, got 88"
    outcome = collector.add(observation("a", status="raised", exception=["ValueError"], message=raised))
    assert outcome is not None
    assert (outcome.reason, "1.26.4" in outcome.detail) == ("numpy-abi", True)


@pytest.mark.parametrize(
    ("unprovoked", "before", "reason"),
    [(True, ("infra",), "kills-itself"), (True, (), "killed"), (False, ("infra",), "killed")],
)
def test_a_check_that_ends_the_probe_host_each_time(unprovoked: bool, before: tuple[str, ...], reason: str) -> None:
    """It is the check's doing where it was alone the second time, and nobody else can have done it."""
    cell = Cell(image="i", subject="s", version="1", requires=(), members=("s",), probes=("sample",))
    collector = Collector([Work(cell=cell)], Limits(), attempts={"i/s-1/sample": before} if before else {})
    begun: Any = {"kind": "begin", "cell": "i/s-1", "probe": "sample", "member": "s"}
    assert collector.died(begun, Exit(status=-9, unprovoked=unprovoked)).reason == reason
