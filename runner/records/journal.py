"""The append-only record of one run: JSON Lines, fsynced, a record per outcome; several processes write at once."""

from __future__ import annotations

import fcntl
import json
import os
import re
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from torch_compat_matrix.runner.model import Outcome
from torch_compat_matrix.runner.text import fit

SCHEMA = 1

_SUSPECT = re.compile(rb"[\x7f-\xff]|\\[ubfr]|://|\?")
"""In a record that may hold a secret or an active character; few do, and to walk through all of them takes long."""


def append(path: Path, *records: Mapping[str, Any]) -> None:
    """Add records, redacted and inert, and return when they are on disk.

    The file lock keeps the lines of several processes apart.  A line torn by a kill is ended first, so that it
    spoils no other line.
    """
    data = "".join(
        json.dumps(fit(record), separators=(",", ":"), ensure_ascii=False) + "\n" for record in records
    ).encode()
    with path.open("ab+", buffering=0) as stream:
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


def read(path: Path, offset: int = 0) -> Iterator[tuple[dict[str, Any], int]]:
    """Each whole record after a byte offset, with the offset behind it; torn lines are skipped.

    Records of earlier versions, and of other hands, may hold secrets and active characters: these are read as `append`
    would have written them.
    """
    with path.open("rb") as stream:
        stream.seek(offset)
        for line in stream:
            if not line.endswith(b"\n"):
                return
            offset += len(line)
            try:
                record = json.loads(line)
            except ValueError:
                continue
            if isinstance(record, dict):
                yield fit(record) if _SUSPECT.search(line) else record, offset


class Follower:
    """The outcomes of a growing journal; each look reads on from the last."""

    def __init__(self, path: Path, offset: int = 0) -> None:
        self.path = path
        self.offset = offset
        self.outcomes: dict[str, Outcome] = {}

    @classmethod
    def at_end(cls, path: Path) -> Follower:
        """A follower that skips the records so far."""
        return cls(path, path.stat().st_size if path.exists() else 0)

    def look(self) -> dict[str, Outcome]:
        """The latest outcome of every check so far."""
        if self.path.exists():
            for record, behind in read(self.path, self.offset):
                self.offset = behind
                if record.get("kind") == "outcome":
                    outcome = Outcome.from_json(record)
                    self.outcomes[outcome.check] = outcome
        return self.outcomes
