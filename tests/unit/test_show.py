"""`compat show`: what it prints of one outcome."""

from __future__ import annotations

from torch_compat_matrix.compat.verbs.show import describe
from torch_compat_matrix.runner.model import Outcome, Verdict


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
