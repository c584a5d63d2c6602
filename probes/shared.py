"""The files that the cells of a launch share: none runs with a file that another cell has changed.

Libraries run as the user who owns these files, often as root, whom no mode of a file keeps from writing.
"""

from __future__ import annotations

import getpass
import hashlib
import os
import re
import stat
import sys
import tempfile
from typing import Dict, Iterator, List, Tuple

Stamps = Dict[str, Tuple[object, ...]]
"""Path -> what tells the state of the file."""


class Changed(Exception):
    """A shared file is not what it was: no further cell may run in this launch."""


class Shared:
    """The state of the shared files before any library ran; `overlays` are the folders of the cells to come."""

    def __init__(self, overlays: List[str]) -> None:
        bundle = os.path.dirname(os.path.abspath(__file__))
        self.beside = os.path.dirname(bundle)
        """A fresh interpreter looks there before anywhere else."""
        self.folders = [bundle]
        if os.path.exists(f"{sys.prefix}.sealed"):
            self.folders.append(sys.prefix)
        self.kept = self.look()
        self.take_headers()
        self.overlays = {overlay: stamps(overlay) for overlay in overlays if os.access(overlay, os.W_OK)}

    def take_headers(self) -> None:
        """Let the precompiled headers that are there now count, which no library has made."""
        self.headers = stamps(header_folder())

    def look(self) -> Stamps:
        """The state of the bundle, of what lies beside it, and of a stand-in, which the runner has sealed."""
        kept: Stamps = {self.beside: tuple(sorted(os.listdir(self.beside)))}
        for folder in self.folders:
            kept.update(stamps(folder, contents=folder == self.folders[0]))
        return kept

    def change(self) -> str:
        """The shared file that was changed, or an empty text; headers that a cell has added are removed."""
        now = stamps(header_folder())
        for path in now.keys() - self.headers.keys():
            try:
                os.unlink(path)
            except OSError:
                return path
        headers = {path: stamp for path, stamp in now.items() if path in self.headers}
        return difference(self.kept, self.look()) or difference(self.headers, headers)

    def change_of(self, overlay: str) -> str:
        """The overlay's file that was changed before its own cell began, or an empty text."""
        return difference(self.overlays[overlay], stamps(overlay)) if overlay in self.overlays else ""


def header_folder() -> str:
    """Where torch keeps precompiled headers, whatever TORCHINDUCTOR_CACHE_DIR says."""
    name = "torchinductor_" + re.sub(r"[\\/:*?\"<>|]", "_", getpass.getuser())
    return os.path.join(tempfile.gettempdir(), name)


def difference(before: Stamps, now: Stamps) -> str:
    """The first path that came, went or was changed; empty where there is none."""
    return min((path for path in before.keys() | now.keys() if before.get(path) != now.get(path)), default="")


def stamps(folder: str, contents: bool = False) -> Stamps:
    """The state of each file below a folder: the hash of its contents, or its size, times and number."""
    found: Stamps = {}
    for entry in () if os.path.islink(folder) else _below(folder):
        status = entry.stat(follow_symlinks=False)
        if contents and stat.S_ISREG(status.st_mode):
            with open(entry.path, "rb") as stream:
                found[entry.path] = (hashlib.sha256(stream.read()).hexdigest(),)
        else:
            found[entry.path] = (status.st_mode, status.st_size, status.st_mtime_ns, status.st_ctime_ns, status.st_ino)
    return found


def _below(folder: str) -> Iterator[os.DirEntry[str]]:
    """Every entry below a folder that is no folder itself; a folder that cannot be read has none."""
    try:
        entries = list(os.scandir(folder))
    except OSError:
        return
    for entry in entries:
        if entry.is_dir(follow_symlinks=False):
            yield from _below(entry.path)
        else:
            yield entry
