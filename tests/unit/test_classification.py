"""The rules stay as good as they were on messages of others (`python -m tests.classification`)."""

from __future__ import annotations

import pytest

from tests.classification import ONLY_SCORED, WRITTEN_FROM, half, score
from tests.support.messages import blind_messages

SCORES = tuple(map(score, blind_messages()))


@pytest.mark.parametrize(("name", "right", "wrong", "blamed"), [(WRITTEN_FROM, 102, 7, 2), (ONLY_SCORED, 90, 11, 1)])
def test_the_rules_are_no_worse_than_they_were(name: str, right: int, wrong: int, blamed: int) -> None:
    """In both halves of the first set: raise the figures with the rules, and never lower them."""
    own = [one for one in SCORES if half(one.message.name) == name]
    assert sum(one.kind == "right" for one in own) >= right
    assert sum(one.kind == "wrong" for one in own) <= wrong
    assert sum(one.blames_without_cause for one in own) <= blamed
