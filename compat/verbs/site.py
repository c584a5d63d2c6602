"""Write the latest state of all runs as static pages for any web server, with latest.json and badges. The same records
give the same bytes.

out OUT  the folder: a new one, or that of an earlier site
--last N = 30  of the last N runs (%(default)s)

compat site public
compat site public --last 100
"""

from __future__ import annotations

import argparse

from torch_compat_matrix.compat.progress import answer
from torch_compat_matrix.reports.site import write_site
from torch_compat_matrix.runner.errors import Status, writing
from torch_compat_matrix.runner.records import history
from torch_compat_matrix.runner.records.runs import Run, home


def main(options: argparse.Namespace) -> Status:
    history.sync(home())
    with writing(options.out, "name another folder"):
        written = write_site(home(), [run for run in Run.all(home()) if not run.compares][-options.last :], options.out)
    answer(f"{written} files: {options.out / 'index.html'}")
    return Status.AS_EXPECTED
