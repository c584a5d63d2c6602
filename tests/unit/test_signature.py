"""Signatures: what belongs to a failure, and what is only its place, its version or its day."""

from __future__ import annotations

import time
from collections import Counter
from dataclasses import replace

import pytest

from tests.signatures import Scored, outcome_of, pairs
from torch_compat_matrix.runner.model import Verdict
from torch_compat_matrix.runner.signature import short, signature, words_of

TRACE = """Traceback (most recent call last):
  File "{probes}/captum.py", line 12, in sample
  File "{home}/site-packages/captum/attr/_core.py", line {line}, in attribute
  File "{home}/site-packages/torch/nn/modules/module.py", line {line}, in __call__
"""
HERE = TRACE.format(probes="/run/bundle/compat_probes", home="/home/me/lib/python3.11", line=7)
THERE = TRACE.format(probes="/tmp/x/probes", home="/opt/conda/lib/python3.12", line=99)


def test_signatures_are_no_worse_than_they_were() -> None:
    """On pairs of real messages: raise the figures with the signature, and never lower them."""
    kinds = Counter(scored.kind for _, scored in pairs())
    assert kinds["right"] >= 338
    assert kinds["wrongly same"] <= 1
    assert [Scored("", True, said).kind for said in (True, False)] == ["right", "wrongly different"]


@pytest.mark.parametrize(
    ("one", "other"),
    [
        (f"{HERE}RuntimeError: mat1 has [3, 4], at 0x7f3a", f"{THERE}RuntimeError: mat1 has [128, 9], at 0x55d1"),
        (f"{HERE}ValueError: needs 2.1.0, has 1.13.1+cu117", f"{THERE}ValueError: needs 2.4.1, has 2.0.0rc1"),
        (f"{HERE}ValueError: cannot read /home/me/a/w.bin", f"{THERE}ValueError: cannot read /opt/b/w.bin"),
    ],
    ids=["shapes and addresses", "versions", "paths"],
)
def test_place_and_version_are_left_out(one: str, other: str) -> None:
    """The same words in the same library are one failure."""
    assert signature(outcome_of(one)) == signature(outcome_of(other)) != ""


def test_another_library_is_another_failure() -> None:
    """Though it says the same; so is a probe's own finding in another library."""
    one, other = outcome_of(f"{HERE}ValueError: bad value"), outcome_of(f"{HERE}ValueError: bad value")
    assert signature(one) != signature(replace(other, traceback=HERE.replace("captum", "pyro")))
    found = replace(
        one, traceback="", evidence="mean of draws is 7.1 standard errors off", reason="wrong-moments", environment="e"
    )
    assert signature(found) == signature(replace(found, evidence="mean of draws is 9.9 standard errors off"))
    assert signature(found) != signature(replace(found, subject="another"))


def test_cause_decides_not_what_wraps_it() -> None:
    """The frames of a direct cause are those of the failure."""
    cause = f"{HERE}ValueError: bad value\n\nThe above exception was the direct cause of the following exception:\n\n"
    wrapped = replace(outcome_of(f"{HERE}ValueError: bad value"), traceback=cause + HERE.replace("captum", "wrapper"))
    assert signature(wrapped) == signature(outcome_of(f"{HERE}ValueError: bad value"))


@pytest.mark.parametrize("verdict", [Verdict.PASS, Verdict.SKIP, Verdict.NOT_RUN])
def test_what_does_not_fail_has_none(verdict: Verdict) -> None:
    """Host trouble has one: it comes again."""
    failed = outcome_of(f"{HERE}ValueError: bad value")
    assert signature(replace(failed, verdict=verdict)) == ""
    assert signature(replace(failed, verdict=Verdict.INFRA))


def test_shown_short() -> None:
    """Four digits; words keep the symbol that a linker misses, and lose the build of the file."""
    assert short("a3f90b1c") == "#a3f9"
    said = "ImportError: /opt/x/site-packages/a/_C.cpython-311-x86_64-linux-gnu.so: undefined symbol: _ZN3c104cuda9"
    assert words_of(said) == "a/_C.so undefined symbol _ZN3c104cuda9"


@pytest.mark.parametrize("words", ["a", "a/", "1.", "x_", "Aa", "a::", ".so", '\n  File "', "#0 ", "site-packages/"])
def test_long_words_are_read_quickly(words: str) -> None:
    """Whatever a library prints."""
    failed = replace(outcome_of("ValueError: x"), evidence=words * 9000, traceback=words * 9000)
    died = replace(failed, verdict=Verdict.CRASH, evidence="x", traceback="", output=words * 9000)
    started = time.process_time()
    assert signature(failed) != signature(died)
    assert time.process_time() - started < 0.5
