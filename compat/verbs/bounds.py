"""Compare the bounds that a library declares with those that records and a few runs show, and print what the evidence
supports. Versions above a declared cap are tried against the library's own word, by an override of uv.

(matrix)
(backend)
library LIBRARY  a library of the matrix, or one at a version: captum, captum-0.8.0
--in IMAGE required  the image
--probe PROBE ...  what counts as working; may be repeated (default: import, sample, autograd, as far as they pass)
--json  print it as JSON

compat bounds captum-0.8.0 --in torch-2.13
compat bounds gpytorch --in torch-2.9 --probe import --json
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Iterator
from dataclasses import replace

from torch_compat_matrix.compat.answers import Bounded, Bounds
from torch_compat_matrix.compat.progress import say, tell
from torch_compat_matrix.compat.verbs.bisect import Steps
from torch_compat_matrix.compat.verbs.plan import plan_asked
from torch_compat_matrix.runner.advice import bisection
from torch_compat_matrix.runner.advice.bounds import PYTHON, Bound, declared, learn, newer, recorded, versions_in
from torch_compat_matrix.runner.advice.evidence import Evidence, pins
from torch_compat_matrix.runner.advice.search import number
from torch_compat_matrix.runner.backends.base import connect
from torch_compat_matrix.runner.comparison.sides import resolution
from torch_compat_matrix.runner.errors import NothingSelected, Status
from torch_compat_matrix.runner.files import write_whole
from torch_compat_matrix.runner.model import TORCH, Cell, Plan, Verdict, digest
from torch_compat_matrix.runner.outcome import Outcome
from torch_compat_matrix.runner.packages import overlay
from torch_compat_matrix.runner.packages.pip_config import Index
from torch_compat_matrix.runner.packages.releases import releases
from torch_compat_matrix.runner.pins import canonical, name_of, read_pins
from torch_compat_matrix.runner.records.runs import Run, home
from torch_compat_matrix.runner.workflow import facts_of

RUNS = 50
"""The latest runs whose records count."""


def main(options: argparse.Namespace) -> Status:
    image = vars(options)["in"]
    probes = options.probe or ["import", "sample", "autograd"]
    plan = plan_asked(options, [f"{image}/{options.library}"], probes)
    cells = [cell for cell in plan.cells if cell.requires and len(cell.members) == 1]
    if not cells:
        raise NothingSelected(
            f"{image}/{options.library} is installed by the image or a stack: it has no bounds to try"
        )
    evidence = Evidence(Run.all(home())[-RUNS:])
    rows = [_Search(plan, cell, evidence, ["compat", *options.arguments]).row() for cell in cells]
    tell(options.json, Bounds(image=image, libraries=rows), (line for row in rows for line in _lines(row)))
    return Status.AS_EXPECTED


class _Search:
    """What one cell declares, and what it shows."""

    def __init__(self, plan: Plan, cell: Cell, evidence: Evidence, command: list[str]) -> None:
        backend = connect(plan.backend, home(), plan.target)
        self.cell, self.name = cell, canonical(cell.members[0])
        self.facts = facts_of(next(image for image in plan.images if image.name == cell.image), backend, say)
        self.index = Index.from_pip().beside(cell)
        self.steps = Steps(plan, cell, backend, command)
        self.evidence = evidence

    def row(self) -> Bounded:
        """The bounds of the cell's library, tried where they leave out what is newer."""
        found = resolution(self.cell, self.facts, self.index, home())
        version = read_pins(found.add).get(self.name) or found.versions.get(self.name) or self.cell.version
        alone = overlay.build((f"{self.name}=={version}",), self.facts, self.index, home())
        bounds = declared(alone, self.name, self.facts)
        held = versions_in(self.facts, {})
        outside = {name: held[name] for name, bound in bounds.items() if name in held and not bound.within(held[name])}
        outside.pop(PYTHON, None)
        base = self._ask("as the image is" if outside else "as declared", outside)
        probes = [outcome.probe for outcome in self.steps.each[base] if outcome.verdict is Verdict.PASS]
        if probes:
            self.cell = replace(self.cell, probes=tuple(probes))
        learn(bounds, versions_in(self.facts, pins(self.steps.seen[base])), bool(probes))
        recorded(bounds, self.evidence.of(self.name), self.name, version, probes[-1] if probes else "import")
        for name, bound in bounds.items():
            if probes and bound.capped and name not in (*outside, PYTHON, TORCH):
                self._try(bound, outside)
        return Bounded(
            library=self.name,
            version=version,
            probes=probes,
            found=[bound.words for bound in bounds.values()],
            requires=[bound.supported for bound in bounds.values() if bound.name != PYTHON],
            python=bounds[PYTHON].supported.removeprefix(PYTHON) if PYTHON in bounds else "",
        )

    def _try(self, bound: Bound, outside: dict[str, str]) -> None:
        """Run above the declared cap: the newest, and where that fails, the first that does."""
        above = newer(bound, releases(bound.name, self.index))
        if not above or bisection.passes(self._step(bound, above[-1], outside)):
            return
        good = max(bound.passes, default="", key=number)
        if len(above) > 1 and good:
            bisection.search([good, *above], lambda version: self._step(bound, version, outside))

    def _step(self, bound: Bound, version: str, outside: dict[str, str]) -> Outcome:
        """The outcome with that version; what it shows is kept."""
        outcome = self.steps.seen[self._ask(f"{bound.name} {version}", {**outside, bound.name: version})]
        passed = bisection.passes(outcome)
        if passed is not None:
            learn({bound.name: bound}, {bound.name: version}, passed)
        return outcome

    def _ask(self, point: str, overrides: dict[str, str]) -> str:
        """Run the cell with these versions, whatever its library declares of them."""
        index, lines = self.index, [f"{name}=={version}" for name, version in overrides.items()]
        if lines:
            file = home() / "resolutions" / f"{digest(lines)}.override"
            file.parent.mkdir(parents=True, exist_ok=True)
            write_whole(file, ["\n".join(lines), "\n"])
            index = replace(index, uv={**index.uv, "UV_OVERRIDE": str(file)})
            point += ", declared bounds overridden"
        asked = [text for text in self.cell.requires if name_of(text) not in overrides]
        more = [line for line in lines if name_of(line) != TORCH]
        self.steps.ask(point, replace(self.cell, requires=(*asked, *more)), index)
        return point


def _lines(row: Bounded) -> Iterator[str]:
    works = f"{', '.join(row['probes'])} pass" if row["probes"] else "nothing passes, so that no bound can be tried"
    yield f"{row['library']} {row['version']}: {works}"
    yield from (f"  {line}" for line in row["found"])
    if row["python"]:
        yield f'  requires-python = "{row["python"]}"'
    yield f"  dependencies = {json.dumps(row['requires'])}"
