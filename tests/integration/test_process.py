"""A child that the kernel does not let go of, whose waiting is scripted, and one that is another user's."""

from __future__ import annotations

import os
import signal
import subprocess
import sys

import pytest

STUCK = """
import os
from torch_compat_matrix.probes import process

process.PATIENCE_S = 0.2
os.waitpid = lambda pid, options: (0, 0)
process.Process.fork(lambda channel, commands: None, os.open(os.devnull, os.O_RDONLY)).close()
print("goes on")
"""


def test_a_child_that_cannot_be_killed_ends_the_host() -> None:
    """With a message by which the runner names host trouble; to wait would be to wait for ever."""
    ended = subprocess.run([sys.executable, "-c", STUCK], capture_output=True, text=True, timeout=60, check=False)
    assert (ended.returncode, ended.stdout) == (70, "")
    assert "cannot be ended: it is stuck in the kernel" in ended.stderr


SUDO = """
import os, time
from torch_compat_matrix.probes import process

other = os.fork()
if other == 0:
    time.sleep(60)
os.setuid(65534)
print(process.sweep())
"""


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can become somebody else")
def test_a_process_of_another_user_does_not_end_the_host() -> None:
    """As a library leaves one that calls sudo."""
    with subprocess.Popen(
        [sys.executable, "-c", SUDO], stdout=subprocess.PIPE, text=True, start_new_session=True
    ) as host:
        assert host.stdout is not None
        assert host.stdout.readline() == "1\n"
        os.killpg(host.pid, signal.SIGKILL)
