"""The lines of constraint files, local or behind a URL, each with the file that it stands in."""

from __future__ import annotations

import base64
import re
import ssl
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass
from functools import cache
from netrc import NetrcParseError, netrc
from pathlib import Path
from urllib.error import URLError
from urllib.parse import unquote, urljoin, urlsplit
from urllib.request import HTTPSHandler, ProxyHandler, Request, build_opener

from torch_compat_matrix.runner.errors import Trouble
from torch_compat_matrix.runner.files import read_whole
from torch_compat_matrix.runner.text import redact

PATIENCE_S = 25
"""An index, or what else is behind a URL, that sends nothing for so long is not there."""


@dataclass(frozen=True, slots=True)
class Constraint:
    """A line of a constraint file; both without secrets only as text."""

    line: str
    source: str

    def __str__(self) -> str:
        return f"constraint {redact(self.line)} of {redact(self.source)}"


@dataclass(frozen=True, kw_only=True, slots=True)
class Reader:
    """Reads constraint files, and the pages of an index, as pip would reach them."""

    cert: str = ""
    proxy: str = ""
    timeout_s: float = 15

    def read(self, place: str) -> tuple[Constraint, ...]:
        """The constraints in a file or behind a URL, and in the files that it names; Trouble where one is not there."""
        return tuple(self._lines(place, {place}))

    def _lines(self, place: str, seen: set[str]) -> Iterator[Constraint]:
        for raw in re.sub(r"\\\r?\n", "", self._text(place)).splitlines():
            line = re.sub(r"(^|\s)#.*$", "", raw).strip()
            more = re.match(r"(?:-c|-r|--constraint|--requirement)[\s=]*(\S+)", line)
            if more is None:
                if line:
                    yield Constraint(line, place)
                continue
            other = urljoin(place, more[1]) if "://" in place else str(Path(place).parent / more[1])
            if other not in seen:
                seen.add(other)
                yield from self._lines(other, seen)

    def page(self, url: str, accept: str = "*/*") -> str:
        """The text behind a URL; else OSError."""
        return self.content(url, accept).decode()

    def content(self, url: str, accept: str = "*/*") -> bytes:
        """The content behind a URL, with the user that it names or that .netrc has for its host; else OSError."""
        parts = urlsplit(url)
        request = Request(parts._replace(netloc=parts.netloc.rpartition("@")[2]).geturl(), headers={"Accept": accept})
        user, password = unquote(parts.username or ""), unquote(parts.password or "")
        if not user and parts.hostname:
            with suppress(OSError, NetrcParseError):
                user, _, password = netrc().authenticators(parts.hostname) or ("", "", "")
        if user:
            request.add_header("Authorization", f"Basic {base64.b64encode(f'{user}:{password}'.encode()).decode()}")
        folder = Path(self.cert).is_dir()
        cafile, capath = (None, self.cert) if folder else (self.cert or None, None)
        trusted = ssl.create_default_context(cafile=cafile, capath=capath)
        proxies = {"http": self.proxy, "https": self.proxy} if self.proxy else None
        opener = build_opener(HTTPSHandler(context=trusted), ProxyHandler(proxies))
        with opener.open(request, timeout=self.timeout_s) as answer:
            content: bytes = answer.read()
        return content

    def _text(self, place: str) -> str:
        try:
            if "://" in place:
                return _fetched(place, self)
            return read_whole(Path(place).expanduser(), 1 << 20).decode()
        except (OSError, ValueError) as error:
            cause = error.reason if isinstance(error, URLError) else getattr(error, "strerror", None) or error
            raise Trouble("constraints-unreadable", f"{redact(place)}: {redact(str(cause))}") from None


@cache
def _fetched(url: str, reader: Reader) -> str:
    return reader.page(url)
