"""Matrix -> Plan: expansion, exclusion, selection; and the plan as JSON, for hosts that cannot read a matrix."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import asdict, replace
from difflib import get_close_matches
from fnmatch import translate
from functools import cache
from typing import TYPE_CHECKING, Any

from runner.catalogue import catalogue
from runner.model import INSTALLED, LATEST, PROBES, Cell, Image, Known, Limits, Local, Plan

if TYPE_CHECKING:
    from runner.entries import Matrix


class SelectionError(Exception):
    """A selector that selects nothing, or nothing left to do."""


class TooMany(Exception):
    """The matrix expands to more checks than it may."""


@cache
def _pattern(glob: str) -> re.Pattern[str]:
    return re.compile(translate(glob))


def matches(selector: str, check_id: str) -> bool:
    """Whether a selector takes in a check or cell id.

    A selector is a glob over `image/library-version/probe`, or over its beginning (`image`, `image/library-version`),
    or over the library or the library with its version alone.
    """
    image, _, rest = check_id.partition("/")
    cell, _, probe = rest.partition("/")
    names = (image, f"{image}/{cell}", check_id, cell, f"{cell}/{probe}")
    return any(_pattern(selector).match(name) for name in names)


def all_cells(matrix: Matrix, excluded: bool = False) -> tuple[Cell, ...]:
    """Every cell of the matrix; with `excluded`, also those that its rules leave out."""
    versions = sum(len(library.versions) for library in matrix.libraries.values()) + len(matrix.stacks)
    checks = len(matrix.images) * versions * len(matrix.probes)
    if checks > matrix.max_checks:
        raise TooMany(
            f"{len(matrix.images)} images x {versions} library versions and stacks x {len(matrix.probes)} probes are "
            f"{checks} checks, more than {matrix.max_checks}; take fewer versions, or raise `max_checks:`"
        )
    cells = [cell for image in matrix.images for cell in _cells_of(matrix, image)]
    if excluded:
        return tuple(cells)
    return tuple(cell for cell in cells if not any(matches(rule.cells, cell.id) for rule in matrix.exclude))


def _cells_of(matrix: Matrix, image: str) -> list[Cell]:
    from runner.matrix import members_of

    cells = []
    for name, library in matrix.libraries.items():
        added = [
            version
            for rule in matrix.include
            if rule.library == name and _pattern(rule.images).match(image)
            for version in rule.versions
        ]
        for version in dict.fromkeys([*library.versions, *added]):
            pinned = {INSTALLED: (), LATEST: (name,)}.get(version, (f"{name}=={version}",))
            cells.append(
                Cell(
                    image=image,
                    subject=name,
                    version=version,
                    requires=(*pinned, *library.with_) if pinned else (),
                    members=(name,),
                    probes=_probes(library.probes or matrix.probes, (name,)),
                    isolation=library.isolation,
                )
            )
    for name, stack in matrix.stacks.items():
        members = members_of(stack.requires)
        probes = _probes(stack.probes or matrix.probes, members)
        cells.append(
            Cell(
                image=image,
                subject=name,
                version="stack",
                requires=tuple(stack.requires),
                members=members,
                probes=probes,
            )
        )
    return cells


def _probes(wanted: Sequence[str], members: Sequence[str]) -> tuple[str, ...]:
    """The probes in their order; those that apply to no member stay, and are answered by `not-applicable`."""
    return tuple(probe for probe in PROBES if probe in wanted) if members else ()


def expand(matrix: Matrix, backend: str, selectors: Sequence[str] = (), probes: Sequence[str] = ()) -> Plan:
    """The plan for a backend: its images, and of their cells those selected.

    `local` takes the images that have a stand-in, `docker` those that have a tag.  For `here` the interpreter at hand
    is the image named in the selectors; unless one is, it is an image of its own, with every library at the version
    that is installed and those of the matrix.
    """
    plan = Plan(
        images=matrix.model_images(),
        cells=all_cells(matrix),
        known=matrix.model_known(),
        claims=matrix.claims,
        source=matrix.source,
    )
    usable = {image.name for image in plan.images if _usable(image, backend)}
    if backend == "here":
        plan = _here(plan, selectors)
        usable = {image.name for image in plan.images}
    plan = replace(plan, cells=tuple(cell for cell in plan.cells if cell.image in usable))
    chosen: list[str] = []
    for selector in selectors or ([backend] if backend in matrix.selections else []):
        chosen += matrix.selections.get(selector, [selector])
    return select(plan, chosen, probes, names=matrix.selections)


def _usable(image: Image, backend: str) -> bool:
    return image.local is not None if backend == "local" else image.tag is not None


def _here(plan: Plan, selectors: Sequence[str]) -> Plan:
    """The plan with the interpreter at hand in the place of the image that the selectors name, or of its own."""
    named = [image for image in plan.images if any(selector.split("/")[0] == image.name for selector in selectors)]
    if named:
        return plan
    first = plan.images[0].name
    own = [replace(cell, image="here") for cell in plan.cells if cell.image == first]
    held = [
        Cell(image="here", subject=name, version=INSTALLED, requires=(), members=(name,))
        for name in dict.fromkeys(member for cell in own for member in cell.members)
    ]
    cells = {cell.id: cell for cell in [*held, *own]}
    return replace(plan, images=(Image(name="here"),), cells=tuple(cells.values()))


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
    held = {re.sub(r"[-_.]+", "-", name).lower() for name in distributions}
    cells = tuple(
        Cell(image="here", subject=name, version=INSTALLED, requires=(), members=(name,))
        for name in catalogue()
        if name in held
    )
    return Plan(images=(Image(name="here"),), cells=cells, source="what is installed")


def plan_to_json(plan: Plan) -> dict[str, Any]:
    """The plan as plain data."""
    return {**asdict(plan), "known": [entry.to_json() for entry in plan.known]}


def plan_from_json(data: Mapping[str, Any]) -> Plan:
    """The plan from plain data; KeyError, TypeError or ValueError where it is none."""
    return Plan(
        images=tuple(_image(entry) for entry in data["images"]),
        cells=tuple(Cell(**{name: _tuple(value) for name, value in entry.items()}) for entry in data["cells"]),
        known=tuple(Known.from_json(entry) for entry in data["known"]),
        claims=tuple(data.get("claims", ())),
        source=data["source"],
    )


def _image(entry: Mapping[str, Any]) -> Image:
    local = entry["local"] and Local(python=entry["local"]["python"], requires=tuple(entry["local"]["requires"]))
    return Image(**{**entry, "local": local, "limits": Limits(**entry["limits"])})


def _tuple(value: Any) -> Any:
    return tuple(value) if isinstance(value, list) else value
