"""Remove stand-ins, overlays, caches, volumes and pulled images that no run has used for long; runs stay.

--older-than AGE  last used longer ago than 12h, 30d, 8w (default: 30d)
--to-size SIZE  remove the longest unused until the rest fits (20GB)
--all  whatever its age; but not what the engine keeps for other homes
--runs  choose among the recorded runs too; the history stays
--dry-run  only list it

compat clean --dry-run
compat clean --older-than 8w --to-size 20GB
"""

from __future__ import annotations

import argparse
from collections import Counter
from collections.abc import Iterable

from torch_compat_matrix.compat.progress import answer, say
from torch_compat_matrix.runner import storage
from torch_compat_matrix.runner.backends.base import BACKENDS, connect
from torch_compat_matrix.runner.errors import BackendUnusable, CompatError, Status
from torch_compat_matrix.runner.records.runs import home
from torch_compat_matrix.runner.storage import Kept, parsed_age, parsed_size, shown_size

DEFAULT_AGE = "30d"


class InUse(CompatError):
    """A run is at work in the home."""


def main(options: argparse.Namespace) -> Status:
    to_size = parsed_size(options.to_size) if options.to_size else None
    age = options.older_than or (DEFAULT_AGE if to_size is None else None)
    older_than = -1.0 if options.all else parsed_age(age) if age else None
    storage.require_ours(home())
    with storage.unused(home()) as alone:
        if not alone and not options.dry_run:
            raise InUse(
                "a run is at work here, or has jobs left, and may need what it keeps",
                "clean when it has ended",
                str(home()),
            )
        by_age = bool(age) and not options.all  # what another home may be using goes by its age alone
        found = [
            *storage.contents(home(), runs=options.runs),
            *(each for each in _of_engines() if by_age or not each.shared),
        ]
        doomed = [*storage.leftovers(home()), *storage.superfluous(found, older_than=older_than, to_size=to_size)]
        gone = []
        for entry, trouble in ((entry, "") for entry in doomed) if options.dry_run else storage.remove(doomed):
            done = f"could not remove, {trouble}:" if trouble else "would remove" if options.dry_run else "removed"
            answer(f"{done} {entry.kind}/{entry.name}: {shown_size(entry.size)}")
            gone += [] if trouble else [entry]
    names = {(entry.kind, entry.name) for entry in gone}
    answer(f"{'to free' if options.dry_run else 'freed'}: {_by_kind(gone)}")
    answer(f"kept: {_by_kind(entry for entry in found if (entry.kind, entry.name) not in names)}")
    return Status.AS_EXPECTED


def _of_engines() -> list[Kept]:
    """The volumes and images of engines that answer; the others have nothing that could be removed now."""
    found: list[Kept] = []
    for name in BACKENDS:
        try:
            found += connect(name, home()).kept()
        except BackendUnusable as error:
            if error.code == "no-scheduler":  # whatever it kept would be in the home
                continue
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
