"""`compat show`: what it prints of one outcome."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest

from torch_compat_matrix.compat.verbs.show import describe
from torch_compat_matrix.runner.bundle import catalogue
from torch_compat_matrix.runner.model import Verdict
from torch_compat_matrix.runner.outcome import Outcome

PASS = Outcome(check="i/l-1/sample", image="i", subject="l", version="1", probe="sample", verdict=Verdict.PASS)


def test_parts_are_shown_with_their_reasons() -> None:
    """Each step of the probe has a line, also where the check as a whole passes."""
    outcome = Outcome(
        check="i/l-1/sample",
        image="i",
        subject="l",
        version="1",
        probe="sample",
        verdict=Verdict.FAIL,
        parts=(
            {"name": "draws", "status": "passed", "seconds": 0.123},
            {"name": "moments", "status": "failed", "seconds": 12, "code": "wrong-moments", "message": "off\nby ten"},
            {"name": "half precision", "status": "skipped", "seconds": 0.0, "message": "no such dtype"},
        ),
    )
    lines = list(describe(outcome, {"backend": "local", "plan": {}}, {}))
    start = lines.index("  parts:")
    assert lines[start + 1 : start + 4] == [
        "    passed      0.12 s  draws",
        "    failed     12.00 s  moments: off",
        "    skipped     0.00 s  half precision: no such dtype",
    ]


@pytest.mark.parametrize(
    ("requires", "change", "command"),
    [
        (("clip",), {"resolved": ("clip==3.3", "vision==0.28")}, "pip install clip==3.3"),
        (("clip[all]==3.3", "numpy<2"), {"resolved": ("clip==3.3",)}, "pip install 'clip[all]==3.3' 'numpy<2'"),
        (("clip==3.3", "numpy<2"), {"resolved": ("clip==3.3", "numpy==1.26")}, "pip install clip==3.3 numpy==1.26"),
        (
            ("clip==3.3",),
            {"resolved": ("clip==3.3", "vision==0.28"), "drift": ("torch 2.13.0+cpu -> 2.14.1",)},
            "pip install clip==3.3 torch==2.13.0+cpu",
        ),
        (("clip==3.3",), {}, ""),
    ],
)
def test_the_command_installs_what_was_tested(requires: tuple[str, ...], change: dict[str, Any], command: str) -> None:
    """Where a plain install would replace packages of the image, the command keeps them."""
    outcome = replace(PASS, **change)
    lines = list(describe(outcome, {"backend": "local", "plan": {}}, {}, requires))
    found = [line.partition(":")[2].strip() for line in lines if line.startswith("  install with:")]
    assert found == list(filter(None, [command]))


def test_what_the_probes_of_the_library_leave_out_is_named() -> None:
    """The entry points without a part, of each library of the cell; a library without probes has no such line."""
    for requires, gaps in ((("deepspeed==0.14.5",), catalogue().entries["deepspeed"].gaps), (("unheard-of==1",), ())):
        lines = list(describe(PASS, {"backend": "local", "plan": {}}, {}, requires))
        found = [line.partition(":")[2].strip() for line in lines if line.startswith("  not covered:")]
        assert found == ([", ".join(gaps)] if gaps else [])
