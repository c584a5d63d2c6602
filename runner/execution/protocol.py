"""What the host side says to a probe host and what it reads back: a work order out, framed JSON lines in."""

from __future__ import annotations

import json
import secrets
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from torch_compat_matrix.runner.model import Cell


@dataclass(frozen=True, kw_only=True, slots=True)
class Work:
    """A cell with what was resolved for it: the unit of a work order."""

    cell: Cell
    overlay: Path | None = None
    """The folder to put before the image's packages; its name is its key."""
    added: Mapping[str, str] = field(default_factory=dict)
    """Distribution -> version of everything in the overlay."""
    versions: Mapping[str, str] = field(default_factory=dict)
    """Member -> the version that must be imported; empty where the image's own is under test."""
    drift: tuple[str, ...] = ()
    """What a plain install would replace."""
    notes: tuple[str, ...] = ()


def order(
    work: Sequence[Work],
    *,
    device: str,
    timeout_s: float,
    seed: int,
    full: bool,
    warm: bool,
    deadline_s: float,
    threads: int = 0,
) -> dict[str, Any]:
    """The work order of one launch, with a nonce of its own; `threads` is its share of the cores, 0 all of them."""
    return {
        "nonce": secrets.token_hex(16),
        "device": device,
        "seed": seed,
        "full": full,
        "warm": warm,
        "timeout_s": timeout_s,
        "deadline_s": deadline_s,
        "threads": threads,
        "cells": [_cell(one, timeout_s) for one in work],
    }


def _cell(work: Work, timeout_s: float) -> dict[str, Any]:
    return {
        "id": work.cell.id,
        "overlay": work.overlay and work.overlay.name,
        "added": sorted(work.added),
        "members": [{"distribution": name, "version": work.versions.get(name, "")} for name in work.cell.members],
        "probes": list(work.cell.probes),
        "isolation": work.cell.isolation,
        "timeout_s": timeout_s,
    }


def frames(lines: Iterable[bytes], nonce: str) -> Iterator[dict[str, Any]]:
    """The frames among the lines: whatever lacks this launch's nonce, and replayed frames, are passed over."""
    prefix = f"compat/1 {nonce} ".encode()
    last = 0
    for line in lines:
        if not line.startswith(prefix):
            continue
        number, _, body = line[len(prefix) :].partition(b" ")
        try:
            sequence, frame = int(number), json.loads(body)
        except ValueError:
            continue  # torn by the death of the probe host: the check counts as unanswered
        if sequence > last:
            last = sequence
            yield frame
