"""Declared against measured bounds: what a library's requirements come to by what passed and failed."""

from __future__ import annotations

from pathlib import Path
from zipfile import ZipFile

import pytest
from packaging.specifiers import SpecifierSet

from tests.support.tinywheels import wheel
from torch_compat_matrix.runner.advice.bounds import Bound, declared, learn, newer


def bound(clauses: str, passes: str = "", fails: str = "") -> Bound:
    """What is declared of numpy, and the versions seen."""
    return Bound(name="numpy", declared=SpecifierSet(clauses), passes={*passes.split()}, fails={*fails.split()})


@pytest.mark.parametrize(
    ("clauses", "passes", "fails", "supported"),
    [
        ("<2", "1.26.4", "", "numpy<2"),
        ("<2", "1.26.4 2.4.6", "", "numpy"),
        (">=1.20,<2", "2.4.6", "", "numpy>=1.20"),
        ("<2", "1.26.4 2.2.0", "2.3.0 2.4.6", "numpy<2.3.0"),
        ("<2", "1.26.4", "2.0.0", "numpy<2"),
        ("", "1.26.4", "2.0.0", "numpy<2.0.0"),
        (">=1.0", "1.26.4", "1.16.0", "numpy>=1.0,>1.16.0"),
        ("<2", "", "2.0.0", "numpy<2"),
        ("==1.26.4", "1.26.4 2.4.6", "", "numpy"),
    ],
)
def test_requirement_follows_the_evidence(clauses: str, passes: str, fails: str, supported: str) -> None:
    """A cap goes where a newer version passes, comes where one fails, and stays where nothing was seen."""
    assert bound(clauses, passes, fails).supported == supported


def test_words_mark_what_is_outside() -> None:
    """Of the declared bounds, oldest first."""
    said = bound("<2", "2.4.6 1.26.4", "3.0").words
    assert said == "numpy: declares <2; passes with 1.26.4, 2.4.6 (outside); fails with 3.0 (outside)"


def test_failure_tells_of_the_only_version_that_never_passed() -> None:
    """Where two may be to blame, neither is."""
    bounds = {"numpy": bound("<2"), "torch": Bound(name="torch", declared=SpecifierSet(">=2.0"))}
    learn(bounds, {"numpy": "1.26.4", "torch": "2.9.0+cu128"}, passed=True)
    learn(bounds, {"numpy": "2.0.0", "torch": "2.13.0"}, passed=False)
    assert [each.fails for each in bounds.values()] == [set(), set()]
    learn(bounds, {"numpy": "1.26.4", "torch": "2.13.0"}, passed=False)
    assert [each.fails for each in bounds.values()] == [set(), {"2.13.0"}]


def test_metadata_is_read_for_the_environment(tmp_path: Path) -> None:
    """Without extras, and without what a marker leaves out there."""
    path = wheel(
        tmp_path,
        "lib",
        "1.0",
        "numpy<2",
        'tqdm; python_version < "3"',
        'pytest; extra == "test"',
        "Torch>=2.0",
        needs_python=">=3.9",
    )
    with ZipFile(path) as archive:
        archive.extractall(tmp_path)
    facts = {"python": "3.11.7", "platform": "linux", "machine": "x86_64", "implementation": "cpython"}
    found = declared(tmp_path, "lib", facts)
    assert {name: str(each.declared) for name, each in found.items()} == {
        "python": ">=3.9",
        "numpy": "<2",
        "torch": ">=2.0",
    }


def test_releases_above_the_cap_are_tried() -> None:
    """Without pre-releases; none where the cap admits the newest."""
    assert newer(bound("<2"), ["2.1", "1.26", "2.0", "3.0rc1"]) == ["2.0", "2.1"]
    assert newer(bound("<4"), ["2.1", "1.26"]) == []
    assert newer(bound("==9"), ["2.1"]) == []
