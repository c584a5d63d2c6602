"""matrix.yaml -> Matrix, or every mistake in it with its place and remedy."""

from __future__ import annotations

from collections.abc import Mapping
from itertools import chain
from pathlib import Path
from types import MappingProxyType

from torch_compat_matrix.runner.bundle import extended
from torch_compat_matrix.runner.matrix import claims, sense
from torch_compat_matrix.runner.matrix.compose import fill_in, gather, inherit, locate
from torch_compat_matrix.runner.matrix.document import Document, MatrixError
from torch_compat_matrix.runner.matrix.explain import validated
from torch_compat_matrix.runner.matrix.schema import Matrix
from torch_compat_matrix.runner.pins import canonical, name_of


def load(source: Path | Document, given: Mapping[str, str] = MappingProxyType({})) -> Matrix:
    """Read the file, or a document as if it were one, with the variables of `--set`; MatrixError with every mistake."""
    document = source if isinstance(source, Document) else gather(source)
    if document.data is None:
        raise MatrixError(document.mistakes)
    fill_in(document, given)
    locate(document)
    _spell(document)
    inherit(document)
    matrix = validated(Matrix, document)
    matrix._document = document
    probed = extended(matrix.folders)
    bare = [stack.requires for stack in matrix.stacks.values() if not probed.members_of(stack.requires)]
    matrix._catalogue = probed.with_generic([*matrix.libraries, *map(name_of, chain(*bare))])
    for where, message in sense.mistakes(matrix):
        document.mistake(where, message)
    if document.mistakes:
        raise MatrixError(document.mistakes)
    if isinstance(source, Path) and (beside := source.with_name("claims.yaml")).exists():
        matrix._claims = claims.load(beside)
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
                document.note(places["libraries", name], message)
        data["libraries"] = {own: libraries[name] for own, name in spelled.items()}
        for (head, name, *rest), place in ((path, place) for path, place in places.items() if len(path) > 1):
            if head == "libraries" and spelled.get(canonical(str(name))) == name:
                document.places[(head, canonical(name), *rest)] = place
    for entry in included if isinstance(included, list) else ():
        if isinstance(entry, dict) and isinstance(entry.get("library"), str):
            entry["library"] = canonical(entry["library"])
