"""Who launched something: this process, told apart from every other process of every machine, also after a restart."""

from __future__ import annotations

import os
import socket
from pathlib import Path


def owner() -> str:
    """`host/boot/pid/start/namespace` of this process."""
    host, boot, namespace = _view()
    return "/".join([host, boot, str(os.getpid()), _started(str(os.getpid())), namespace])


def alive(name: str) -> bool:
    """Whether that owner may still live; it counts as alive where its pid means nothing here.

    So it is for an owner on another host or in another PID namespace, and for a name that is not a whole identity.
    """
    host, boot, pid, started, namespace = [*name.split("/"), "", "", "", "", ""][:5]
    here, now, visible = _view()
    if host != here or (boot == now and namespace != visible):
        return True
    return boot == now and _started(pid) == started


def _view() -> tuple[str, str, str]:
    """The host, its boot and the PID namespace: what a pid must share with this process to mean the same."""
    try:
        boot = Path("/proc/sys/kernel/random/boot_id").read_text().strip()
        namespace = str(Path("/proc/self/ns/pid").readlink())
    except OSError:
        boot = namespace = ""
    return socket.gethostname(), boot, namespace


def _started(pid: str) -> str:
    """When a process started, in the kernel's ticks: a number that a later process of the same pid does not share."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[19]
    except OSError:
        return "ended"
