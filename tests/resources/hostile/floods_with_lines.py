"""Writes empty objects to its channel for ever."""

import os
import stat


def sample(probe):
    sockets = [each for each in range(3, 64) if is_socket(each)]
    while True:
        for descriptor in sockets:
            try:
                os.write(descriptor, b"{}\n" * 1000)
            except OSError:
                pass


def is_socket(descriptor):
    try:
        return stat.S_ISSOCK(os.fstat(descriptor).st_mode)
    except OSError:
        return False
