"""Published results (latest.json, report.json), asked what works in an image by those who cannot run the matrix."""

from __future__ import annotations

import json
from dataclasses import dataclass
from functools import partial
from typing import Literal

from packaging.requirements import Requirement

from torch_compat_matrix.runner.advice.evidence import Place, Seen
from torch_compat_matrix.runner.advice.search import NONE, number
from torch_compat_matrix.runner.model import INSTALLED, Image, recorded_id, repository
from torch_compat_matrix.runner.pins import canonical
from torch_compat_matrix.runner.records.shapes import outcome as outcome_of
from torch_compat_matrix.runner.records.shapes import readable


@dataclass(frozen=True, kw_only=True, slots=True)
class Answer:
    """What is known of a requirement."""

    requirement: str
    answer: Literal["works", "fails", "untested"]
    version: str = ""
    """The newest version that was tested and that the requirement admits."""
    why: str = ""
    instead: tuple[str, ...] = ()
    """The other versions that were tested and work, the newest first."""


class Published:
    """The results of a site or a run."""

    def __init__(self, text: str) -> None:
        """Of the text of a latest.json; ValueError where it is none."""
        data = json.loads(text)
        if not isinstance(data, dict) or not isinstance(data.get("outcomes"), list):
            raise ValueError("it has no list of outcomes")
        self.run, self.finished = str((data.get("run") or {}).get("run", "")), str(data.get("finished", ""))
        self.outcomes = [outcome_of(each) for each in data["outcomes"] if readable({"kind": "outcome", **each})]
        self.places = {
            key: Place.of(record, Image(name=record["image"]))
            for key, record in (data.get("environments") or {}).items()
            if readable({"kind": "environment", "key": key, **record})
        }

    def image(self, reference: str) -> str:
        """The name of the image of that name, reference or digest, also without its registry; empty for none.

        Of an image that was seen in several places, the image itself goes before a stand-in, and a GPU before a CPU.
        """
        fitting = [
            place
            for place in self.places.values()
            if reference in (*names_of(place), place.digest, f"{repository(place.reference)}@{place.digest}")
            or place.reference.endswith(f"/{reference}")
        ]
        best = max(fitting, key=lambda place: (place.real, bool(place.gpu)), default=None)
        return best.image.name if best else ""

    def answer(self, image: str, asked: Requirement) -> Answer:
        """What is known of the requirement in the image; versions of a library, each without other libraries."""
        seen: dict[str, Seen] = {}
        for outcome in self.outcomes:
            if outcome.image == image and canonical(outcome.subject) == canonical(asked.name):
                place = self.places.get(outcome.environment) or Place(image=Image(name=image), backend="", reference="")
                held = (place.facts.get("packages") or {}).get(canonical(outcome.subject), "")
                version = outcome.installed or outcome.version.partition("@")[0]
                version = held if version == INSTALLED and held else version
                default = Seen(place=place, subject=outcome.subject, versions={outcome.subject: version})
                seen.setdefault(version, default).take(outcome, self.run)
        lacks = {version: found.lacking([*found.outcomes]) for version, found in seen.items()}
        newest = sorted(seen, key=number, reverse=True)
        admitted = [version for version in newest if _admits(asked, version)]
        working = tuple(version for version in newest if not lacks[version])
        known = partial(Answer, requirement=str(asked), instead=working)
        if not admitted or asked.url:
            tested = f"tested: {', '.join(newest)}" if newest else "not tested in this image"
            return known(answer="untested", why=tested)
        best = admitted[0]
        outcomes = seen[best].outcomes.values()
        if not lacks[best]:
            shown = ", ".join(outcome.probe for outcome in outcomes if outcome.verdict.value == "pass")
            why = f"{shown} passed in {seen[best].place.where}"
            return known(answer="works", version=best, why=why, instead=working[1:])
        broken = any(outcome.verdict.broken for outcome in outcomes)
        return known(answer="fails" if broken else "untested", version=best, why=lacks[best])


def names_of(place: Place) -> tuple[str, str, str]:
    """What a person calls the image: its name, also without the target of its column, and its reference."""
    return place.image.name, recorded_id(place.image.name), place.reference


def _admits(asked: Requirement, version: str) -> bool:
    if number(version) == NONE:  # `latest`, of which no pass told the version
        return not asked.specifier
    return asked.specifier.contains(version, prereleases=True)
