"""The files that the cells of a launch share: none runs with a file that another cell has changed.

Libraries run as the user who owns these files, often as root, whom no mode of a file keeps from writing.
"""

from __future__ import annotations

import getpass
import hashlib
import os
import re
import shutil
import stat
import sys
import tempfile
from typing import Any, Callable, Dict, Iterable, Iterator, List, Literal, Mapping, Set, Tuple

Stamps = Dict[str, Tuple[object, ...]]
"""Path -> what tells the state of the file."""


TRIALS, HEADERS = "trials", "headers"
"""The folders of what the runner has compiled ahead for a stand-in: vector instructions that work, and headers."""


LARGEST = 1 << 24
"""A file of more bytes is none of the bundle's, and is not read: a library may have made it as large as it likes."""


class Changed(Exception):
    """A shared file is not what it was: no further cell may run in this launch."""

    state: Literal["changed", "lost"] = "changed"
    """The word for it in the last frame."""


class Lost(Changed):
    """A cell's own packages are gone, so that no failure of the cell says anything about them."""

    state = "lost"


class Shared:
    """The state of the shared files before any library ran; `overlays` are the folders of the cells to come."""

    def __init__(self, overlays: List[str]) -> None:
        bundle = os.path.dirname(os.path.abspath(__file__))
        self.beside = os.path.dirname(bundle)
        """A fresh interpreter looks there before anywhere else."""
        self.folders = [bundle]
        self.folders += [sys.prefix] * os.path.exists(f"{sys.prefix}.sealed")
        self.kept = self.look()
        self.seeded = False
        """Whether caches are filled with what the runner has compiled ahead."""
        self.take_headers()
        self.overlays = {overlay: stamps(overlay) for overlay in overlays}

    def take_headers(self) -> None:
        """Let the precompiled headers and temporary files that are there now count, which no library has made."""
        self.headers, self.is_link = stamps(header_folder()), os.path.islink(header_folder())
        places = [tempfile.gettempdir()] + ["/dev/shm"] * (os.getpid() == 1)  # on a host others use that too
        self.temporary = {place: _names(place) for place in places}

    def take_ahead(self, sealed: Mapping[str, List[Any]]) -> None:
        """From now on fill caches with what the runner has compiled ahead, by its own word on each of the files.

        Raises Changed where they are not those: a library of a cell before, or of another launch, has been there.
        """
        found = stamps(compiled())
        word = {os.path.join(compiled(), name): tuple(seen) for name, (_, *seen) in sealed.items()}
        if word != {path: stamp[1:] for path, stamp in found.items()}:
            raise Changed
        self.folders.append(compiled())
        self.kept.update(found)
        self.seeded = seed()
        self.take_headers()

    def look(self) -> Stamps:
        """The state of the bundle, of what lies beside it, and of a stand-in, which the runner has sealed."""
        kept: Stamps = {self.beside: tuple(sorted(os.listdir(self.beside)))}
        for folder in self.folders:
            kept.update(stamps(folder, contents=folder == self.folders[0]))
        return kept

    def change(self) -> str:
        """The shared file that was changed, or an empty text.

        Headers that a cell has added, and what it has left in the temporary folders, are removed.
        """
        now = stamps(header_folder())
        added = [*(now.keys() - self.headers.keys())]
        for place, before in self.temporary.items():
            added += [os.path.join(place, name) for name in _names(place) - before]
        for path in added:
            try:
                (shutil.rmtree if os.path.isdir(path) and not os.path.islink(path) else os.unlink)(path)
            except (OSError, RecursionError):
                return path
        if os.path.islink(header_folder()) != self.is_link:  # it would lead the headers made for all elsewhere
            return header_folder()
        headers = {path: stamp for path, stamp in now.items() if path in self.headers}
        return difference(self.kept, self.look()) or difference(self.headers, headers)

    def require_own(self, overlays: Iterable[str], unchanged: bool = False) -> None:
        """Raise Lost where one of the cell's own folders lacks a file, or all that it should hold.

        `unchanged`: raise Changed where a file was changed, which only the cell itself may do.
        """
        for overlay in overlays:
            before, now = self.overlays[overlay], stamps(overlay)
            if not now or before.keys() - now.keys():
                raise Lost
            if unchanged and before != now:
                raise Changed


def compiled() -> str:
    """The folder of what the runner compiles ahead for this stand-in."""
    return f"{sys.prefix}-compiled"


def seed() -> bool:
    """Put what was compiled ahead into this process's caches; return whether there is any.

    Headers are linked, since they have 150 MB; where caches are kept they may outlive the stand-in.
    """
    trials, headers = os.path.join(compiled(), TRIALS), os.path.join(compiled(), HEADERS)
    if not os.path.isdir(headers):
        return False
    try:
        _fill(os.environ.get("TORCHINDUCTOR_CACHE_DIR", header_folder()), trials, shutil.copyfile)
        if not os.path.islink(header_folder()):
            _fill(header_folder(), headers, os.symlink)
    except OSError:
        return False
    return True


def _fill(folder: str, source: str, give: Callable[[str, str], object]) -> None:
    """Give a folder each file that it lacks, but for locks, which every process makes and empties."""

    def give_missing(path: str, to: str) -> None:
        if not os.path.lexists(to):
            give(path, to)

    shutil.copytree(
        source, folder, ignore=shutil.ignore_patterns("locks"), copy_function=give_missing, dirs_exist_ok=True
    )


def header_folder() -> str:
    """Where torch keeps precompiled headers, whatever TORCHINDUCTOR_CACHE_DIR says."""
    name = "torchinductor_" + re.sub(r"[\\/:*?\"<>|]", "_", getpass.getuser())
    return os.path.join(tempfile.gettempdir(), name)


def _names(folder: str) -> Set[str]:
    """The names in a folder; none where it cannot be read."""
    try:
        return set(os.listdir(folder))
    except OSError:
        return set()


def difference(before: Stamps, now: Stamps) -> str:
    """The first path that came, went or was changed; empty where there is none."""
    return min((path for path in before.keys() | now.keys() if before.get(path) != now.get(path)), default="")


def stamps(folder: str, contents: bool = False) -> Stamps:
    """The state of each file below a folder: the hash of its contents, or its size, times and number."""
    found: Stamps = {}
    for entry in () if os.path.islink(folder) else _below(folder):
        status = entry.stat(follow_symlinks=False)
        if contents and stat.S_ISREG(status.st_mode) and status.st_size < LARGEST:
            with open(entry.path, "rb") as stream:
                found[entry.path] = (hashlib.sha256(stream.read()).hexdigest(),)
        else:
            found[entry.path] = (status.st_mode, status.st_size, status.st_mtime_ns, status.st_ctime_ns, status.st_ino)
    return found


def _below(folder: str) -> Iterator[os.DirEntry[str]]:
    """Every entry below a folder that is no folder itself; a folder that cannot be read has none."""
    folders = [folder]
    while folders:
        try:
            entries = list(os.scandir(folders.pop()))
        except OSError:
            continue
        for entry in entries:
            if entry.is_dir(follow_symlinks=False):
                folders.append(entry.path)  # no recursion: a library may have made a thousand levels
            else:
                yield entry
