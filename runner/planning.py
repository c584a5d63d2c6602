"""The plan that a command asks for: from the matrix, a plan file, a recorded run, or what a bare host has installed."""

from __future__ import annotations

import json
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from itertools import accumulate
from pathlib import Path
from types import MappingProxyType
from typing import TYPE_CHECKING, NamedTuple

from torch_compat_matrix.runner.backends.base import connect, require, tags
from torch_compat_matrix.runner.backends.here import installed
from torch_compat_matrix.runner.bundle import catalogue
from torch_compat_matrix.runner.errors import (
    INSTALL,
    BackendUnusable,
    NothingSelected,
    UsageError,
    did_you_mean,
    reading,
)
from torch_compat_matrix.runner.files import read_whole
from torch_compat_matrix.runner.matrix.select import installed_plan, left_out, select
from torch_compat_matrix.runner.model import LATEST, MATRIX, Cell, Plan, Pull, repository
from torch_compat_matrix.runner.packages.pip_config import Index
from torch_compat_matrix.runner.records import history
from torch_compat_matrix.runner.records.runs import Run, home
from torch_compat_matrix.runner.records.shapes import plan_of
from torch_compat_matrix.runner.records.since import newly_failing
from torch_compat_matrix.runner.selector import TERMS, Checks, Recorded, Selector
from torch_compat_matrix.runner.verdicts.reasons import REASONS
from torch_compat_matrix.runner.watch import Say

try:
    from torch_compat_matrix.runner.matrix import lockfile, targets
    from torch_compat_matrix.runner.matrix.expand import backends_for, candidates, expand
    from torch_compat_matrix.runner.matrix.load import load
    from torch_compat_matrix.runner.matrix.settle import foresee, movings, settle
    from torch_compat_matrix.runner.matrix.versions import Moving, newest_tags
    from torch_compat_matrix.runner.packages.releases import releases
except ModuleNotFoundError as absent:  # a bare host of the `here` backend: it takes what is installed, or a plan
    MISSING = str(absent.name)
else:
    MISSING = ""

if TYPE_CHECKING:
    from torch_compat_matrix.runner.matrix.document import Document
    from torch_compat_matrix.runner.matrix.schema import Matrix

MOST_PLAN = 256 << 20
"""Bytes of a plan file; 100,000 checks take 30 MB."""


def plan_from(
    matrix: Path | Document,
    *,
    backend: str | None = None,
    selectors: Sequence[str] = (),
    probes: Sequence[str] = (),
    plan_file: Path | None = None,
    given: Mapping[str, str] = MappingProxyType({}),
    locked: bool = False,
    target: str | None = None,
    images: Sequence[str] = (),
    say: Say = lambda text: None,
) -> Plan:
    """The requested plan: from a plan file, from the matrix, or of the libraries that a bare host has installed.

    Where no backend is named, it is that of a recorded run or of the plan file, else the first that can run the images;
    `say` is told which.  `given`: the variables of `--set`, by name.  `locked`: take nothing but what matrix.lock says.
    `target` is the name of an entry of `targets:`, or a label.  `images`: the only images of the matrix that are meant.
    """
    asked = [found for found in map(chosen, selectors) if isinstance(found, Checks)]
    backend = backend or next((Run.open(home(), found.run).header()["backend"] for found in asked), None)
    if backend is not None:
        require(backend)
    if locked and plan_file is not None:
        raise UsageError("a plan is exact as it was written", "leave out --locked, or --plan", "--locked")
    recorded = frozenset(check for found in asked for check in found.ids)
    named = [selector for selector in selectors if not selector.startswith("@")]
    if plan_file is not None:
        plan = select(_read_plan(plan_file), named, probes, recorded=recorded)
        plan = replace(plan, backend=backend or plan.backend or _answering(backends_for(plan.images), say))
    elif MISSING:
        if locked or backend != "here":
            raise UsageError(f"{MISSING} is not installed", INSTALL)
        plan = _of_the_installed(matrix, named, probes, recorded, say)
    else:
        read = load(matrix, given)
        if images:
            read = read.model_copy(update={"images": {name: read.images[name] for name in images}})
        aim = targets.chosen(read, target, backend)
        backend = backend or targets.scheduler_of(aim)
        backend = backend or _answering(candidates(foresee(read, named), named, probes), say)
        if locked:
            place = lockfile.path_of(matrix)
            lock = lockfile.read(place, backend)
            taken = lock.moving_of(read, backend, place)
            plan = expand(settle(read, taken), backend, named, probes, recorded, aim, images)
            plan = lock.applied(replace(plan, taken=taken), place)
        else:
            settled, taken = settled_now(read, backend)
            plan = replace(expand(settled, backend, named, probes, recorded, aim, images), taken=taken)
    wanted = [check for check in recorded if not probes or check.rpartition("/")[2] in probes]
    wanted = [check for check in wanted if not images or check.partition("/")[0] in images]
    if gone := left_out(wanted, plan):
        say(f"recorded checks that are no longer in the plan: {gone}")
    return plan


