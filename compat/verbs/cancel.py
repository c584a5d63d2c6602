"""End the jobs of a run. What they have answered is lost unless `compat run --resume` collected it before.

run [RUN] = latest  id of the run, or its beginning (%(default)s)

compat cancel
compat cancel 20260801
"""

from __future__ import annotations

import argparse

from torch_compat_matrix.compat.progress import answer
from torch_compat_matrix.compat.verbs.status import placed
from torch_compat_matrix.runner.errors import Status
from torch_compat_matrix.runner.records.runs import Run, home


def main(options: argparse.Namespace) -> Status:
    run = Run.open(home(), options.run)
    ended = placed(run).cancel(run.id)
    answer(f"run {run.id}: {len(ended)} jobs cancelled{': ' + ', '.join(ended[:20]) if ended else ''}")
    return Status.AS_EXPECTED
