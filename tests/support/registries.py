"""What a test knows of the registry that was started for it."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Registry:
    """A registry on loopback that asks for a password."""

    host: str
    user: str
    password: str
