"""The manifest of an installed folder: what each of its files held when it was built, and whether it still does.

Libraries under test run as the user who owns the folder, often as root, whom no mode of a file keeps from writing.  So
a folder is checked before each launch, and built again where a file was changed, added or removed.
"""

from __future__ import annotations

import csv
import hashlib
import json
import os
from base64 import urlsafe_b64encode
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from pathlib import Path
from typing import Any

from torch_compat_matrix.runner.files import cores, entries_below, read_whole, write_whole

_SEEN = ("st_size", "st_mtime_ns", "st_ctime_ns", "st_ino")
"""Where none of these changed, a file is not read again: its time of change can be set by the clock alone."""

Sealed = dict[str, list[Any]]
"""A manifest: relative name -> the hash of the file, and the four numbers of _SEEN."""


def seal(folder: Path, place: Path | None = None) -> None:
    """Write the manifest of a folder that will stand in `place`; from now on nobody but root can write to its files."""
    for entry in _files(folder).values():
        mode = entry.stat(follow_symlinks=False).st_mode
        if mode & 0o222 and not entry.is_symlink():
            Path(entry).chmod(mode & ~0o222)
    files = _files(folder)
    paths = list(map(Path, files.values()))
    with ThreadPoolExecutor(cores()) as pool:
        hashes = list(pool.map(hash_of, paths))
    entries = {name: [found, *_seen(files[name])] for name, found in zip(files, hashes, strict=True)}
    write_whole(manifest_of(place or folder), [json.dumps(entries)])


def is_sealed(folder: Path) -> bool:
    """Whether the folder has a manifest."""
    return manifest_of(folder).exists()


def read(folder: Path) -> Sealed:
    """The manifest of a folder; empty where it cannot be read."""
    try:
        sealed: Sealed = json.loads(read_whole(manifest_of(folder), 1 << 28))
    except (OSError, ValueError):
        return {}
    return sealed


def damage(folder: Path) -> str:
    """The first difference between a folder and its manifest; empty where there is none. Files that came are removed.

    A file whose hash is right though its times are not, as after a move of the whole home, is no damage.
    """
    sealed = read(folder)
    if folder.is_symlink() or not sealed:  # nothing is removed from a folder that a library has put in its place
        return "it is a link, or its manifest is empty or cannot be read"
    files = _files(folder)
    for name in sorted(files.keys() - sealed.keys()):
        try:
            Path(files.pop(name)).unlink()
        except OSError:
            return f"{name} was added"
    for name in sorted(sealed.keys() - files.keys()):
        return f"{name} was removed"
    touched = [name for name, entry in files.items() if _seen(entry) != sealed[name][1:]]
    for name in touched:
        found = Path(files[name])
        if found.lstat().st_size != sealed[name][1] or hash_of(found) != sealed[name][0]:  # it may have a terabyte now
            return f"{name} was changed"
    if touched:
        with suppress(OSError):  # a home that can only be read
            entries = {name: [sealed[name][0], *_seen(files[name])] for name in files}
            write_whole(manifest_of(folder), [json.dumps(entries)])
    return ""


def unlike_records(folder: Path) -> list[str]:
    """The packages in a folder of which a file of code is missing, or not as the package's own RECORD says."""
    found = []
    for record in sorted(folder.glob("*.dist-info/RECORD")):
        rows = csv.reader(record.read_text(errors="replace").splitlines())
        code = [(row[0], row[1]) for row in rows if len(row) > 1 and row[0].endswith((".py", ".so"))]
        if any(not _is(folder / name, recorded) for name, recorded in code):
            found.append(record.parent.name.partition("-")[0])
    return found


def _is(path: Path, recorded: str) -> bool:
    """Whether a file is there and has the hash of a RECORD, if that is one of the usual kind."""
    kind, _, wanted = recorded.partition("=")
    if not path.is_file():
        return False
    return kind != "sha256" or urlsafe_b64encode(bytes.fromhex(hash_of(path))).decode().rstrip("=") == wanted


def manifest_of(folder: Path) -> Path:
    """The file that holds the manifest of a folder."""
    return folder.with_suffix(".sealed")


def _files(folder: Path) -> dict[str, os.DirEntry[str]]:
    """Every file and link below the folder, by its relative name; without paths, since a stand-in has 20,000."""
    start = len(str(folder)) + 1
    return {entry.path[start:]: entry for entry in entries_below(folder)}


def _seen(entry: os.DirEntry[str]) -> list[int]:
    status = entry.stat(follow_symlinks=False)
    return [getattr(status, name) for name in _SEEN]


def hash_of(path: Path) -> str:
    """The SHA-256 of a file's content, in hexadecimal digits; of a link where it leads to, of a pipe that it is one."""
    if path.is_symlink():
        return f"link to {path.readlink()}"
    if not path.is_file():
        return "no file"
    found = hashlib.sha256()
    with path.open("rb") as stream:
        while data := stream.read(1 << 20):
            found.update(data)
    return found.hexdigest()
