"""Ends the probe host, from a child that is forked or not."""

import os
import signal


def sample(probe):
    pid = os.getppid()
    while True:
        with open(f"/proc/{pid}/stat") as stream:
            above = int(stream.read().rpartition(")")[2].split()[1])
        if above == RUNNERS[0]:
            os.kill(pid, signal.SIGKILL)
            signal.pause()
        pid = above
