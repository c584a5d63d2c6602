"""How a user names checks, in one grammar everywhere."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from fnmatch import fnmatchcase
from functools import cache, lru_cache
from types import MappingProxyType
from typing import NewType

Address = NewType("Address", str)
"""The text that a selector matches: `image/library/library-version/probe`, where the id is `image/...-.../probe`.

An id does not show where its library's name ends (`pyro-ppl-1.8.0`, `foo-1-2`), so the address has the library as well.
Labels follow, each between two NUL characters.
"""

LABEL = "label:"
"""Begins the word for a label; no image, library or version has a colon in its name."""


def address(name: str, library: str = "", labels: Sequence[str] = ()) -> Address:
    """The address of a check's, a cell's or an expectation's id, or of an image's name; missing parts are empty."""
    image, cell, probe = [*name.split("/", 2), "", ""][:3]
    return Address(f"{image}/{library}/{cell}/{probe}" + ("\0".join(("", *labels, "")) if labels else ""))


@dataclass(frozen=True, slots=True)
class Selector:
    """A name for checks, in the same grammar everywhere.

        selector = image | cell | image/cell | cell/probe | image/cell/probe
        cell     = library | library-version

    Each part is a glob over the whole text that it stands for: `*` and `?` never reach across a `/`, `[ab]` and `[!ab]`
    are sets, case counts.  A library may be spelled as for pip: in a cell, case does not count, nor does which of `-`,
    `_` and `.` separates words.  A missing part stands for all: an image takes in all its cells, a cell all its probes.
    A name without wildcards is exact: `torch` is the library, not the image `torch-2.6` and not `torchvision`;
    where an image and a library have the same name, it is both.  A stack is a library whose version is `stack`; an
    image's expectation (`image/expects/what`) is a probe of the cell `expects`.
    `label:WORD` in place of an image or a cell stands for all whose image or library has a label that the glob matches.
    """

    text: str

    def takes(self, where: Address) -> bool:
        """Whether it selects the check at the address; for a cell's address, whether it selects all its checks."""
        return _pattern(self.text).fullmatch(where) is not None

    def takes_any(self, addresses: Iterable[Address]) -> bool:
        """Whether it selects anything at these addresses."""
        return any(map(_pattern(self.text).fullmatch, addresses))


@dataclass(frozen=True, slots=True)
class Recorded:
    """A name for checks by their outcomes in a recorded run, which only the records can tell apart.

        recorded = ("@failed" | "@infra" | "@new" | "@reason:" CODE | "@run:" RUN)+

    A check is taken in where all terms hold; CODE is a glob; without `@run`, the run is the latest.
    """

    failed: bool = False
    infra: bool = False
    new: bool = False
    """Those that newly fail, by their own last verdicts before the run."""
    reason: str = ""
    run: str = ""

    @classmethod
    def parse(cls, text: str) -> Recorded | None:
        """The selector that begins with `@`; None for any other; ValueError for a term that does not exist."""
        if not text.startswith("@"):
            return None
        terms: dict[str, str] = {}
        for term in text[1:].split("@"):
            name, _, value = term.partition(":")
            if name in terms or TERMS.get(name) != bool(value):
                raise ValueError(f"@{term}")
            terms[name] = value
        flags = {name: name in terms for name in ("failed", "infra", "new")}
        return cls(**flags, reason=terms.get("reason", ""), run=terms.get("run", ""))

    def takes(self, *, broken: bool, final: bool, reason: str) -> bool:
        """Whether it selects a check with such a verdict and reason."""
        if ((self.failed or self.new) and not broken) or (self.infra and final):
            return False
        return not self.reason or fnmatchcase(reason, self.reason)


TERMS = {"failed": False, "infra": False, "new": False, "reason": True, "run": True}
"""The terms of a recorded selector, and whether a value belongs to them."""


