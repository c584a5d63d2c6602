"""What a home keeps between runs, how large it is, and which of it can go.

Runs and the history are evidence, which only an explicit wish removes.  All else can be made or fetched again.
"""

from __future__ import annotations

import fcntl
import os
import re
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path

from torch_compat_matrix.runner.errors import Trouble, UsageError
from torch_compat_matrix.runner.files import entries_below, remove_tree, try_lock

CACHES = ("compiled", "facts", "overlays", "resolutions", "standins")
"""The folders of a home whose entries can be made again."""

BESIDE = (".lock", ".users", ".sealed")
"""The ends of names of files that belong to the folder beside them."""

SCRATCH = "scratch"
"""The folder under `resolutions` for the files of a question to the resolver; a killed process leaves some."""

_UNITS = "KMGT"
_SECONDS = {"m": 60, "h": 3600, "d": 86400, "w": 7 * 86400}


@dataclass(frozen=True, kw_only=True, slots=True)
class Kept:
    """Something that a home or an engine keeps."""

    kind: str
    """`overlays`, `standins`, `runs`, `volumes`, `images`, ..."""
    name: str
    size: int
    """Bytes on disk."""
    used: float
    """When it was last used, in seconds since the epoch."""
    remove: Callable[[], None]
    shared: bool = False
    """Whether another home may need it: none is known to have made it, so that only an explicit wish removes it."""


class InUse:
    """Tells `unused` that this process works in the home, until it is closed or the process ends."""

    def __init__(self, home: Path) -> None:
        home.mkdir(parents=True, exist_ok=True)
        self.descriptor = os.open(home / "in-use.lock", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o666)
        fcntl.flock(self.descriptor, fcntl.LOCK_SH)

    def close(self) -> None:
        """Let others clean the home."""
        if self.descriptor >= 0:
            os.close(self.descriptor)
            self.descriptor = -1

    __del__ = close


def require_ours(home: Path) -> None:
    """Raise UsageError for a home that is no folder, or that holds files and none of a run of ours."""
    if home.exists() and not home.is_dir():
        raise UsageError("it is no folder", "name the folder of the runs in COMPAT_HOME, or unset it", str(home))
    locks = (path.stem for path in home.glob("*/*.lock"))
    known = (home / "in-use.lock").exists() or any(re.fullmatch(r"[0-9a-f]{16}", name) for name in locks)
    if not known and home.is_dir() and any(home.iterdir()):
        why = "it holds files, and none that a run has left"
        raise UsageError(why, "name the folder of the runs in COMPAT_HOME, or unset it", str(home))


def remove(doomed: Iterable[Kept]) -> Iterator[tuple[Kept, str]]:
    """Remove each, and tell why it stays where it cannot go; empty where it is gone."""
    for entry in doomed:
        try:
            entry.remove()
        except (OSError, Trouble) as error:  # a container holds it, or another user made it
            yield entry, str(error)
        else:
            yield entry, ""


@contextmanager
def unused(home: Path) -> Iterator[bool]:
    """Keep runs from beginning in the home, unless there is one at work; yield whether none is, nor has jobs left."""
    if not home.is_dir():
        yield True
        return
    with try_lock(home / "in-use.lock") as alone:
        yield alone and not any((home / "jobs").glob("*/*"))


def contents(home: Path, runs: bool = False) -> list[Kept]:
    """The entries of the caches of a home, and of its runs if asked."""
    return [
        Kept(kind=kind, name=path.name, size=size(path), used=_used(path), remove=_remover(path))
        for kind in (*CACHES, *(["runs"] if runs else []))
        for path in sorted((home / kind).glob("*"))
        if path.suffix not in BESIDE and path.name != SCRATCH and not path.name.startswith(".")
        if not (path.suffix == ".json" and path.with_suffix("").is_dir())  # it describes the folder
    ]


def leftovers(home: Path) -> list[Kept]:
    """Half-made entries of processes that were killed; only while the home is `unused`."""
    patterns = (".*.partial", "*/.*.partial")
    found = [path for kind in CACHES for pattern in patterns for path in (home / kind).glob(pattern)]
    found += (home / "resolutions" / SCRATCH).glob("*")
    return [Kept(kind="leftovers", name=path.name, size=size(path), used=0, remove=_remover(path)) for path in found]


def superfluous(
    kept: Iterable[Kept], *, older_than: float | None = None, to_size: int | None = None, now: float | None = None
) -> list[Kept]:
    """The entries last used longer ago than `older_than` seconds, and the oldest until the rest fits into `to_size`."""
    now = time.time() if now is None else now
    oldest_first = sorted(kept, key=lambda entry: entry.used)
    total, chosen = sum(entry.size for entry in oldest_first), []
    for entry in oldest_first:
        too_old = older_than is not None and now - entry.used > older_than
        if too_old or (to_size is not None and total > to_size):
            chosen.append(entry)
            total -= entry.size
    return chosen


def size(path: Path) -> int:
    """Bytes that a file or folder takes on the disk; a file with several names counts once."""
    seen, total = set(), 0
    for entry in entries_below(path):
        with suppress(FileNotFoundError):
            status = entry.stat(follow_symlinks=False)
            if (status.st_dev, status.st_ino) not in seen:
                seen.add((status.st_dev, status.st_ino))
                total += status.st_blocks * 512
    return total if path.is_dir() else path.lstat().st_blocks * 512


def parsed_size(text: str, where: str = "") -> int:
    """Bytes of `20GB`, `500M`, `60KiB`; `where` it is written stands before it in a message."""
    match = re.fullmatch(r"(\d{1,12}(?:\.\d{1,3})?)\s*(?:([KMGT])(i?))?B?", text.strip(), re.IGNORECASE)
    if match is None:
        raise UsageError("not a size", "write a number and a unit, such as 20GB", where + text[:80])
    power = _UNITS.index(match[2].upper()) + 1 if match[2] else 0
    return int(float(match[1]) * (1024 if match[3] else 1000) ** power)


def parsed_age(text: str) -> float:
    """Seconds of `30d`, `12h`."""
    match = re.fullmatch(r"(\d{1,6})\s*([mhdw])", text.strip(), re.IGNORECASE)
    if match is None:
        raise UsageError("not an age", "write a number and a unit (m, h, d, w), such as 30d", text[:80])
    return float(match[1]) * _SECONDS[match[2].lower()]


def shown_size(number: int) -> str:
    """`1.2 GB`."""
    scale, unit = next((pair for pair in ((1e9, "GB"), (1e6, "MB")) if number >= pair[0]), (1e3, "kB"))
    return f"{number / scale:.1f} {unit}"


def _used(path: Path) -> float:
    """The last use: of a run the last record, of anything else the newest time stamp of the entry itself."""
    inside: Sequence[Path] = list(path.glob("journal.jsonl"))
    with suppress(FileNotFoundError):
        return max(entry.stat().st_mtime for entry in [path, *inside])
    return 0.0


def _remover(path: Path) -> Callable[[], None]:
    def remove() -> None:
        beside = [path.with_suffix(suffix) for suffix in (*BESIDE, ".json")] if path.is_dir() else [path]
        if path.is_dir():
            doomed = path.with_name(f".{path.name}.clean.partial")  # whole or gone, also when the removal is killed
            remove_tree(doomed, ignore_errors=True)
            path.rename(doomed)
            remove_tree(doomed)
        for file in beside:
            file.unlink(missing_ok=True)

    return remove
