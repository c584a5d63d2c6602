"""matrix.yaml -> Matrix, or every mistake in it with its place and remedy."""

from __future__ import annotations

from collections.abc import Iterator
from itertools import chain
from pathlib import Path

from pydantic import ValidationError as Invalid

from torch_compat_matrix.runner.bundle import answered, catalogue, place_of
from torch_compat_matrix.runner.errors import did_you_mean
from torch_compat_matrix.runner.matrix import claims
from torch_compat_matrix.runner.matrix.document import Document, MatrixError, Mistake, read
from torch_compat_matrix.runner.matrix.expand import TooMany, all_cells, members_of
from torch_compat_matrix.runner.matrix.explain import explain
from torch_compat_matrix.runner.matrix.schema import Matrix
from torch_compat_matrix.runner.matrix.select import names_of
from torch_compat_matrix.runner.model import EXPECTS, HERE, expectation_id
from torch_compat_matrix.runner.pins import canonical, name_of
from torch_compat_matrix.runner.selector import Selector, address


def load(path: Path) -> Matrix:
    """Read the file; MatrixError with every mistake at once."""
    document = read(path)
    if document.data is None:
        raise MatrixError(document.mistakes)
    _spell(document)
    try:
        matrix = Matrix.model_validate(document.data)
    except Invalid as invalid:
        explain(invalid, Matrix, document)
        raise MatrixError(document.mistakes) from None
    for where, message in _senseless(matrix):
        document.mistake(where, message)
    if document.mistakes:
        raise MatrixError(document.mistakes)
    matrix._source = str(path)
    beside = path.with_name("claims.yaml")
    if beside.exists():
        matrix._claims = claims.load(beside)
    matrix._places = tuple(document.place(("known", index)) for index in range(len(matrix.known)))
    return matrix


def _spell(document: Document) -> None:
    """Give each library its canonical name (`Pyro_PPL` is pyro-ppl), under which everything else knows it."""
    data = document.data if isinstance(document.data, dict) else {}
    libraries, included = data.get("libraries"), data.get("include")
    if isinstance(libraries, dict):
        places = dict(document.places)
        spelled: dict[str, str] = {}
        for name in libraries:
            first = spelled.setdefault(canonical(name), name)
            if first != name:
                message = f"{name!r} is {first!r} in another spelling: give the versions of both to one of them"
                document.mistakes.append(Mistake(places["libraries", name], message))
        data["libraries"] = {own: libraries[name] for own, name in spelled.items()}
        for (head, name, *rest), place in ((path, place) for path, place in places.items() if len(path) > 1):
            if head == "libraries" and spelled[canonical(str(name))] == name:
                document.places[(head, canonical(name), *rest)] = place
    for entry in included if isinstance(included, list) else ():
        if isinstance(entry, dict) and isinstance(entry.get("library"), str):
            entry["library"] = canonical(entry["library"])


def _senseless(matrix: Matrix) -> Iterator[tuple[tuple[str | int, ...], str]]:
    """The mistakes of the whole, in which each part by itself is well formed."""
    probed = set(catalogue())
    for name in matrix.libraries:
        if name not in probed:
            message = f"there are no probes for {name!r} in probes/libraries (docs/adding-a-library.md)"
            yield ("libraries", name), message + did_you_mean(name, probed)
            continue
        yield from _mislabelled(matrix, name)
        if problem := catalogue()[name].problem:
            yield ("libraries", name), problem
            continue
        for path, library in matrix.entry_paths(name):
            if library.probes is None and not answered(matrix.probes, (name,)):
                yield path, f"{place_of(name)} has none of the probes that run: {', '.join(matrix.probes)}"
            for index, probe in enumerate(library.probes or ()):
                if not answered((probe,), (name,)):
                    yield (*path, "probes", index), f"{place_of(name)} has no `{probe}`"
    names = {canonical(name): name for name in matrix.stacks}
    for name, stack in matrix.stacks.items():
        if canonical(name) in matrix.libraries:
            yield ("stacks", name), f"{name!r} is also a library, with the same check ids: rename the stack"
        if names[canonical(name)] != name:
            yield ("stacks", name), f"{name!r} and {names[canonical(name)]!r} are one name to a selector: rename one"
        for index, member in enumerate(map(name_of, stack.requires)):
            if member in probed and catalogue()[member].problem:
                yield ("stacks", name, "requires", index), catalogue()[member].problem
        if not members_of(stack.requires):
            yield (
                ("stacks", name, "requires"),
                f"none of these has probes in probes/libraries{did_you_mean('', probed)}",
            )
    for name, image in matrix.images.items():
        if image.tag is None and image.local is None and name != HERE:
            yield ("images", name), "neither `tag:` nor `local:`: no backend can launch the image"
        if image.digest and not image.tag:
            yield ("images", name, "digest"), "a digest needs its tag: give `tag:` as well"
    for index, included in enumerate(matrix.include):
        if included.library not in matrix.libraries:
            message = f"no library {included.library!r}{did_you_mean(included.library, matrix.libraries)}"
            yield ("include", index, "library"), message
        if not Selector(included.images).takes_any(map(address, matrix.images)):
            message = f"matches no image{did_you_mean(included.images, matrix.images)}"
            yield ("include", index, "images"), message

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
    expected = [address(name, EXPECTS) for name in expectations]
    for index, known in enumerate(matrix.known):
        if not Selector(known.cells).takes_any(chain(expected, addresses)):
            message = f"matches no check{did_you_mean(known.cells, {*names_of(cells), *expectations})}"
            yield ("known", index, "cells"), message
    for name, selectors in matrix.selections.items():
        for index, selector in enumerate(selectors):
            if not Selector(selector).takes_any(addresses):
                message = f"matches no check{did_you_mean(selector, names_of(cells))}"
                yield ("selections", name, index), message


def _mislabelled(matrix: Matrix, library: str) -> Iterator[tuple[tuple[str | int, ...], str]]:
    """Entries of a library that would have the ids of another entry."""
    labels = [entry.label for entry in matrix.entries_of(library)]
    for index, label in enumerate(labels[1:], 1):
        where = "libraries", library, index, "label"
        if label is None:
            yield where, f"a further entry of {library!r} needs a `label:`, which tells its cells apart in their ids"
        elif label in labels[:index]:
            yield where, f"the label {label!r} is that of another entry of {library!r}: give each a label of its own"


def _expectations(matrix: Matrix) -> Iterator[str]:
    """The ids of the images' expectations, which a report judges (reports/expectations.py)."""
    for name, image in matrix.images.items():
        expects = image.expects
        versions = (what for what in ("torch", "cuda", "cudnn", "python", "os") if getattr(expects, what))
        held = map(name_of, expects.preinstalled)
        for what in (*versions, *held, *expects.tools, *expects.services):
            yield expectation_id(name, what)
