"""The append-only record of one run: JSON Lines, fsynced, a record per outcome; several processes write at once."""

from __future__ import annotations

import fcntl
import json
import os
import re
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from torch_compat_matrix.runner.files import naming, to_json
from torch_compat_matrix.runner.outcome import Outcome
from torch_compat_matrix.runner.records.shapes import outcome, readable
from torch_compat_matrix.runner.text import fit

_SUSPECT = re.compile(rb"[\x7f-\xff]|\\[ubfr]|://|\?")
"""In a record that may hold a secret or an active character; few do, and to walk through all of them takes long."""


def append(path: Path, *records: Mapping[str, Any]) -> None:
    """Add records, redacted and inert, and return when they are on disk.

    The file lock keeps the lines of several processes apart.  A line torn by a kill is ended first, so that it
    spoils no other line.
    """
    data = "".join(to_json(fit(record)) + "\n" for record in records).encode()
    with naming(path), path.open("ab+", buffering=0) as stream:
        fcntl.flock(stream, fcntl.LOCK_EX)
        end = stream.seek(0, os.SEEK_END)
        if end:
            stream.seek(end - 1)
            if stream.read(1) != b"\n":
                data = b"\n" + data
        view = memoryview(data)
        while view:
            view = view[stream.write(view) :]
        os.fsync(stream.fileno())


class Journal:
    """The readable records of a journal from a byte offset on, in their order; the others are counted.

    Records of earlier versions, and of other hands, may hold secrets and active characters: these are read as `append`
    would have written them.
    """

    def __init__(self, path: Path, offset: int = 0) -> None:
        self.path = path
        self.offset = offset
        """The end of the last whole line that was read."""
        self.unreadable = 0
        """The lines so far that are torn, mistyped, or of a later version of compat."""

    def __iter__(self) -> Iterator[dict[str, Any]]:
        with self.path.open("rb") as stream:
            stream.seek(self.offset)
            for line in stream:
                if not line.endswith(b"\n"):  # it is being written, or its writer was killed
                    return
                self.offset += len(line)
                record = _record(line)
                if record is None:
                    self.unreadable += 1
                else:
                    yield record


def _record(line: bytes) -> dict[str, Any] | None:
    try:
        record = json.loads(line)
        record = fit(record) if _SUSPECT.search(line) else record
    except (ValueError, RecursionError):
        return None
    return record if isinstance(record, dict) and readable(record) else None


class Follower(Journal):
    """The outcomes of a growing journal; each look reads on from the last."""

    def __init__(self, path: Path, offset: int = 0) -> None:
        super().__init__(path, offset)
        self.outcomes: dict[str, Outcome] = {}

    @classmethod
    def at_end(cls, path: Path) -> Follower:
        """A follower that skips the records so far."""
        return cls(path, path.stat().st_size if path.exists() else 0)

    def look(self) -> dict[str, Outcome]:
        """The latest outcome of every check so far."""
        for record in self if self.path.exists() else ():
            if record["kind"] == "outcome":
                self.outcomes[record["check"]] = outcome(record)
        return self.outcomes
