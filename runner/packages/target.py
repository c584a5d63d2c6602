"""The image's Python and platform, for which uv chooses packages."""

from __future__ import annotations

import sys
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

_MANYLINUX = (17, 28, *range(31, 41))
"""The glibc 2.x for which uv has a platform name."""
_MACHINES = ("x86_64", "aarch64")


@dataclass(frozen=True, kw_only=True, slots=True)
class Target:
    """A Python and a platform; an empty platform is this host's own."""

    python: str
    """In full: `3.11.7`."""
    abi: str
    """`cp311`."""
    platform: str
    """`x86_64-manylinux_2_28`, or empty."""

    @classmethod
    def of(cls, facts: Mapping[str, Any]) -> Target:
        """The target that an image's facts describe."""
        return cls(python=facts["python"], abi=facts["abi"], platform=_platform(facts))

    @property
    def host_python(self) -> bool:
        """Whether this interpreter has the same minor version."""
        return self.python.split(".")[:2] == [str(number) for number in sys.version_info[:2]]

    @property
    def tags(self) -> str:
        """The most telling wheel tags that fit (`cp311-cp311-manylinux_2_28_x86_64`)."""
        machine, _, platform = self.platform.partition("-")
        if not platform.startswith("manylinux"):
            return "py3-none-any"
        return f"{self.abi.rstrip('t')}-{self.abi}-{platform}_{machine}"

    def flags(self) -> tuple[str, ...]:
        """uv's flags for this target."""
        return ("--python-version", self.python, *(("--python-platform", self.platform) if self.platform else ()))


def _platform(facts: Mapping[str, Any]) -> str:
    machine, glibc = facts["machine"], facts["glibc"]
    if facts["platform"] != "linux" or machine not in _MACHINES:
        return ""
    if not glibc:
        return f"{machine}-unknown-linux-musl"
    major, minor = (int(part) for part in glibc.split(".")[:2])
    fitting = [known for known in _MANYLINUX if (2, known) <= (major, minor)]
    return f"{machine}-manylinux_2_{fitting[-1]}" if fitting else f"{machine}-manylinux2014"