@dataclass(frozen=True, slots=True)
class Checks:
    """The checks of a run that a recorded selector takes in, by their ids."""

    run: str
    ids: frozenset[str]

    def takes(self, where: Address) -> bool:
        """Whether the check at the address is one of them."""
        image, _, cell, probe = where.partition("\0")[0].split("/")
        return f"{image}/{cell}/{probe}" in self.ids


def first(selectors: Sequence[str], where: Address) -> int | None:
    """The place of the first selector that takes in the address; as quick for hundreds of selectors as for one."""
    match = _alternatives(tuple(selectors)).fullmatch(where)
    return None if match is None or match.lastindex is None else match.lastindex - 1


@cache
def _pattern(selector: str) -> re.Pattern[str]:
    return re.compile(_expression(selector), re.DOTALL)


@lru_cache(64)
def _alternatives(selectors: tuple[str, ...]) -> re.Pattern[str]:
    """One pattern for all selectors; the number of the matching group tells which selector matched."""
    return re.compile("|".join(f"(?:{_expression(selector)})()" for selector in selectors) or NOTHING, re.DOTALL)


NOTHING = "(?!)"
WHATEVER = r"[^/\0]*"
LABELS = r"(?:\0.*)?"
SEPARATOR = r"(?:[-_]|(?<!\d)\.|\.(?!\d))"
"""Stands between the words of a library's name; a dot between digits is a version's."""
_TOKEN = re.compile(rf"(?P<any>\*)|(?P<one>\?)|(?P<set>\[(?:!.|[^!])[^]]*\])|(?P<separator>{SEPARATOR})|.", re.DOTALL)


def _expression(selector: str) -> str:
    parts = selector.split("/")
    if not all(parts) or len(parts) > 3:
        return NOTHING
    labels = [part.removeprefix(LABEL) for part in parts if part.startswith(LABEL)]
    if labels:
        rest = _expression("/".join("*" if part.startswith(LABEL) else part for part in parts))
        return "".join(rf"(?=.*\0{_glob(label)}\0)" for label in labels) + f"(?:{rest})"
    first, second, third = [*parts, "", ""][:3]
    if len(parts) == 1:
        return f"{_glob(first)}/.*|{WHATEVER}/{_cell(first)}/.*"
    if len(parts) == 2:
        return f"{_glob(first)}/{_cell(second)}/.*|{WHATEVER}/{_cell(first)}/{_glob(second)}{LABELS}"
    return f"{_glob(first)}/{_cell(second)}/{_glob(third)}{LABELS}"


def _cell(part: str) -> str:
    """The library by its name, or by its name and version, in any spelling."""
    glob = _glob(part, {"separator": SEPARATOR})
    return f"(?i:{glob}/{WHATEVER}|{WHATEVER}/{glob})"


def _glob(part: str, patterns: Mapping[str, str] = MappingProxyType({})) -> str:
    """The pattern of a glob; `patterns` may have one for what separates words, in place of exactly that."""
    patterns = {"any": WHATEVER, "one": r"[^/\0]", **patterns}
    found = []
    for token in _TOKEN.finditer(part):
        pattern = patterns.get(token.lastgroup or "") or _character(token[0])
        found.append(rf"(?:{pattern}|\.)" if token[0] == "." else pattern)  # beside a wildcard it may be a version's
    return "".join(found)


def _character(token: str) -> str:
    """A character as it is, or one of a set: `[a-c_]`, `[!0-9]`."""
    if len(token) == 1:
        return re.escape(token)
    refused = token[1] == "!"
    spans = [
        re.escape(single) if single else f"{re.escape(low)}-{re.escape(high)}"
        for low, high, single in re.findall(r"(.)-(.)|(.)", token[1 + refused : -1], re.DOTALL)
        if low <= high
    ]
    if not spans:
        return r"[^/\0]" if refused else NOTHING
    return rf"(?![/\0])[{'^' if refused else ''}{''.join(spans)}]"
