"""Matrix -> Plan: expansion, exclusion and selection."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import replace
from types import MappingProxyType
from typing import TYPE_CHECKING, Any

from torch_compat_matrix.runner.errors import CompatError, Status
from torch_compat_matrix.runner.matrix.entries import SuiteEntry
from torch_compat_matrix.runner.matrix.select import SelectionError, select
from torch_compat_matrix.runner.matrix.targets import SCHEDULERS, key_for, takes
from torch_compat_matrix.runner.matrix.versions import requirement_of, variant_of
from torch_compat_matrix.runner.model import COMMANDS, HERE, INSTALLED, PROBES, SUITE, Cell, Image, Plan
from torch_compat_matrix.runner.selector import Selector, address, first

if TYPE_CHECKING:
    from torch_compat_matrix.runner.bundle import Catalogue
    from torch_compat_matrix.runner.matrix.entries import LibraryEntry, StackEntry
    from torch_compat_matrix.runner.matrix.schema import Matrix


class TooMany(CompatError):
    """The matrix expands to more checks than `max_checks:` allows."""

    status = Status.BAD_MATRIX


def all_cells(matrix: Matrix, excluded: bool = False) -> tuple[Cell, ...]:
    """Every cell of the matrix; with `excluded`, also the cells that `exclude:` leaves out."""
    versions = sum(len(library.versions) for _, library in matrix.entries) + len(matrix.stacks)
    checks = len(matrix.images) * versions * len(matrix.probes)
    if checks > matrix.max_checks:
        raise TooMany(
            f"{len(matrix.images)} images x {versions} library versions and stacks x {len(matrix.probes)} probes are "
            f"{checks} checks, more than {matrix.max_checks}; take fewer versions, or raise `max_checks:`"
        )
    cells: list[Cell] = []
    for image in matrix.images:
        cells += _commands(matrix, image)
        cells += (cell for cell in product_of(matrix, image) if _is_wanted(matrix, cell))
    if excluded:
        return tuple(cells)
    rules = [rule.cells for rule in matrix.exclude]
    return tuple(cell for cell in cells if first(rules, cell.address) is None)


def _commands(matrix: Matrix, image: str) -> Iterator[Cell]:
    """The cell of the image's own commands, where there are any."""
    entry = matrix.images[image]
    commands = matrix.commands_of(image)
    if commands:
        yield Cell(
            image=image,
            subject=COMMANDS,
            version="",
            requires=(),
            members=(),
            probes=tuple(commands),
            labels=tuple(entry.labels),
            owner=entry.owner or "",
            timeouts={name: command.timeout for name, command in commands.items() if command.timeout is not None},
        )


def product_of(matrix: Matrix, image: str) -> Iterator[Cell]:
    """The cells of the image with every library and stack, whatever `images:` and `libraries:` leave out."""
    own, probed = matrix.images[image], matrix.catalogue

    def cell(
        subject: str, entry: LibraryEntry | StackEntry, version: str, requires: Sequence[str], members: tuple[str, ...]
    ) -> Cell:
        return Cell(
            image=image,
            subject=subject,
            version=version,
            requires=tuple(requires),
            members=members,
            probes=probed.answered(entry.probes or matrix.probes, members),
            superficial=probed.superficial(members),
            install=entry.install or matrix.install,
            numerics=entry.numerics or matrix.numerics,
            labels=tuple(dict.fromkeys([*own.labels, *entry.labels])),
            owner=entry.owner or own.owner or "",
            index=entry.index or "",
            extra_index=tuple(entry.extra_index),
            find_links=tuple(entry.find_links),
        )

    where = address(image, labels=own.labels)
    for name, library in matrix.entries:
        added = [
            version
            for _, rule in matrix.included
            if rule.library == name and library is matrix.entries_of(name)[0] and Selector(rule.images).takes(where)
            for version in rule.versions
        ]
        for version in dict.fromkeys([*library.versions, *added]):
            assert isinstance(version, str), "an expanded matrix is settled"
            pinned = requirement_of(name, version)
            made = cell(name, library, variant_of(version), [pinned, *library.with_] if pinned else (), (name,))
            timeouts = _timeouts(library.timeout)
            made = replace(made, isolation=library.isolation, label=library.label or "", timeouts=timeouts)
            yield _with_suite(made, library.suite) if library.suite else made
    for name, stack in matrix.stacks.items():
        yield cell(name, stack, "stack", stack.requires, probed.members_of(stack.requires))


def _timeouts(timeout: float | Mapping[Any, float] | None) -> dict[str, float]:
    if isinstance(timeout, float):
        return dict.fromkeys((*PROBES, SUITE), timeout)
    return {str(probe): seconds for probe, seconds in (timeout or {}).items()}


def _is_wanted(matrix: Matrix, cell: Cell) -> bool:
    """Whether image and library admit each other, or `include:` names the cell."""
    image, entry = matrix.images[cell.image], matrix.entry_of(cell)
    if entry.images is None and image.libraries is None:
        return True
    where = address(cell.image, labels=image.labels)
    of_image = entry.images is None or first(entry.images, where) is not None
    of_library = image.libraries is None or any(of_cells(text).takes(cell.address) for text in image.libraries)
    return (of_image and of_library) or any(
        rule.library == cell.subject
        and cell.version in map(variant_of, map(str, rule.versions))
        and Selector(rule.images).takes(where)
        for _, rule in matrix.included
    )


def of_cells(text: str) -> Selector:
    """The selector of that text, for libraries and stacks alone, and not for an image of the same name."""
    return Selector(f"*/{text}")


SUITE_S = 600.0
"""The time limit of a suite, where the library has none of its own."""


