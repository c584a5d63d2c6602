"""The rules stay as good as they were on messages of others (`python -m tests.classification`)."""

from __future__ import annotations

import pytest

from tests.classification import ONLY_SCORED, WRITTEN_FROM, half, score
from tests.support.gathered import gathered
from tests.support.messages import BLIND, FOLDER, blind_messages

READ = {
    WRITTEN_FROM: (BLIND, 101, 8, 1),
    ONLY_SCORED: (BLIND, 89, 13, 1),
    "blind2": (FOLDER / "blind2", 109, 14, 1),
    "blind3": (FOLDER / "blind3.jsonl", 163, 1, 0),
    "blind4": (FOLDER / "blind4.jsonl", 146, 4, 2),
    "blind5": (FOLDER / "blind5.jsonl", 113, 6, 0),
    "blind6": (FOLDER / "blind6.jsonl", 108, 8, 0),
    "blind7": (FOLDER / "blind7.jsonl", 118, 0, 0),
    "blind8": (FOLDER / "blind8.jsonl", 132, 5, 0),
    "blind9": (FOLDER / "blind9.jsonl", 135, 11, 0),
    "blind10": (FOLDER / "blind10.jsonl", 140, 3, 0),
    "blind11": (FOLDER / "blind11.jsonl", 135, 5, 1),
    "blind12": (FOLDER / "blind12.jsonl", 141, 4, 0),
    "blind13": (FOLDER / "blind13.jsonl", 134, 7, 0),
    "blind14": (FOLDER / "blind14.jsonl", 127, 10, 1),
    "blind15": (FOLDER / "blind15.jsonl", 141, 6, 2),
    "blind16": (FOLDER / "blind16.jsonl", 134, 3, 0),
    "blind17": (FOLDER / "blind17.jsonl", 133, 10, 1),
    "blind18": (FOLDER / "blind18.jsonl", 145, 4, 0),
    "gathered": (FOLDER / "gathered.jsonl", 224, 3, 0),
    "tables": (FOLDER / "tables.jsonl", 378, 5, 0),
}
"""Each set that has been read, with the least that is right, and the most that is wrong and blamed wrongly."""


@pytest.mark.parametrize("name", READ)
def test_the_rules_are_no_worse_than_they_were(name: str) -> None:
    """In every set, of the first in both halves: raise the figures with the rules, and never lower them."""
    place, right, wrong, blamed = READ[name]
    read = blind_messages(place) if place.is_dir() else gathered(place)
    own = [score(message) for message in read if place != BLIND or half(message.name) == name]
    assert sum(one.kind == "right" for one in own) >= right
    assert sum(one.kind == "wrong" for one in own) <= wrong
    assert sum(one.blames_without_cause for one in own) <= blamed
