"""matrix.lock: the exact versions, tags, digests and packages that a matrix came to, and a plan held to them."""

from __future__ import annotations

import io
import json
import re
from collections.abc import Collection, Iterator, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

from pydantic import Field, TypeAdapter, ValidationError
from ruamel.yaml import YAML
from ruamel.yaml.error import YAMLError

from torch_compat_matrix.runner.errors import UsageError, reading
from torch_compat_matrix.runner.files import read_whole
from torch_compat_matrix.runner.matrix.document import LOST, Document
from torch_compat_matrix.runner.matrix.entries import Entry
from torch_compat_matrix.runner.matrix.expand import BACKEND_OF
from torch_compat_matrix.runner.matrix.schema import Matrix
from torch_compat_matrix.runner.matrix.settle import movings
from torch_compat_matrix.runner.model import Cell, Image, Local, Plan
from torch_compat_matrix.runner.pins import HASH, admits, name_of, read_pins
from torch_compat_matrix.runner.text import SECRET, redact

HEADER = "# Written by `compat lock`, used with --locked, compared with today by `compat lock --check`\n"
MOST = 256 << 20
"""Bytes of a lock; a cell with a CUDA build of torch takes some 100 KB."""
WRITE = "write it again with `compat lock`"


class LockedCell(Entry):
    """The packages that a cell adds to its image, or all that a stand-in holds; or why there are none."""

    asked: str
    """Its requirements: another question has another answer."""
    adds: tuple[str, ...] = ()
    """`name==version` or `name @ URL`, with the hashes of the files that may be it."""
    drift: tuple[str, ...] = ()
    """The packages of the image that a plain install would replace."""
    problem: str = ""
    """The reason code, where it cannot be installed."""
    detail: str = ""

    def words(self, offered: Collection[str]) -> list[str]:
        """What can be stale in it: not the words of a resolver, nor files that were added to a release meanwhile."""
        whole = {line.split(HASH)[0]: line for line in offered}
        adds = [
            whole[pin] if hashes and {*hashes} <= {*whole.get(pin, "").split(HASH)[1:]} else HASH.join([pin, *hashes])
            for pin, *hashes in (line.split(HASH) for line in self.adds)
        ]
        return [f"asked: {self.asked}", *adds, *self.drift, *filter(None, [self.problem])]

    def with_secrets(self, requires: Collection[str]) -> tuple[str, ...]:
        """Its packages, with the URLs of the requirements where the lock keeps their secrets out."""
        own = {name_of(line): line for line in requires}
        return tuple(
            HASH.join([own.get(name_of(line), line), *line.split(HASH)[1:]]) if SECRET in line else line
            for line in self.adds
        )

    def in_place_of(self, image: Image) -> Image:
        """The image with a stand-in that holds these packages; as it is where there are none."""
        if image.local is None or not self.adds:
            return image
        return replace(image, local=replace(image.local, requires=self.with_secrets(image.local.requires)))


class Lock(Entry):
    """What one backend's cells came to."""

    moving: dict[str, tuple[str, ...]] = Field({})
    """As the plan's `taken`."""
    images: dict[str, str] = Field({})
    """Name -> `tag@digest`, or the tag alone of an image that was built here."""
    stand_ins: dict[str, LockedCell] = Field({})
    """Image -> the packages of its stand-in."""
    cells: dict[str, LockedCell] = Field({})

    def with_(self, now: Lock) -> Lock:
        """The lock with the images and cells of another in place of its own; what moves stays, or cells would lack."""
        return Lock(
            moving={**now.moving, **self.moving},
            images={**self.images, **now.images},
            stand_ins={**self.stand_ins, **now.stand_ins},
            cells={**self.cells, **now.cells},
        )

    def moving_of(self, matrix: Matrix, backend: str, place: Path) -> dict[str, tuple[str, ...]]:
        """What stands for each version and tag of the matrix that moves; UsageError where the lock does not know it."""
        wanted = [f"{library} {spec}" for library, spec in movings(matrix)]
        if backend == BACKEND_OF["tag"]:
            wanted += [f"{name} {image.tag}" for name, image in matrix.images.items() if image.moves]
        _refuse([name for name in wanted if name not in self.moving], place)
        return {name: self.moving[name] for name in wanted}

    def applied(self, plan: Plan, place: Path) -> Plan:
        """The plan with digests and exact packages; UsageError where the lock does not know them."""
        knows, held = {
            BACKEND_OF["tag"]: (self._knows, self._digest),
            BACKEND_OF["local"]: (self._knows_stand_in, self._stand_in),
        }.get(plan.backend, (lambda image: True, lambda image: image))
        unknown = [image.name for image in plan.images if not knows(image)]
        _refuse([*unknown, *(cell.id for cell in plan.cells if cell.requires and not self._fits(cell))], place)
        cells = [self._exact(cell) if cell.requires else cell for cell in plan.cells]
        return replace(plan, images=tuple(map(held, plan.images)), cells=tuple(cells))

    def stale(self, now: Lock, *, whole: bool) -> Iterator[str]:
        """What differs today, a line each; `whole`: whether what is there no longer counts."""
        for name in sorted({*self.moving, *now.moving}):
            yield from _difference(name, self.moving.get(name), now.moving.get(name))
        for name in sorted({*(self.images if whole else ()), *now.images}):
            before, after = self.images.get(name), now.images.get(name)
            yield from _difference(name, before and [before], after and [after])
        for old, new in ((self.stand_ins, now.stand_ins), (self.cells, now.cells)):
            for name in sorted({*(old if whole else ()), *new}):
                locked, seen = old.get(name), new.get(name)
                offered = seen.adds if seen else ()
                yield from _difference(name, locked and locked.words(offered), seen and seen.words(offered))

    def _digest(self, image: Image) -> Image:
        return replace(image, digest=self.images[image.name].partition("@")[2] or None)

    def _knows_stand_in(self, image: Image) -> bool:
        locked = self.stand_ins.get(image.name)
        return image.local is None or (locked is not None and locked.asked == wanted(image.local))

    def _stand_in(self, image: Image) -> Image:
        return self.stand_ins[image.name].in_place_of(image) if image.local else image

    def _knows(self, image: Image) -> bool:
        tag, _, digest = self.images.get(image.name, "").partition("@")
        return tag == image.tag and image.digest in (None, digest)

    def _fits(self, cell: Cell) -> bool:
        """Whether the lock has an answer to the cell's question that holds the versions it asks for."""
        locked = self.cells.get(cell.id)
        if locked is None or locked.asked != asked(cell):
            return False
        pins = read_pins(locked.adds)
        named = [(text, pins.get(name_of(text))) for text in cell.requires if " @ " not in text]
        return all(admits(text, version) for text, version in named if version)

    def _exact(self, cell: Cell) -> Cell:
        locked = self.cells[cell.id]
        return replace(cell, locked={**locked.model_dump(), "adds": locked.with_secrets(cell.requires)})


