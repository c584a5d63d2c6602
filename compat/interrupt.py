"""The signals that end a run: SIGTERM and SIGHUP interrupt it as Ctrl-C does, and never its cleaning up."""

from __future__ import annotations

import os
import signal
import sys
import threading
from types import FrameType

ENDING = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)


def interrupt_on_signals() -> None:
    """From now on, raise KeyboardInterrupt in the main thread at the first of these signals, and ignore the rest.

    A CI job that is cancelled gets several: the second must not end the removal of containers.  A signal that is
    ignored already, as SIGHUP is under nohup, stays so.
    """
    if threading.current_thread() is not threading.main_thread():
        return
    terminals = [descriptor for descriptor in (1, 2) if os.isatty(descriptor)]

    def interrupt(number: int, frame: FrameType | None) -> None:
        for ending in ENDING:
            if signal.getsignal(ending) is interrupt:
                signal.signal(ending, _ignore)  # unlike SIG_IGN, no child inherits it
        if number == signal.SIGHUP:  # the terminal is gone, and what is printed there raises
            nowhere = os.open(os.devnull, os.O_WRONLY)
            for descriptor in terminals:
                os.dup2(nowhere, descriptor)
        raise KeyboardInterrupt(signal.Signals(number).name)

    for ending in ENDING:
        if signal.getsignal(ending) is not signal.SIG_IGN:
            signal.signal(ending, interrupt)


def leave(status: int) -> None:
    """End the process at once where threads of an interrupted run hold it: a pull cannot be broken off."""
    if threading.active_count() > 1:
        from torch_compat_matrix.runner.packages import uv

        uv.end_all()
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(status)


def _ignore(number: int, frame: FrameType | None) -> None:
    """The run is ending already."""
