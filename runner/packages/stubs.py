"""The packages of an image, shown to uv and to pip as stubs: wheels, and an installation, of metadata alone.

The versions of vendor builds (`2.6.0a0+nv25.1`, `2.13.0+cpu`) are on no index, and what an index says about the same
number (torch and its dozen nvidia packages) is not true of a conda build.  A stub has the image's own version and
requirements, so that uv answers for the image, and fetches no part of torch.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from zipfile import ZipFile

from torch_compat_matrix.runner.files import build_once
from torch_compat_matrix.runner.model import digest
from torch_compat_matrix.runner.packages.target import Target
from torch_compat_matrix.runner.pins import canonical

_VERSION = re.compile(
    r"v?(\d+!)?\d+(\.\d+)*([-_.]?(alpha|a|beta|b|preview|pre|c|rc)[-_.]?\d*)?(-\d+|[-_.]?(post|rev|r)[-_.]?\d*)?"
    r"([-_.]?dev[-_.]?\d*)?(\+[a-z0-9]+([-_.][a-z0-9]+)*)?",
    re.IGNORECASE,
)
"""PEP 440's grammar; pip, too, ignores an installed distribution whose version is outside it."""

_SCHEMA = 2
_INSTALLED = "installed"
_BUILD = 999999
"""A wheel's build number: of two wheels with the same version and tags, the greater number wins."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Held:
    """The packages of an image (canonical name -> version) and the folder with their stubs."""

    versions: Mapping[str, str]
    folder: Path
    tags: str

    @classmethod
    def of(cls, facts: Mapping[str, Any], target: Target, home: Path) -> Held:
        """The image's packages; their stubs are written once for all images with the same packages."""
        versions = {
            canonical(name): version for name, version in facts["packages"].items() if _VERSION.fullmatch(version)
        }
        metadata = {canonical(name): entry for name, entry in facts.get("metadata", {}).items()}
        tags = target.tags
        held = cls(versions=versions, folder=home / digest([_SCHEMA, versions, metadata, tags]), tags=tags)

        def write(folder: Path) -> None:
            for name, version in versions.items():
                text = _metadata(name, version, metadata.get(name, {}))
                info = f"{name.replace('-', '_')}-{version.replace('-', '_')}.dist-info"
                with ZipFile(folder / held.wheel(name), "w") as wheel:
                    wheel.writestr(f"{info}/METADATA", text)
                    wheel.writestr(f"{info}/WHEEL", f"Wheel-Version: 1.0\nRoot-Is-Purelib: true\nTag: {tags}\n")
                    wheel.writestr(f"{info}/RECORD", "")
                (folder / _INSTALLED / info).mkdir(parents=True)
                (folder / _INSTALLED / info / "METADATA").write_text(text, encoding="utf-8")

        build_once(held.folder, write)
        return held

    @property
    def installed(self) -> Path:
        """The folder in which pip finds the packages installed."""
        return self.folder.absolute() / _INSTALLED

    def wheel(self, name: str) -> str:
        """The file name of a package's stub."""
        return f"{name.replace('-', '_')}-{self.versions[name].replace('-', '_')}-{_BUILD}-{self.tags}.whl"

    def constraints(self, names: Iterable[str]) -> str:
        """Constraints that keep these packages as they are.

        The URL makes uv take the stub and nothing else, except in builds of other packages, which must not get an empty
        setuptools; the pin makes uv's explanations readable.
        """
        return "".join(
            f"{name}=={self.versions[name]}\n{name} @ {(self.folder / self.wheel(name)).absolute().as_uri()}\n"
            for name in names
        )

    def pins(self, names: Iterable[str]) -> str:
        """The same packages as pins, one a line."""
        return "".join(f"{name}=={self.versions[name]}\n" for name in names)


def _metadata(name: str, version: str, metadata: Mapping[str, Any]) -> str:
    lines = ["Metadata-Version: 2.1", f"Name: {name}", f"Version: {version}"]
    lines += [f"Requires-Dist: {' '.join(requirement.split())}" for requirement in metadata.get("requires", ())]
    lines += [f"Provides-Extra: {extra}" for extra in metadata.get("extras", ())]
    return "\n".join(lines) + "\n"