_LOCKS = TypeAdapter(dict[str, Lock])
"""Backend -> its lock."""


def asked(cell: Cell) -> str:
    """The cell's question, without secrets."""
    return redact(" ".join(cell.requires))


def wanted(local: Local) -> str:
    """The question of a stand-in, without secrets."""
    return redact(" ".join((local.python, *local.requires)))


def path_of(matrix: Path | Document) -> Path:
    """The lock of a matrix, beside its file."""
    if not isinstance(matrix, Path):
        raise UsageError("--image and --lib have no lock", "write them into a matrix.yaml with `compat init`")
    return matrix.with_suffix(".lock")


def read(path: Path, backend: str) -> Lock:
    """The lock of that backend; UsageError where there is none."""
    locks = read_all(path)
    if backend not in locks:
        known = f"has no cells of the backend {backend}, but of {', '.join(locks)}" if locks else "there is no lock"
        raise UsageError(known, f"write it with `compat lock --backend {backend}`", str(path))
    return locks[backend]


def read_all(path: Path) -> dict[str, Lock]:
    """The locks of all backends, by name; none where there is no file."""
    with reading(path, WRITE):
        try:
            content = read_whole(path, MOST)
        except FileNotFoundError:
            return {}
    try:
        data = YAML(typ="safe", pure=True).load(content.decode())
        return _LOCKS.validate_python(_moved(data or {}, "file:./", _folder(path)))
    except (YAMLError, ValidationError, *LOST) as error:
        raise UsageError(f"not a lock: {' '.join(str(error).split())[:200]}", WRITE, str(path)) from error


def text_of(locks: Mapping[str, Lock], path: Path) -> str:
    """The text of a lock: sorted, a hash a line, and with paths that begin at its folder."""
    data = {backend: lock.model_dump(mode="json", exclude_defaults=True) for backend, lock in locks.items()}
    yaml, text = YAML(typ="safe", pure=True), io.StringIO()
    yaml.default_flow_style, yaml.width = False, 60
    yaml.dump(_moved(data, _folder(path), "file:./"), text)
    return HEADER + re.sub(r" +$", "", text.getvalue(), flags=re.MULTILINE)


def _folder(path: Path) -> str:
    return f"{path.parent.resolve().as_uri()}/"


def _moved(data: Any, old: str, new: str) -> Any:
    """The data with another beginning of the URLs in it."""
    return json.loads(json.dumps(data).replace(f" @ {old}", f" @ {new}"))


def _refuse(unknown: list[str], place: Path) -> None:
    if unknown:
        more = f" and {len(unknown) - 5} more" if len(unknown) > 5 else ""
        why = f"the lock does not know, or has another answer for, {', '.join(unknown[:5])}{more}"
        raise UsageError(f"{why}; run `compat lock`", place=str(place))


def _difference(name: str, before: Any, after: Any) -> Iterator[str]:
    """The line of an entry that has changed: of lists only what differs, a hash by its beginning."""
    if before != after:
        yield f"{name}: locked {_told(before, after)}, now {_told(after, before)}"


def _told(words: Any, other: Any) -> str:
    if words is None:
        return "nothing"
    told = [word for word in words if word not in (other or ())] or words
    return ", ".join(re.sub(r"( --hash=sha256:\w{8}).*", r"\1...", word, flags=re.DOTALL) for word in told) or "nothing"
