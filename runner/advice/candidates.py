"""What the index offers against a failure: a release, a package beside it, or an image of the same time."""

from __future__ import annotations

import datetime as dt
import json
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from functools import cached_property
from itertools import chain
from pathlib import Path
from typing import Any

from torch_compat_matrix.runner.advice.search import number
from torch_compat_matrix.runner.files import read_ini
from torch_compat_matrix.runner.model import TORCH, Cell, Verdict
from torch_compat_matrix.runner.outcome import Outcome
from torch_compat_matrix.runner.packages.offers import ALL, LOWEST, WHEELS, Offers
from torch_compat_matrix.runner.pins import (
    admits,
    canonical,
    is_prerelease,
    name_of,
    read_pins,
    same_version,
    version_of,
)

TABLES = read_ini(Path(__file__).with_name("data") / "candidates.ini")
INSTALLS, UNBUILT = (TABLES["reasons"][key].split() for key in ("installs", "unbuilt"))
MISFITS, BESIDE, DISTRIBUTIONS = TABLES["misfits"], TABLES["beside"], TABLES["distributions"]
SAME_WEEK = dt.timedelta(days=7)
"""Releases that belong together come out within it."""

Bounds = tuple[str, tuple[str, ...]]
"""Of a release, as in a requirement; and the flags for which of those within is taken, by default the newest."""


@dataclass(frozen=True, slots=True)
class Option:
    """A change that is likely to help: in words, why, and as data (Outcome.changes)."""

    what: str
    why: str
    change: str = ""


@dataclass(frozen=True, kw_only=True)
class Failure:
    """An outcome that is no pass, in its cell, in an image with these facts."""

    outcome: Outcome
    cell: Cell
    facts: Mapping[str, Any]

    @cached_property
    def held(self) -> Mapping[str, str]:
        """The image's packages by their canonical names."""
        return {canonical(name): version for name, version in self.facts["packages"].items()}

    @cached_property
    def subject(self) -> str:
        """The member that failed."""
        first = self.outcome.detail.partition(": ")[0]
        return first if first in self.cell.members else self.cell.members[0]

    @property
    def raiser(self) -> str:
        """The package of the cell that raised, or whose compiled part did; else the library."""
        for word in (self.outcome.names.get(which, "").partition(" ")[0] for which in ("owner", "raiser")):
            for name in (*self.cell.members, *read_pins(self.outcome.resolved)):
                if word and f"{name}-".startswith(f"{canonical(word)}-"):
                    return name
        return self.subject

    def version(self, name: str) -> str:
        """The version of a package in the cell; empty where none was settled."""
        settled = (read_pins(pins).get(name, "") for pins in (self.cell.requires, self.outcome.resolved))
        return next(filter(None, settled), self.held.get(name, "").partition("+")[0])

    def rest(self, name: str) -> tuple[str, ...]:
        """The cell's requirements, without that of a name."""
        return tuple(text for text in self.cell.requires if name_of(text) != name)

    @property
    def drifted(self) -> str:
        """The packages that an install would replace, at their versions in the image; torch before all."""
        words = [change.partition(" -> ")[0] for change in self.outcome.drift]
        words.sort(key=lambda word: not word.startswith(f"{TORCH} "))
        return " and ".join(words[:2]) if self.outcome.reason == "drift" else ""


