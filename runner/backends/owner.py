"""Who launched something: this process, told apart from every other one of this machine, before and after a restart."""

from __future__ import annotations

import os
import socket
from pathlib import Path


def owner() -> str:
    """`host/boot/pid/start` of this process."""
    return "/".join([*_machine(), str(os.getpid()), _started(os.getpid())])


def alive(name: str) -> bool:
    """Whether that owner may still live; one on another machine cannot be seen and is left alone."""
    host, boot, pid, started = [*name.split("/"), "", "", "", ""][:4]
    here, now = _machine()
    if host != here:
        return True
    return boot == now and _started(int(pid)) == started


def _machine() -> tuple[str, str]:
    try:
        boot = Path("/proc/sys/kernel/random/boot_id").read_text().strip()
    except OSError:
        boot = ""
    return socket.gethostname(), boot


def _started(pid: int) -> str:
    """When a process started, in the kernel's ticks: a number that a later process of the same id does not share."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[19]
    except OSError:
        return "ended"
