"""`compat triage`: `known:` entries for a run's unexpected failures, for a person to edit."""

from __future__ import annotations

import argparse
import datetime as dt

from torch_compat_matrix.reports.table import load
from torch_compat_matrix.runner.errors import Status
from torch_compat_matrix.runner.records.runs import Run, home


def main(options: argparse.Namespace) -> Status:
    """Print the entries, or write them into the matrix file."""
    from torch_compat_matrix.runner.advice import triage

    run = Run.open(home(), options.run)
    table = load(run.journal)
    failed = [one for one in table.surprises if one.surprise == "unexpected failure"]
    failures = [one.outcome for one in failed if one.known is None]
    everything = [*table.outcomes.values(), *(one.outcome for one in table.expectations)]
    expires = dt.date.today() + dt.timedelta(days=options.days)
    found = triage.entries(failures, everything, expires)
    print(f"# run {run.id}: {len(failed)} unexpected failures, {len(found)} entries; look at each, and add a link")
    for one in table.surprises:
        if one.surprise != "unexpected failure" and one.known is not None:
            what = "passes now: remove" if one.surprise == "unexpected pass" else "has expired: renew or remove"
            print(f"# {one.known.place or one.known.cells}: {one.outcome.check} {what} the entry")
    for one in failed:
        if one.known is not None:  # the first entry that covers a check decides: another one would have no effect
            came = f"{one.outcome.verdict.value} ({one.outcome.reason})"
            print(f"# {one.known.place or one.known.cells}: {one.outcome.check} came to {came}: change the entry")
    if not found:
        return Status.AS_EXPECTED
    if options.write is None:
        print("known:\n" + triage.as_yaml(found), end="")
        return Status.AS_EXPECTED
    triage.write(options.write, found)
    print(f"written: {options.write}")
    return Status.AS_EXPECTED
