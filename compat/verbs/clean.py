"""`compat clean`: removes what runs left or keep for later runs; evidence only where it is asked for."""

from __future__ import annotations

import argparse
from collections import Counter
from collections.abc import Iterable

from torch_compat_matrix.compat.progress import answer, say
from torch_compat_matrix.runner.backends.base import BACKENDS, connect
from torch_compat_matrix.runner.errors import BackendUnusable, CompatError, Status
from torch_compat_matrix.runner.records.runs import home
from torch_compat_matrix.runner.storage import (
    Kept,
    contents,
    leftovers,
    parsed_age,
    parsed_size,
    shown_size,
    superfluous,
    unused,
)

DEFAULT_AGE = "30d"


class InUse(CompatError):
    """A run is at work in the home."""


def main(options: argparse.Namespace) -> Status:
    """Remove, or only list, what is chosen by age and size; say what stays."""
    to_size = parsed_size(options.to_size) if options.to_size else None
    age = options.older_than or (DEFAULT_AGE if to_size is None else None)
    older_than = -1.0 if options.all else parsed_age(age) if age else None
    with unused(home()) as alone:
        if not alone and not options.dry_run:
            raise InUse("a run is at work here, and may need what it keeps", "clean when it has ended", str(home()))
        found = [*contents(home(), runs=options.runs), *_of_engines()]
        doomed = [*leftovers(home()), *superfluous(found, older_than=older_than, to_size=to_size)]
        done = "would remove" if options.dry_run else "removed"
        for entry in doomed:
            answer(f"{done} {entry.kind}/{entry.name}: {shown_size(entry.size)}")
            if not options.dry_run:
                entry.remove()
    names = {(entry.kind, entry.name) for entry in doomed}
    answer(f"{'to free' if options.dry_run else 'freed'}: {_by_kind(doomed)}")
    answer(f"kept: {_by_kind(entry for entry in found if (entry.kind, entry.name) not in names)}")
    return Status.AS_EXPECTED


def _of_engines() -> list[Kept]:
    """The volumes and images of engines that answer; the others have nothing that could be removed now."""
    found: list[Kept] = []
    for name in BACKENDS:
        try:
            found += connect(name, home()).kept()
        except BackendUnusable as error:
            say(f"{name}: {error}: what it keeps is not seen")
    return found


def _by_kind(entries: Iterable[Kept]) -> str:
    """`overlays 12 (1.2 GB), ...; together 3.4 GB`."""
    number: Counter[str] = Counter()
    sizes: Counter[str] = Counter()
    for entry in entries:
        number[entry.kind] += 1
        sizes[entry.kind] += entry.size
    each = [f"{kind} {number[kind]} ({shown_size(sizes[kind])})" for kind in sorted(number)]
    return f"{', '.join(each)}; together {shown_size(sizes.total())}" if each else "nothing"
