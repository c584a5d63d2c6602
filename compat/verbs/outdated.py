"""List the versions and tags that were published since the last run and that the ranges of the matrix take. The exit
status is 1 where there are any; `compat run --new` runs them.

(matrix)
(backend)

compat outdated
compat outdated --backend docker
"""

from __future__ import annotations

import argparse

from torch_compat_matrix.compat.progress import answer
from torch_compat_matrix.compat.verbs.plan import plan_asked
from torch_compat_matrix.runner.errors import Status
from torch_compat_matrix.runner.planning import Release, appeared
from torch_compat_matrix.runner.records.runs import home


def main(options: argparse.Namespace) -> Status:
    plan = plan_asked(options)
    cells: dict[Release, list[str]] = {}
    for cell, release in appeared(plan).items():
        cells.setdefault(release, []).append(cell)
    for release, named in cells.items():
        images = dict.fromkeys(cell.partition("/")[0] for cell in named)
        published = f", published {release.day}" if release.day else ""
        answer(f"{release.name} {release.version}{published}: not run yet in {', '.join(images)}")
    if not cells:
        answer(f"nothing new since the last runs in {home()}")
    return Status.SURPRISES if cells else Status.AS_EXPECTED
