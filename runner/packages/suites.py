"""Upstream's own tests, fetched on the host from a source distribution, a commit or a folder; and pytest for them."""

from __future__ import annotations

import hashlib
import io
import os
import shutil
import subprocess
import tarfile
from collections.abc import Callable, Collection, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any
from urllib.error import URLError

from torch_compat_matrix.runner.errors import Trouble
from torch_compat_matrix.runner.files import build_once
from torch_compat_matrix.runner.model import digest
from torch_compat_matrix.runner.packages import manifest, overlay, releases
from torch_compat_matrix.runner.packages.pip_config import Index
from torch_compat_matrix.runner.text import redact

USUAL = ("tests", "test")
"""The folders of tests where the matrix names none."""
CONFIGURATION = ("conftest.py", "pytest.ini", ".pytest.ini", "tox.ini", "setup.cfg", "pyproject.toml")
"""The files beside them that pytest reads."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Suite:
    """Tests that can be sent into a cell."""

    source: str
    """What they are, with the hash that pins it."""
    tests: Path
    packages: Path | None
    """pytest and whatever else the image lacks for them; None where it lacks nothing."""
    select: tuple[str, ...]
    reference: str = ""
    """The image where a test that fails is upstream's own failure; empty where none has told."""
    known: tuple[str, ...] = ()
    """The tests that fail there."""


def fetch(
    wanted: Mapping[str, Any],
    name: str,
    version: str,
    facts: Mapping[str, Any],
    index: Index,
    home: Path,
    *,
    stand_in: bool = False,
) -> Suite:
    """The suite of the library at that version, for the image that the facts describe with the cell's own packages.

    Trouble where the tests cannot be had, and where pytest would replace a package.
    """
    select = tuple(wanted["select"])
    heads = {Path(path.partition("::")[0]).parts[0] for path in select or USUAL}
    pin, unpack = _origin(wanted["source"], name, version, heads, index)
    folder = home / "overlays" / digest(["suite", pin, sorted(heads)])

    def fill(partial: Path) -> None:
        unpack(partial)
        manifest.seal(partial, folder)

    build_once(folder, fill, lambda folder: manifest.is_sealed(folder) and not manifest.damage(folder))
    found = select or tuple(name for name in USUAL if (folder / name).is_dir())
    missing = [path for path in found if not (folder / path.partition("::")[0]).exists()]
    if missing or not found:
        raise Trouble("suite-not-run", f"{pin} has no {missing[0] if missing else ' and no '.join(USUAL)}")
    add, packages = overlay.install(("pytest", *wanted["with"]), facts, index, home, stand_in=stand_in)
    if add.problem:
        raise add.trouble("for the suite: ")
    return Suite(source=f"suite: {pin}", tests=folder, packages=packages, select=found)


def _origin(
    source: str, name: str, version: str, heads: Collection[str], index: Index
) -> tuple[str, Callable[[Path], None]]:
    """What pins the tests, and what puts them into a folder."""
    if source == "sdist":
        pin, archive = _sdist(name, version, index)
        return pin, lambda folder: _unpack(archive, folder, heads, root=True)
    if source.startswith("git+"):
        url, _, commit = source.removeprefix("git+").rpartition("@")
        return redact(source), lambda folder: _unpack(_committed(url, commit), folder, heads, root=False)

    def copy(folder: Path) -> None:
        for path in _taken(Path(source), heads):
            (shutil.copytree if path.is_dir() else shutil.copyfile)(path, folder / path.name)

    return f"{source} {_state(Path(source), heads)}", copy


def _sdist(name: str, version: str, index: Index) -> tuple[str, bytes]:
    """The pin and the content of the version's source distribution."""
    reader = index.reader()
    for page in index.pages(name):
        for file in releases.files(page, reader):
            if file.name.endswith(".tar.gz") and releases.version_of_file(file.name, name) == version:
                try:
                    content = reader.content(file.url)
                except (OSError, ValueError) as error:
                    cause = error.reason if isinstance(error, URLError) else error
                    raise Trouble("index-unreachable", f"{redact(file.url)}: {cause}") from None
                found = hashlib.sha256(content).hexdigest()
                if file.sha256 not in ("", found):
                    raise Trouble("index-refused", f"{file.name}: its hash is {found}, the index says {file.sha256}")
                return f"{file.name} sha256:{found}", content
    raise Trouble("suite-not-run", f"the index has no .tar.gz of {name} {version}")


def _committed(url: str, commit: str) -> bytes:
    """The files of a commit, as an archive."""
    with TemporaryDirectory() as folder:
        _git("init", "--quiet", "--bare", folder)
        try:
            _git("-C", folder, "fetch", "--quiet", "--depth=1", url, commit)
        except Trouble:  # a server that gives no single commit
            _git("-C", folder, "fetch", "--quiet", url, "+refs/*:refs/*")
        return _git("-C", folder, "archive", commit, code="suite-not-run")


def _git(*words: str, code: str = "index-unreachable") -> bytes:
    try:
        ended = subprocess.run(
            ["git", *words], capture_output=True, env={**os.environ, "GIT_TERMINAL_PROMPT": "0"}, check=False
        )
    except OSError as error:
        raise Trouble("suite-not-run", f"git: {error.strerror}") from None
    if ended.returncode:
        lines = ended.stderr.decode(errors="replace").strip().splitlines() or ["it failed without a word"]
        raise Trouble(code, f"git: {redact(lines[-1])}")
    return ended.stdout


def _unpack(archive: bytes, folder: Path, heads: Collection[str], *, root: bool) -> None:
    """Unpack what is taken; `root`: all files of the archive are below one folder."""
    with tarfile.open(fileobj=io.BytesIO(archive)) as opened:
        for member in opened.getmembers():
            member.name = member.name.partition("/")[2] if root else member.name
            head = member.name.partition("/")[0]
            if head in heads or member.name in CONFIGURATION:
                opened.extract(member, folder, filter="data")


def _taken(source: Path, heads: Collection[str]) -> Iterator[Path]:
    return (source / name for name in sorted({*heads, *CONFIGURATION}) if (source / name).exists())


def _state(source: Path, heads: Collection[str]) -> str:
    files = [path for top in _taken(source, heads) for path in ([top] if top.is_file() else sorted(top.rglob("*")))]
    return digest([[str(path.relative_to(source)), manifest.hash_of(path)] for path in files if path.is_file()])
