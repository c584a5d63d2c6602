"""The two sides of a comparison: which cells are asked on both, and with which packages."""

from __future__ import annotations

import re
from collections.abc import Callable, Collection, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from torch_compat_matrix.runner.model import INSTALLED, TORCH, Cell, Image, Plan
from torch_compat_matrix.runner.packages import uv
from torch_compat_matrix.runner.packages.pip_config import Index
from torch_compat_matrix.runner.packages.resolution import PASSING, Resolution
from torch_compat_matrix.runner.packages.resolve import resolve as resolve_in
from torch_compat_matrix.runner.packages.target import Target
from torch_compat_matrix.runner.pins import canonical, changes, name_of, read_pins

Resolve = Callable[[Cell, Mapping[str, Any]], Resolution]
"""A cell and the facts of its image -> what an install adds to the image."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Side:
    """Base or candidate: an image, and the requirements that are laid over its cells."""

    image: Image | None
    """None: every image of the selection."""
    changes: tuple[str, ...] = ()

    @property
    def name(self) -> str:
        image = self.image.name if self.image else "every image"
        return f"{image} with {', '.join(self.changes)}" if self.changes else image

    def same(self, other: Side) -> bool:
        """Whether both are one environment, whatever its name."""
        if self.image and other.image and self.image.name != other.image.name:
            mine, theirs = ((side.reference, side.local, side.surroundings) for side in (self.image, other.image))
            return self.changes == other.changes and mine == theirs != (None, None, [])
        return self.image == other.image and self.changes == other.changes


@dataclass(frozen=True, kw_only=True, slots=True)
class Pair:
    """A cell on both sides."""

    base: Cell
    candidate: Cell
    changed: tuple[str, ...]
    """The packages that differ, of those that the cell needs: `numpy 2.4.6 -> 1.26.4`."""
    note: str = ""
    """Which of the base's packages the candidate cannot have."""
    needed: frozenset[str] = frozenset()
    """All that the base's cell needs."""

    @property
    def cells(self) -> tuple[Cell, Cell]:
        """Both."""
        return self.base, self.candidate

    def to_json(self) -> dict[str, Any]:
        """Plain data, with the ids of its cells."""
        named = {"base": self.base.id, "candidate": self.candidate.id, "note": self.note}
        return {**named, "changed": list(self.changed), "needed": sorted(self.needed)}


@dataclass(frozen=True, kw_only=True, slots=True)
class Comparison:
    """Two sides with their pairs, and the cells that make none."""

    base: Side
    candidate: Side
    pairs: tuple[Pair, ...]
    unaffected: tuple[str, ...] = ()
    """Cells whose packages the change leaves as they are: not run."""
    alone: tuple[str, ...] = ()
    """Cells of the base that the candidate's image has not."""

    def plan(self, of: Plan) -> Plan:
        """Both sides as one plan: one host, the same minutes."""
        cells = tuple(cell for pair in self.pairs for cell in pair.cells)
        used = {cell.image for cell in cells}
        return replace(of, images=tuple(image for image in of.images if image.name in used), cells=cells)

    def to_json(self) -> dict[str, Any]:
        """Plain data, with the names that the plan of its run has for images and cells."""
        sides = {"base": self.base, "candidate": self.candidate}
        plain: dict[str, Any] = {
            name: {"image": side.image and side.image.name, "changes": list(side.changes)}
            for name, side in sides.items()
        }
        left = {"unaffected": list(self.unaffected), "alone": list(self.alone)}
        return {**plain, "pairs": [pair.to_json() for pair in self.pairs], **left}

    @classmethod
    def from_json(cls, data: Mapping[str, Any], plan: Plan) -> Comparison:
        """The comparison in the header of a run of that plan; KeyError where the plan lacks an image or a cell."""
        images, cells = plan.images_by_name, plan.cells_by_id
        base, candidate = (
            Side(image=images[side["image"]] if side["image"] else None, changes=tuple(side["changes"]))
            for side in (data["base"], data["candidate"])
        )
        pairs = tuple(
            Pair(
                base=cells[pair["base"]],
                candidate=cells[pair["candidate"]],
                changed=tuple(pair["changed"]),
                note=pair["note"],
                needed=frozenset(pair["needed"]),
            )
            for pair in data["pairs"]
        )
        left = {name: tuple(data[name]) for name in LEFT}
        return cls(base=base, candidate=candidate, pairs=pairs, **left)


