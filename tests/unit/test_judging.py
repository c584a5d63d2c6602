"""Surprises: one judgement of an outcome, whoever asks."""

from __future__ import annotations

import datetime as dt
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from torch_compat_matrix.runner.judging import judge, matching
from torch_compat_matrix.runner.matrix.document import MatrixError
from torch_compat_matrix.runner.matrix.expand import expand
from torch_compat_matrix.runner.matrix.load import load
from torch_compat_matrix.runner.model import Cell, Check, Known, Verdict
from torch_compat_matrix.runner.outcome import Outcome

TODAY = dt.date(2030, 1, 2)
CHECK = Check(
    cell=Cell(image="i", subject="pyro-ppl", version="1.8.0", requires=(), members=("pyro-ppl",)), probe="import"
)


def outcome(verdict: str, reason: str = "") -> Outcome:
    """What came of a check."""
    return Outcome(
        check="i/pyro-ppl-1.8.0/import",
        image="i",
        subject="pyro-ppl",
        version="1.8.0",
        probe="import",
        verdict=Verdict(verdict),
        reason=reason,
    )


def known(cells: str, expect: str = "fail", code: str | None = None, expires: dt.date | None = None) -> Known:
    """An entry."""
    return Known(cells=cells, expect=Verdict(expect), reason="r", code=code, expires=expires)


@pytest.mark.parametrize(
    ("verdict", "entry", "surprise"),
    [
        ("pass", None, ""),
        ("skip", None, ""),
        ("infra", None, ""),
        ("not-run", None, ""),
        ("fail", None, "unexpected failure"),
        ("unsupported", None, "unexpected failure"),
        ("fail", known("i"), ""),
        ("fail", known("i", code="wrong-value"), ""),
        ("fail", known("i", code="another"), "unexpected failure"),
        ("crash", known("i"), "unexpected failure"),
        ("pass", known("i"), "unexpected pass"),
        ("pass", known("i", "skip"), ""),
        ("skip", known("i"), ""),
        ("infra", known("i"), ""),
        ("fail", known("i", "pass"), "unexpected failure"),
        ("fail", known("i", expires=TODAY), ""),
        ("fail", known("i", expires=TODAY - dt.timedelta(1)), "expired"),
        ("pass", known("i", expires=TODAY - dt.timedelta(1)), "expired"),
        ("fail", known("another"), "unexpected failure"),
    ],
    ids=str,
)
def test_surprise(verdict: str, entry: Known | None, surprise: str) -> None:
    """An entry that expects otherwise, none at all, or one that is out of date."""
    reason = "wrong-value" if verdict == "fail" else ""
    assert judge(outcome(verdict, reason), [entry] if entry else [], TODAY).surprise == surprise


def test_flaky_pass_is_not_announced() -> None:
    """An expected failure that passes only now and then is not mended."""
    flaky = replace(outcome("pass"), flaky=True, attempts=("fail",))
    assert judge(flaky, [known("pyro-ppl-1.8.0")], TODAY).surprise == ""


def test_first_entry_decides() -> None:
    """Whatever comes behind it."""
    entries = [known("another"), known("pyro-ppl-1.8.0", "crash"), known("i/pyro-ppl-1.8.0/import")]
    judged = judge(outcome("fail"), entries, TODAY)
    assert (judged.known, judged.surprise) == (entries[1], "unexpected failure")


MATRIX = """\
images: {{ i: {{ tag: a }}, j: {{ tag: b }} }}
libraries: {{ pyro-ppl: {{ versions: ["1.8.0", "1.9.1"] }}, torch: {{ versions: [installed] }} }}
known:
  - {{ cells: "{cells}", expect: fail, reason: r }}
"""


@pytest.mark.parametrize(
    ("cells", "covered"),
    [
        ("pyro-ppl-1.8.0", 8),
        ("pyro-ppl", 16),
        ("pyro-ppl-1.8.0/import", 2),
        ("i", 12),
        ("*/pyro-ppl-1.8.0", 8),
        ("i/*", 12),
        ("torch", 8),
        ("pyro", 0),
        ("1.8.0", 0),
        ("i/pyro-ppl-1.8.0/imports", 0),
    ],
)
def test_entry_covers_what_it_loads_for(tmp_path: Path, cells: str, covered: int) -> None:
    """An entry means the same when it is read and when it is applied; one that covers no check is refused."""
    path = tmp_path / "matrix.yaml"
    path.write_text(MATRIX.format(cells=cells))
    if not covered:
        with pytest.raises(MatrixError, match=r"matrix\.yaml:4:7: matches no check; did you mean|there are"):
            load(path)
        return
    plan = expand(load(path), "docker")
    assert sum(matching(plan.known, check) is not None for check in plan.checks) == covered


@pytest.mark.parametrize(
    ("bound", "holds"),
    [
        ({"version": ">=1.8,<1.9"}, True),
        ({"version": "==1.9.0"}, False),
        ({"digest": f"sha256:{'1' * 64}"}, True),
        ({"digest": f"sha256:{'2' * 64}"}, False),
        ({"target": "h100"}, True),
        ({"target": "gpu"}, True),
        ({"target": "cpu"}, False),
        ({"signature": "#a3f9"}, True),
        ({"signature": "ffff"}, False),
    ],
)
def test_bound_entry_holds_for_what_it_names_alone(bound: dict[str, Any], holds: bool) -> None:
    """Elsewhere the next entry decides; before the outcome is there, nothing can be told."""
    seen = replace(outcome("fail"), installed="1.8.0", digest=f"sha256:{'1' * 64}", target="h100", signature="a3f90b1c")
    entry, wide = replace(known("i"), **bound), known("i", "crash")
    assert matching([entry, wide], seen) is (entry if holds else wide)
    assert judge(seen, [entry], TODAY).surprise == ("" if holds else "unexpected failure")
    assert matching([entry, wide], CHECK) is None
    assert Known.from_json(entry.to_json()) == entry


@pytest.mark.parametrize(
    ("bound", "seen", "holds"),
    [
        ("lab-7", "h100", True),
        ("gpu", "h100", True),
        ("h100", "h100", False),
        ("lab-7", "", True),
        ("cpu", "cpu", True),
        ("gpu", "cpu", False),
    ],
)
def test_entry_is_bound_to_the_named_target(bound: str, seen: str, holds: bool) -> None:
    """What `--target` says comes before the device that was seen, also where nothing ran."""
    named = replace(outcome("fail"), target=seen, named="lab-7")
    assert bool(matching([replace(known("i"), target=bound)], named)) is holds


def test_pass_is_no_other_failure() -> None:
    """An entry bound to a signature is told when its check passes."""
    entry = replace(known("i"), signature="a3f9")
    assert judge(outcome("pass"), [entry], TODAY).surprise == "unexpected pass"


def test_version_that_is_none_meets_no_bound() -> None:
    """`latest` was never installed."""
    entry = replace(known("i"), version=">=1")
    assert judge(replace(outcome("fail"), version="latest"), [entry], TODAY).known is None


@pytest.mark.parametrize(
    ("target", "surprise"), [("cpu", ""), ("h100", "unexpected failure"), ("", "unexpected failure")]
)
def test_library_that_wants_a_gpu_is_no_surprise_without_one(target: str, surprise: str) -> None:
    """On a host without a GPU; where there is one, something hides it."""
    assert judge(replace(outcome("unsupported", "no-gpu"), target=target), (), TODAY).surprise == surprise
