"""`compat bisect`: where a check's verdict changed, among versions and days; unjudged points are left out."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.support import ROOT
from tests.support.indexes import Index, json_index
from tests.support.tinywheels import wheel
from torch_compat_matrix.runner.advice.bisection import NoTurn, back, passes, search
from torch_compat_matrix.runner.model import Verdict
from torch_compat_matrix.runner.outcome import Outcome
from torch_compat_matrix.runner.records.runs import Run

MATRIX = """\
images:
  any: { local: { python: "3.11", requires: [] } }
libraries:
  torchbnn: { versions: ["1.5"] }
"""


def outcome(word: str) -> Outcome:
    """p passes, f fails, s cannot be judged."""
    verdict, reason = {"p": ("pass", ""), "f": ("fail", "wrong-value"), "s": ("unsupported", "unsatisfiable")}[word]
    return Outcome(check="c", image="i", subject="l", version="1", probe="p", verdict=Verdict(verdict), reason=reason)


@given(st.text("pfs", min_size=2, max_size=40))
def test_search_ends_at_neighbours(story: str) -> None:
    """Whatever happened between, and with no more questions than there are points."""
    points = [str(number) for number in range(len(story))]
    asked: list[str] = []

    def ask(point: str) -> Outcome:
        asked.append(point)
        return outcome(story[int(point)])

    if "s" in (story[0], story[-1]) or story[0] == story[-1]:
        with pytest.raises(NoTurn):
            search(points, ask)
        return
    turn = search(points, ask)
    low, high = int(turn.before), int(turn.after)
    assert (story[low], story[high]) == (story[0], story[-1])
    assert set(story[low + 1 : high]) <= {"s"}
    assert turn.skipped == tuple(points[low + 1 : high])
    assert len(asked) == len(set(asked))


def test_few_questions_where_the_story_is_plain() -> None:
    """A thousand points, a dozen questions."""
    asked: list[str] = []

    def ask(point: str) -> Outcome:
        asked.append(point)
        return outcome("p" if int(point) < 700 else "f")

    assert search([str(number) for number in range(1000)], ask).after == "700"
    assert len(asked) <= 12


@given(st.text("pfs", max_size=30))
def test_way_back_ends_at_another_verdict(story: str) -> None:
    """In steps that double; the far end can be judged."""
    points = [str(number) for number in range(len(story))]
    asked: list[str] = []

    def ask(point: str) -> Outcome:
        asked.append(point)
        return outcome(story[int(point)])

    try:
        found = back(points, ask, right=False)
    except NoTurn as error:
        assert not any(passes(outcome(story[int(point)])) for point in asked)
        assert "; name a point with --good" in str(error)
        judged = [point for point in points if story[int(point)] != "s"]
        assert not judged or judged[-1] in asked
        return
    assert passes(outcome(story[int(found[0])])) is True
    assert found == points[: len(found)][::-1]


@pytest.fixture
def index(tmp_path: Path) -> Iterator[Index]:
    """An index of six versions, one a month, of which all from 1.3 on do not import."""
    with json_index() as index:
        for number in range(6):
            code = "raise ImportError('cannot import name zeros from torch')\n" if number >= 3 else ""
            path = wheel(tmp_path / "wheels", "torchbnn", f"1.{number}", code=code)
            index.add(path, f"2026-0{number + 1}-15")
        yield index


def compat(place: Path, index: Index, *arguments: str, status: int = 0, version: str = '"1.5"') -> str:
    """What `compat bisect` says of that index, on the interpreter at hand."""
    (place / "matrix.yaml").write_text(MATRIX.replace('"1.5"', version))
    clean = {name: value for name, value in os.environ.items() if not name.startswith(("PIP_", "UV_", "COMPAT_"))}
    own = {
        "PYTHONPATH": str(ROOT / "src"),
        "PIP_INDEX_URL": index.url,
        "NO_PROXY": "127.0.0.1",
        "UV_CACHE_DIR": str(place / "uv"),
    }
    command = [sys.executable, "-m", "torch_compat_matrix", "bisect", "--backend", "here", *arguments]
    done = subprocess.run(command, cwd=place, env={**clean, **own}, capture_output=True, text=True, check=False)
    assert done.returncode == status, done.stdout + done.stderr
    return done.stdout + done.stderr


def test_version_is_found(tmp_path: Path, index: Index) -> None:
    """From the broken version of the matrix back to the last that imports; each step is recorded."""
    said = compat(tmp_path, index, "any/torchbnn-1.5/import")
    assert "1.2: pass\n1.3: fail" in said
    assert "torchbnn 1.2 -> 1.3" in said
    steps = Run.all(tmp_path / ".compat" / "bisects")
    assert {step.header()["settings"]["bisect"] for step in steps} == {"1.5", "1.4", "1.3", "1.1", "1.2"}
    assert all(step.ended() and len(step.outcomes()) == 1 for step in steps)
    assert Run.all(tmp_path / ".compat") == []


def test_steps_are_reused(tmp_path: Path, index: Index) -> None:
    """A second time nothing is launched, and the same is said."""
    first = compat(tmp_path, index, "any/torchbnn-1.5/import")
    again = compat(tmp_path, index, "any/torchbnn-1.5/import")
    assert again.count(", reused from ") == 5
    assert first.splitlines()[:2] == again.splitlines()[:2]


def test_ends_the_other_way_round(tmp_path: Path, index: Index) -> None:
    """A newer good end: the turn is found in the order of versions, not of words."""
    said = compat(tmp_path, index, "any/torchbnn-1.0/import", "--good", "1.5", version='"1.0"')
    assert "1.2: pass\n1.3: fail" in said


def test_latest_is_the_version_it_comes_to(tmp_path: Path, index: Index) -> None:
    """Without a version in the matrix the search begins at what an install gives."""
    said = compat(tmp_path, index, "any/torchbnn-latest/import", version="latest")
    assert "latest: fail" in said
    assert "1.2: pass\n1.3: fail" in said


def test_named_ends_that_agree_are_said(tmp_path: Path, index: Index) -> None:
    """Status 3 and no invented turn."""
    said = compat(tmp_path, index, "any/torchbnn-1.5/import", "--good", "1.4", status=3)
    assert "1.4 and 1.5 both fail" in said


def test_day_is_found(tmp_path: Path, index: Index) -> None:
    """The newest version changed on the day when the broken one was uploaded."""
    ends = ("--by", "date", "--good", "2026-02-01", "--bad", "2026-06-30")
    said = compat(tmp_path, index, "any/torchbnn-latest/import", *ends, version="latest")
    assert "2026-04-14: pass\n2026-04-15: fail" in said
    assert "torchbnn 1.2 -> 1.3" in said


def test_index_without_days_is_said(tmp_path: Path, index: Index) -> None:
    """With what to do, and not as if nothing had been released."""
    for entry in index.files:
        del entry["upload-time"]
    said = compat(tmp_path, index, "any/torchbnn-latest/import", "--by", "date", version="latest", status=3)
    assert "the index does not tell when its files were uploaded" in said
    assert "--by version" in said


@pytest.mark.parametrize(
    ("cell", "said"),
    [
        ("any/torchbnn-1.5", "has several probes: name one"),
        ("any/torchbnn-9/import", "selects nothing"),
        ("any/torchbnn-1.5/import --by date --bad soon", "not a day"),
        ("any/torchbnn-1.5/import --good soon", "not a version"),
    ],
)
def test_message_names_what_cannot_be_bisected(tmp_path: Path, index: Index, cell: str, said: str) -> None:
    """With what to write instead."""
    status = 2 if said.startswith("not a ") else 3
    assert said in compat(tmp_path, index, *cell.split(), status=status)
