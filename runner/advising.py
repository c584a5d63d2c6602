"""Remedies for the failures of a run, by its records and the index; a bare interpreter cannot import this module."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from typing import Any

from torch_compat_matrix.runner.advice import remedies
from torch_compat_matrix.runner.advice.candidates import Failure
from torch_compat_matrix.runner.advice.evidence import Evidence
from torch_compat_matrix.runner.errors import Trouble
from torch_compat_matrix.runner.execution.prepare import known_facts
from torch_compat_matrix.runner.outcome import Outcome
from torch_compat_matrix.runner.packages.offers import Offers
from torch_compat_matrix.runner.packages.pip_config import Index
from torch_compat_matrix.runner.records.runs import Run, home
from torch_compat_matrix.runner.watch import Watch, doing
from torch_compat_matrix.runner.workflow import OpenRun

RUNS = 20
"""The latest runs whose records have a say in remedies."""


def advise(opened: OpenRun, watch: Watch = lambda phase: None) -> None:
    """Record the run's failures once more, with the remedies that the records and the index give."""
    cells = opened.plan.cells_by_id
    outcomes = opened.run.outcomes().values()
    probed = {name for name, cell in cells.items() if cell.members}  # an image's own commands have none
    failures = [outcome for outcome in outcomes if outcome.cell in probed and remedies.can_be_advised(outcome)]
    if not failures:
        return
    evidence, index = Evidence(Run.all(home())[-RUNS:]), Index.from_pip()
    facts = _facts(opened, {cells[outcome.cell].image for outcome in failures})
    offers: dict[str, Offers | None] = {}

    def advised(outcome: Outcome) -> Outcome:
        cell = cells[outcome.cell]
        if cell.image not in facts:
            return outcome
        seen, sources = facts[cell.image], index.beside(cell)
        key = f"{cell.image} {sources.key}"
        asked = offers.setdefault(key, Offers(facts=seen, index=sources, cache=home() / "resolutions"))
        failure = Failure(outcome=outcome, cell=cell, facts=seen)
        try:
            return remedies.advised(failure, evidence, opened.backend.name, asked)
        except Trouble:  # the index does not answer, and is not asked again
            offers[key] = None
            return remedies.advised(failure, evidence, opened.backend.name, None)
        except ValueError:  # a version or requirement outside the standard: the general remedy stays
            return outcome

    with doing(watch, "advise", opened.run.id), ThreadPoolExecutor(4, "advise") as pool:
        new = [after for before, after in zip(failures, pool.map(advised, failures), strict=True) if after != before]
    opened.run.record(new)


def _facts(opened: OpenRun, images: Collection[str]) -> dict[str, Mapping[str, Any]]:
    """Image -> its facts, as the run has left them: in the cache, else in its records."""
    found = {record["image"]: record["facts"] for record in opened.run.environments().values()}
    for image in opened.plan.images:
        if image.name in images:
            with suppress(Trouble):
                kept = known_facts(image, opened.backend, home())
                found |= {image.name: kept} if kept else {}
    return found
