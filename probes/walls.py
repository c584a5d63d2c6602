"""What keeps a child from the probe host: other processes of its user cannot look into the host, nor write into it."""

from __future__ import annotations

import ctypes

DIE_WITH_PARENT, GET_DUMPABLE, SET_DUMPABLE, DROP_FROM_BOUNDING_SET, ADOPT_ORPHANS = 1, 3, 4, 24, 36
"""Options of prctl."""
SYS_PTRACE = 19
"""The capability with which root looks into any process, dumpable or not."""
CAPABILITY_VERSION_3 = 0x20080522


def prctl(option: int, value: int = 0) -> int:
    """Set an option of this process, or ask for it; -1 where the kernel refuses, or is none that knows it."""
    try:
        return int(ctypes.CDLL(None).prctl(option, value, 0, 0, 0))
    except (OSError, AttributeError):
        return -1


def hide() -> bool:
    """Make this process and its forks not dumpable; return whether the kernel agreed.

    From then on its descriptors (/proc/PID/fd), its memory and ptrace are refused to all processes of its user that do
    not have CAP_SYS_PTRACE.
    """
    prctl(SET_DUMPABLE, 0)
    return prctl(GET_DUMPABLE) == 0


def confine() -> None:
    """Give up CAP_SYS_PTRACE for good, then be dumpable again, so that debuggers show this process's stacks.

    Only for a process that holds none of the host's descriptors any more.
    """
    prctl(DROP_FROM_BOUNDING_SET, SYS_PTRACE)  # for root only, which a new program makes whole again
    header = (ctypes.c_uint32 * 2)(CAPABILITY_VERSION_3, 0)
    sets = (ctypes.c_uint32 * 6)()  # effective, permitted, inheritable, of capabilities 0 to 31 and 32 to 63
    try:
        libc = ctypes.CDLL(None)
        if libc.capget(header, sets) == 0:
            for index in range(3):
                sets[index] &= ~(1 << SYS_PTRACE)
            libc.capset(header, sets)
    except (OSError, AttributeError):
        return
    prctl(SET_DUMPABLE, 1)