def chosen(text: str, run: str = "latest") -> Selector | Checks:
    """The selector of that text; `run` is the run that a recorded one means where it names none.

    Raises NothingSelected where the run has no such check.
    """
    try:
        wanted = Recorded.parse(text)
    except ValueError as error:
        terms = [f"@{name}{':...' if valued else ''}" for name, valued in TERMS.items()]
        raise NothingSelected(f"{text}: there is no {error}{did_you_mean(str(error), terms)}") from error
    if wanted is None:
        return Selector(text)
    of = Run.open(home(), wanted.run or run)
    checks = of.checks(wanted)
    if wanted.new:
        checks = replace(checks, ids=checks.ids & newly_failing(home(), of))
    if not checks.ids:
        known = not wanted.reason or "*" in wanted.reason or wanted.reason in REASONS
        near = "" if known else f"; there is no such reason{did_you_mean(wanted.reason, REASONS)}"
        raise NothingSelected(f"{text}: no check of run {checks.run}{near}")
    return checks


def _of_the_installed(
    matrix: Path | Document, selectors: Sequence[str], probes: Sequence[str], recorded: Collection[str], say: Say
) -> Plan:
    """The plan of a bare host, which cannot read a matrix."""
    unread = f"{matrix} not read: {MISSING} is not installed"
    if matrix != MATRIX:
        raise UsageError(unread, "write a plan where it is installed (`compat plan --json`), and run that with --plan")
    try:
        plan = select(installed_plan(installed()), selectors, probes, recorded=recorded)
    except NothingSelected as error:
        raise NothingSelected(f"{unread}, so that only installed libraries can be selected; {error}") from error
    say(f"{unread}; taking {'the selected' if selectors or recorded else 'all'} installed libraries")
    return replace(plan, backend="here")


def _answering(backends: Mapping[str, Sequence[str]], say: Say) -> str:
    """The first of these backends that answers; each stands with the images that it cannot run."""
    troubles = []
    for backend, without in backends.items():
        try:
            connect(backend, home())
        except BackendUnusable as error:
            troubles.append(str(error))
            continue
        named = f", without {', '.join(without)}" if without else ""
        say("; ".join([f"backend: {backend}{named}", *(trouble.partition(": ")[0] for trouble in troubles)]))
        return backend
    remedy = (
        "start an engine, join its group, or point DOCKER_HOST at one; or add `local:` to an image, which builds a "
        "stand-in in its place"
    )
    raise BackendUnusable(f"the images need a container engine: {'; '.join(troubles)}", remedy)


def settled_now(matrix: Matrix, backend: str) -> tuple[Matrix, dict[str, tuple[str, ...]]]:
    """The matrix with exact versions and tags in place of those that move, asked for now; and what each stands for."""
    taken = {f"{library} {spec}": spec.among(offered) for library, spec, offered in _offered(matrix)}
    if any(image.moves for image in matrix.images.values()):
        connected = connect(backend, home())
        for name, image in matrix.images.items() if connected.pulls else ():
            if image.moves and image.tag:
                listed = tags(connected, repository(image.tag))
                taken[f"{name} {image.tag}"] = tuple(newest_tags(listed, image.pattern, image.newest))
    return settle(matrix, taken), taken


def _offered(matrix: Matrix) -> Iterator[tuple[str, Moving, dict[str, str]]]:
    """Each library with its moving versions and the releases that the indexes have, each library asked once."""
    wanted = dict.fromkeys(movings(matrix))
    names = sorted({library for library, _ in wanted})

    def ask(library: str) -> dict[str, str]:
        index = Index.from_pip()
        for entry in matrix.entries_of(library):
            index = index.beside(entry)
        return releases(library, index)

    with ThreadPoolExecutor(max_workers=8) as pool:
        offered = dict(zip(names, pool.map(ask, names), strict=True))
    for library, spec in wanted:
        if not offered[library]:
            why = f"no index that pip is configured for has a release of {library}"
            raise UsageError(why, "name its index in PIP_EXTRA_INDEX_URL or pip.conf", matrix.source)
        if spec.since and not any(offered[library].values()):
            why = f"no index tells when the releases of {library} were published"
            raise UsageError(why, "use an index that does, as PyPI, or a range in place of `since:`", matrix.source)
        yield library, spec, offered[library]


