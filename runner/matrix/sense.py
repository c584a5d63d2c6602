"""The mistakes of a whole matrix, in which each part by itself is well formed; one concern a function."""

from __future__ import annotations

from collections.abc import Iterator
from itertools import chain

from torch_compat_matrix.runner.bundle import BUNDLE
from torch_compat_matrix.runner.errors import did_you_mean
from torch_compat_matrix.runner.matrix.document import Path_
from torch_compat_matrix.runner.matrix.entries import LibraryEntry, StackEntry, SuiteEntry
from torch_compat_matrix.runner.matrix.expand import TooMany, all_cells, of_cells, product_of
from torch_compat_matrix.runner.matrix.schema import Matrix
from torch_compat_matrix.runner.matrix.select import names_of
from torch_compat_matrix.runner.matrix.settle import foresee
from torch_compat_matrix.runner.matrix.versions import variant_of, wheel_of
from torch_compat_matrix.runner.model import EXPECTS, HERE, expectation_id
from torch_compat_matrix.runner.pins import canonical, name_of
from torch_compat_matrix.runner.selector import LABEL, Address, Selector, address

Found = Iterator[tuple[Path_, str]]
"""Mistakes: the place in the file, and the message."""


def mistakes(matrix: Matrix) -> Found:
    """Every mistake of the whole."""
    for concern in (_folders, _libraries, _labels, _versions, _stacks, _images):
        yield from concern(matrix)
    for concern in (_included, _restricted, _selectors):
        yield from concern(foresee(matrix))


def _folders(matrix: Matrix) -> Found:
    """Folders of probe modules that are none, and modules in them that every module may import."""
    for index, entry in enumerate(matrix.probes_):
        if entry not in matrix.folders:
            continue
        folder = matrix.folders[entry].resolve()
        if not folder.is_dir():
            yield ("probes", index), f"there is no folder {entry}"
        elif folder.is_relative_to(BUNDLE):
            yield ("probes", index), f"{entry} is our own bundle, whose probes run anyway: remove it"
        for problem in (problem for where, problem in matrix.catalogue.problems if where == entry):
            yield ("probes", index), problem


def _libraries(matrix: Matrix) -> Found:
    """Libraries without the probes that are to run."""
    probed = matrix.catalogue
    for name in matrix.libraries:
        module = probed.entries[name]
        if module.problem:
            yield ("libraries", name), module.problem
            continue
        for path, library in matrix.entry_paths(name):
            if library.probes is None and not probed.answered(matrix.probes, (name,)):
                yield path, f"{module.place} has none of the probes that run: {', '.join(matrix.probes)}"
            for index, probe in enumerate(library.probes or ()):
                if not probed.answered((probe,), (name,)):
                    yield (*path, "probes", index), f"{module.place} has no `{probe}`"
            reference = library.suite.reference if isinstance(library.suite, SuiteEntry) else None
            if reference is not None and reference not in matrix.images:
                near = did_you_mean(reference, matrix.images)
                yield (*path, "suite", "reference"), f"there is no image {reference!r}{near}"


def _labels(matrix: Matrix) -> Found:
    """Entries of a library that would have the ids of another entry."""
    for library in matrix.libraries:
        labels = [entry.label for entry in matrix.entries_of(library)]
        for index, label in enumerate(labels[1:], 1):
            where = "libraries", library, index, "label"
            if label is None:
                yield (
                    where,
                    f"a further entry of {library!r} needs a `label:`, which tells its cells apart in their ids",
                )
            elif label in labels[:index]:
                message = f"the label {label!r} is that of another entry of {library!r}: give each a label of its own"
                yield where, message


def _versions(matrix: Matrix) -> Found:
    """Wheels that are not there or of another library, and versions that would share their ids."""
    for library in matrix.libraries:
        for path, entry in matrix.entry_paths(library):
            seen: dict[str, str] = {}
            for index, text in enumerate(entry.versions):
                if not isinstance(text, str):
                    continue
                where, wheel = (*path, "versions", index), wheel_of(text)
                if wheel and wheel[0] != library:
                    yield where, f"{text!r} is a wheel of {wheel[0]!r}, not of {library!r}"
                elif wheel and not (matrix.document.file(where).parent / text).is_file():
                    yield where, f"{text!r} is not there; build it first, or correct the path, which begins at the file"
                first = seen.setdefault(variant_of(text), text)
                if first != text:
                    message = f"{text!r} has the id of {first!r}, {library}-{variant_of(text)}: put it into an entry"
                    yield where, f"{message} with a `label:` of its own"


