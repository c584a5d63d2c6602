"""Writes 300 MB to each of its sockets, without an end of line."""

import os
import stat


def sample(probe):
    for descriptor in range(3, 64):
        try:
            if stat.S_ISSOCK(os.fstat(descriptor).st_mode):
                for _ in range(300):
                    os.write(descriptor, b"x" * 1_000_000)
        except OSError:
            pass
