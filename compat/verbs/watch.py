"""Raise the alarm that a dead night cannot raise itself: exit with 1 where the last complete run is too old.

--stale AGE = 36h  too old is older than 36h, 8d (%(default)s)

compat watch --stale 36h
compat watch --stale 8d
"""

from __future__ import annotations

import argparse
import datetime as dt
import re

from torch_compat_matrix.compat.progress import answer
from torch_compat_matrix.runner.errors import Status
from torch_compat_matrix.runner.records.runs import Run, home
from torch_compat_matrix.runner.storage import parsed_age

MOMENT = re.compile(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d[+-]\d\d:\d\d")


def main(options: argparse.Namespace) -> Status:
    allowed = dt.timedelta(seconds=parsed_age(options.stale))
    ends = [(run.finished(), run.id) for run in Run.all(home())]
    finished, run = max((end for end in ends if MOMENT.fullmatch(end[0])), default=("", ""))
    if not finished:
        answer(f"stale: {home()} has no complete run; `compat runs` lists those that began")
        return Status.SURPRISES
    age = dt.datetime.now(dt.timezone.utc) - dt.datetime.fromisoformat(finished)
    stale = age > allowed
    hours = age.total_seconds() / 3600
    answer(f"{'stale' if stale else 'fresh'}: the last complete run, {run}, ended {hours:.0f} h ago, at {finished}")
    return Status.SURPRISES if stale else Status.AS_EXPECTED
