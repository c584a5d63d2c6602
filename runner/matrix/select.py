"""The part of a plan that a user asks for."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from difflib import get_close_matches
from typing import Any

from torch_compat_matrix.runner.bundle import catalogue
from torch_compat_matrix.runner.errors import NothingSelected
from torch_compat_matrix.runner.model import INSTALLED, PROBES, Cell, Image, Plan
from torch_compat_matrix.runner.pins import canonical
from torch_compat_matrix.runner.selector import matches


class SelectionError(NothingSelected):
    """A selector that selects nothing, or nothing left to do."""


def select(
    plan: Plan, selectors: Sequence[str], probes: Sequence[str] = (), names: Mapping[str, Any] | None = None
) -> Plan:
    """The part of a plan that the selectors take in, all of it where there are none; SelectionError for nothing."""
    unknown = [probe for probe in probes if probe not in PROBES]
    if unknown:
        raise SelectionError(f"there is no probe {unknown[0]!r}; there are: {', '.join(PROBES)}")
    ids = [check.id for check in plan.checks]
    for selector in selectors:
        if not any(matches(selector, one) for one in ids):
            raise SelectionError(f"{selector!r} selects nothing{_near(selector, plan, names or {})}")
    wanted = {one for one in ids if not selectors or any(matches(selector, one) for selector in selectors)}
    cells = []
    for cell in plan.cells:
        kept = tuple(
            check.probe for check in cell.checks if check.id in wanted and (not probes or check.probe in probes)
        )
        if kept:
            cells.append(replace(cell, probes=kept))
    if not cells:
        raise SelectionError(
            "nothing is selected: no image of the matrix can run on this backend, or no cell has the probe"
        )
    used = {cell.image for cell in cells}
    return replace(plan, images=tuple(image for image in plan.images if image.name in used), cells=tuple(cells))


def _near(selector: str, plan: Plan, names: Mapping[str, Any]) -> str:
    words = {*names}
    for cell in plan.cells:
        words |= {cell.image, cell.id, cell.subject, f"{cell.subject}-{cell.version}"}
    found = (
        get_close_matches(selector, sorted(words), n=3, cutoff=0.5) or sorted({cell.image for cell in plan.cells})[:5]
    )
    return f"; did you mean {' or '.join(found)}?" if found else ""


def installed_plan(distributions: Mapping[str, str]) -> Plan:
    """The built-in plan of a bare host: each library that has probes and is installed, at its own version."""
    held = set(map(canonical, distributions))
    cells = tuple(
        Cell(image="here", subject=name, version=INSTALLED, requires=(), members=(name,))
        for name in catalogue()
        if name in held
    )
    return Plan(images=(Image(name="here"),), cells=cells, source="what is installed")
