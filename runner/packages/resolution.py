"""The answer to the question what an install into an image would come to."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from torch_compat_matrix.runner.errors import Trouble
from torch_compat_matrix.runner.model import PLAIN, Cell, Install
from torch_compat_matrix.runner.pins import canonical, name_of, read_pins

PASSING = (
    *("index-unreachable", "index-refused", "disk-full", "install-failed", "constraints-unreadable"),
    *("build-timeout", "out-of-memory"),
)
"""Passing problems, which are not cached: no other question to uv or pip is an answer."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Resolution:
    """The result of an install into the image."""

    add: tuple[str, ...] = ()
    """`name==version` of each package that the image lacks (`name @ URL` where a URL is required)."""
    plain: tuple[str, ...] = ()
    """The same for a plain `pip install`, with the packages that it would replace; empty where it equals `add`."""
    versions: Mapping[str, str] = field(default_factory=dict)
    """Canonical name -> version of all resolved packages, the image's own among them."""
    drift: tuple[str, ...] = ()
    """The packages that a plain `pip install` would replace (`torch 2.6.0 -> 2.13.0`), even where none has to be."""
    problem: str = ""
    """A stable reason code; empty where the image can be kept as it is."""
    detail: str = ""
    evidence: str = ""
    blame: str = ""
    """Who is to blame for the problem; empty: as the reason says."""
    notes: tuple[str, ...] = ()

    @classmethod
    def from_json(cls, data: Mapping[str, Any]) -> Resolution:
        """The resolution from `asdict`'s data, by way of JSON."""
        lists: dict[str, Any] = {name: tuple(data[name]) for name in ("add", "plain", "drift", "notes")}
        return cls(**{**data, **lists})

    @classmethod
    def of_lock(cls, cell: Cell, facts: Mapping[str, Any]) -> Resolution | None:
        """The answer that the cell's lock has for it, with the hashes; None where the cell has none."""
        locked = cell.locked
        if locked is None:
            return None
        asked, add = set(map(name_of, cell.requires)), tuple(locked["adds"])
        held = {name: version for name, version in facts["packages"].items() if canonical(name) in asked}
        return cls(
            add=add,
            versions={**{canonical(name): version for name, version in held.items()}, **read_pins(add)},
            drift=tuple(locked["drift"]),
            problem=locked["problem"],
            detail=locked["detail"],
        )

    def trouble(self, of: str = "") -> Trouble:
        """The problem as a named outcome; `of` begins its message."""
        return Trouble(self.problem, f"{of}{self.detail}", evidence=self.evidence, blame=self.blame)

    def under(self, install: Install) -> Resolution:
        """The resolution for that way to install; a plain install adds whatever pip does, and so has no drift."""
        if install != PLAIN or self.problem not in ("", "drift"):
            return self
        versions = {**self.versions, **read_pins(self.plain)}
        return Resolution(add=self.plain or self.add, versions=versions, notes=self.notes)
