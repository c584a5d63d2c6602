"""What can go wrong, and the exit status that each kind of error ends with."""

from __future__ import annotations

from collections.abc import Iterable
from difflib import get_close_matches
from enum import IntEnum


class Status(IntEnum):
    """Exit statuses of `compat`, as `compat --help` lists them."""

    AS_EXPECTED = 0
    SURPRISES = 1
    BAD_MATRIX = 2
    NOTHING_SELECTED = 3
    NO_BACKEND = 4
    INCOMPLETE = 5
    INTERRUPTED = 130


class Failure(Exception):
    """An error to tell the user, and the exit status that goes with it."""

    def __init__(self, status: Status, message: str) -> None:
        super().__init__(message)
        self.status = status


class Trouble(Exception):
    """Something other than the library stands in the way: a named outcome for every check it concerns.

    `code` is a stable reason code (`image-not-found`, `registry-refused`, `no-nvidia-runtime`, `disk-full`,
    `engine-unreachable`, ...); the message says what happened, `remedy` what to do about it.
    """

    def __init__(self, code: str, message: str, remedy: str = "", evidence: str = "") -> None:
        super().__init__(message)
        self.code = code
        self.remedy = remedy
        self.evidence = evidence


def did_you_mean(word: str, choices: Iterable[str]) -> str:
    """The end of a message about an unknown word: `; did you mean 'x'?`, or what there is to choose from."""
    words = sorted(set(choices))
    found = get_close_matches(word, words, n=1, cutoff=0.5)
    if found:
        return f"; did you mean {found[0]!r}?"
    return f"; there are: {', '.join(words[:12])}{', ...' if len(words) > 12 else ''}" if words else ""
