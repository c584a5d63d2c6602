"""Take the runs of other machines into this home: journals and run folders, found anywhere below a folder. The shards
of a run become one run again. What is here already stays.

folder DIR  the folder

compat import artifacts
compat import /mnt/night
"""

from __future__ import annotations

import argparse

from torch_compat_matrix.compat.progress import answer
from torch_compat_matrix.runner.errors import Status
from torch_compat_matrix.runner.execution.durations import Estimate
from torch_compat_matrix.runner.records import history
from torch_compat_matrix.runner.records.gather import gather
from torch_compat_matrix.runner.records.runs import home


def main(options: argparse.Namespace) -> Status:
    for run, became in sorted(gather(options.folder, home()), key=lambda pair: pair[0].id):
        answer(f"run {run.id}: {became}")
        if became.startswith("taken"):
            Estimate.load(home()).save(home(), run.outcomes().values())
    history.sync(home())
    return Status.AS_EXPECTED
