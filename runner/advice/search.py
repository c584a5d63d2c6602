"""The search for the newest image and versions that were verified and resolve together."""

from __future__ import annotations

import re
from collections import deque
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field

from packaging.specifiers import SpecifierSet
from packaging.version import InvalidVersion, Version

from torch_compat_matrix.runner.advice.derived_image import Blocked, Joint
from torch_compat_matrix.runner.advice.evidence import Evidence, Place, Seen

TRIES = 12
"""Combinations to resolve in an image: each takes uv a second or two."""
PLACES = 6
"""Images to try, the newest first."""
NEEDED = {"python", "abi", "platform", "machine", "glibc", "packages"}
"""The facts without which nothing can be resolved for an image."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Refused:
    """A combination that was considered and is not advised."""

    place: Place
    versions: Mapping[str, str]
    why: str


@dataclass(frozen=True, kw_only=True, slots=True)
class Choice:
    """The combination to advise, and how far it was verified."""

    place: Place
    versions: Mapping[str, str]
    joint: Joint
    alone: Mapping[str, Seen]
    """Library -> its evidence alone; a library that is missing here was verified in `together`."""
    together: Seen | None
    """The evidence of exactly these packages in an environment."""
    failed: str = ""
    """The failure of the combination; empty where none was seen."""

    @property
    def other(self) -> tuple[str, ...]:
        """Packages at other versions than a library was verified with (`helper 2.0, but lib was verified with 1.0`)."""
        if self.together is not None:
            return ()
        return tuple(
            f"{name} {self.joint.added[name]}, but {library} was verified with {version}"
            for library, seen in self.alone.items()
            for name, version in seen.resolved.items()
            if self.joint.added.get(name, version) != version
        )


Resolve = Callable[[Place, Mapping[str, str], Mapping[str, str]], Joint]
"""Place, libraries to add, packages that were verified with them -> the complete set; Blocked where there is none."""


@dataclass(kw_only=True)
class Search:
    """Looks for the newest image and versions that were verified and resolve together."""

    evidence: Evidence
    wanted: Mapping[str, str]
    """Library -> the requested version, or nothing."""
    required: Mapping[str, Sequence[str]]
    """Library -> the probes that must have passed."""
    accepts: Callable[[Place], bool]
    resolve: Resolve
    refused: list[Refused] = field(default_factory=list)

    @property
    def probes(self) -> tuple[str, ...]:
        """The probes that any of the libraries must have passed."""
        return tuple(dict.fromkeys(probe for name in self.wanted for probe in self.required[name]))

    def places(self) -> list[Place]:
        """The accepted places: images first, then stand-ins of tagged images, then by newest torch and evidence."""
        places = [
            place for place in self.evidence.places.values() if self.accepts(place) and place.facts.keys() >= NEEDED
        ]
        places.reverse()
        return sorted(places, key=lambda place: (place.real, bool(place.image.tag), number(place.torch)), reverse=True)

    def choose(self) -> Choice | None:
        """The best combination; None where no verified versions resolve together."""
        tried = 0
        for place in self.places():
            ladders = {name: self._ladder(place, name) for name in self.wanted}
            if all(ladders.values()) and tried < PLACES:
                tried += 1
                choice = self._among(place, ladders)
                if choice is not None:
                    return choice
        return None

    def _ladder(self, place: Place, name: str) -> list[str]:
        """The library's verified versions in the place, newest first, alone or in a stack with all the others."""
        versions = set()
        for seen in self.evidence.within(place):
            alone = seen.versions.keys() == {name} and not seen.lacking(self.required[name])
            if alone or (self._speaks(seen) and not seen.lacking(self.probes)):
                versions.add(seen.versions[name])
        asked = self.wanted[name]
        fits = SpecifierSet(f"=={asked}" if asked else "", prereleases=True)
        fitting = (version for version in versions if number(version) != NONE and version in fits)
        return sorted(fitting, key=number, reverse=True)

    def _speaks(self, seen: Seen) -> bool:
        """Whether the evidence covers all that is wanted, and replaced nothing of the image that is not."""
        return seen.replaced <= self.wanted.keys() <= seen.versions.keys()

    def _among(self, place: Place, ladders: Mapping[str, Sequence[str]]) -> Choice | None:
        """The newest combination that resolves; after a conflict, the next older version of the conflicting library."""
        queue = deque([dict.fromkeys(ladders, 0)])
        met = {tuple(queue[0].values())}
        for _ in range(TRIES):
            if not queue:
                break
            steps = queue.popleft()
            versions = {name: ladders[name][step] for name, step in steps.items()}
            try:
                return self._verified(place, versions)
            except Blocked as blocked:
                why = str(blocked)
            self.refused.append(Refused(place=place, versions=versions, why=why))
            named = [name for name in versions if re.search(rf"(?<![\w-]){re.escape(name)}(?![\w-])", why)]
            for name in named or list(versions):
                older = {**steps, name: steps[name] + 1}
                if older[name] < len(ladders[name]) and tuple(older.values()) not in met:
                    met.add(tuple(older.values()))
                    queue.append(older)
        return None

    def _verified(self, place: Place, versions: Mapping[str, str]) -> Choice:
        """The resolved combination with its evidence; Blocked where it cannot be advised."""
        within = self.evidence.within(place)
        alone = {
            name: seen
            for name in versions
            for seen in within
            if seen.versions == {name: versions[name]} and not seen.lacking(self.required[name])
        }
        covering = self._covering(place, versions)
        if len(alone) < len(versions) and not covering:
            rest = ", ".join(f"{name} {version}" for name, version in versions.items() if name not in alone)
            raise Blocked(f"{rest} was verified only together with other versions of the rest")
        known = dict(_agreeing([seen.resolved for seen in (covering or list(alone.values()))]))
        joint = self.resolve(place, versions, known)
        packages = {**versions, **joint.added}
        why = self.failed(place, packages, excused=True)
        if why:
            raise Blocked(why)
        together = self.together(place, versions, joint.added)
        failed = self.failed(place, packages)
        return Choice(place=place, versions=versions, joint=joint, alone=alone, together=together, failed=failed)

    def together(self, place: Place, versions: Mapping[str, str], added: Mapping[str, str]) -> Seen | None:
        """The evidence of these packages in an environment, all at these versions."""
        fitting = (seen for seen in self._covering(place, versions) if seen.resolved.items() >= added.items())
        return next(fitting, None)

    def _covering(self, place: Place, versions: Mapping[str, str]) -> list[Seen]:
        """The evidence that verifies all of these versions at once, the latest first."""
        covering = [seen for seen in self.evidence.within(place) if seen.versions.items() >= versions.items()]
        return [seen for seen in reversed(covering) if self._speaks(seen) and not seen.lacking(self.probes)]

    def failed(self, place: Place, packages: Mapping[str, str], excused: bool = False) -> str:
        """The failure of some of these packages together, or of all the libraries; empty where there is none.

        With `excused`, a failure does not count where a dependency that nobody requested also fails alone.
        """
        for seen in self.evidence.within(place):
            broken = [outcome.probe for outcome in seen.outcomes.values() if outcome.verdict.broken or outcome.flaky]
            broken = [probe for probe in broken if not (excused and self._alone_too(seen, probe))]
            several = len(seen.versions) > 1 or seen.versions.keys() == self.wanted.keys()
            if several and broken and seen.versions.items() <= packages.items():
                return f"{seen.name} did not work: {seen.lacking(broken)}"
        return ""

    def _alone_too(self, stack: Seen, probe: str) -> bool:
        """Whether the probe fails because of a member that nobody requested and that fails it alone as well."""
        member = stack.outcomes[probe].detail.partition(": ")[0]
        if member in self.wanted or member not in stack.versions:
            return False
        own = {member: stack.versions[member]}
        alone = [seen for seen in self.evidence.within(stack.place) if seen.versions == own]
        return any(probe in seen.outcomes and seen.outcomes[probe].verdict.broken for seen in alone)


def _agreeing(sets: Sequence[Mapping[str, str]]) -> Iterator[tuple[str, str]]:
    """The pins that have the same version in every set that names them."""
    for name in dict.fromkeys(name for pins in sets for name in pins):
        versions = {pins[name] for pins in sets if name in pins}
        if len(versions) == 1:
            yield name, versions.pop()


NONE = Version("0.dev0")
"""Stands for a missing version: older than all."""


def number(version: str) -> Version:
    """The version as a comparable number; NONE for a text that is no version."""
    try:
        return Version(version)
    except InvalidVersion:
        return NONE
