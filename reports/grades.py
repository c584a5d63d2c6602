"""How much each cell shows, on which device and in what."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING

from torch_compat_matrix.reports.escape import count
from torch_compat_matrix.runner.judging import CPU
from torch_compat_matrix.runner.model import LATEST, SUITE, Verdict

if TYPE_CHECKING:
    from torch_compat_matrix.reports.table import Table

SHOWN = {"import": "imported", "sample": "ran", "autograd": "gradients", "compile": "compiled", SUITE: "suite"}
"""What the pass of a probe shows."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Grade:
    """How much a cell shows; it `works` where all passes that the matrix asks for, on the device that it asks for."""

    image: str
    subject: str
    version: str
    shows: tuple[str, ...]
    on_gpu: bool
    """Whether every pass is one on a GPU."""
    stand_in: bool
    superficial: bool
    """Whether one of the passes is a generic probe's, which compares nothing."""
    works: bool
    blocked_by: str
    """The library with a failing cell of its own, in whose code this cell fails; else empty."""


def grades(table: Table) -> Iterator[Grade]:
    """The grade of every cell."""
    images = {image["name"]: image for image in table.header.get("plan", {}).get("images", ())}
    for (image, subject, version), box in table.boxes.items():
        outcomes = [judged.outcome for judged in box.values()]
        passes = [outcome for outcome in outcomes if outcome.verdict is Verdict.PASS]
        on_gpu = bool(passes) and all(map(table.passed_on_gpu, passes))
        gpus = ((images.get(image) or {}).get("limits") or {}).get("gpus", "auto")
        wants_gpu = gpus != "none" and (gpus != "auto" or table.origin(outcomes[0].check).device != CPU)
        whole = all(
            (outcome.verdict is Verdict.PASS and not outcome.flaky)
            or (outcome.verdict is Verdict.SKIP and outcome.reason == "not-applicable")
            for outcome in outcomes
        )
        yield Grade(
            image=image,
            subject=subject,
            version=version,
            shows=tuple(SHOWN.get(outcome.probe, outcome.probe) for outcome in passes),
            on_gpu=on_gpu,
            stand_in=any(table.environments.get(one.environment, {}).get("stand_in") for one in outcomes),
            superficial=any(outcome.grade for outcome in passes),
            works=bool(passes) and whole and (on_gpu or not wants_gpu),
            blocked_by=next((table.blocked[one.check] for one in outcomes if one.check in table.blocked), ""),
        )


def appeared(table: Table) -> Iterator[str]:
    """What moved into the matrix since the last runs, and how far it works: `captum 0.10.0 appeared: works in ...`."""
    header = table.header
    if not ("--new" in header.get("command", ()) or any(since.base for since in table.since.values())):
        return  # everything is new in a first run
    taken = header.get("plan", {}).get("taken", {})
    moved = {(key.split()[0], exact) for key, values in taken.items() for exact in values}
    works: dict[str, list[bool]] = {}
    for grade in table.grades:
        box = table.boxes[grade.image, grade.subject, grade.version].values()
        stood = [table.since.get(judged.outcome.check) for judged in box]
        before = {since.base.outcome.installed for since in stood if since and since.base}
        installed = next((judged.outcome.installed for judged in box if judged.outcome.installed), "")
        if grade.version == LATEST and installed and before and installed not in before:
            works.setdefault(f"{grade.subject} {installed}", []).append(grade.works)
        elif not before and (grade.subject, grade.version) in moved:
            works.setdefault(f"{grade.subject} {grade.version}", []).append(grade.works)
    for name, each in works.items():
        yield f"{name} appeared: works in {sum(each)} of {count(len(each), 'image')}."
