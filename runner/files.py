"""Folders of ours and the user's, files replaced whole, locks that die with their owner, and the usable cores."""

from __future__ import annotations

import fcntl
import os
import re
import secrets
import shutil
import stat
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from urllib.parse import unquote


def home() -> Path:
    """Where runs and caches are kept: COMPAT_HOME, else `.compat` in the current folder."""
    return Path(os.environ.get("COMPAT_HOME") or ".compat").absolute()


def user_home() -> Path:
    """The user's own home; a path below which nothing can be where neither HOME nor the system knows it."""
    try:
        return Path.home()
    except RuntimeError:
        return Path(os.devnull)


@contextmanager
def replacing(path: Path) -> Iterator[Path]:
    """Yield a path for a new file or folder, which then takes the place of `path` in one step.

    Where the block fails, the new one is removed and the old one stays; a folder replaces nothing but an empty folder.
    """
    partial = path.with_name(f".{path.name}.{secrets.token_hex(8)}.partial")  # no other process or thread writes there
    try:
        yield partial
        partial.replace(path)
    except BaseException:
        remove = shutil.rmtree if partial.is_dir() else os.unlink
        if partial.exists():
            remove(partial)
        raise


def write_whole(path: Path, pieces: Iterable[str]) -> None:
    """Replace a text file in one step, so that a reader never sees half of it."""
    with replacing(path) as partial, partial.open("w", encoding="utf-8", errors="replace") as stream:
        stream.writelines(pieces)


def write_private(path: Path, text: str) -> None:
    """Write a text file that its owner alone may read, from its first byte on."""
    descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600)
    with os.fdopen(descriptor, "w", encoding="utf-8") as stream:
        if stat.S_ISREG(os.fstat(descriptor).st_mode):  # and not a terminal; it may have been there, for all to read
            os.fchmod(descriptor, 0o600)
        stream.write(text)


def build_once(folder: Path, build: Callable[[Path], None], is_whole: Callable[[Path], bool] = Path.is_dir) -> Path:
    """The folder, which `build` fills unless it exists and `is_whole`; a second caller waits for the first.

    Its time stamp is that of its last use, by which `compat clean` chooses.
    """
    if folder.is_dir() and is_whole(folder):
        with suppress(OSError):  # a home that can only be read
            os.utime(folder)
        return folder
    with locked(folder.with_suffix(".lock")):
        if not (folder.is_dir() and is_whole(folder)):
            for leftover in folder.parent.glob(f".{folder.name}.*.partial"):  # of a builder that was killed
                shutil.rmtree(leftover)
            with replacing(folder) as partial:
                partial.mkdir()
                build(partial)
                if folder.is_dir():  # a damaged folder goes at once, since a launch may look into it
                    folder.rename(doomed := partial.with_suffix(".doomed.partial"))
                    shutil.rmtree(doomed)
    return folder


@contextmanager
def locked(path: Path, *, shared: bool = False) -> Iterator[None]:
    """Hold the lock file, once its holders have released it; shared holders are held up by one that is not alone."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("a") as stream:
        fcntl.flock(stream, fcntl.LOCK_SH if shared else fcntl.LOCK_EX)
        yield


@contextmanager
def try_lock(path: Path) -> Iterator[bool]:
    """Hold the lock file if it is free; yield whether this process holds it."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("a") as stream:
        try:
            fcntl.flock(stream, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            yield False
        else:
            yield True


def is_locked(path: Path) -> bool:
    """Whether any process holds the lock file by `locked`; asking keeps nobody from it for longer than an instant."""
    try:
        with path.open("rb") as stream:
            fcntl.flock(stream, fcntl.LOCK_SH | fcntl.LOCK_NB)  # shared: askers must not take each other for a holder
    except FileNotFoundError:
        return False
    except BlockingIOError:
        return True
    return False


def cores() -> int:
    """The number of cores that this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def stamps(requirements: Iterable[str]) -> list[int]:
    """The last change (in nanoseconds) of each file or folder that a requirement names (`name @ file:///...`)."""
    urls = (re.search(r"@\s*(?:git\+)?file://(?:localhost)?(/[^\s;#@]+)", text) for text in requirements)
    paths = [Path(unquote(url[1])) for url in urls if url]
    return [max(each.stat().st_mtime_ns for each in (path, *path.rglob("*"))) for path in paths if path.exists()]
