"""Declared against measured bounds: what a library's metadata asks for, and what was seen to pass and to fail."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from email.parser import HeaderParser
from pathlib import Path
from typing import Any

from packaging.requirements import Requirement
from packaging.specifiers import SpecifierSet
from packaging.version import Version

from torch_compat_matrix.runner.advice.evidence import Seen
from torch_compat_matrix.runner.advice.search import number
from torch_compat_matrix.runner.model import Verdict
from torch_compat_matrix.runner.pins import canonical, is_standard, left_out

PYTHON = "python"
CAPS = ("<", "<=", "==", "~=")
"""The operators that leave out newer versions."""


@dataclass(kw_only=True)
class Bound:
    """What a library declares of a package, and the versions of it with which it passed or failed."""

    name: str
    declared: SpecifierSet
    passes: set[str] = field(default_factory=set)
    fails: set[str] = field(default_factory=set)

    @property
    def capped(self) -> bool:
        return any(clause.operator in CAPS for clause in self.declared)

    def within(self, version: str) -> bool:
        """Whether the metadata admits the version."""
        return self.declared.contains(number(version), prereleases=True)

    @property
    def words(self) -> str:
        """`numpy: declares <2.0; passes with 2.4.6 (above the declared cap)`."""
        said = [f"declares {self.declared or 'any version'}"]
        for verb, versions in (("passes", self.passes), ("fails", self.fails)):
            shown = [text if self.within(text) else f"{text} (outside)" for text in sorted(versions, key=number)]
            said += [f"{verb} with {', '.join(shown)}"] if shown else []
        return f"{self.name}: {'; '.join(said)}"

    @property
    def supported(self) -> str:
        """The requirement that the evidence supports; the declared one where there is no evidence against it."""
        good, bad = sorted(map(number, self.passes)), sorted(map(number, self.fails))
        clauses = self.declared
        if good and not clauses.contains(good[-1], prereleases=True):
            clauses = _without(CAPS, clauses)
        above = [version for version in bad if good and version > good[-1]][:1]
        below = [version for version in bad if good and version < good[0]][-1:]
        for version in above:
            if clauses.contains(version, prereleases=True):
                clauses = _without(("<", "<="), clauses) & SpecifierSet(f"<{version.public}")
        for version in below:
            if clauses.contains(version, prereleases=True):
                clauses &= SpecifierSet(f">{version.public}")
        return f"{self.name}{','.join(sorted(map(str, clauses), reverse=True))}"


def _without(operators: Sequence[str], clauses: SpecifierSet) -> SpecifierSet:
    return SpecifierSet(",".join(str(clause) for clause in clauses if clause.operator not in operators))


def declared(folder: Path, name: str, facts: Mapping[str, Any]) -> dict[str, Bound]:
    """What the metadata of a distribution in a folder asks of other packages there, and of Python."""
    for path in folder.glob("*.dist-info/METADATA"):
        metadata = HeaderParser().parsestr(path.read_text(encoding="utf-8", errors="replace"))
        if canonical(str(metadata["Name"])) != name:
            continue
        asked = [str(text) for text in metadata.get_all("Requires-Dist") or () if is_standard(str(text))]
        bounds = [Bound(name=PYTHON, declared=SpecifierSet(str(metadata["Requires-Python"] or "")))]
        for text in asked:
            wanted = Requirement(text)
            if "extra" not in str(wanted.marker or "") and not left_out([text], facts):
                bounds.append(Bound(name=canonical(wanted.name), declared=wanted.specifier))
        return {bound.name: bound for bound in bounds}
    return {}


def learn(bounds: Mapping[str, Bound], versions: Mapping[str, str], passed: bool) -> None:
    """Add what a check showed with these versions; a failure tells where all versions but one are known to pass."""
    known = {name: versions[name].partition("+")[0] for name in bounds if versions.get(name)}
    suspects = [name for name, version in known.items() if version not in bounds[name].passes]
    for name, version in known.items():
        if passed:
            bounds[name].passes.add(version)
        elif suspects == [name]:
            bounds[name].fails.add(version)


def recorded(bounds: Mapping[str, Bound], seen: Iterable[Seen], name: str, version: str, probe: str) -> None:
    """Add what the records say of the library at that version, alone, in whatever image."""
    told = [
        (versions_in(each.place.facts, each.resolved), outcome.verdict is Verdict.PASS)
        for each in seen
        for outcome in [each.outcomes.get(probe)]
        if outcome and outcome.environment and outcome.verdict.tells and not outcome.flaky
        if each.members == {name} and number(each.versions[name]) == number(version)
    ]
    for versions, passed in sorted(told, key=lambda pair: not pair[1]):  # a failure is judged by the passes
        learn(bounds, versions, passed)


def versions_in(facts: Mapping[str, Any], added: Mapping[str, str]) -> dict[str, str]:
    """Package -> its version in an environment of these facts with these packages, Python among them."""
    held = {canonical(name): version for name, version in facts.get("packages", {}).items()}
    return {**held, **added, PYTHON: str(facts.get("python", ""))}


def newer(bound: Bound, releases: Iterable[str]) -> list[str]:
    """The releases above the declared cap, oldest first."""
    every = sorted(version for version in map(Version, releases) if not version.is_prerelease)
    top = max((version for version in every if version in bound.declared), default=None)
    return [str(version) for version in every if top is not None and version > top]