@dataclass(kw_only=True)
class Candidates:
    """The options that the index has for a failure; `failing` are versions of the library that are known to fail."""

    failure: Failure
    offers: Offers
    failing: tuple[str, ...] = ()
    releases: bool = True
    """Whether another release is looked for."""
    lost: str = ""
    """That there is no other release, once that is known."""

    def options(self) -> Iterator[Option]:
        """The most promising first; Trouble where a source does not answer."""
        outcome = self.failure.outcome
        if any(" @ " in text for text in self.failure.cell.requires if name_of(text) == self.failure.subject):
            self.releases = False  # the index may know another package by its name, as it does for OpenAI's clip
        if not outcome.environment:
            return self._installable() if outcome.reason in INSTALLS else iter(())
        if outcome.reason == "missing-module":
            return chain(self._bringing(outcome.names.get("module", "").partition(".")[0]), self._newest())
        if outcome.reason in MISFITS:
            return self._of_one_time()
        behaves = outcome.blame == "library" and outcome.verdict in (Verdict.FAIL, Verdict.CRASH)
        return self._newest() if behaves else iter(())

    def _releases(self, name: str, *sides: Bounds) -> list[str]:
        """The release that installs beside the image's packages within each of these bounds.

        What has to be built from source is only looked at where there is no wheel on any side.
        """
        failing = [f"!={version}" for version in self.failing if name == self.failure.subject]
        for files in self._files:
            found = []
            for bounds, order in sides:
                wanted = f"{name}{','.join(filter(None, (bounds, *failing)))}"
                picks = self.offers.beside(wanted, *self.failure.rest(name), flags=(*files, *order))
                found += [picks[name]] if picks.get(name) and not is_prerelease(picks[name]) else []
            if found:
                return found
        return []

    @property
    def _files(self) -> tuple[tuple[str, ...], ...]:
        return (WHEELS,) if self.failure.outcome.reason in UNBUILT else (WHEELS, ALL)

    def _installs(self, *requirements: str) -> bool:
        """Whether something fulfils the requirements beside the image's packages."""
        return any(self.offers.beside(*requirements, flags=files) for files in self._files)

    def _use(self, name: str, version: str, why: str = "it") -> Option:
        """The option of another version of a package: a library's own, or one beside it."""
        why = f"{why} accepts {self.failure.drifted or 'the packages of the image'}; not tried here"
        if name in self.failure.cell.members:
            return Option(f"use {name} {version}", why, f"use {name}=={version}")
        return self._with(why, f"{name}=={version}")

    def _with(self, why: str, *requirements: str) -> Option:
        change = " ".join(f"with {requirement}" for requirement in requirements)
        return Option(f"add `with: {json.dumps(requirements)}`", why, change)

    def _image(self, pins: Mapping[str, str], why: str) -> Option:
        words = " and ".join(f"{name} {version}" for name, version in pins.items())
        change = " ".join(f"{name}=={version}" for name, version in pins.items())
        return Option(f"use an image with {words}", why, f"image {change}")

    def _last(self, name: str) -> str:
        return str(max(self.offers.days(name), default=""))

    def _installable(self) -> Iterator[Option]:
        """The nearest releases that install beside the image's packages, or the image that an install would make."""
        failure, reason, requires = self.failure, self.failure.outcome.reason, self.failure.cell.requires
        name = self._missed() if reason == "version-not-found" else failure.subject
        version = version_of(next((text for text in requires if name_of(text) == name), ""))
        moves = {change.partition(" ")[0]: change.rpartition(" ")[2] for change in failure.outcome.drift}
        sides: list[Bounds] = [(f">{version}", LOWEST), (f"<{version}", ())] if version else [("", ())]
        taken = re.search(rf"^pip takes .*?\b{name} ([\w.]+)", failure.outcome.detail)
        if taken:  # uv mends what pip refuses
            sides = [(f"=={taken[1]}", ())]
        if reason == "python-too-old" or number(moves.get(TORCH, "")) > number(failure.version(TORCH)):
            sides.reverse()
        rest = failure.rest(name)
        alone = reason in ("unsatisfiable", "version-not-found") and rest and len(failure.cell.members) == 1
        if alone and self._installs(f"{name}=={version}"):
            change = " ".join(f"without {name_of(text)}" for text in rest)
            yield Option(f"leave {' and '.join(rest)} out of `with:`", f"{name} {version} alone installs", change)
        found = self._releases(name, *sides) if self.releases else []
        yield from (self._use(name, release) for release in found)
        if self.releases and not found:
            beside = f" and {' and '.join(rest)}" if rest else ""
            accepts, last = failure.drifted or f"the packages of the image{beside}", self._last(name)
            none = f"No release of {name} accepts {accepts}; {last} is the last."
            self.lost = none if last else f"No index has {name}."
        pins = [f"{moved}=={new}" for moved, new in moves.items()]
        if TORCH in moves:
            own = self._newest_by(TORCH, self._day(name, version))
            torch = next(
                (each for each in (own, moves[TORCH]) if each and self.offers.anew(f"{TORCH}=={each}", *requires)), ""
            )
            why = f"it was the newest when {name} {version} came out" if torch == own else "an install would bring that"
            if torch:
                yield self._image({TORCH: torch}, why)
        elif pins and self._installs(*requires, *pins):
            yield self._with("what is named there may be replaced", *pins)
        module = re.search(r"No module named '(\w+)'", failure.outcome.evidence)
        if reason == "sdist-build-failed" and module and module[1] in DISTRIBUTIONS:
            needed = DISTRIBUTIONS[module[1]]
            what = f"name a file with `{needed}` in PIP_BUILD_CONSTRAINT"
            yield Option(what, f"the build needs {module[1]}", f"build {needed}")

    def _missed(self) -> str:
        """The name of the requirement whose version the index does not have; else the library's."""
        for name, version in read_pins(self.failure.cell.requires).items():
            if version and not any(same_version(str(each), version) for each in self.offers.days(name)):
                return name
        return self.failure.subject

    def _bringing(self, module: str) -> Iterator[Option]:
        """The distribution that holds a module; one that only has its name may be anybody's."""
        known, requires = DISTRIBUTIONS.get(module), self.failure.cell.requires
        requirement = known or canonical(module)
        if module and (known or self.offers.days(requirement)) and self._installs(*requires, requirement):
            why = f"it holds {module}" if known else f"if {requirement} is that {module}: look at it at the index first"
            yield self._with(why, requirement)

    def _newest(self) -> Iterator[Option]:
        """The newest release: a fault that is known may be mended there."""
        name, version = self.failure.subject, self.failure.version(self.failure.subject)
        found = self._releases(name, (f">{version}", ())) if version and self.releases else []
        yield from (self._use(name, release, "the newest that") for release in found)

    def _of_one_time(self) -> Iterator[Option]:
        """Releases of the one that raised and of what it does not fit, made at the same time."""
        failure, reason, names = self.failure, self.failure.outcome.reason, self.failure.outcome.names
        if "unavailable" in names:  # torch's own words: the library has no part in it
            yield Option("put `numpy<2` into the image", "its torch was built for NumPy 1", "image numpy<2")
            return
        holder = canonical(names.get("holder", "").partition(" ")[0])
        other = holder or ("numpy" if names.get("namespace") == "np" else MISFITS[reason])
        name, others = failure.raiser, failure.version(other)
        version, day = failure.version(name), self._day(name, failure.version(name))
        newer = not day > self._day(other, others) > "" if other else reason == "python-too-new"
        tames = reason in BESIDE and not (others and admits(BESIDE[reason], others))
        newer |= tames  # what raised is too old for the other
        if self.releases:
            near = self._later(name, version, other) if newer else self._earlier(name, version, other)
            found = self._releases(name, near) or self._releases(name, (f"{'<>'[newer]}{version}", ()))
            made = f"of the time of {other} {others}" if other else "newer" if newer else "older"
            yield from (self._use(name, release, f"it is {made} and") for release in found)
            if newer and other and not found and self._last(name) == version:
                self.lost = f"{version} is the last release of {name}: there is none for {other} {others}."
        if tames and self._installs(*failure.rest(other), BESIDE[reason]):
            yield self._with(f"{name} was made for it", BESIDE[reason])
            return
        fitting, why = self._newest_by(other, day), f"it was the newest when {name} {version} came out"
        words = f"torch{names.get('required', '')}\n{failure.outcome.evidence}\n{failure.outcome.output}"
        said = re.search(r"(?i)\b(?:py)?torch ?>= ?([\d.]*\d)", words)
        if said and other == TORCH:
            fitting = next((str(each) for each in self.offers.days(TORCH) if each >= number(said[1])), "")
            why = f"{name} {version} needs {said[1]} or newer"
        if not fitting or newer != (number(fitting) < number(others)):
            return
        pin, rest = f"{other}=={fitting}", failure.rest(other)
        if other != TORCH and self._installs(*rest, pin):
            yield self._with(why, pin)
        elif other in failure.held:
            torch = f"{TORCH}=={failure.version(TORCH)}"
            picks = self.offers.anew(pin, torch, *rest) or self.offers.anew(pin, *rest)
            pins = {each: picks[each].partition("+")[0] for each in (other, TORCH) if picks.get(each)}
            if pins:
                yield self._image(pins, why)

    def _day(self, name: str, version: str) -> str:
        return self.offers.days(name).get(number(version), "") if name else ""

    def _later(self, name: str, version: str, other: str) -> Bounds:
        """The first release after this one that was made when the other was, or later."""
        day = self._day(other, self.failure.version(other))
        later = [each for each, own in self.offers.days(name).items() if each > number(version) and own >= day > ""]
        return (f">={later[0]}", LOWEST) if later else (f">{version}", ())

    def _earlier(self, name: str, version: str, other: str) -> Bounds:
        """The last release before this one from the time in which the other's version was the newest."""
        days, series = self.offers.days(other) if other else {}, number(self.failure.version(other)).release[:2]
        limit = min((day for each, day in days.items() if each.release[:2] > series and day), default="9999")
        fitting = [each for each, own in self.offers.days(name).items() if each < number(version) and own <= limit]
        return f"<={fitting[-1]}" if fitting else f"<{version}", ()

    def _newest_by(self, name: str, day: str) -> str:
        """The newest release on that day; releases that belong together may come out some days apart."""
        if not (name and day):
            return ""
        limit = (dt.date.fromisoformat(day) + SAME_WEEK).isoformat()
        return str(max((each for each, own in self.offers.days(name).items() if "" < own <= limit), default=""))
