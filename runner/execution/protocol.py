"""The runner's side of the protocol with a probe host: a work order out, framed JSON lines in."""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Literal

from torch_compat_matrix.runner.errors import Trouble
from torch_compat_matrix.runner.model import TORCH, Cell, Image, Limits, Module
from torch_compat_matrix.runner.packages.suites import Suite

if TYPE_CHECKING:
    from torch_compat_matrix.probes.contract import CellOrder, Frame, SuiteOrder, WorkOrder

SILENCE_S = 60.0
"""How long a probe host may be silent beyond its probe's limit, import and confirmation (three times that limit)."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Work:
    """A cell with its resolution: the unit of a work order."""

    cell: Cell
    overlay: Path | None = None
    """The folder to put before the image's packages; its name is its key."""
    added: Mapping[str, str] = field(default_factory=dict)
    """Distribution -> version of everything in the overlay."""
    versions: Mapping[str, str] = field(default_factory=dict)
    """Member -> the version that must be imported; empty where the image's own is under test."""
    replaces: Mapping[str, str] = field(default_factory=dict)
    """Package of the image that the overlay replaces -> its version in the image."""
    drift: tuple[str, ...] = ()
    """The packages that a plain install would replace."""
    notes: tuple[str, ...] = ()
    suite: Suite | Trouble | None = None
    """Upstream's own tests where they are asked for, or what keeps them from being run."""

    @property
    def folders(self) -> dict[str, Path]:
        """Key -> folder of all that the launch must bring."""
        tests = (self.suite.tests, self.suite.packages) if isinstance(self.suite, Suite) else ()
        return {folder.name: folder for folder in (self.overlay, *tests) if folder}

    @property
    def isolation(self) -> str:
        """`fresh` where the warm process may hold, imported by torch, a package of the image that is replaced."""
        imported = self.replaces.keys() - (set(self.cell.members) - {TORCH})
        return "fresh" if imported else self.cell.isolation


def order(
    image: Image,
    work: Sequence[Work],
    *,
    device: Literal["cpu", "cuda"],
    seed: int = 0,
    full: bool = False,
    warm: bool = True,
    threads: int = 0,
    compile_cache: str = "",
    modules: Iterable[Module] = (),
) -> WorkOrder:
    """The work order of one launch, with those of the modules that its cells need.

    `threads` is the launch's share of the cores, 0 all of them; `compile_cache` names where compiled code is kept.
    """
    limits = image.limits
    needed = {name.replace("-", "_") for piece in work for name in piece.cell.members}
    checks = sum(len(piece.cell.probes) * max(1, len(piece.cell.members)) for piece in work)
    return {
        "device": device,
        "seed": seed,
        "full": full,
        "warm": warm,
        "timeout_s": limits.timeout_s,
        "deadline_s": (6 * checks + 2) * longest_s(limits, work) + SILENCE_S,
        "threads": threads,
        "compile_cache": compile_cache,
        "modules": {each.name: each.text for each in modules if each.name in needed or each.name.startswith("_")},
        "expects": {
            "tools": list(image.expects.get("tools", ())),
            "services": list(image.expects.get("services", ())),
        },
        "cells": [_cell(piece, image) for piece in work],
    }


def longest_s(limits: Limits, work: Sequence[Work]) -> float:
    """The longest time limit of any probe of the launch."""
    return max(own.longest_s for own in (limits, *(piece.cell.limits(limits) for piece in work)))


def _cell(work: Work, image: Image) -> CellOrder:
    limits = work.cell.limits(image.limits)
    own = [command for command in image.commands if not work.cell.members and command.name in work.cell.probes]
    return {
        "id": work.cell.id,
        "overlay": work.overlay.name if work.overlay else None,
        "added": sorted(work.added),
        "members": [{"distribution": name, "version": work.versions.get(name, "")} for name in work.cell.members],
        "replaces": {name: work.added[name] for name in work.replaces if work.cell.may_replace(name)},
        "probes": list(work.cell.probes),
        "commands": [
            {
                "name": command.name,
                "command": list(command.command),
                "status": command.status,
                "output": command.output,
                "timeout_s": limits.seconds(command.name),
            }
            for command in own
        ],
        "suite": _suite(work.suite) if isinstance(work.suite, Suite) else None,
        "isolation": work.isolation,
        "timeout_s": limits.timeout_s,
        "compile_timeout_s": limits.seconds("compile"),
        "timeouts": dict(limits.timeouts),
    }


def _suite(suite: Suite) -> SuiteOrder:
    return {
        "source": suite.source,
        "tests": suite.tests.name,
        "packages": suite.packages.name if suite.packages else "",
        "select": list(suite.select),
        "reference": suite.reference,
        "known": list(suite.known),
    }


def frames(lines: Iterable[bytes]) -> Iterator[Frame]:
    """The frames among the lines: those with the mark of the first `hello`, and of them no replayed one.

    Trouble where one is missing: the log that they come by was cut.
    """
    mark, last, headless = b"", 0, False
    for line in lines:
        version, own, number, body = (*line.split(b" ", 3), b"", b"", b"", b"")[:4]
        if version != b"compat/2" or (mark and own != mark):
            continue
        try:
            sequence, frame = int(number), json.loads(body)
        except ValueError:
            continue  # torn by the death of the probe host: the check counts as unanswered
        if not mark and frame["kind"] == "hello":
            mark = own  # nothing but the probe host has started yet
        headless = headless or not mark
        if mark and sequence > last + 1:
            raise Trouble("frames-lost", f"after frame {last} comes frame {sequence}")
        if mark and sequence > last:
            last = sequence
            yield frame
    if headless and not mark:
        raise Trouble("frames-lost", "the first frames are missing")
