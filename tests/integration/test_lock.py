"""`compat lock`, and what is held to it, with a folder of packages in which newer ones appear."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest

from tests.integration.test_moving_versions import compat
from tests.support.indexes import json_index
from tests.support.tinywheels import wheel
from torch_compat_matrix.runner.model import Verdict
from torch_compat_matrix.runner.records.runs import Run

MATRIX = """\
images: { here: {} }
probes: [import]
libraries: { torchbnn: { versions: [latest-1, latest, "9"], find-links: [links] } }
"""
AWAY = "http://127.0.0.1:9/simple"


@pytest.fixture
def place(tmp_path: Path) -> Path:
    """A folder with a matrix, a release of torchbnn and one of what it needs."""
    (tmp_path / "matrix.yaml").write_text(MATRIX)
    wheel(tmp_path / "links", "torchbnn", "1.0", "tinydep")
    wheel(tmp_path / "links", "tinydep", "0.1")
    return tmp_path


@pytest.mark.share
def test_nothing_newer_is_taken(place: Path, torch_python: str) -> None:
    """And no other file of the same release; the lock is stale, and says where."""
    here = ("--backend", "here")
    with json_index() as index:

        def said(*words: str, status: int = 0, python: str = "") -> str:
            return compat(place, index.url, *words, *here, status=status, **({"python": python} if python else {}))

        assert "there is no lock" in said("plan", "--locked", status=2)
        assert "3 cells, 1 of them without packages: here/torchbnn-9" in said("lock")
        lock = place / "matrix.lock"
        text = lock.read_text()
        said("lock")
        assert lock.read_text() == text
        assert "problem: version-not-found" in text
        assert "matrix.lock: as today\n" in said("lock", "--check")

        wheel(place / "links", "torchbnn", "1.1")
        wheel(place / "links", "tinydep", "0.2")
        assert "here/torchbnn-1.1" in said("plan")
        said("plan", "--locked", "--json", "plan.json")
        planned = json.loads((place / "plan.json").read_text())
        assert [cell["version"] for cell in planned["cells"]] == ["1.0", "latest", "9"]
        words = ("-m", "matrix", "--compat-locked", "--compat-backend", "here", "--collect-only", "-q")
        items = compat(place, index.url, *words, module="pytest")
        assert "here/torchbnn-1.0/import" in items and "torchbnn-1.1" not in items
        said("run", "--plan", "plan.json", status=1, python=torch_python)
        outcomes = Run.open(place / ".compat").outcomes().values()
        assert {outcome.cell: set(outcome.resolved) for outcome in outcomes if outcome.verdict is Verdict.PASS} == {
            "here/torchbnn-1.0": {"tinydep==0.1", "torchbnn==1.0"},
            "here/torchbnn-latest": {"tinydep==0.1", "torchbnn==1.0"},
        }
        stale = said("lock", "--check", status=1).splitlines()
        assert "torchbnn latest-1: locked 1.0, now 1.1" in stale
        assert any(line.startswith("here/torchbnn-latest: locked tinydep==0.1 --hash=sha256:") for line in stale)

        wheel(place / "links", "torchbnn", "1.0", "tinydep", code="exchanged = True")
        said("run", "--plan", "plan.json", "here/torchbnn-latest", status=1, python=torch_python)
        (outcome,) = Run.open(place / ".compat").outcomes().values()
        assert (outcome.reason, "Hash mismatch for `torchbnn==1.0`" in outcome.detail) == ("hash-mismatch", True)

        changed = MATRIX.replace("[latest-1", '["1.1", latest-1').replace("latest,", "latest-2, latest,")
        (place / "matrix.yaml").write_text(changed)
        told = said("plan", "--locked", status=2)
        assert "matrix.lock: the lock does not know, or has another answer for, torchbnn latest-2; run" in told
        (place / "matrix.yaml").write_text(MATRIX.replace("[latest-1", '["1.1", latest-1'))
        assert "here/torchbnn-1.1; run `compat lock`" in said("plan", "--locked", status=2)
    compat(place, AWAY, "lock", "--check", *here, status=5)


STAND_IN = """\
images: { train: { local: { python: host, requires: [tinydep] } } }
probes: [import]
libraries: { torchbnn: { versions: ["1.0"] } }
"""


def test_a_stand_in_stays_what_it_was(place: Path) -> None:
    """Its exact packages are locked: nothing newer is taken, no other file, and no answer to another question."""
    (place / "matrix.yaml").write_text(STAND_IN)
    with json_index() as index:
        for path in sorted((place / "links").iterdir()):
            index.add(path)

        def said(*words: str, status: int = 0) -> str:
            return compat(place, index.url, *words, "--backend", "local", status=status)

        said("lock")
        lock = place / "matrix.lock"
        text = lock.read_text()
        assert "stand_ins:\n    train:\n      adds:\n      - tinydep==0.1\n        --hash=sha256:" in text
        assert "matrix.lock: as today\n" in said("lock", "--check")

        index.add(wheel(place / "links", "tinydep", "0.2"))
        stale = said("lock", "--check", status=1)
        assert "train: locked tinydep==0.1 --hash=sha256:" in stale and "now tinydep==0.2 --hash=sha256:" in stale
        said("run", "--locked")
        outcomes = Run.open(place / ".compat").outcomes().values()
        assert [tuple(outcome.resolved) for outcome in outcomes] == [("torchbnn==1.0",)]

        lock.write_text(text.replace("asked: host tinydep", "asked: host tinydep<1"))
        assert "has another answer for, train; run `compat lock`" in said("plan", "--locked", status=2)
        lock.write_text(text)
        index.files.clear()
        index.add(wheel(place / "others", "tinydep", "0.1", code="exchanged = True"))
        for cache in (place / ".compat" / "standins", place / "uv"):
            shutil.rmtree(cache)
        said("run", "--locked", status=1)
        (outcome,) = Run.open(place / ".compat").outcomes().values()
        assert outcome.reason == "hash-mismatch"
