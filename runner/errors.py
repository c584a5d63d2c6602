"""The errors of compat: each has an exit status, a message that names place and cause, and a remedy."""

from __future__ import annotations

import errno
import os
from collections.abc import Iterable, Iterator
from contextlib import AbstractContextManager, contextmanager
from difflib import get_close_matches
from enum import IntEnum
from pathlib import Path

INSTALL = "install the tool with its dependencies, as `uv tool install` and `pip install` do"
"""The remedy for a missing dependency of the tool itself."""

ANOTHER_HOME = "set COMPAT_HOME to a folder that can be written"
"""The remedy for a folder of runs and caches that cannot be used."""

OF_THE_IMAGE = (
    r"unsupported (?:GNU|clang) version!|cannot execute '?cc1plus'?|Unsupported gpu architecture 'compute_(?![1-5]\d')"
    r"|unrecognized command[- ]line option \W-std="
    r"|fatal error: (?:cu\w+|cub/\w+|nccl|nv\w+|omp|mpi|numa|std\w+|sys/\w+|bits/\w+|gnu/\S+|features|limits|crypt"
    r"|math|Python|E?GL/\w+|GLES\d?/\w+|X11/\w+)\.(?:h|hpp|cuh): "
    r"|CUDA_HOME (?:environment variable is not set|does not exist)"
    r"|No such file or directory: '\S{0,200}nvcc'|bin/nvcc\", \S{2,9} [^\n]{0,80}\n[^\n]{0,40}'NoneType' and 'str'"
    r"|nvcc(?:: command| was)? not found|unable to execute '\S{0,80}(?:cc|\+\+)'"
    r"|command '\S{0,80}(?:cc|\+\+)' failed: No such file"
    r"|Command '\['which', '(?:gcc|g\+\+|cc|c\+\+)'\]' returned"
    r"|[Cc]an(?:'t| not) find Rust compiler|No CMAKE_CXX_COMPILER could be found"
    r"|is only supported on CUDA \S+ and above|CMake must be installed|[Cc][Mm]ake: (?:command )?not found"
    r"|The detected CUDA version \(\S+\) mismatches|compiled with a version of Cuda that does not match the version"
    r"|The current installed version of \S+ \(\S+\) is (?:less|greater) than the m(?:in|ax)imum required"
)
"""Words of a build for which compilers, headers or the CUDA toolkit of the image are at fault, and no library."""
OF_THE_IMAGES_BUILD = rf"{OF_THE_IMAGE}|/nvcc: not found|No module named 'setuptools'|invalid command 'bdist_wheel'"
"""The same of an sdist: outside of a build, who asks for setuptools is told as any who misses a module."""


class Status(IntEnum):
    """Exit statuses of `compat`, as `compat --help` lists them."""

    AS_EXPECTED = 0
    SURPRISES = 1
    BAD_MATRIX = 2
    NOTHING_SELECTED = 3
    NO_BACKEND = 4
    INCOMPLETE = 5
    UNCONFIRMED = 6
    INTERRUPTED = 130


class CompatError(Exception):
    """An error that the user sees as one message, never as a traceback.

    `place` is the file, option or folder that is wrong; `remedy` is what to do about it; `code` is a reason code,
    whose registry entry has the remedy where none is given.
    """

    status = Status.INCOMPLETE
    prefix = "compat: "
    """Stands before the message on the command line."""

    def __init__(self, message: str, remedy: str = "", place: str = "", code: str = "") -> None:
        super().__init__(message)
        self.remedy = remedy
        self.place = place
        self.code = code


class UsageError(CompatError):
    """The command line asks for something impossible."""

    status = Status.BAD_MATRIX


class NothingSelected(CompatError):
    """A selector that selects nothing, or a run or cell that does not exist."""

    status = Status.NOTHING_SELECTED


class BackendUnusable(CompatError):
    """The backend does not exist, or cannot be reached."""

    status = Status.NO_BACKEND


class Trouble(CompatError):
    """Something other than the library prevents a check: a named outcome for every check that it concerns.

    `code` is a stable reason code (`image-not-found`, `registry-refused`, `no-nvidia-runtime`, `disk-full`,
    `engine-unreachable`, ...); the message says what happened.  `remedy` replaces the code's
    own remedy in the registry (runner/verdicts/data/reasons.ini), and `blame` its blame; where they are empty, the
    registry's hold.
    """

    def __init__(self, code: str, message: str, remedy: str = "", evidence: str = "", blame: str = "") -> None:
        super().__init__(message, remedy, code=code)
        self.evidence = evidence
        self.blame = blame


def did_you_mean(word: str, choices: Iterable[str]) -> str:
    """The end of a message about an unknown word: `; did you mean 'x'?`, or the list of choices."""
    words = sorted(set(choices))
    nearest = get_close_matches(word, words, n=1, cutoff=0.5)
    if nearest:
        return f"; did you mean {nearest[0]!r}?"
    return f"; there are: {', '.join(words[:12])}{', ...' if len(words) > 12 else ''}" if words else ""


def reason_of(error: BaseException) -> str:
    """The reason code of an error that nobody foresaw: a full disk, or other trouble of the host."""
    full = os.strerror(errno.ENOSPC), os.strerror(errno.EDQUOT)
    return "disk-full" if any(words in str(error) for words in full) else "host-error"


def refused(error: OSError) -> str:
    """The system's error about a file or a disk, with a remedy, as one message."""
    remedies = {
        errno.ENOSPC: "free the disk, or set COMPAT_HOME to a folder on another",
        errno.EDQUOT: "free your quota, or set COMPAT_HOME to a folder on another disk",
        errno.EFBIG: "raise the limit of a file's size (`ulimit -f`)",
        **dict.fromkeys((errno.EROFS, errno.EACCES, errno.ENOTDIR), ANOTHER_HOME),
    }
    place = f"{error.filename}: " if error.filename else ""
    return f"{place}{error.strerror or error}\n{remedies.get(error.errno or 0, '')}".rstrip()


@contextmanager
def writing(path: Path, remedy: str, error: type[CompatError] = UsageError, *, done: str = "written") -> Iterator[None]:
    """Turn the system's error about a file or folder that cannot be written into an error with its place."""
    try:
        yield
    except OSError as refused:
        place = str(refused.filename or path)
        raise error(f"cannot be {done}: {refused.strerror or refused}", remedy, place) from refused


def reading(path: Path, remedy: str) -> AbstractContextManager[None]:
    """Turn the system's error about a file that cannot be read into a UsageError with its place."""
    return writing(path, remedy, done="read")
