"""Tries every way into the processes above it, the probe host among them, and notes those that succeed."""

import ctypes
import os

ATTACH, DETACH = 16, 17
PIDFD_OPEN, PIDFD_GETFD = 434, 438


def above():
    """The ancestors, up to the probe host."""
    pid = os.getppid()
    while True:
        with open(f"/proc/{pid}/cmdline") as stream:
            is_host = "--child" not in stream.read()
        if is_host and pid != os.getppid() or pid == 1:
            return pid
        with open(f"/proc/{pid}/stat") as stream:
            pid = int(stream.read().rpartition(")")[2].split()[1])


def sample(probe):
    libc, host = ctypes.CDLL(None, use_errno=True), above()
    for name in ("mem", "fd/0", "fd/1", "fd/2", "fd/3"):
        try:
            os.close(os.open(f"/proc/{host}/{name}", os.O_RDONLY))
            probe.note(f"opened {name}")
        except OSError:
            pass
    if libc.ptrace(ATTACH, host, 0, 0) == 0:
        os.waitpid(host, 0)
        libc.ptrace(DETACH, host, 0, 0)
        probe.note("attached")
    byte = ctypes.create_string_buffer(1)
    here = (ctypes.c_void_p * 2)(ctypes.addressof(byte), 1)
    there = (ctypes.c_void_p * 2)(id(None), 1)
    if libc.process_vm_readv(host, here, 1, there, 1, 0) == 1:
        probe.note("read memory")
    if libc.process_vm_writev(host, here, 1, there, 1, 0) == 1:
        probe.note("wrote memory")
    pidfd = libc.syscall(PIDFD_OPEN, host, 0)
    if pidfd >= 0 and libc.syscall(PIDFD_GETFD, pidfd, 1, 0) >= 0:
        probe.note("took a descriptor")
    if host == os.getppid():
        probe.note("found no host")
