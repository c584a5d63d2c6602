"""The limits on what an installer builds from source, which runs other people's code on this host."""

from __future__ import annotations

import os
import re
from contextlib import suppress
from pathlib import Path

BUILD_S = 900
"""For one build; a run of uv may take twice as long, for the gigabytes that it fetches."""
MEMORY = 0.8
"""For an installer with its builds: a share of what they take and what is left on this host."""

_PAGE, _TICKS = os.sysconf("SC_PAGE_SIZE"), os.sysconf("SC_CLK_TCK")


def excess(installer: int) -> str:
    """What the builds of an installer, the leader of its session, take beyond their limits; else nothing.

    In words that reasons.ini knows.  Without /proc nothing is known.
    """
    taken = longest_s = 0.0
    for path in Path("/proc").glob("[0-9]*/stat"):
        with suppress(OSError):
            name, _, rest = path.read_text(errors="replace").partition("(")[2].rpartition(")")
            fields = rest.split()  # from the third of proc(5) on
            if fields[3] == str(installer):
                taken += int(fields[21]) * _PAGE
                if fields[1] == str(installer) and name not in ("sh", "git"):
                    up_s = float(Path("/proc/uptime").read_text().split()[0])
                    longest_s = max(longest_s, up_s - int(fields[19]) / _TICKS)
    if longest_s > BUILD_S:
        return f"error: The build did not end within {BUILD_S:g} s"
    with suppress(OSError):
        told = re.search(r"^MemAvailable: +(\d+)", Path("/proc/meminfo").read_text(), re.MULTILINE)
        left = int(told[1]) * 1024 if told else float("inf")
        if taken > MEMORY * (taken + left):
            return (
                f"error: The build ran out of memory: it took {taken / 1e9:.1f} GB, and {left / 1e9:.1f} GB were left"
            )
    return ""
