"""Folders of ours and the user's, files replaced whole, locks that die with their owner, and the usable cores."""

from __future__ import annotations

import errno
import fcntl
import json
import math
import os
import re
import secrets
import shutil
import stat
import subprocess
import sys
from collections.abc import Callable, Iterable, Iterator
from configparser import ConfigParser, Interpolation
from contextlib import contextmanager, suppress
from pathlib import Path
from tempfile import TemporaryDirectory, gettempdir
from typing import Any, TypeVar
from urllib.parse import unquote

Kept = TypeVar("Kept")


def home() -> Path:
    """Where runs and caches are kept: COMPAT_HOME, else `.compat` in the current folder."""
    return Path(os.environ.get("COMPAT_HOME") or ".compat").absolute()


def user_home() -> Path:
    """The user's own home; a path below which nothing can be where neither HOME nor the system knows it."""
    try:
        return Path.home()
    except RuntimeError:
        return Path(os.devnull)


def to_json(value: Any, indent: int | None = None) -> str:
    """Plain data as valid JSON on one line, or indented: what is no finite number becomes null, as in JavaScript."""
    separators = (",", ":") if indent is None else None
    try:
        return json.dumps(value, ensure_ascii=False, allow_nan=False, separators=separators, indent=indent)
    except ValueError:
        return json.dumps(_finite(value), ensure_ascii=False, allow_nan=False, separators=separators, indent=indent)


def _finite(value: Any) -> Any:
    if isinstance(value, dict):
        return {_finite(key): _finite(item) for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        return list(map(_finite, value))
    return None if isinstance(value, float) and not math.isfinite(value) else value


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
        remove = remove_tree if partial.is_dir() else os.unlink
        if partial.exists():
            remove(partial)
        raise


@contextmanager
def naming(path: Path) -> Iterator[None]:
    """Let the system's error about a write, which names no file, name this one."""
    try:
        yield
    except OSError as error:
        error.filename = error.filename or str(path)
        raise


def write_whole(path: Path, pieces: Iterable[str]) -> None:
    """Replace a text file in one step, so that a reader never sees half of it."""
    with naming(path), replacing(path) as partial, partial.open("w", encoding="utf-8", errors="replace") as stream:
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
                if leftover.is_dir():  # and no lock file that is being made
                    remove_tree(leftover)
            with replacing(folder) as partial:
                partial.mkdir()
                build(partial)
                if folder.is_symlink():  # of a library, which has moved the folder away
                    folder.unlink()
                elif folder.is_dir():  # a damaged folder goes at once, since a launch may look into it
                    folder.rename(doomed := partial.with_suffix(".doomed.partial"))
                    remove_tree(doomed)
    return folder


def entries_below(folder: Path) -> Iterator[os.DirEntry[str]]:
    """Every file and link below a folder, however deep a library has made it; one that cannot be read has none."""
    folders = [str(folder)]
    while folders:
        with suppress(OSError), os.scandir(folders.pop()) as entries:
            for entry in entries:
                if entry.is_dir(follow_symlinks=False):
                    folders.append(entry.path)
                else:
                    yield entry


def remove_tree(folder: Path, ignore_errors: bool = False) -> None:
    """Remove a folder, however deep a library has made it."""
    try:
        shutil.rmtree(folder, ignore_errors=ignore_errors)
    except RecursionError:
        subprocess.run(["rm", "-rf", "--", folder], check=not ignore_errors)


def temporary() -> str:
    """The folder for temporary files, made again where a library has removed it."""
    Path(gettempdir()).mkdir(parents=True, exist_ok=True)
    return gettempdir()


def scratch(cache: Path) -> TemporaryDirectory[str]:
    """A folder for the length of a `with`; one that a killed process leaves lies below the cache, where it is swept."""
    folder = cache.absolute() / "scratch"
    folder.mkdir(parents=True, exist_ok=True)
    return TemporaryDirectory(dir=folder)


@contextmanager
def locked(path: Path, *, shared: bool = False) -> Iterator[None]:
    """Hold the lock file, once its holders have released it; shared holders are held up by one that is not alone."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with holding(path, fcntl.LOCK_SH if shared else fcntl.LOCK_EX):
        yield


@contextmanager
def try_lock(path: Path) -> Iterator[bool]:
    """Hold the lock file if it is free; yield whether this process holds it."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with holding(path) as descriptor:
        yield descriptor is not None


@contextmanager
def holding(path: Path, how: int = fcntl.LOCK_EX | fcntl.LOCK_NB) -> Iterator[int | None]:
    """Yield a descriptor that holds the lock file; None where it must not wait and another holds the lock."""
    while True:
        descriptor = _lock_file(path)
        try:
            try:
                fcntl.flock(descriptor, how)
            except BlockingIOError:
                yield None
                return
            if _is_at(descriptor, path):  # else it was removed meanwhile, and the next process locks another file
                yield descriptor
                return
        finally:
            os.close(descriptor)


def _lock_file(path: Path) -> int:
    """A descriptor of the lock file, made with mode 0666 whatever the umask.

    It is linked into place: in a sticky folder, the kernel refuses O_CREAT for a file of another user
    (fs.protected_regular).
    """
    flags = os.O_RDWR | os.O_CLOEXEC | os.O_NOFOLLOW
    while True:
        with suppress(FileNotFoundError):
            return os.open(path, flags)
        new = path.with_name(f".{path.name}.{secrets.token_hex(8)}.partial")
        descriptor = os.open(new, flags | os.O_CREAT | os.O_EXCL, 0o666)
        try:
            os.fchmod(descriptor, 0o666)
            with suppress(FileExistsError):
                os.link(new, path)
        finally:
            os.close(descriptor)
            new.unlink()


def _is_at(descriptor: int, path: Path) -> bool:
    try:
        return os.path.samestat(os.fstat(descriptor), path.stat())
    except FileNotFoundError:
        return False


def read_whole(path: Path, most: int) -> bytes:
    """The content of a regular file; OSError for any other, and for one of more than `most` bytes."""
    # a pipe without a writer is not waited for
    with open(path, "rb", opener=lambda name, flags: os.open(name, flags | os.O_NONBLOCK)) as stream:
        kind = os.fstat(stream.fileno())
        if not stat.S_ISREG(kind.st_mode):
            raise OSError(errno.EINVAL, "it is no regular file", str(path))
        if kind.st_size > most:
            raise OSError(errno.EFBIG, f"it has {kind.st_size} bytes, more than {most}", str(path))
        return stream.read(most)


def read_ini(path: Path, interpolation: Interpolation | None = None) -> ConfigParser:
    """A table of ours: `key = value`, and comments on lines of their own."""
    parser = ConfigParser(interpolation=interpolation, delimiters=("=",), comment_prefixes=("#",))
    parser.optionxform = str  # type: ignore[assignment, method-assign] # case counts
    parser.read_string(path.read_text(encoding="utf-8"), source=str(path))
    return parser


def read_cache(path: Path, parse: Callable[[Any], Kept]) -> Kept | None:
    """What `parse` makes of the JSON of a cache; None where there is none.

    Garbage, at which `parse` raises, is thrown away, and that is said.
    """
    try:
        if path.exists() and not path.is_file():
            raise ValueError("a pipe, which would be waited for, or a folder")
        return parse(json.loads(path.read_bytes()))
    except FileNotFoundError:
        return None
    except (ValueError, LookupError, TypeError, AttributeError, RecursionError):
        print(f"{path}: no cache of compat; thrown away, and made again", file=sys.stderr)
        remove = remove_tree if path.is_dir() else os.unlink
        with suppress(FileNotFoundError):
            remove(path)
        return None


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
