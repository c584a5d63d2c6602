"""What an image is said to hold: true, false, or not seen; never true for want of an answer."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from tests.support.journals import records, write
from torch_compat_matrix.reports.expectations import cudnn, expected
from torch_compat_matrix.reports.table import load
from torch_compat_matrix.reports.write import compile_report
from torch_compat_matrix.runner.model import Known, Verdict

FACTS = {
    "python": "3.11.7",
    "os": "Ubuntu 22.04.5 LTS",
    "packages": {"torch": "2.6.0+cu124", "numpy": "2.2.6", "scikit-learn": "1.5"},
    "torch": {"version": "2.6.0+cu124", "cuda": "12.4", "cudnn": 90100},
    "tools": {"g++": "/usr/bin/g++"},
    "services": {"jupyter": {"answers": True, "detail": "Jupyter server 2.14 answers on its port"}},
}


def judged(expects: dict[str, Any], facts: dict[str, Any] | None = FACTS, stand_in: bool = False) -> dict[str, Verdict]:
    """What -> verdict for one image."""
    plan = {"images": [{"name": "i", "expects": expects}]}
    seen = [{"image": "i", "facts": facts, "stand_in": stand_in}] if facts is not None else []
    return {outcome.check.removeprefix("i/expects/"): outcome.verdict for outcome in expected(plan, seen)}


@pytest.mark.parametrize(
    ("expects", "true"),
    [
        ({"torch": "2.6"}, True),
        ({"torch": "2.6.0"}, True),
        ({"torch": "2.6.0+cu124"}, True),
        ({"torch": "2.60"}, False),
        ({"torch": "2.6.0+cu118"}, False),
        ({"cuda": "12.4"}, True),
        ({"cuda": "11.8"}, False),
        ({"cudnn": "9"}, True),
        ({"cudnn": "8"}, False),
        ({"python": "3.11"}, True),
        ({"python": "3.1"}, False),
        ({"os": "ubuntu lts"}, True),
        ({"os": "Debian"}, False),
        ({"preinstalled": ["numpy"]}, True),
        ({"preinstalled": ["scikit_learn>=1.4"]}, True),
        ({"preinstalled": ["numpy<2"]}, False),
        ({"preinstalled": ["captum"]}, False),
        ({"tools": ["g++"]}, True),
        ({"tools": ["nvcc"]}, False),
        ({"services": ["jupyter"]}, True),
    ],
    ids=str,
)
def test_true_or_false(expects: dict[str, Any], true: bool) -> None:
    """By the facts of the image, versions by their numbers."""
    assert list(judged(expects).values()) == [Verdict.PASS if true else Verdict.FAIL]


def test_what_was_not_asked_is_not_true() -> None:
    """Neither of an image that was never seen, nor of a stand-in, nor of a service that was not asked for."""
    everything = {"torch": "2.6", "preinstalled": ["numpy"], "tools": ["g++"]}
    assert set(judged(everything, None).values()) == {Verdict.NOT_RUN}
    assert set(judged(everything, stand_in=True).values()) == {Verdict.SKIP}
    assert judged({"services": ["sshd"]}) == {"sshd": Verdict.NOT_RUN}


def test_torch_that_does_not_import_says_nothing_of_cuda() -> None:
    """Its version is the package's; CUDA and cuDNN are unknown, not absent. A build without CUDA has none."""
    broken = {**FACTS, "torch": None, "torch_error": {"message": "TimedOut: 120 s"}}
    asked = {"torch": "2.6", "cuda": "12.4", "cudnn": "9"}
    assert list(judged(asked, broken).values()) == [Verdict.PASS, Verdict.NOT_RUN, Verdict.NOT_RUN]
    without = {**FACTS, "torch": {"version": "2.6.0", "cuda": None, "cudnn": None}}
    assert list(judged(asked, without).values()) == [Verdict.PASS, Verdict.FAIL, Verdict.FAIL]


def test_image_that_is_missing_says_why_nothing_is_known(tmp_path: Path) -> None:
    """The reason that its checks have."""
    found = [record for record in records() if record["kind"] != "environment"]
    found[0]["plan"]["images"][0]["expects"] = {"torch": "2.6"}
    for record in found:
        if record["kind"] == "outcome":
            record.update(verdict="unsupported", reason="image-not-found", environment="")
    (one,) = load(write(tmp_path / "journal.jsonl", found)).expectations
    assert (one.outcome.verdict, one.surprise) == (Verdict.NOT_RUN, "")
    assert one.outcome.detail == "the image was not launched: image-not-found"


@pytest.mark.parametrize(("number", "version"), [(90100, "9.1.0"), (91002, "9.10.2"), (8902, "8.9.2"), (None, "")])
def test_cudnn_number(number: int | None, version: str) -> None:
    """As torch.backends.cudnn.version() gives it."""
    assert cudnn(number) == version


@pytest.mark.parametrize("how", ["surprise", "known", "claim"])
def test_unmet_expectation_is_shown_and_counts(tmp_path: Path, how: str) -> None:
    """A surprise, unless a `known:` entry covers it or the image is a mere claim."""
    found = records()
    image = found[0]["plan"]["images"][0]
    image["expects"] = {"torch": "2.6", "preinstalled": ["captum"]}
    image["claim"] = "an article" if how == "claim" else None
    if how == "known":
        entry = Known(cells="*/expects/captum", expect=Verdict.FAIL, reason="official images hold no captum")
        found[0]["plan"]["known"].append(entry.to_json())
    journal = write(tmp_path / "journal.jsonl", found)
    surprises = {one.outcome.check for one in load(journal).surprises}
    assert ("gpu-image/expects/captum" in surprises) == (how == "surprise")
    report = compile_report(journal, tmp_path).path.read_text()
    assert "Expectations of the images" in report
    assert "not installed" in report
    assert "gpu-image/expects/captum" in (tmp_path / "report.json").read_text()
    assert "gpu-image/expects/captum" in (tmp_path / "junit.xml").read_text()
