"""`compat triage`: drafts `known:` entries for a run's unexpected failures."""

from __future__ import annotations

import argparse
import datetime as dt

from torch_compat_matrix.compat.progress import answer
from torch_compat_matrix.reports.table import load
from torch_compat_matrix.runner.errors import Status
from torch_compat_matrix.runner.records.runs import Run, home


def main(options: argparse.Namespace) -> Status:
    """Print the entries, or write them into the matrix file."""
    from torch_compat_matrix.runner.advice import triage

    run = Run.open(home(), options.run)
    table = load(run.journal)
    failed = [judged for judged in table.surprises if judged.surprise == "unexpected failure"]
    failures = [judged.outcome for judged in failed if judged.known is None]
    everything = [*table.outcomes.values(), *(judged.outcome for judged in table.expectations)]
    expires = dt.date.today() + dt.timedelta(days=options.days)
    entries = triage.entries(failures, everything, expires)
    answer(f"# run {run.id}: {len(failed)} unexpected failures, {len(entries)} entries; review each, and add a link")
    for judged in table.surprises:
        if judged.surprise != "unexpected failure" and judged.known is not None:
            remedy = "passes now: remove" if judged.surprise == "unexpected pass" else "has expired: renew or remove"
            answer(f"# {judged.known.place or judged.known.cells}: {judged.outcome.check} {remedy} the entry")
    for judged in failed:
        if judged.known is not None:  # the first entry that covers a check decides: another would have no effect
            verdict = f"{judged.outcome.verdict.value} ({judged.outcome.reason})"
            place = judged.known.place or judged.known.cells
            answer(f"# {place}: {judged.outcome.check} has the verdict {verdict}: change the entry")
    for guess, outcome in {outcome.guess: outcome for outcome in failures if outcome.guess}.items():
        answer(f"# {outcome.check}: {guess}")
    if not entries:
        return Status.AS_EXPECTED
    if options.write is None:
        answer("known:\n" + triage.as_yaml(entries), end="")
        return Status.AS_EXPECTED
    triage.write(options.write, entries, dict(options.set))
    answer(f"written: {options.write}")
    return Status.AS_EXPECTED
