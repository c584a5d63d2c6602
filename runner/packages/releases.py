"""The releases of a distribution that pip's sources offer, with the day on which each was published."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Mapping, Sequence
from html.parser import HTMLParser
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple
from urllib.error import HTTPError, URLError
from urllib.parse import unquote, urljoin, urlsplit

from torch_compat_matrix.runner.errors import Trouble
from torch_compat_matrix.runner.packages import manifest
from torch_compat_matrix.runner.packages.constraints import Reader
from torch_compat_matrix.runner.packages.overlay import offered
from torch_compat_matrix.runner.packages.pip_config import Index
from torch_compat_matrix.runner.packages.target import Target
from torch_compat_matrix.runner.pins import HASH, canonical, name_of, same_version, version_of
from torch_compat_matrix.runner.text import redact

if TYPE_CHECKING:
    from packaging.version import Version

_ACCEPT = "application/vnd.pypi.simple.v1+json, text/html;q=0.1"
"""PEP 691; only JSON tells when a file was published (PEP 700)."""


def releases(name: str, index: Index) -> dict[str, str]:
    """Public version -> ISO day (UTC) of its first file, empty where no source tells; withdrawn files do not count.

    Whether a release has a file for an image is the resolver's business.  Raises Trouble `index-unreachable` or
    `index-refused` where a source does not answer: nothing older is taken in its place.
    """
    from packaging.version import Version  # only now: a bare host has none

    days: dict[Version, str] = {}
    reader = index.reader()
    for url in index.pages(name):
        for file in files(url, reader):
            version, day = _version(file.name, canonical(name)), file.day
            if version is not None:
                version = Version(version.public)
                days[version] = min(filter(None, (days.get(version), day)), default="")
    return {str(version): day for version, day in days.items()}


def hashed(add: Sequence[str], facts: Mapping[str, Any], index: Index, *, withdrawn: bool = True) -> tuple[str, ...]:
    """The pins, sorted, each with the hashes of the files that may be it; Trouble where a source does not tell.

    A Git reference has its commit, and a file behind a page that tells no hash has none.  `withdrawn`: whether a
    release may be one that its publisher withdrew; else Trouble `yanked`.
    """
    flags = (*Target.of(facts).flags(), *index.uv_flags())
    ran = offered(tuple(sorted(add)), flags, *index.uv_environment().items())
    if ran.status:
        raise ran.trouble("the hashes of the packages cannot be had")
    yanked = re.search(r"^warning: (`.* is yanked.*)$", ran.err, re.MULTILINE)
    if yanked and not withdrawn:
        raise Trouble("yanked", yanked[1])
    return pins_in(ran.out, index)


def pins_in(answer: str, index: Index) -> tuple[str, ...]:
    """The pins of uv's answer, sorted, each with the hashes that uv tells and those of files in local find-links."""
    held = [path for folder in index.local_links() for path in sorted(folder.glob("*"))]
    lines = []
    for line in filter(name_of, re.sub(r"\s*\\\n\s*", " ", answer).splitlines()):
        pin, *hashes = line.split(HASH)
        for path in held if version_of(pin) else ():
            if same_version(version_of_file(path.name, name_of(pin)), version_of(pin)):
                hashes.append(f"sha256:{manifest.hash_of(path)}")
        lines.append(HASH.join([pin, *sorted(set(hashes))]))
    return tuple(sorted(lines))


class File(NamedTuple):
    """A file that a source offers; empty where the source does not tell."""

    name: str
    url: str
    day: str = ""
    """ISO day (UTC) of its publication."""
    sha256: str = ""


def version_of_file(file: str, name: str) -> str:
    """The version of a wheel or source distribution of that name; empty for any other file."""
    return str(_version(file, canonical(name)) or "")


def files(url: str, reader: Reader) -> Iterator[File]:
    """Each file on a page or in a folder that is not withdrawn; none where there is no page."""
    path = Path(unquote(urlsplit(url).path))
    try:
        if url.startswith("file:") and path.is_dir():
            page = path / "index.html"
            if not page.is_file():
                yield from (File(file.name, file.resolve().as_uri()) for file in path.iterdir())
                return
            url = page.as_uri()
        text = reader.page(url, _ACCEPT)
    except HTTPError as error:
        if error.code not in (404, 410):
            code = "index-refused" if error.code in (401, 403, 407) else "index-unreachable"
            raise Trouble(code, f"{redact(url)}: {error.code} {error.reason}") from None
        return
    except (OSError, ValueError) as error:
        if url.startswith("file:") and not path.exists():
            return
        cause = error.reason if isinstance(error, URLError) else error
        raise Trouble("index-unreachable", f"{redact(url)}: {redact(str(cause))}") from None
    if text.lstrip().startswith("{"):
        for file in json.loads(text)["files"]:
            if not file.get("yanked"):
                place, sha256 = urljoin(url, file["url"]), file.get("hashes", {}).get("sha256", "")
                yield File(file["filename"], place, file.get("upload-time", "")[:10], sha256)
        return
    anchors = _Anchors()
    anchors.feed(text)
    for link in anchors.links:
        place, _, fragment = urljoin(url, link).partition("#")
        yield File(unquote(urlsplit(place).path.rpartition("/")[2]), place, sha256=fragment.partition("sha256=")[2])


class _Anchors(HTMLParser):
    """The files that a page of HTML links to (PEP 503, 592), without the withdrawn ones."""

    def __init__(self) -> None:
        super().__init__()
        self.links: list[str] = []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        attributes = dict(attrs)
        if tag == "a" and attributes.get("href") and "data-yanked" not in attributes:
            self.links.append(attributes["href"] or "")


def _version(file: str, name: str) -> Version | None:
    """The version of a wheel or source distribution of that name; None for any other file."""
    from packaging import utils  # only now: a bare host has none
    from packaging import version as versions

    try:
        read = utils.parse_wheel_filename if file.endswith(".whl") else utils.parse_sdist_filename
        own, version = read(file)[:2]
    except (utils.InvalidWheelFilename, utils.InvalidSdistFilename, versions.InvalidVersion):
        return None
    return version if own == name else None
