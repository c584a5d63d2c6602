"""Text of others made fit to be kept and shown: without secrets, and with nothing in it that acts on its reader."""

from __future__ import annotations

import re
from dataclasses import fields, is_dataclass
from typing import Any

SECRET = "***"
"""Stands in redacted text in place of a secret."""

_USER = re.compile(r"(?<=://)(?!git@|(?:[\w.-]+:)?(?:\$\{\w+\}:?)+@)[^/\s]+@")
_AFTER_PATH = re.compile(r"""(://[^\s?#"'<>`|]*|(?=\?[\w.%~-]+=))(\?[^\s#"'<>`|)\]]*)?(\#[^\s"'<>`|)\]]*)?""")
_VARIABLE = r"(?:[\w.%~-]+=)?\$\{\w+\}"
_OPEN_QUERY = re.compile(_VARIABLE)
_WORD = r"(?:[A-Za-z]?[a-z]*|[A-Za-z]?\d+)"
_OPEN_FRAGMENT = re.compile(
    rf"{_VARIABLE}|(?:egg|subdirectory|sha\d+|md5)=[\w./,\[\]-]*|(?=.{{0,80}}$){_WORD}(?:[-_.]{_WORD})*"
)
"""What uv takes from a fragment, and the anchor of a page: words and numbers, which a token mixes."""

_ACTIVE = re.compile(
    r"[\x00-\x08\x0b-\x1f\x7f-\x9f\xad\u061c\u180e\u200b-\u200f\u2028-\u202e\u2060-\u206f\ud800-\udfff"
    r"\ufeff\ufff9-\ufffb\ufffe\uffff\U000e0000-\U000e007f]"
)
"""Control characters except the line's end and the tab, characters that reorder or hide text, and lone surrogates."""


def redact(text: str) -> str:
    """The text without users, passwords and tokens in its URLs; `git@` and `${VARIABLE}` tell nothing, and stay."""
    if "://" not in text and "?" not in text:
        return text
    return _AFTER_PATH.sub(_hide, _USER.sub(f"{SECRET}@", text))


def _hide(match: re.Match[str]) -> str:
    address, query, fragment = match.groups("")
    return address + _without_secrets(query, _OPEN_QUERY) + _without_secrets(fragment, _OPEN_FRAGMENT)


def _without_secrets(part: str, harmless: re.Pattern[str]) -> str:
    pieces = (piece if not piece or harmless.fullmatch(piece) else SECRET for piece in part[1:].split("&"))
    return part[:1] + "&".join(pieces)


def inert(text: str) -> str:
    """The text without colours, and with every other character that acts or hides spelled out: `\\x1b`, `\\u202e`.

    Lines and tabs stay; a carriage return ends a line.
    """
    if not _ACTIVE.search(text):
        return text
    plain = re.sub(r"\x1b\[[\d;]*m", "", text)
    lines = re.sub(r"\r\n?", "\n", plain)
    return _ACTIVE.sub(lambda match: match[0].encode("unicode_escape").decode(), lines)


def fit(value: Any) -> Any:
    """Plain data, also of a dataclass, with every string in it, names too, redacted and inert."""
    if isinstance(value, str):
        return redact(inert(value))
    if isinstance(value, dict):
        return {fit(name): fit(item) for name, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [fit(item) for item in value]
    if is_dataclass(value):
        return {field.name: fit(getattr(value, field.name)) for field in fields(value)}
    return value


def one_line(text: str) -> str:
    """The text on one line, with single spaces."""
    return " ".join(text.split())


def printable(text: str) -> str:
    """The text for a terminal or a log: redacted, inert, and without a line that a CI service takes for a command.

    GitHub obeys `::` at the beginning of a line and `##[` anywhere, Azure `##vso[`, TeamCity `##teamcity[`.
    """
    quiet = re.sub(r"##(?=\w*\[)", "# #", fit(text))
    return re.sub(r"^([^\S\n]*)::", r"\1: :", quiet, flags=re.MULTILINE)
