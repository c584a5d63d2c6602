"""Each probe fails on a library that is broken, for the right reason, and passes on the sound one under any seed."""

from __future__ import annotations

from typing import Any

import pytest

from tests.sabotage.__main__ import LIBRARIES, requires, results, right
from tests.support.environments import environment
from torch_compat_matrix.runner.numerics import difference


def wrong(rows: list[dict[str, Any]]) -> list[str]:
    """The rows that are not as they must be, readable."""
    return [
        f"{row['library']} {row['probe']}: {row['what']}: {row['status']} {row['found']} {row['message']}"
        for row in rows
        if not right(row)
    ]


@pytest.mark.share
def test_quick_share_of_the_kill_table() -> None:
    """A library's imports and samples; `python -m tests.sabotage` prints the whole table, with gradients too."""
    python = environment("torch==2.13.0", "numpy", "torchbnn==1.2")
    rows = list(results(python, ["torchbnn"], "mutations", "import,sample"))
    assert wrong(rows) == []
    for probe in ("import", "sample"):
        assert sum(row["probe"] == probe for row in rows) >= 4


@pytest.mark.share
def test_what_a_probe_lets_pass_shows_in_its_fingerprint() -> None:
    """The sound library's is the same again; a mutation within the tolerance of every reference is a difference."""
    python = environment("torch==2.13.0", "numpy", "torchbnn==1.2")
    sound, broken = results(python, ["torchbnn"], "subtle", "autograd")
    (again, *_) = results(python, ["torchbnn"], "sound:1", "autograd")
    assert [row["status"] for row in (sound, again, broken)] == ["passed"] * 3
    assert sound["numerics"]
    assert differing(sound, again) == []
    assert "KL loss: KL loss (sum): gradient of 0.weight_mu differs by 5e-5" in differing(sound, broken)


def differing(sound: dict[str, Any], row: dict[str, Any]) -> list[str]:
    """The results of a mutated library that differ from the sound one's."""
    assert row["numerics"].keys() == sound["numerics"].keys()
    said = {name: difference(sound["numerics"][name], seen)[1] for name, seen in row["numerics"].items()}
    return [f"{name} {words}" for name, words in said.items() if words]


@pytest.mark.slow
@pytest.mark.parametrize("library", LIBRARIES)
def test_whole_kill_table(library: str) -> None:
    """Every mutation is killed, and the sound library passes under fifty seeds."""
    python = environment(*requires(library))
    assert wrong(list(results(python, [library], "mutations", ""))) == []
    assert wrong(list(results(python, [library], "sound:50", ""))) == []
