"""What can go wrong, and the exit status that each kind of error ends with."""

from __future__ import annotations

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
    `engine-unreachable`, ...); the message says what happened.  `remedy` is for what the code's own remedy in the
    registry (runner/verdicts/data/reasons.ini) cannot know; where it is empty, the registry's holds.
    """

    def __init__(self, code: str, message: str, remedy: str = "", evidence: str = "") -> None:
        super().__init__(message)
        self.code = code
        self.remedy = remedy
        self.evidence = evidence
