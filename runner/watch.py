"""What each job of a run does at the moment, told as it happens: faces draw it, and nothing depends on it."""

from __future__ import annotations

import shlex
import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass


@dataclass(frozen=True, kw_only=True, slots=True)
class Phase:
    """What a job does from now on; a job is a thread that works through batches, or makes images and cells ready."""

    job: str
    what: str
    """`pull`, `build`, `resolve`, `fetch`, `launch`, `probe`, ...; empty where the job has ended."""
    subject: str = ""
    """The image, cell or check."""
    done: int = 0
    """Bytes; 0 where nobody counts them."""
    total: int = 0
    """Bytes; 0 as long as nobody knows."""
    command: str = ""
    """A program that the phase runs."""


Watch = Callable[[Phase], None]
Say = Callable[[str], None]

_current: ContextVar[tuple[Watch, Phase] | None] = ContextVar("phase", default=None)


@contextmanager
def doing(watch: Watch, what: str, subject: str) -> Iterator[None]:
    """Tell that this thread's job begins with this phase, and when it ends."""
    job = threading.current_thread().name
    before = _current.set(None)
    _tell(watch, Phase(job=job, what=what, subject=subject))
    try:
        yield
    finally:
        _current.reset(before)
        watch(Phase(job=job, what=""))


def phase(what: str, subject: str = "", *, done: int = 0, total: int = 0) -> None:
    """Tell what this thread's job does from now on, or how far that is; no one is told outside `doing`."""
    current = _current.get()
    if current is not None:
        watch, last = current
        _tell(watch, Phase(job=last.job, what=what, subject=subject or last.subject, done=done, total=total))


def runs(command: Sequence[str]) -> None:
    """Tell the command that this thread's job runs now."""
    current = _current.get()
    if current is not None:
        watch, last = current
        watch(Phase(job=last.job, what=last.what, subject=last.subject, command=shlex.join(command)))


def _tell(watch: Watch, new: Phase) -> None:
    _current.set((watch, new))
    watch(new)
