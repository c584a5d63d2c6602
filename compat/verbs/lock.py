"""Write matrix.lock: the exact tags, digests, versions and packages with hashes that the matrix comes to today. `compat
run --locked` takes them again.

(matrix)
(backend)
selectors [SELECTOR ...]  renew these checks' entries; default: all
--check  write nothing; exit with 1 and a line for each entry that is stale

compat lock --backend docker
compat lock --check
"""

from __future__ import annotations

import argparse
import re
import time
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from typing import Any

from torch_compat_matrix.compat.progress import answer, say
from torch_compat_matrix.compat.verbs.plan import plan_asked
from torch_compat_matrix.runner.backends.base import Backend, Prepared, connect, digest_of, reap
from torch_compat_matrix.runner.errors import Status, Trouble, writing
from torch_compat_matrix.runner.files import write_whole
from torch_compat_matrix.runner.matrix.expand import BACKEND_OF
from torch_compat_matrix.runner.matrix.lockfile import Lock, LockedCell, asked, path_of, read, read_all, text_of, wanted
from torch_compat_matrix.runner.model import Cell, Image, Local, Plan, Verdict
from torch_compat_matrix.runner.packages import standin
from torch_compat_matrix.runner.packages.overlay import install
from torch_compat_matrix.runner.packages.pip_config import Index
from torch_compat_matrix.runner.packages.releases import hashed
from torch_compat_matrix.runner.packages.resolution import PASSING
from torch_compat_matrix.runner.pins import left_out
from torch_compat_matrix.runner.records.runs import home
from torch_compat_matrix.runner.text import one_line, redact
from torch_compat_matrix.runner.verdicts.reasons import reason_for
from torch_compat_matrix.runner.workflow import facts_of


def main(options: argparse.Namespace) -> Status:
    """Write the lock, or compare it with today; 5 where an index or a registry does not answer."""
    path = path_of(options.matrix)
    locks = read_all(path)
    plan = plan_asked(options, options.selectors)
    before, whole = read(path, plan.backend) if options.check else locks.get(plan.backend), not options.selectors
    backend = connect(plan.backend, home(), plan.target)
    reap(backend, say)
    now = lock_of(plan, backend)
    if options.check and before is not None:
        stale = [one_line(line) for line in before.stale(now, whole=whole)]
        answer(
            "\n".join([*stale, f"{path}: {f'{len(stale)} stale, `compat lock` renews it' if stale else 'as today'}"])
        )
        return Status.SURPRISES if stale else Status.AS_EXPECTED
    if before is not None and not whole:
        now = before.with_(now)
    with writing(path, "make its folder writable"):
        write_whole(path, [text_of({**locks, plan.backend: now}, path)])
    without = [name for name, cell in now.cells.items() if cell.problem]
    more = f", {len(without)} of them without packages: {', '.join(without)}" if without else ""
    answer(one_line(f"lock: {path} ({plan.backend}: {len(now.cells)} cells{more})"))
    return Status.AS_EXPECTED


def lock_of(plan: Plan, backend: Backend) -> Lock:
    """What the plan comes to today; Trouble where an index or a registry does not answer."""
    images: dict[str, str] = {}
    stand_ins: dict[str, LockedCell] = {}
    cells: dict[str, LockedCell] = {}
    for image in plan.images:
        exact = _pinned(image, backend)
        if backend.pulls and exact.tag:
            images[image.name] = f"{exact.tag}@{exact.digest}" if exact.digest else exact.tag
        if plan.backend == BACKEND_OF["local"] and image.local is not None:
            held = stand_ins[image.name] = _frozen(image.local)
            exact = held.in_place_of(image)
        asking = [cell for cell in plan.cells_of(image) if cell.requires]
        cells |= _locked(asking, exact, backend) if asking else {}
    return Lock(moving=dict(plan.taken), images=images, stand_ins=stand_ins, cells=cells)


def _frozen(local: Local) -> LockedCell:
    """The entry of a stand-in, which is resolved anew: one that is built may be months old."""
    try:
        adds = standin.freeze(local, Index.from_pip())
    except Trouble as trouble:
        return _without(trouble, wanted(local))
    return LockedCell(asked=wanted(local), adds=tuple(map(redact, adds)))


def _pinned(image: Image, backend: Backend) -> Image:
    """The image with the digest that its registry has for the tag; without one where it was built here."""
    if not backend.pulls or not image.tag or image.digest:
        return image
    held = backend.peek(image)
    if held is not None and not held.digest:
        return image
    try:
        return replace(image, digest=digest_of(backend, image.tag))
    except Trouble as trouble:
        # Docker Hub refuses to tell what it does not have, and some engines give what they build a digest.
        hub = not re.match(r"[^/]*[.:][^/]*/|localhost/", image.tag)
        if trouble.code == "image-not-found" or (held is not None and hub and trouble.code == "registry-refused"):
            return image
        raise


def _locked(cells: Sequence[Cell], image: Image, backend: Backend) -> dict[str, LockedCell]:
    """The entries of the image's cells, asked for anew; the image is pulled or built where nobody knows its facts."""
    since = time.time()
    try:
        facts: Mapping[str, Any] = facts_of(replace(image, limits=replace(image.limits, retries=0)), backend, say)
        prepared = backend.prepare(image)
    except Trouble as trouble:
        return {cell.id: _without(trouble, asked(cell)) for cell in cells}

    def locked(cell: Cell) -> LockedCell:
        try:
            return _resolved(cell, facts, prepared, since)
        except Trouble as trouble:
            return _without(trouble, asked(cell))

    with ThreadPoolExecutor(4) as pool:
        return dict(zip((cell.id for cell in cells), pool.map(locked, cells), strict=True))


def _resolved(cell: Cell, facts: Mapping[str, Any], prepared: Prepared, since: float) -> LockedCell:
    absent = left_out(cell.requires, facts)
    if cell.members and absent.keys() >= set(cell.members):
        raise Trouble("not-applicable", "; ".join(absent[name] for name in cell.members))
    index = Index.from_pip().beside(cell)
    resolution, _ = install(  # and not `resolve`: only the packages themselves show whether pip refuses one
        cell.requires,
        facts,
        index,
        home(),
        newest=cell.newest,
        since=since,
        how=cell.install,
        stand_in=prepared.stand_in,
    )
    for name in resolution.versions.keys() & prepared.misfits.keys():
        raise Trouble("no-stand-in", prepared.misfits[name])
    if resolution.problem:
        return _without(Trouble(resolution.problem, resolution.detail), asked(cell), resolution.drift)
    adds = hashed(resolution.add, facts, index) if resolution.add else ()
    return LockedCell(asked=asked(cell), adds=tuple(map(redact, adds)), drift=resolution.drift)


def _without(trouble: Trouble, question: str, drift: tuple[str, ...] = ()) -> LockedCell:
    """The entry that only says why there are no packages; what passes by itself is raised again."""
    if trouble.code in PASSING or reason_for(trouble.code).verdict is Verdict.INFRA:
        raise trouble
    return LockedCell(asked=question, drift=drift, problem=trouble.code, detail=redact(str(trouble)))
