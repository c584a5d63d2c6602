"""Distributions and versions: those that a requirement or pin names, their equality and their changes."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from typing import Any

_NAME = re.compile(r"\s*([A-Za-z0-9](?:[A-Za-z0-9._-]*[A-Za-z0-9])?)\s*(?:\[[^\]]*\]\s*)?(?=$|[<>=!~;@(])")
_EXACT = re.compile(r"===?\s*([^\s,;*\\]+)\s*(?:$|;|\\|--hash=)")
HASH = " --hash="
"""What stands before each hash of a pin."""


def canonical(name: str) -> str:
    """The normalised name of a distribution (PEP 503)."""
    return re.sub(r"[-_.]+", "-", name).lower()


def name_of(requirement: str) -> str:
    """The canonical name that a requirement or pin begins with; empty for a bare URL, a path or a comment."""
    name = _NAME.match(requirement)
    return canonical(name[1]) if name else ""


def version_of(requirement: str) -> str:
    """The only version that a requirement admits; empty where it admits others or names a URL."""
    name = _NAME.match(requirement)
    exact = name and _EXACT.match(requirement, name.end())
    return exact[1] if exact else ""


def is_name(requirement: str) -> bool:
    """Whether a requirement is nothing but a name, and so admits every version."""
    return canonical(requirement.strip()) == name_of(requirement)


def read_pins(pins: Iterable[str]) -> dict[str, str]:
    """Canonical name -> version of the pins (`name==1.0`, `name @ URL`); the version is empty for a URL."""
    return {name_of(pin): version_of(pin) for pin in pins if name_of(pin)}


def same_version(version: str, other: str) -> bool:
    """Whether two texts are the same version, as `1.0` and `1.0.0` are; without `packaging` only equal texts are."""
    if version == other:
        return True
    try:
        from packaging.version import Version  # only now: a bare host has none

        return Version(version) == Version(other)
    except (ModuleNotFoundError, ValueError):
        return False


def admits(requirement: str, version: str) -> bool | None:
    """Whether a requirement admits a version, pre-releases too; None where only the missing `packaging` could tell."""
    if is_name(requirement):
        return True
    try:
        from packaging.requirements import Requirement  # only now: a bare host has none
    except ModuleNotFoundError:
        exact = version_of(requirement)
        return exact == version if exact else None
    return Requirement(requirement).specifier.contains(version, prereleases=True)


def within(requirement: str, version: str) -> bool:
    """Whether a requirement surely admits a version; one outside the standard, or an option of pip, admits none."""
    try:
        return admits(requirement, version) is True
    except ValueError:
        return False


def left_out(requirements: Iterable[str], facts: Mapping[str, Any]) -> dict[str, str]:
    """Distribution -> why no requirement asks for it in the environment of these facts."""
    markers = [(name_of(text), text.rpartition(";")[2].strip() if ";" in text else "") for text in requirements]
    wanted = {name for name, marker in markers if not marker or _holds(marker, facts)}
    return {name: f"the marker {marker} leaves {name} out here" for name, marker in markers if name not in wanted}


def _holds(marker: str, facts: Mapping[str, Any]) -> bool:
    """Whether a marker holds there; it does where it is none, or only the missing `packaging` could tell."""
    try:
        from packaging.markers import InvalidMarker, Marker  # only now: a bare host has none
    except ModuleNotFoundError:
        return True
    python, implementation = facts["python"], facts.get("implementation", "cpython")
    environment = {
        "python_version": ".".join(python.split(".")[:2]),
        "python_full_version": python,
        "implementation_version": python,
        "implementation_name": implementation,
        "platform_python_implementation": {"cpython": "CPython", "pypy": "PyPy"}.get(implementation, implementation),
        "sys_platform": facts["platform"],
        "platform_system": facts["platform"].capitalize(),
        "platform_machine": facts["machine"],
    }
    try:
        return Marker(marker).evaluate(environment)
    except InvalidMarker:
        return True


def too_new(needs_python: str, python: str) -> bool:
    """Whether a Requires-Python leaves out this Python although it is not too old, as an upper bound does."""
    lower = ",".join(re.findall(r"(?:>=|>|~=)[^,]+", needs_python)).replace("~=", ">=")
    try:
        return admits(f"python{needs_python}", python) is False and within(f"python{lower}", python)
    except ValueError:  # outside the standard: pip passes over it
        return False


def is_standard(requirement: str) -> bool:
    """Whether a requirement can be read by the letter of the standard (PEP 508), as pip 24.1 and newer do."""
    try:
        from packaging.requirements import Requirement  # only now: a bare host has none

        Requirement(requirement)
    except ModuleNotFoundError:
        return True
    except ValueError:
        return False
    return True


def numbers(version: str) -> tuple[int, ...]:
    """The numbers in a version, to compare those of drivers, C libraries and the like."""
    return tuple(map(int, re.findall(r"\d+", version)))


def is_prerelease(version: str) -> bool:
    """Whether the version is one before a release, in the standard's spelling, in which uv writes them."""
    return re.search(r"(a|b|rc|\.dev)\d+", version.partition("+")[0]) is not None


def changes(old: Mapping[str, str], new: Mapping[str, str]) -> list[str]:
    """`name 1.0 -> 2.0` for each name whose version changed, or that only one of the sets has."""

    def shown(version: str | None) -> str:
        return "none" if version is None else version or "a URL"

    return [
        f"{name} {shown(old.get(name))} -> {shown(new.get(name))}"
        for name in sorted({*old, *new})
        if name not in old or name not in new or not same_version(old[name], new[name])
    ]
