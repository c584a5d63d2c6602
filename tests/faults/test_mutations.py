"""Damaged matrices, plans and claims: each is read or named as a mistake, within a second."""

from __future__ import annotations

import json
import random
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.support import RESOURCES, ROOT
from tests.support.mutations import changed, damaged
from torch_compat_matrix.runner.errors import CompatError
from torch_compat_matrix.runner.matrix import claims
from torch_compat_matrix.runner.matrix.document import MOST_SHOWN
from torch_compat_matrix.runner.planning import plan_from
from torch_compat_matrix.runner.records.shapes import readable

LIMIT_S = 1.0
"""Of processor time."""

MATRICES = tuple(path.read_text() for path in [*sorted((RESOURCES / "matrix").glob("*.yaml")), ROOT / "matrix.yaml"])
SOUND = (RESOURCES / "matrix" / "sound.yaml").read_text()
CLAIMS = "\n".join((ROOT / "claims.yaml").read_text().splitlines()[:120]) + "\n"


def plan_text() -> str:
    """A plan as `compat plan --json` writes it."""
    plan = plan_from(RESOURCES / "matrix" / "sound.yaml", backend="docker")
    return json.dumps(plan.to_json())


def of_a_matrix(folder: Path, chance: random.Random) -> Callable[[], object]:
    """Reads a damaged matrix and plans with it."""
    path = folder / "matrix.yaml"
    text = SOUND if chance.random() < 0.5 else chance.choice(MATRICES)
    path.write_bytes(damaged(text, chance))
    return lambda: plan_from(path, backend="docker")


def of_claims(folder: Path, chance: random.Random) -> Callable[[], object]:
    """Reads damaged claims."""
    path = folder / "claims.yaml"
    path.write_bytes(damaged(CLAIMS, chance))
    return lambda: claims.load(path)


def of_a_plan(folder: Path, chance: random.Random) -> Callable[[], object]:
    """Reads a damaged plan; a run that is made of one that is read can itself be read."""
    path, text = folder / "plan.json", plan_text()
    if chance.random() < 0.3:
        path.write_bytes(damaged(text, chance))
    else:
        path.write_text(json.dumps(changed(json.loads(text), chance)))

    def read() -> None:
        plan = plan_from(folder, backend="docker", plan_file=path)
        head = {"kind": "run", "schema": 1, "run": "x", "started": "x", "backend": "docker", "plan": plan.to_json()}
        assert readable(json.loads(json.dumps(head)))

    return read


def worst_of(folder: Path, seeds: range) -> tuple[float, int]:
    """The longest time of a damaged file, and the number of files that are mistakes."""
    longest, mistakes = 0.0, 0
    for seed in seeds:
        chance = random.Random(seed)
        read = (of_a_matrix, of_a_matrix, of_a_matrix, of_claims, of_a_plan)[seed % 5](folder, chance)
        began = time.process_time()
        try:
            read()
        except CompatError as error:
            assert len(str(error).splitlines()) <= 3 * MOST_SHOWN + 1, f"seed {seed}"
            mistakes += 1
        except BaseException as error:
            pytest.fail(f"seed {seed}: {type(error).__name__}: {error}")
        took = time.process_time() - began
        assert took < LIMIT_S, f"seed {seed}: {took:.2f} s"
        longest = max(longest, took)
    return longest, mistakes


def test_two_hundred_damaged_files(tmp_path: Path) -> None:
    """The quick share."""
    assert worst_of(tmp_path, range(200))[1] > 100


@pytest.mark.slow
def test_five_thousand_damaged_files(tmp_path: Path) -> None:
    """The figure of docs/reliability.md."""
    longest, mistakes = worst_of(tmp_path, range(5000))
    print(f"5000 damaged files: {mistakes} mistakes named, {5000 - mistakes} read, longest {longest:.2f} s")