def _with_suite(cell: Cell, suite: bool | SuiteEntry = True) -> Cell:
    """The cell with upstream's own tests as a further probe."""
    entry = suite if isinstance(suite, SuiteEntry) else SuiteEntry()
    plain = entry.model_dump(by_alias=True, exclude_none=True)
    return replace(cell, probes=(*cell.probes, SUITE), suite=plain, timeouts={SUITE: SUITE_S, **cell.timeouts})


def _askable(matrix: Matrix, probes: Sequence[str]) -> tuple[Cell, ...]:
    """The cells of the matrix; where the suite is asked for, each library has one."""
    cells = all_cells(matrix)
    if SUITE not in probes:
        return cells
    return tuple(_with_suite(cell) if len(cell.members) == 1 and not cell.suite else cell for cell in cells)


def expand(
    matrix: Matrix,
    backend: str,
    selectors: Sequence[str] = (),
    probes: Sequence[str] = (),
    recorded: Collection[str] = (),
    target: Mapping[str, Any] = MappingProxyType({}),
    named: Sequence[str] = (),
) -> Plan:
    """The plan for a backend: the images that it can run, and their selected cells.

    `local` takes the images that have a stand-in, `docker` those that have a tag, a scheduler what its `target` says.
    For `here`, this interpreter is the image that the selectors or `named` name; where they name none, it is the image
    called `here`; where the matrix has none of that name, it is an image of its own, with every library at the
    installed version and at those of the matrix.  `recorded` are the ids of further checks, which the matrix may have
    no longer.
    """
    plan = Plan(
        images=matrix.model_images(),
        cells=_askable(matrix, probes),
        known=matrix.model_known(),
        claims=matrix.claims,
        source=matrix.source,
        backend=backend,
        modules=matrix.catalogue.modules,
        target=dict(target),
    )
    usual = [backend] if backend in matrix.selections and not recorded else []
    chosen = _selectors(matrix, selectors or usual)
    if backend == HERE:
        plan = _here(plan, [*selectors, *recorded, *named], matrix.catalogue)
        return select(plan, chosen, probes, names=matrix.selections, recorded=recorded)
    placed = backend in SCHEDULERS
    usable = {
        image.name
        for image in plan.images
        if (takes(backend, target, image) if placed else backend in _backends_of(image))
    }
    try:
        fitting = replace(plan, cells=tuple(cell for cell in plan.cells if cell.image in usable))
        return select(fitting, chosen, probes, names=matrix.selections, recorded=recorded)
    except SelectionError as nothing:
        try:
            asked = select(plan, chosen, probes, recorded=recorded).images
            lacking = ", ".join(image.name for image in asked if image.name not in usable)
        except SelectionError:
            raise nothing from None
        own = (key for key, name in BACKEND_OF.items() if name == backend)
        key = key_for(backend, target) if placed else next(own)
        message = f"the backend {backend} runs images that have a `{key}:`, and {lacking} has none"
        raise SelectionError(message, "add it, or leave --backend out: then the images decide") from None


BACKEND_OF = {"tag": "docker", "local": "local"}
"""Key of an image -> the backend that runs the image by that key; the preferred first."""


def candidates(matrix: Matrix, selectors: Sequence[str] = (), probes: Sequence[str] = ()) -> dict[str, list[str]]:
    """The backends that can run images of what is selected, the preferred first, each with the images that it cannot.

    Without selectors, the backends that a selection of the matrix is named after, where there are any.
    """
    own = [] if selectors else [backend for backend in BACKEND_OF.values() if backend in matrix.selections]
    if own:
        return {backend: [] for backend in own}
    plan = Plan(images=matrix.model_images(), cells=_askable(matrix, probes))
    return backends_for(select(plan, _selectors(matrix, selectors), probes, names=matrix.selections).images)


def backends_for(images: Iterable[Image]) -> dict[str, list[str]]:
    """The backends that can run any of the images, the preferred first, each with the images that it cannot run."""
    able = {image.name: _backends_of(image) for image in images}
    return {
        backend: [name for name, backends in able.items() if backend not in backends]
        for backend in (*BACKEND_OF.values(), HERE)
        if any(backend in backends for backends in able.values())
    }


def _backends_of(image: Image) -> list[str]:
    """An image with neither tag nor stand-in is the interpreter at hand."""
    return [backend for key, backend in BACKEND_OF.items() if getattr(image, key) is not None] or [HERE]


def _selectors(matrix: Matrix, names: Sequence[str]) -> list[str]:
    """The selectors, each name of a selection replaced by its own."""
    return [selector for name in names for selector in matrix.selections.get(name, [name])]


def _here(plan: Plan, selectors: Sequence[str], probed: Catalogue) -> Plan:
    """The plan with this interpreter in place of the image that the selectors name, or as an image of its own."""
    heads = {selector.split("/")[0] for selector in selectors}
    named = [image for image in plan.images if image.name in heads]
    if named:
        return plan
    listed = tuple(image for image in plan.images if image.name == HERE)
    if listed:
        return replace(plan, images=listed, cells=plan.cells_of(listed[0]))
    first = plan.images[0]
    own = [replace(cell, image=HERE) for cell in plan.cells_of(first) if cell.members]
    held = [
        replace(
            cell,
            subject=name,
            version=INSTALLED,
            requires=(),
            members=(name,),
            probes=probed.answered(cell.probes, (name,)),
            superficial=probed.superficial((name,)),
        )
        for cell in own
        for name in cell.members
    ]
    cells: dict[str, Cell] = {}
    for cell in held:
        cells.setdefault(cell.id, cell)
    cells |= {cell.id: cell for cell in own}
    return replace(plan, images=(Image(name=HERE),), cells=tuple(cells.values()))
