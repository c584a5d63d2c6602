"""What pip's sources offer beside the packages of an image, or in their place: the versions that a remedy may name."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from packaging.version import Version

from torch_compat_matrix.runner.errors import Trouble
from torch_compat_matrix.runner.packages.pip import Pip
from torch_compat_matrix.runner.packages.pip_config import Index
from torch_compat_matrix.runner.packages.question import Question
from torch_compat_matrix.runner.packages.releases import releases
from torch_compat_matrix.runner.packages.resolution import PASSING

ALL: tuple[str, ...] = ()
WHEELS = ("--only-binary", ":all:")
LOWEST = ("--resolution", "lowest-direct")
"""Take the oldest releases that do, of what is required itself."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Offers:
    """Asks the sources for an image; each question once.  Raises Trouble where a source does not answer."""

    facts: Mapping[str, Any]
    index: Index
    cache: Path
    """The folder of resolutions."""
    _days: dict[str, dict[Version, str]] = field(default_factory=dict)
    _sets: dict[tuple[Any, ...], dict[str, str]] = field(default_factory=dict)

    def days(self, name: str) -> Mapping[Version, str]:
        """The releases of a distribution, oldest version first, each with its ISO day; pre-releases are left out."""
        if name not in self._days:
            found = {Version(version): day for version, day in releases(name, self.index).items()}
            self._days[name] = {each: found[each] for each in sorted(found) if not each.is_prerelease}
        return self._days[name]

    def beside(self, *requirements: str, flags: tuple[str, ...] = WHEELS) -> Mapping[str, str]:
        """Name -> version of what fulfils the requirements with the rest of the image as it is; empty: nothing does."""
        return self._asked(requirements, flags, keeps=True)

    def anew(self, *requirements: str) -> Mapping[str, str]:
        """The same for another image with this one's Python and platform."""
        return self._asked(requirements, WHEELS, keeps=False)

    def _asked(self, requirements: tuple[str, ...], flags: tuple[str, ...], *, keeps: bool) -> dict[str, str]:
        key = requirements, flags, keeps
        if key not in self._sets:
            pip = Pip.of(self.facts, self.index, self.cache)
            question = Question(requirements=requirements, pip=pip, constraints=self.index.constraints())
            ran = question.resolve(*flags, keep=pip.held.versions.keys() - question.asked if keeps else ())
            if ran.status and ran.reason in PASSING:
                raise Trouble(ran.reason, ran.explanation)
            self._sets[key] = {} if ran.status else question.needed(ran)
        return self._sets[key]
