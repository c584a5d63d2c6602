"""Draft `known:` entries for a run's unexpected failures.

(variables)
run [run] = latest  id of the run, or its beginning (%(default)s)
--days N = 90  days until the entries expire (%(default)s)
--write FILE  add the entries to this matrix file, whose comments stay

compat triage
compat triage --days 30 --write matrix.yaml
"""

from __future__ import annotations

import argparse
import datetime as dt
from contextlib import suppress
from pathlib import Path

from torch_compat_matrix.compat.progress import answer
from torch_compat_matrix.reports.table import load
from torch_compat_matrix.runner.advice import triage
from torch_compat_matrix.runner.errors import CompatError, Status
from torch_compat_matrix.runner.matrix.load import load as load_matrix
from torch_compat_matrix.runner.records.runs import Run, home


def main(options: argparse.Namespace) -> Status:
    run = Run.open(home(), options.run)
    table = load(run.journal)
    failed = [
        judged
        for judged in table.surprises
        if judged.surprise == "unexpected failure" and not judged.outcome.unconfirmed
    ]
    failures = [judged.outcome for judged in failed if judged.known is None]
    everything = [*table.outcomes.values(), *(judged.outcome for judged in table.expectations)]
    expires = dt.date.today() + dt.timedelta(days=options.days)
    path, images = options.write or Path(table.header.get("plan", {}).get("source", "")), list[str]()
    with suppress(CompatError):  # the matrix of the run may have more images than the run
        images += load_matrix(path, dict(options.set)).images if path.is_file() else ()
    entries = triage.entries(failures, everything, images, expires)
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
