"""What keeps a child from the probe host: other processes of its user cannot look into the host, nor write into it."""

from __future__ import annotations

import ctypes

GET_DUMPABLE, SET_DUMPABLE, DROP_FROM_BOUNDING_SET = 3, 4, 24
SYS_PTRACE = 19
"""The capability with which root looks into any process, dumpable or not."""
CAPABILITY_VERSION_3 = 0x20080522


def hide() -> bool:
    """Make this process and its forks not dumpable; return whether the kernel agreed.

    From then on its descriptors (/proc/PID/fd), its memory and ptrace are refused to all processes of its user that do
    not have CAP_SYS_PTRACE.
    """
    try:
        libc = ctypes.CDLL(None)
        libc.prctl(SET_DUMPABLE, 0, 0, 0, 0)
        return bool(libc.prctl(GET_DUMPABLE, 0, 0, 0, 0) == 0)
    except (OSError, AttributeError):
        return False


def confine() -> None:
    """Give up CAP_SYS_PTRACE for good, then be dumpable again, so that debuggers show this process's stacks.

    Only for a process that holds none of the host's descriptors any more.
    """
    try:
        libc = ctypes.CDLL(None)
        libc.prctl(DROP_FROM_BOUNDING_SET, SYS_PTRACE, 0, 0, 0)  # for root only, which a new program makes whole again
        header = (ctypes.c_uint32 * 2)(CAPABILITY_VERSION_3, 0)
        sets = (ctypes.c_uint32 * 6)()  # effective, permitted, inheritable, of capabilities 0 to 31 and 32 to 63
        if libc.capget(header, sets) == 0:
            for index in range(3):
                sets[index] &= ~(1 << SYS_PTRACE)
            libc.capset(header, sets)
        libc.prctl(SET_DUMPABLE, 1, 0, 0, 0)
    except (OSError, AttributeError):
        pass
