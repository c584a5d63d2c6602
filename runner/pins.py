"""Distributions and versions: when two names mean the same."""

from __future__ import annotations

import re


def canonical(name: str) -> str:
    """The normalised name of a distribution (PEP 503)."""
    return re.sub(r"[-_.]+", "-", name).lower()