def paired(
    base: Side,
    candidate: Side,
    cells: Sequence[Cell],
    theirs: Collection[Cell],
    facts: Mapping[str, Mapping[str, Any]],
    resolve: Resolve,
    only_dependents: bool = False,
) -> Comparison:
    """Lay the candidate over the base's cells, with the packages that the base resolves to wherever it can have them.

    `theirs` are the cells of the candidate's image, `facts` by image.  `only_dependents`: leave out the cells that
    need none of the changed packages.
    """
    known = {(cell.image, cell.variant, cell.subject): cell for cell in theirs}
    label = re.sub(r"[^\w.]+", "-", "+".join(map(_short, candidate.changes)) or cells[0].image).strip("-.")

    def one(cell: Cell) -> Pair | str | None:
        """The pair; `unaffected` or `alone`; None for a cell that is not asked for."""
        mine, image = resolve(cell, facts[cell.image]), candidate.image.name if candidate.image else cell.image
        names = map(name_of, candidate.changes)
        if only_dependents and not any(needs(cell, mine, facts[cell.image], name) for name in names):
            return None
        found = cell if image == cell.image else known.get((image, cell.variant, cell.subject))
        if found is None or (candidate.changes and not cell.members):
            return "alone"
        own = replace(found, label="+".join(filter(None, (cell.label, label))), locked=None)
        return _pair(cell, mine, own, facts, candidate.changes, resolve) or "unaffected"

    with ThreadPoolExecutor(4, "pair") as pool:
        found = list(pool.map(one, cells))
    left = {word: tuple(c.id for c, each in zip(cells, found, strict=True) if each == word) for word in LEFT}
    pairs = tuple(pair for pair in found if isinstance(pair, Pair))
    return Comparison(base=base, candidate=candidate, pairs=pairs, **left)


LEFT = "unaffected", "alone"


def _pair(
    base: Cell,
    mine: Resolution,
    candidate: Cell,
    facts: Mapping[str, Mapping[str, Any]],
    over: Sequence[str],
    resolve: Resolve,
) -> Pair | None:
    """The pair; None where both sides come to the same packages in the same image."""
    named = set(map(name_of, over))
    here, there = facts[candidate.image], _versions(facts[base.image])
    held, asked = _versions(here), candidate.requires
    if over and base.version == INSTALLED:
        if not {*map(canonical, base.members)} <= held.keys():
            return None
        asked = tuple(f"{name}=={held[canonical(name)]}" for name in base.members)
        candidate = replace(candidate, version=held[canonical(base.subject)])
    free = replace(candidate, requires=(*(text for text in asked if name_of(text) not in named), *over))
    pins = [pin for pin in mine.add if name_of(pin) not in named and not held.keys() - there.keys() >= {name_of(pin)}]
    pinned = replace(free, requires=(*dict.fromkeys((*free.requires, *pins)),))
    found, note = resolve(pinned, here), ""
    if found.problem and found.problem not in PASSING and pins:
        other = resolve(free, here)
        if not other.problem:
            given = _other({**there, **read_pins(pins)}, {**held, **read_pins(other.add)}, pins)
            note = f"the candidate cannot have all packages of the base: {', '.join(given)}" if given else ""
        pinned, found = free, other
    if base.image == candidate.image and (found.problem, set(found.add)) == (mine.problem, set(mine.add)):
        return None
    needed = () if mine.problem else (*mine.versions, *found.versions)  # else all that it adds would be another
    both = {**there, **read_pins(mine.add)}, {**held, **read_pins(found.add)}
    changed = _other(*both, [*needed, *named, TORCH])
    return Pair(base=base, candidate=pinned, changed=tuple(changed), note=note, needed=frozenset(mine.versions))


def _other(then: Mapping[str, str], now: Mapping[str, str], among: Sequence[str]) -> list[str]:
    """The changes of the packages that these requirements name."""
    names = set(map(name_of, among))
    return changes(*({name: side[name] for name in names & side.keys()} for side in (then, now)))


def resolution(cell: Cell, facts: Mapping[str, Any], index: Index, home: Path) -> Resolution:
    """What an install of the cell adds to the image of these facts."""
    if not cell.requires or not cell.members:
        return Resolution()
    cache, sources = home / "resolutions", index.beside(cell)
    return resolve_in(cell.requires, facts, sources, cache, newest=cell.newest).under(cell.install)


def needs(cell: Cell, found: Resolution, facts: Mapping[str, Any], name: str) -> bool:
    """Whether the cell's resolution holds the package; one without a resolution has whatever its image holds."""
    return name in found.versions or (not cell.requires and bool(cell.members) and name in _versions(facts))


def _versions(facts: Mapping[str, Any]) -> dict[str, str]:
    return {canonical(name): version for name, version in facts["packages"].items()}


def _short(requirement: str) -> str:
    """`numpy<2`; of a URL its name and the end of its path."""
    name, at, url = requirement.partition(" @ ")
    return f"{name}-{url.rpartition('@')[2][-8:]}" if at and "git+" in url else Path(url).stem[:40] if at else name


def requirement_of(text: str, facts: Mapping[str, Any], index: Index) -> str:
    """The requirement with its name, which a wheel, a folder or a git URL has within; Trouble where it has none."""
    if name_of(text):
        return text
    line = ("pip", "compile", "--no-deps", "--no-header", "--no-annotate", *Target.of(facts).flags())
    path = Path(text)
    asked = path.resolve().as_uri() if path.exists() else text
    ran = uv.run((*line, *index.uv_flags(), "-"), index.uv_environment(), stdin=asked)
    if ran.status:
        raise ran.trouble(f"--with {text} cannot be read")
    return next(found for found in ran.out.splitlines() if name_of(found))
