"""Metrics over runs, judged: two runs in a row outside the band of the noise are a note, never a failure."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from statistics import median

FEWEST = 5
"""The values before the last two from which a band can be told."""
SHARE = 0.1
"""The band's half width, at least, as a share of the median."""
WATCHED = re.compile(r"^import$|first compile$|compiled/eager|CPU/GPU|GPU/CPU|^peak ")
"""The metrics that are plotted: import, compile, compiled against eager, GPU against CPU, peak memory."""


@dataclass(frozen=True, slots=True)
class Trend:
    """The band in which a metric lies by its noise, and a word where it has left that for the worse."""

    low: float
    high: float
    word: str


def trend(name: str, unit: str, values: Sequence[float | None]) -> Trend | None:
    """The band of all but the last two values: median and 3 robust standard deviations; None for too few values."""
    known = [value for value in values if value is not None]
    *before, last, newest = known if len(known) >= FEWEST + 2 else [0.0, 0.0]
    if not before:
        return None
    middle = median(before)
    width = max(3 * 1.4826 * median(abs(value - middle) for value in before), SHARE * abs(middle))
    low, high = middle - width, middle + width
    more_is_better = unit.endswith("/s") or "CPU/GPU" in name
    worse = max(last, newest) < low if more_is_better else min(last, newest) > high
    return Trend(low, high, ("more memory" if unit == "bytes" else "slower") if worse else "")
