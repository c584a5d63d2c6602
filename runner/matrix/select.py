"""The part of a plan that a user selects."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import replace
from typing import Any

from torch_compat_matrix.runner.bundle import extended
from torch_compat_matrix.runner.errors import NothingSelected, did_you_mean
from torch_compat_matrix.runner.model import HERE, INSTALLED, PROBES, SUITE, Cell, Image, Plan
from torch_compat_matrix.runner.pins import canonical
from torch_compat_matrix.runner.selector import LABEL, Selector, first


class SelectionError(NothingSelected):
    """A selector that selects nothing, or an empty selection."""


def select(
    plan: Plan,
    selectors: Sequence[str],
    probes: Sequence[str] = (),
    names: Mapping[str, Any] | None = None,
    recorded: Collection[str] = (),
) -> Plan:
    """The part of a plan that the selectors take in, all of it without selectors; SelectionError where it is empty.

    `recorded` are the ids of further checks, which the plan may have no longer.
    """
    unknown = [probe for probe in probes if probe not in (*PROBES, SUITE)]
    if unknown:
        raise SelectionError(f"there is no probe {unknown[0]!r}{did_you_mean(unknown[0], (*PROBES, SUITE))}")
    addresses = [check.address for check in plan.checks]
    for selector in selectors:
        if not Selector(selector).takes_any(addresses):
            near = did_you_mean(selector, {*(names or ()), *names_of(plan.cells)})
            raise SelectionError(f"{selector!r} selects nothing{near}")
    cells = []
    for cell in plan.cells:
        kept = tuple(
            check.probe
            for check in cell.checks
            if not probes or check.probe in probes
            if check.id in recorded or first(selectors, check.address) is not None or not (selectors or recorded)
        )
        if kept:
            cells.append(replace(cell, probes=kept))
    if not cells and recorded:
        raise SelectionError(f"none of the recorded checks is in the plan: {_shown(recorded)}")
    if not cells:
        raise SelectionError(
            "nothing is selected: no image of the matrix can run on this backend, or no cell has the probe"
        )
    used = {cell.image for cell in cells}
    asked = {member.replace("-", "_") for cell in cells for member in cell.members}
    return replace(
        plan,
        images=tuple(image for image in plan.images if image.name in used),
        cells=tuple(cells),
        modules=tuple(module for module in plan.modules if module.name in asked or module.name.startswith("_")),
    )


def left_out(recorded: Collection[str], plan: Plan) -> str:
    """The recorded checks that the plan has no longer, for a message; empty where it has all of them."""
    return _shown(set(recorded).difference(check.id for check in plan.checks))


def _shown(checks: Collection[str]) -> str:
    return ", ".join(sorted(checks)[:3]) + (f" and {len(checks) - 3} more" if len(checks) > 3 else "")


def names_of(cells: Iterable[Cell]) -> set[str]:
    """The names by which a user may select the cells: image, library, library-version, both, and labels."""
    return {
        name
        for cell in cells
        for labels in [[f"{LABEL}{label}" for label in cell.labels]]
        for name in (cell.image, cell.subject, cell.id.partition("/")[2], cell.id, *labels)
    }


def installed_plan(distributions: Mapping[str, str]) -> Plan:
    """The built-in plan of a bare host: each installed library that has probes, at its own version."""
    held = set(map(canonical, distributions))
    probed = extended({})
    cells = tuple(
        Cell(
            image=HERE,
            subject=name,
            version=INSTALLED,
            requires=(),
            members=(name,),
            probes=probed.answered(PROBES, (name,)),
            superficial=probed.superficial((name,)),
        )
        for name, entry in probed.entries.items()
        if name in held and not entry.problem
    )
    return Plan(images=(Image(name=HERE),), cells=cells, source="the installed libraries", modules=probed.modules)
