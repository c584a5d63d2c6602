"""Each probe fails on a library that is broken, for the right reason, and passes on the sound one under any seed."""

from __future__ import annotations

from typing import Any

import pytest

from tests.sabotage.__main__ import LIBRARIES, requires, results, right
from tests.support.environments import environment


def wrong(rows: list[dict[str, Any]]) -> list[str]:
    """The rows that are not as they must be, readable."""
    return [
        f"{row['library']} {row['probe']}: {row['what']}: {row['status']} {row['found']} {row['message']}"
        for row in rows
        if not right(row)
    ]


@pytest.mark.share
def test_quick_share_of_the_kill_table() -> None:
    """A library without torch.compile; `python -m tests.sabotage` prints the whole table."""
    python = environment("torch==2.13.0", "numpy", "torchbnn==1.2")
    rows = list(results(python, ["torchbnn"], "mutations", "import,sample,autograd"))
    assert wrong(rows) == []
    for probe in ("import", "sample", "autograd"):
        assert sum(row["probe"] == probe for row in rows) >= 4


@pytest.mark.slow
@pytest.mark.parametrize("library", LIBRARIES)
def test_whole_kill_table(library: str) -> None:
    """Every mutation is killed, and the sound library passes under fifty seeds."""
    python = environment(*requires(library))
    assert wrong(list(results(python, [library], "mutations", ""))) == []
    assert wrong(list(results(python, [library], "sound:50", ""))) == []
