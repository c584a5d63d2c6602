"""A child that the kernel does not let go of: it cannot be made here, so that waiting for it is scripted."""

from __future__ import annotations

import subprocess
import sys

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
