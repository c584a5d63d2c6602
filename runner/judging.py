"""Which `known:` entry covers a check."""

from __future__ import annotations

from collections.abc import Sequence

from torch_compat_matrix.runner.model import Check, Known, Outcome
from torch_compat_matrix.runner.selector import first


def matching(known: Sequence[Known], check: Check | Outcome) -> Known | None:
    """The first `known:` entry that covers the check: it decides, whatever comes behind it."""
    place = first([entry.cells for entry in known], check.address)
    return None if place is None else known[place]
