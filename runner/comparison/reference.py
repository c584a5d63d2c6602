"""The known-good reference: where a check that passed fails at the end of a run, the failures since are the host's."""

from __future__ import annotations

import datetime as dt
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import replace
from operator import attrgetter
from typing import Any

from torch_compat_matrix.runner.comparison.confirm import as_it_passed
from torch_compat_matrix.runner.judging import judge
from torch_compat_matrix.runner.model import Cell, Image, Plan, Verdict
from torch_compat_matrix.runner.outcome import Outcome
from torch_compat_matrix.runner.records.since import Seen, Since

Ask = Callable[[Image, Cell, str], Mapping[str, Outcome]]
"""Runs a cell on the GPU of that UUID, on any where it is empty; empty where there is no time left."""
CHEAPEST_FIRST = "sample", "autograd", "compile", "import"
"""The probes of a reference; an import alone shows nothing of a GPU."""


def gpu_of(environment: Mapping[str, Any]) -> str:
    """The UUID of the GPU of an environment; empty on a CPU, and where torch does not tell it."""
    gpus: Sequence[Mapping[str, Any]] = environment.get("facts", {}).get("gpus") or [{}]
    return str(gpus[0].get("uuid", ""))


def suspected(
    run: str,
    plan: Plan,
    outcomes: Iterable[Outcome],
    environments: Mapping[str, Mapping[str, Any]],
    stands: Mapping[str, Since],
    pulls: bool,
    ask: Ask,
) -> Iterator[tuple[Outcome, Seen, Outcome]]:
    """The unexpected failures on a GPU, or on the CPU, where what is known to be good fails now: what, and how.

    Known to be good is the last check that computed and passed there in this run, and failures before it stay as they
    are. Where nothing passed there, it is the newest pass of earlier runs, unless only a single cell fails.
    """
    today, cells, images = dt.date.today(), plan.cells_by_id, plan.images_by_name
    by_gpu: dict[str, list[Outcome]] = {}
    for outcome in outcomes:
        cell = cells.get(outcome.cell)
        if outcome.environment in environments and not outcome.reused and cell and cell.members:
            by_gpu.setdefault(gpu_of(environments[outcome.environment]), []).append(outcome)
    for gpu, ran in by_gpu.items():
        unexpected = [each for each in ran if judge(each, plan.known, today).surprise == "unexpected failure"]
        failed = [each for each in unexpected if not each.confirmation]
        good = _passed(run, ran, environments)
        if failed and good is None and any(each.cell != failed[0].cell for each in failed):
            good = max(filter(None, (stands[each.check].good for each in ran)), key=attrgetter("date"), default=None)
        if not failed or good is None or good.outcome.probe not in CHEAPEST_FIRST:
            continue
        cell = replace(cells[good.outcome.cell], probes=(good.outcome.probe,))
        now = next(each for each in ran if each.check == good.outcome.check)
        exact = as_it_passed(images[cell.image], cell, now, good, environments[now.environment], pulls)
        found = None if isinstance(exact, str) else ask(*exact, gpu).get(now.check)
        if found and (found.blame == "host" or (found.verdict.broken and found.environment)):
            since = good.date if good.run == run else ""
            yield from ((each, good, found) for each in failed if each.started >= since)


def _passed(run: str, ran: Iterable[Outcome], environments: Mapping[str, Mapping[str, Any]]) -> Seen | None:
    """The last pass by the cheapest probe that shows whether the device works."""
    sound = [each for each in ran if each.verdict is Verdict.PASS and not each.flaky]
    for probe in CHEAPEST_FIRST:
        known = [each for each in sound if each.probe == probe and (each.device == "cuda" or each.target == "cpu")]
        if known:
            last = max(reversed(known), key=attrgetter("started"))  # to the second: of several the last
            return Seen(run=run, date=last.started, outcome=last, environment=environments[last.environment])
    return None
