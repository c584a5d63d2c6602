"""The outcomes of all runs, by library or stack and by environment; the newest outcome counts."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any

from torch_compat_matrix.runner.model import INSTALLED, LATEST, Cell, Image, Verdict, digest
from torch_compat_matrix.runner.outcome import Outcome
from torch_compat_matrix.runner.pins import read_pins
from torch_compat_matrix.runner.records.journal import Journal
from torch_compat_matrix.runner.records.runs import Run
from torch_compat_matrix.runner.records.shapes import outcome as outcome_of
from torch_compat_matrix.runner.records.shapes import plan_of


@dataclass(frozen=True, kw_only=True)
class Place:
    """An environment that runs recorded: an image by its digest, or its stand-in, and the GPU."""

    image: Image
    backend: str
    reference: str
    digest: str = ""
    stand_in: bool = False
    gpu: str = ""
    """The GPU's name; empty on the CPU."""
    facts: Mapping[str, Any] = field(default_factory=dict)

    @classmethod
    def of(cls, record: Mapping[str, Any], image: Image, backend: str = "") -> Place:
        """The place that an environment's record describes; older records do not name their backend."""
        gpus = record["facts"].get("gpus") or [{"name": ""}]
        return cls(
            image=image,
            backend=record.get("backend", backend),
            reference=record["reference"],
            digest=record.get("digest", ""),
            stand_in=record.get("stand_in", False),
            gpu=gpus[0]["name"],
            facts=record["facts"],
        )

    @cached_property
    def key(self) -> str:
        """A key for these packages in this image on this kind of GPU, whatever name the image had."""
        return digest([self.stand_in, self.digest or self.reference, self.facts.get("packages"), self.gpu])

    @property
    def real(self) -> bool:
        """Whether it was the image itself, and neither a stand-in nor an interpreter of a machine."""
        return not self.stand_in and self.backend != "here"

    @property
    def torch(self) -> str:
        return str((self.facts.get("torch") or {}).get("version") or "")

    @property
    def where(self) -> str:
        """The environment in words."""
        kind = "" if self.real else " (a stand-in, not the image)" if self.stand_in else " (an interpreter, no image)"
        return f"{self.image.name}{kind} on {self.gpu or 'the CPU'}"


@dataclass(kw_only=True, slots=True)
class Seen:
    """The newest outcome of each probe for these versions together in a place."""

    place: Place
    subject: str
    versions: Mapping[str, str]
    """The library, or the members of the stack, and the packages that they replaced, with their versions."""
    members: frozenset[str] = frozenset()
    outcomes: dict[str, Outcome] = field(default_factory=dict)
    runs: dict[str, str] = field(default_factory=dict)
    """Probe -> the run of its outcome."""
    under: dict[str, set[Verdict]] = field(default_factory=dict)
    """Key of an outcome -> all verdicts of runs under it."""

    @property
    def name(self) -> str:
        return " ".join(f"{name} {version}" for name, version in self.versions.items())

    @property
    def resolved(self) -> dict[str, str]:
        """The exact packages that were added to the image."""
        return {name: version for outcome in self.outcomes.values() for name, version in pins(outcome).items()}

    @property
    def replaced(self) -> frozenset[str]:
        """The packages of the image that were replaced, other than by the library or the members themselves."""
        return frozenset(name for outcome in self.outcomes.values() for name in _replaced(outcome)) - self.members

    def take(self, outcome: Outcome, run: str) -> None:
        """Replace an older outcome, unless the newer is only host trouble."""
        if outcome.verdict.final or outcome.probe not in self.outcomes:
            self.outcomes[outcome.probe], self.runs[outcome.probe] = outcome, run
        if outcome.verdict.final and outcome.key:
            self.under.setdefault(outcome.key, set()).add(outcome.verdict)

    def lacking(self, required: Sequence[str]) -> str:
        """The first obstacle to calling it verified; empty where there is none."""
        for probe in dict.fromkeys([*required, *self.outcomes]):
            why = self._lacking(probe, required)
            if why:
                return f"{probe}: {why}"
        return ""

    def _lacking(self, probe: str, required: Sequence[str]) -> str:
        outcome = self.outcomes.get(probe)
        if outcome is None:
            return "never ran"
        if outcome.flaky or len(self.under.get(outcome.key, ())) > 1:
            return "flaky: different verdicts under the same conditions"
        if self.place.gpu and outcome.device == "cpu":
            return "ran on the CPU"
        if outcome.grade:
            return f"{outcome.grade}: only generic probes ran"
        skipped = outcome.verdict is Verdict.SKIP and (outcome.reason == "not-applicable" or probe not in required)
        if outcome.verdict is Verdict.PASS or skipped:
            return ""
        verdict = f"{outcome.verdict.value} ({outcome.reason})" if outcome.reason else outcome.verdict.value
        return f"{verdict} {outcome.detail}".strip()