def sharded(plan: Plan, shard: str, seconds: Callable[[Cell], float]) -> Plan:
    """The part `2/4` of the plan: its cells in their order, cut into four pieces that take about as long.

    Few images are in two pieces; the same plan and durations give the same pieces on every machine.
    """
    number, of = map(int, shard.split("/"))
    cells = [cell for image in plan.images for cell in plan.cells_of(image)]
    if not cells:
        return plan
    ends = list(accumulate(map(seconds, cells)))
    kept = {
        cell.id
        for cell, end in zip(cells, ends, strict=True)
        if int((end - seconds(cell) / 2) / ends[-1] * of) == number - 1
    }
    return replace(narrowed(plan, kept), shard=shard, whole=plan.coverage)


class Release(NamedTuple):
    """What a cell would take that no recorded run has had."""

    name: str
    """The library, or the image."""
    version: str
    """Its version, or its tag."""
    day: str
    """ISO day of publication, empty where no source tells."""


def appeared(plan: Plan) -> dict[str, Release]:
    """Cell -> the version or tag that it takes now, and that no run on the backend had; only of entries that move."""
    if MISSING:
        raise UsageError(f"{MISSING} is not installed", INSTALL)
    history.sync(home())
    last = history.last(home(), plan.backend)
    moved = {(key.split()[0], exact) for key, values in plan.taken.items() for exact in values}
    tags = {f"{name}-{exact}": Release(name, exact, "") for name, exact in moved}
    pip, asked = Index.from_pip(), dict[tuple[str, ...], dict[str, str]]()

    def offered(cell: Cell) -> dict[str, str]:
        key = (cell.subject, cell.index, *cell.extra_index, "", *cell.find_links)
        if key not in asked:
            asked[key] = releases(cell.subject, pip.beside(cell))
        return asked[key]

    found: dict[str, Release] = {}
    for cell in plan.cells:
        seen = [last[check.id] for check in cell.checks if check.id in last]
        if not seen and cell.image in tags:
            found[cell.id] = tags[cell.image]
        elif not seen and (cell.subject, cell.version) in moved:
            found[cell.id] = Release(cell.subject, cell.version, offered(cell).get(cell.version, ""))
        elif seen and cell.version == LATEST:
            days = offered(cell)
            newest = "".join(Moving(of="latest-1").among(days))
            since = max(began for began, _ in seen)[:10]
            if newest not in {installed for _, installed in seen} and days.get(newest, "") >= since:
                found[cell.id] = Release(cell.subject, newest, days[newest])
    return found


def narrowed(plan: Plan, cells: Collection[str]) -> Plan:
    """The plan with these cells alone, and their images."""
    kept = tuple(cell for cell in plan.cells if cell.id in cells)
    images = {cell.image for cell in kept}
    return replace(plan, images=tuple(image for image in plan.images if image.name in images), cells=kept)


def _read_plan(path: Path) -> Plan:
    try:
        with reading(path, "name another file with --plan"):
            plan = plan_of(json.loads(read_whole(path, MOST_PLAN)))
    except (ValueError, RecursionError) as error:
        why = f"not a plan: {type(error).__name__}: {error}"
        raise UsageError(why, "write the plan again with `compat plan --json FILE`", str(path)) from error
    for entry in catalogue().entries.values():
        own = any(entry.distribution.replace("-", "_") == module.name for module in plan.modules)
        if entry.problem and not own and any(entry.distribution in cell.members for cell in plan.cells):
            raise UsageError(entry.problem, "mend the file, or leave the library out", str(path))
    return plan


def adapted(plan: Plan, isolation: str | None, pull: Pull | None) -> Plan:
    """The plan with this isolation for every cell and this pull for every image; None leaves each its own."""
    images = tuple(replace(image, pull=pull or image.pull) for image in plan.images)
    cells = tuple(replace(cell, isolation=isolation or cell.isolation) for cell in plan.cells)
    return replace(plan, images=images, cells=cells)
