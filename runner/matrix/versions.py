"""What `versions:` may name: an exact version, a word, a git reference, a wheel, or what moves with the index."""

from __future__ import annotations

import datetime as dt
import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from fnmatch import fnmatchcase
from pathlib import Path

from packaging.specifiers import InvalidSpecifier, SpecifierSet
from packaging.utils import InvalidWheelFilename, canonicalize_name, parse_wheel_filename
from packaging.version import InvalidVersion, Version

from torch_compat_matrix.runner.model import INSTALLED, LATEST

_NEWEST = re.compile(r"latest-(minor-)?([1-9]\d{0,2})")
_GIT = re.compile(r"git\+(?:https?|ssh|file)://[^\s#]*?(?:/[^\s#@]*)+@([^\s?#@]+)(?:[?#]\S*)?")
_COMMIT = re.compile(r"[0-9a-f]{40}")

FORMS = "1.9.1, a range like `>=1.8,<2`, `latest`, `latest-3`, `latest-minor-3`, `installed`, a wheel's path or git+URL"


@dataclass(frozen=True, kw_only=True, slots=True)
class Moving:
    """Releases that the package index decides; its text is its name in plans and locks."""

    of: str = ""
    """A range, `latest-N` (the newest N), `latest-minor-N` (the newest of the last N minors), or every release."""
    since: dt.date | None = None
    """The first day (UTC) of their publication."""
    prereleases: bool = False

    def __str__(self) -> str:
        since = [f"since {self.since}"] if self.since else []
        early = ["with pre-releases"] if self.prereleases else []
        return ", ".join([self.of or "every release", *since, *early])

    def among(self, releases: Mapping[str, str]) -> tuple[str, ...]:
        """Those of the releases (version -> ISO day of publication, empty if unknown) that it names, oldest first."""
        newest = _NEWEST.fullmatch(self.of)
        within = SpecifierSet("" if newest else self.of)
        days = {Version(version): day for version, day in releases.items()}
        early = self.prereleases or bool(within.prereleases)
        named = sorted(
            version
            for version in within.filter(days, prereleases=early)
            if not self.since or days[version] >= self.since.isoformat()
        )
        if newest and newest[1]:
            named = list({(version.epoch, version.major, version.minor): version for version in named}.values())
        return tuple(map(str, named[-int(newest[2]) :] if newest else named))

    def may_name(self, version: str) -> bool:
        """Whether a version could be among its releases one day; so could whatever is no version, like a glob."""
        try:
            return bool(_NEWEST.fullmatch(self.of)) or SpecifierSet(self.of).contains(version, prereleases=True)
        except InvalidVersion:
            return True


def moving(text: str) -> Moving | None:
    """The releases that the text names; None where it moves with no index; ValueError for a broken range."""
    if text[:1] in tuple("<>=!~"):
        try:
            SpecifierSet(text)
        except InvalidSpecifier as error:
            raise ValueError(f"not a range: {error}; write one like `>=1.8,<2`") from error
    elif not _NEWEST.fullmatch(text):
        return None
    return Moving(of=text)


def check(text: str) -> str:
    """The text, if it is one that `versions:` may hold; else ValueError with the remedy."""
    if text in (INSTALLED, LATEST) or moving(text):
        return text
    if text.startswith("git+"):
        if not _GIT.fullmatch(text):
            raise ValueError("a git reference without its commit or tag; write git+https://HOST/REPOSITORY@COMMIT")
    elif text.endswith(".whl"):
        wheel_of(text)
    else:
        try:
            Version(text)
        except InvalidVersion as error:
            raise ValueError(f"not a version; write one like {FORMS}") from error
    return text


def wheel_of(text: str) -> tuple[str, str] | None:
    """The distribution and the version of a wheel's path; None for another text."""
    if not text.endswith(".whl"):
        return None
    try:
        name, version, *_ = parse_wheel_filename(Path(text).name)
    except InvalidWheelFilename as error:
        raise ValueError(f"no wheel's name; build it again: {error}") from error
    return canonicalize_name(name), str(version)


def variant_of(text: str) -> str:
    """The version in ids: `git-` and the tag or seven digits of the commit, `wheel-` and its version, else the text."""
    git, wheel = _GIT.fullmatch(text), wheel_of(text)
    if git:
        short = git[1][:7] if _COMMIT.fullmatch(git[1]) else git[1]
        return f"git-{re.sub(r'[^A-Za-z0-9._-]', '-', short)}"
    return f"wheel-{wheel[1].replace('+', '-')}" if wheel else text


def requirement_of(name: str, text: str) -> str:
    """The requirement for pip, empty for `installed`."""
    if text == INSTALLED:
        return ""
    if wheel_of(text):
        return f"{name} @ {Path(text).resolve().as_uri()}"
    return f"{name} @ {text}" if text.startswith("git+") else {LATEST: name}.get(text, f"{name}=={text}")


def newest_tags(tags: Iterable[str], pattern: str, count: int | None) -> list[str]:
    """The tags that fit a glob, by version, oldest first; with a count only so many, the newest."""
    fitting = sorted((tag for tag in tags if fnmatchcase(tag, pattern)), key=_order)
    return fitting[-count:] if count else fitting


def _order(tag: str) -> tuple[list[int], bool, list[tuple[int, str]]]:
    """Numbers count as numbers, and `24.1-rc1` comes before `24.1`, which comes before `24.1-py3`."""
    release = re.match(r"\D*(\d+(?:[._-]\d+)*)", tag)
    early = re.search(r"(?<![A-Za-z])(a|b|rc|alpha|beta|dev|pre|preview|nightly)[._-]?\d*$", tag)
    words = [(int(number or 0), text) for number, text in re.findall(r"(\d+)|([^\d._-]+)", tag)]
    return list(map(int, re.findall(r"\d+", release[1] if release else ""))), early is None, words
