"""The identity of a launching process, distinct from every other process of every machine, also after a restart."""

from __future__ import annotations

import os
import socket
from pathlib import Path


def owner() -> str:
    """`host/boot/pid/start/namespace` of this process."""
    host, boot, namespace = _view()
    return "/".join([host, boot, str(os.getpid()), _started(str(os.getpid())), namespace])


def alive(name: str) -> bool:
    """Whether that owner may still live; an owner whose pid has no meaning here counts as alive.

    This holds for an owner on another host or in another PID namespace, and for an incomplete name.
    """
    host, boot, pid, started, namespace = [*name.split("/"), "", "", "", "", ""][:5]
    here, now, visible = _view()
    if host != here or (boot == now and namespace != visible):
        return True
    return boot == now and _started(pid) in (started, "")


def _view() -> tuple[str, str, str]:
    """The host, its boot and the PID namespace: within these a pid names a process."""
    try:
        boot = Path("/proc/sys/kernel/random/boot_id").read_text().strip()
        namespace = str(Path("/proc/self/ns/pid").readlink())
    except OSError:
        boot = namespace = ""
    return socket.gethostname(), boot, namespace


def _started(pid: str) -> str:
    """The start of a process in the kernel's ticks, which tells it apart from a later process of the same pid.

    `ended` for none and for one that waits for its parent; empty for another user's that is hidden from this one.
    """
    try:
        state, *fields = Path(f"/proc/{pid}/stat").read_text(errors="replace").rpartition(")")[2].split()
        return "ended" if state in "ZX" else fields[18]
    except (OSError, ValueError, IndexError):
        return "" if _is_hidden(pid) else "ended"


def _is_hidden(pid: str) -> bool:
    try:
        os.kill(int(pid), 0)
    except PermissionError:
        return True
    except (OSError, ValueError, OverflowError):
        return False
    return False