class Evidence:
    """The outcomes of all runs, by place and versions."""

    def __init__(self, runs: Sequence[Run] = ()) -> None:
        self.places: dict[str, Place] = {}
        self.seen: dict[tuple[str, str, tuple[tuple[str, str], ...]], Seen] = {}
        self.unread: list[str] = []
        """Runs of another version of compat, whose plans cannot be read."""
        for run in runs:
            self.add(run)

    def add(self, run: Run) -> None:
        """Add the records of a run; runs come oldest first."""
        records = list(Journal(run.journal))
        header = next((record for record in records if record["kind"] == "run"), None)
        if header is None:
            return
        try:
            plan = plan_of(header["plan"])
        except ValueError:
            self.unread.append(run.id)
            return
        cells, images = plan.cells_by_id, plan.images_by_name
        here: dict[str, Place] = {}
        for record in records:
            if record["kind"] == "environment" and record["image"] in images:
                here[record["key"]] = place = Place.of(record, images[record["image"]], header["backend"])
                self.places.pop(place.key, None)  # to the end: the latest place comes last
                self.places[place.key] = place
            elif record["kind"] == "outcome":
                outcome = outcome_of(record)
                cell = cells.get(outcome.cell)
                if cell is not None:
                    for place in self._places(outcome, here, images[cell.image], header["backend"]):
                        self._take(cell, outcome, place, run.id)

    def of(self, name: str) -> list[Seen]:
        """All evidence of a library, alone or in a stack."""
        return [seen for seen in self.seen.values() if name in seen.versions]

    def within(self, place: Place) -> list[Seen]:
        """All evidence from a place."""
        return [seen for (key, *_), seen in self.seen.items() if key == place.key]

    def _places(self, outcome: Outcome, here: Mapping[str, Place], image: Image, backend: str) -> list[Place]:
        """The places of an outcome; an outcome without a launch holds in every place of the image."""
        if outcome.environment in here:
            return [here[outcome.environment]]
        for places in (here, self.places):
            of_image = [
                place for place in places.values() if (place.image.name, place.backend) == (image.name, backend)
            ]
            if of_image:
                return of_image
        unseen = Place(image=image, backend=backend, reference=image.reference or "", stand_in=backend == "local")
        return [unseen]

    def _take(self, cell: Cell, outcome: Outcome, place: Place, run: str) -> None:
        versions = _versions(cell, outcome, place)
        key = place.key, cell.label, tuple(sorted(versions.items()))
        if key not in self.seen:
            self.seen[key] = Seen(place=place, subject=cell.subject, versions=versions, members=frozenset(cell.members))
        seen = self.seen[key]
        seen.place, seen.subject = place, cell.subject
        seen.take(outcome, run)


def pins(outcome: Outcome) -> dict[str, str]:
    """Canonical name -> version of the added packages, except those from a URL."""
    return {name: version for name, version in read_pins(outcome.resolved).items() if version}


def _replaced(outcome: Outcome) -> list[str]:
    return [change.partition(" ")[0] for change in outcome.replaced]


def _versions(cell: Cell, outcome: Outcome, place: Place) -> dict[str, str]:
    """The versions of the members, as requested where none was recorded, and of what was replaced in the image."""
    added, held, asked = pins(outcome), place.facts.get("packages") or {}, read_pins(cell.requires)
    replaced = {name: added.get(name, "") for name in _replaced(outcome)}
    if cell.version == LATEST:
        return {**replaced, cell.subject: added.get(cell.subject) or outcome.installed or LATEST}
    if cell.version == INSTALLED:
        return {**replaced, cell.subject: held.get(cell.subject) or INSTALLED}
    members = {name: added.get(name) or asked.get(name) or held.get(name) or cell.version for name in cell.members}
    return {**replaced, **members}