def _stacks(matrix: Matrix) -> Found:
    """Stacks whose names or members are not their own."""
    probed = matrix.catalogue.entries
    names = {canonical(name): name for name in matrix.stacks}
    for name, stack in matrix.stacks.items():
        if canonical(name) in matrix.libraries:
            yield ("stacks", name), f"{name!r} is also a library, with the same check ids: rename the stack"
        if names[canonical(name)] != name:
            yield ("stacks", name), f"{name!r} and {names[canonical(name)]!r} are one name to a selector: rename one"
        for index, member in enumerate(map(name_of, stack.requires)):
            if member in probed and probed[member].problem:
                yield ("stacks", name, "requires", index), probed[member].problem


def _images(matrix: Matrix) -> Found:
    """Images that nothing can launch."""
    on_nodes = any(target.slurm is not None for target in matrix.targets.values())  # `python:` is a node's then
    for name, image in matrix.images.items():
        if image.tag is None and image.local is None and name != HERE and not on_nodes:
            yield ("images", name), "neither `tag:` nor `local:`: no backend can launch the image"
        if image.digest and not image.tag:
            yield ("images", name, "digest"), "a digest needs its tag: give `tag:` as well"
        if image.digest and image.moves:
            yield ("images", name, "digest"), "a digest pins one tag, and the tag has a wildcard: remove one of them"
        if image.newest and not image.moves:
            yield ("images", name, "newest"), "only a tag with a wildcard has a newest: write one like `train:24.*`"


def _included(matrix: Matrix) -> Found:
    """`include:` of cells that the matrix has no library or no image for."""
    for index, included in matrix.included:
        if included.library not in matrix.libraries:
            message = f"no library {included.library!r}{did_you_mean(included.library, matrix.libraries)}"
            yield ("include", index, "library"), message
        if not Selector(included.images).takes_any(_image_addresses(matrix)):
            message = f"matches no image{did_you_mean(included.images, _image_words(matrix))}"
            yield ("include", index, "images"), message


def _image_addresses(matrix: Matrix) -> list[Address]:
    return [address(name, labels=image.labels) for name, image in matrix.images.items()]


def _image_words(matrix: Matrix) -> set[str]:
    """The names and labels of the images."""
    labels = {f"{LABEL}{label}" for image in matrix.images.values() for label in image.labels}
    return {*matrix.images, *labels}


def _restricted(matrix: Matrix) -> Found:
    """`images:` of a library or a stack, and `libraries:` of an image, that name nothing."""
    images = _image_addresses(matrix)
    entries: list[tuple[Path_, LibraryEntry | StackEntry]] = []
    entries += [pair for name in matrix.libraries for pair in matrix.entry_paths(name)]
    entries += [(("stacks", name), stack) for name, stack in matrix.stacks.items()]
    for path, entry in entries:
        for index, selector in enumerate(entry.images or ()):
            if not Selector(selector).takes_any(images):
                message = f"matches no image{did_you_mean(selector, _image_words(matrix))}"
                yield (*path, "images", index), message
    for name, image in matrix.images.items():
        cells = list(product_of(matrix, name)) if image.libraries else []
        for index, selector in enumerate(image.libraries or ()):
            if not of_cells(selector).takes_any(cell.address for cell in cells):
                known = {word for word in names_of(cells) if "/" not in word} - {name}
                yield ("images", name, "libraries", index), f"matches no library{did_you_mean(selector, known)}"


def _selectors(matrix: Matrix) -> Found:
    """Selectors that take in nothing, and a matrix too large to tell."""
    try:
        cells = all_cells(matrix)
    except TooMany as error:
        yield (), str(error)
        return
    everything = all_cells(matrix, excluded=True)
    addresses = [cell.address for cell in everything]
    for index, excluded in enumerate(matrix.exclude):
        if not Selector(excluded.cells).takes_any(addresses):
            yield ("exclude", index, "cells"), f"matches no cell{did_you_mean(excluded.cells, names_of(everything))}"
    addresses = [check.address for cell in cells for check in cell.checks]
    expectations = list(_expectations(matrix))
    expected = [address(name, EXPECTS, matrix.images[name.partition("/")[0]].labels) for name in expectations]
    for index, known in enumerate(matrix.known):
        if not Selector(known.cells).takes_any(chain(expected, addresses)):
            message = f"matches no check{did_you_mean(known.cells, {*names_of(cells), *expectations})}"
            yield ("known", index, "cells"), message
    for name, selectors in matrix.selections.items():
        for index, selector in enumerate(selectors):
            if not Selector(selector).takes_any(addresses):
                message = f"matches no check{did_you_mean(selector, names_of(cells))}"
                yield ("selections", name, index), message


def _expectations(matrix: Matrix) -> Iterator[str]:
    """The ids of the images' expectations, which a report judges (reports/expectations.py)."""
    for name, image in matrix.images.items():
        expects = image.expects
        versions = (what for what in ("torch", "cuda", "cudnn", "python", "os") if getattr(expects, what))
        held = map(name_of, expects.preinstalled)
        for what in (*versions, *held, *expects.tools, *expects.services):
            yield expectation_id(name, what)
