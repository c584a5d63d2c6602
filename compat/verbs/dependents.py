"""List the cells that need a package: those whose resolution holds it, added or the image's own. Nothing runs.

(matrix)
(backend)
name NAME  a distribution
selectors [SELECTOR ...]  only among these cells; default: the whole matrix
--json  print it as JSON

compat dependents numpy
compat dependents linear-operator torch-2.13
"""

from __future__ import annotations

import argparse
from collections.abc import Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from typing import Any

from torch_compat_matrix.compat.answers import Dependent, Dependents
from torch_compat_matrix.compat.progress import say, tell
from torch_compat_matrix.compat.verbs.plan import plan_asked
from torch_compat_matrix.reports.escape import count
from torch_compat_matrix.runner.backends.base import connect
from torch_compat_matrix.runner.comparison.sides import needs, resolution
from torch_compat_matrix.runner.errors import NothingSelected, Status
from torch_compat_matrix.runner.execution.prepare import known_facts
from torch_compat_matrix.runner.model import Cell
from torch_compat_matrix.runner.packages.pip_config import Index
from torch_compat_matrix.runner.pins import canonical, read_pins
from torch_compat_matrix.runner.records.runs import home


def main(options: argparse.Namespace) -> Status:
    plan, name = plan_asked(options, options.selectors or ["*"]), canonical(options.name)
    backend = connect(plan.backend, home(), plan.target)
    found: list[Dependent] = []
    unknown = []
    for image in plan.images:
        facts = known_facts(image, backend, home())
        if facts is None:
            unknown.append(image.name)
            continue
        with ThreadPoolExecutor(4) as pool:
            found += filter(None, pool.map(partial(_dependent, name=name, facts=facts), plan.cells_of(image)))
    if unknown:
        say(f"never launched from here, so that nobody knows what they hold: {', '.join(unknown)}")
    if not found:
        raise NothingSelected(f"no cell of the matrix needs {name}", "`compat plan` shows what each cell adds")
    tell(options.json, Dependents(package=name, cells=found, unknown=unknown), _lines(name, found))
    return Status.AS_EXPECTED


def _dependent(cell: Cell, name: str, facts: Mapping[str, Any]) -> Dependent | None:
    found = resolution(cell, facts, Index.from_pip(), home())
    if not needs(cell, found, facts, name):
        return None
    added, held = read_pins(found.add), {canonical(each): version for each, version in facts["packages"].items()}
    version = added.get(name) or found.versions.get(name) or held.get(name, "")
    return Dependent(cell=cell.id, version=version, added=name in added, problem=found.problem)


def _lines(name: str, found: list[Dependent]) -> Iterator[str]:
    for row in found:
        how = row["problem"] or ("added" if row["added"] else "the image's own")
        yield f"{row['cell']}: {name} {row['version'] or 'of a URL'} ({how})"
    yield count(len(found), "cell")
