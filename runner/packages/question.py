"""The question what an install into an image would come to: uv answers it, and where there is a doubt, pip."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field, replace
from pathlib import Path

from torch_compat_matrix.runner.errors import OF_THE_IMAGES_BUILD
from torch_compat_matrix.runner.files import scratch
from torch_compat_matrix.runner.packages import uv
from torch_compat_matrix.runner.packages.constraints import Constraint
from torch_compat_matrix.runner.packages.pip import Pip, Unasked, telling_line
from torch_compat_matrix.runner.packages.pip_config import Index
from torch_compat_matrix.runner.packages.resolution import PASSING, Resolution
from torch_compat_matrix.runner.packages.stubs import Held
from torch_compat_matrix.runner.pins import (
    admits,
    canonical,
    changes,
    is_prerelease,
    name_of,
    read_pins,
    same_version,
    version_of,
    within,
)

UNASKED = "pip itself was not asked"
"""The beginning of a note on an answer that is uv's alone."""

_PIPS_REASONS = ("pip-refuses-metadata", "python-too-new")
"""Refusals of pip's that uv does not know."""
_FINER = {
    "version-not-found": ("index-refused", "no-wheel", "needs-in-image", "yanked"),
    "unsatisfiable": ("no-wheel", "needs-in-image"),
    "sdist-build-failed": ("needs-in-image",),
}
"""A reason of pip's -> the reasons of uv's that tell the same more closely."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Question:
    """Requirements, and whatever decides what pip would make of them."""

    requirements: tuple[str, ...]
    pip: Pip
    constraints: tuple[Constraint, ...]
    newest: frozenset[str] = frozenset()
    refused: Mapping[str, str] = field(default_factory=dict)

    @property
    def held(self) -> Held:
        return self.pip.held

    @property
    def index(self) -> Index:
        return self.pip.index

    def answer(self) -> Resolution:
        """Resolve with the image kept as it is, if possible; name what a plain install would replace in any case."""
        with ThreadPoolExecutor(max_workers=1) as pool:
            freely = pool.submit(self._free)
            ran = self.resolve("--only-binary", ":all:", keep=self.held.versions.keys() - self.newest)
            free = freely.result()
        doubtful = self._doubtful(ran, free)
        if doubtful and not (free.status and free.reason in PASSING):
            ran = self._keeping()
        if ran.status and (ran.reason in PASSING or (free.status and free.reason in PASSING)):
            return self._unmet(free if free.status else ran)
        resolution = self._judged(ran, free) if doubtful else self._met(ran, {})
        told = [str(constraint) for constraint in self._binding(resolution)]
        detail = f"{resolution.detail} ({'; '.join(told)})" if told and resolution.problem else resolution.detail
        options = [f"pip's option {name} is set" for name in self.index.pips_alone]
        notes = (*resolution.notes, *told, *options)
        return replace(resolution, detail=detail, blame=self._blame(resolution, told), notes=notes)

    def _blame(self, resolution: Resolution, constraints: Sequence[str]) -> str:
        """The host where its constraints leave nothing over, the matrix where it asks for another torch itself."""
        if constraints and resolution.problem in ("unsatisfiable", "version-not-found"):
            return "host"
        if resolution.problem == "sdist-build-failed" and re.search(OF_THE_IMAGES_BUILD, resolution.evidence):
            return "image"
        words, asked = f"{resolution.detail}\n{resolution.evidence}", map(name_of, self.requirements)
        if uv.is_of_a_dependency(resolution.problem, words, asked):
            return "dependency"
        torch = any(name_of(text) == "torch" for text in self.requirements[1:])
        return "matrix" if torch and resolution.problem == "drift" else ""

    def _doubtful(self, wheels: uv.Ran, free: uv.Ran) -> bool:
        """Whether pip may answer otherwise than uv, which has resolved with the image as it is and wheels alone.

        pip has its own way to replace packages, to build them, and to choose between constraints and pre-releases; and
        it refuses a wheel of another platform behind a URL, which has no version here.
        """
        if wheels.status or free.status or self.refused or self.index.pips_alone or self.index.values("no-binary"):
            return True
        new = self._new(wheels)
        bound = any(name_of(constraint.line) in new for constraint in self.constraints)
        odd = any(not version or is_prerelease(version) for version in new.values())
        return bound or odd or self._newer(new, read_pins(free.out.splitlines()))

    def _judged(self, ran: uv.Ran, free: uv.Ran) -> Resolution:
        """pip's answer; uv's where pip cannot be asked."""
        if ran.status and ran.reason == "bad-requirement":
            return self._unmet(ran)
        try:
            told = self._asked()
            return self._refusal(told, ran, free) if told.problem else self._as_told(told, ran)
        except Unasked as cause:
            resolution = self._unasked(ran, free)
            return replace(resolution, notes=(*resolution.notes, f"{UNASKED}: {cause}"))

    def _asked(self) -> Resolution:
        """pip's answer to a plain install; what is not to be the newest stays where it meets its requirement."""
        held = self.held.versions
        older = held.keys() - self.newest if self.newest else ()
        asked = ((name_of(text), text) for text in self.requirements)
        return self._ask_pip(
            self.held.pins({name for name, text in asked if name in older and admits(text, held[name])})
        )

    def _ask_pip(self, more_constraints: str) -> Resolution:
        if self.index.uvs_alone:
            raise Unasked(f"it knows nothing of {', '.join(self.index.uvs_alone)}")
        constraints = f"{self._constraints()}{more_constraints}"
        told = self.pip.ask(self.requirements, constraints, upgrade=bool(self.newest))
        if told.problem in PASSING:
            raise Unasked(f"{told.problem}: {telling_line(told.detail)}")
        return told

    def _constraints(self) -> str:
        return "".join(f"{constraint.line}\n" for constraint in self.constraints)

    def _unasked(self, ran: uv.Ran, free: uv.Ran) -> Resolution:
        """uv's answer, less the releases that pip is known to refuse."""
        asked = [self.refused[name] for name in self.refused if name in self.asked]
        if asked:
            code = "python-too-new" if "(Requires-Python" in asked[0] else "pip-refuses-metadata"
            return Resolution(problem=code, detail=f"pip refuses {', '.join(asked)}", evidence=asked[0])
        if not ran.status:
            known = tuple(f"pip refuses {words}" for words in self.refused.values())
            resolution = self._met(ran, read_pins(free.out.splitlines()))
            return replace(resolution, notes=(*resolution.notes, *known))
        if free.status:
            return self._unmet(free)
        picks, drift = self._drift(read_pins(free.out.splitlines()))
        why = ran.explanation
        return _drifted(self._plain(picks), picks, drift, why, uv.evidence(why)) if drift else self._unmet(ran)

    def _as_told(self, told: Resolution, ran: uv.Ran) -> Resolution:
        """What pip told: packages to add, or replacements; then what keeps the image is uv's, if there is anything."""
        picks = {**self.needed(ran), **told.versions}
        drift = self._replaced(told.versions)
        if not drift:
            return Resolution(add=told.add, versions=picks, notes=told.notes)
        if ran.status:
            return _drifted(told.add, picks, drift, ran.explanation, uv.evidence(ran.explanation))
        if not self.refused:
            return replace(self._met(ran, {}), plain=told.add, drift=drift)
        kept = self._ask_pip(self.held.pins(self.held.versions.keys() - self.asked))
        if not kept.problem:
            versions = {**picks, **kept.versions}
            return Resolution(add=kept.add, plain=told.add, versions=versions, drift=drift, notes=kept.notes)
        return _drifted(told.add, picks, drift, kept.detail, telling_line(kept.detail))

    def _refusal(self, told: Resolution, ran: uv.Ran, free: uv.Ran) -> Resolution:
        """Why pip installs nothing; in uv's words where uv refuses, too, since they are clearer."""
        for failed in (each for each in (free, ran) if each.status):
            unmet = self._unmet(failed)
            if unmet.problem in _FINER.get(told.problem, ()):
                return unmet
            if told.problem in (unmet.problem, "version-not-found", "unsatisfiable"):
                return replace(unmet, problem=told.problem)
        line = telling_line(told.detail)
        detail = f"pip {self.pip.answering}: {line if told.problem == 'sdist-build-failed' else told.detail}"
        if told.problem in _PIPS_REASONS:
            detail = f"{self._takes()}{detail}"
        return Resolution(problem=told.problem, detail=uv.brief(detail), evidence=line)

    def _takes(self) -> str:
        """The releases that pip takes instead."""
        found = {
            name_of(text): self.pip.takes(text, self._constraints()) for text in self.requirements if version_of(text)
        }
        pins = [f"{name} {version}" for name, version in found.items() if version]
        return f"pip takes {', '.join(pins)}; " if pins else ""

    def _binding(self, resolution: Resolution) -> list[Constraint]:
        """The constraints that have a part in the answer: without them, what they bound would be outside."""
        named = {
            *map(name_of, (*resolution.add, *resolution.plain)),
            *(change.partition(" ")[0] for change in resolution.drift),
        }
        if resolution.problem and not resolution.drift:
            named |= set(map(canonical, re.findall(r"[\w.-]*\w", resolution.detail)))
        bounding = [constraint for constraint in self.constraints if name_of(constraint.line) in named]
        if not bounding:
            return []
        ran = replace(self, constraints=())._free()
        picks = read_pins(ran.out.splitlines()) if not ran.status else {}
        held = {name: self.held.versions[name] for name in self.held.versions.keys() & named}

        def holds(constraint: Constraint, picks: Mapping[str, str]) -> bool:
            version = picks.get(name_of(constraint.line), "")
            return bool(version) and within(constraint.line, version)

        return [each for each in bounding if not (holds(each, picks) and holds(each, {**picks, **held}))]

    @property
    def asked(self) -> set[str]:
        """The required names, whose replacement is no drift; except torch, which makes the image what it is."""
        return set(map(name_of, self.requirements)) - {"torch", ""}

    def _keeping(self) -> uv.Ran:
        """Resolve with the image as it is; where that fails, the required packages themselves may be replaced."""
        held = self.held.versions.keys()
        ran = self.resolve(keep=held - self.newest)
        if ran.status and ran.reason not in PASSING and (self.asked - self.newest) & held:
            again = self.resolve(keep=held - self.asked)
            return ran if again.status else again
        return ran

    def _met(self, ran: uv.Ran, free: Mapping[str, str]) -> Resolution:
        lines, new = self._lines(ran), self._new(ran)
        add = tuple(lines[name] for name in new)
        picks, drift = self._drift(free) if self._newer(new, free) else ({}, ())
        plain = self._plain(picks)
        return Resolution(
            add=add,
            plain=plain if set(plain) != set(add) else (),
            versions=self.needed(ran),
            drift=drift,
            notes=tuple(re.findall(r"^warning: (`.* is yanked.*)$", ran.err, re.MULTILINE)),
        )

    def needed(self, ran: uv.Ran) -> dict[str, str]:
        """The versions of all that the requirements need, the image's own packages among them."""
        held, lines = self.held.versions, {} if ran.status else self._lines(ran)
        stubs = {name: held[name] for name, line in lines.items() if f" @ {self._stubs().as_uri()}/" in line}
        required = {name: held[name] for name in set(map(name_of, self.requirements)) & held.keys()}
        return {**required, **read_pins(lines.values()), **stubs}

    def _lines(self, ran: uv.Ran) -> dict[str, str]:
        return {name_of(line): line for line in ran.out.splitlines() if name_of(line)}

    def _new(self, ran: uv.Ran) -> dict[str, str]:
        """The packages that the image lacks in this version; the version of a URL is empty."""
        held, lines = self.held.versions, self._lines(ran)
        pins = {name: version_of(line) for name, line in lines.items() if f" @ {self._stubs().as_uri()}/" not in line}
        return {name: pin for name, pin in pins.items() if not (name in held and same_version(pin, held[name]))}

    def _newer(self, new: Mapping[str, str], free: Mapping[str, str]) -> bool:
        """Whether a package would be another version if the image were empty."""
        return bool(free) and any(free.get(name) != version for name, version in new.items())

    def _free(self) -> uv.Ran:
        """Resolve as if the image were empty; where that fails, with the image's packages beside the indexes'."""
        ran = self.resolve(keep=())
        if ran.status and ran.reason not in PASSING:
            again = self._run(links=(self._stubs(),))
            # Without an index nothing of an empty image could be resolved, and that explains no conflict.
            return ran if again.status and "--no-index" not in self.index.uv_flags() else again
        return ran

    def _unmet(self, ran: uv.Ran) -> Resolution:
        if ran.reason == "version-not-found":
            # With the best of all indexes, uv does not mention that an index refused to answer.
            first = self._run(variables={"UV_INDEX_STRATEGY": "first-index"})
            ran = first if first.reason == "index-refused" else ran
        text = ran.explanation
        code = "python-too-old" if ran.reason == "unsatisfiable" and self._too_old(text) else ran.reason
        return Resolution(problem=code, detail=uv.brief(text), evidence=uv.evidence(text))

    def _too_old(self, explanation: str) -> bool:
        """Whether the requirements need a newer Python than the image's."""
        wanted = re.search(r"(?:does not satisfy|requires) Python ?>=?(\d+)\.(\d+)", " ".join(explanation.split()))
        own = tuple(int(number) for number in self.pip.target.python.split(".")[:2])
        return wanted is not None and (int(wanted[1]), int(wanted[2])) > own

    def _drift(self, free: Mapping[str, str]) -> tuple[dict[str, str], tuple[str, ...]]:
        """The result of a plain install, and the packages of the image that it would replace.

        pip takes the newest missing packages and then changes installed packages where these demand it; uv, given
        the installed versions as preferences, would rather take older packages.  So missing packages are pinned to
        their newest versions (`free`) before uv may prefer the image's versions.
        """
        held = self.held.versions
        with scratch(self.pip.home) as folder:
            pins, output = Path(folder, "pins.txt"), Path(folder, "preferences.txt")
            pins.write_text("".join(f"{name}=={free[name]}\n" for name in free if free[name] and name not in held))
            output.write_text(self.held.pins(held.keys() - self.newest))
            ran = self._run("-c", str(pins), "-o", str(output), links=(self._stubs(),))
            text = output.read_text() if not ran.status else ""
        picks = read_pins(text.splitlines()) or dict(free)
        return picks, self._replaced(picks)

    def _replaced(self, picks: Mapping[str, str]) -> tuple[str, ...]:
        """The packages of the image, besides those asked for, of which other versions were picked."""
        kept = (picks.keys() & self.held.versions.keys()) - self.asked
        return tuple(changes({name: self.held.versions[name] for name in kept}, {name: picks[name] for name in kept}))

    def _plain(self, picks: Mapping[str, str]) -> tuple[str, ...]:
        """The lines of what a plain install would add or replace."""
        held, by_url = self.held.versions, {name_of(line): line for line in self.requirements if " @ " in line}
        new = [name for name in picks if not (name in held and same_version(picks[name], held[name]))]
        return tuple(f"{name}=={picks[name]}" if picks[name] else by_url.get(name, name) for name in new)

    def _stubs(self) -> Path:
        return self.held.folder.absolute()

    def resolve(self, *arguments: str, keep: Iterable[str]) -> uv.Ran:
        """Resolve by uv alone, with these packages of the image as they are."""
        with scratch(self.pip.home) as folder:
            constraints = Path(folder, "image.txt")
            constraints.write_text(self.held.constraints(sorted(keep)))
            return self._run("-c", str(constraints), *arguments)

    def _run(self, *arguments: str, links: Sequence[Path] = (), variables: Mapping[str, str] | None = None) -> uv.Ran:
        with scratch(self.pip.home) as folder:
            # UV_CONSTRAINT does not count beside a `-c`.
            constraints = Path(folder, "constraints.txt")
            constraints.write_text(self._constraints())
            no_deps = ("--no-deps",) if self.index.is_on("no-deps") else ()
            flags = (*self.pip.target.flags(), *self.index.uv_flags(), *no_deps)
            more = self.index.uv_environment(*map(str, links)) | dict(variables or {})
            return uv.pins(self.requirements, more, *flags, "-c", str(constraints), *arguments)


def _drifted(
    plain: tuple[str, ...], picks: Mapping[str, str], drift: tuple[str, ...], why: str, evidence: str
) -> Resolution:
    detail = f"an install would replace {', '.join(drift)}: {uv.brief(why)}"
    return Resolution(plain=plain, versions=picks, drift=drift, problem="drift", detail=detail, evidence=evidence)
