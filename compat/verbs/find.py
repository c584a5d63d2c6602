"""Find a failure over all recorded runs: which checks failed so, when, and which still do.

signature SIGNATURE  as a report shows it: #a3f9, or more of its digits
--json  print it as JSON

compat find a3f9
compat find '#a3f90b1c' --json
"""

from __future__ import annotations

import argparse
import re
from collections.abc import Iterator, Sequence

from torch_compat_matrix.compat.answers import Found
from torch_compat_matrix.compat.progress import tell
from torch_compat_matrix.reports.escape import count
from torch_compat_matrix.runner.errors import NothingSelected, Status, UsageError
from torch_compat_matrix.runner.outcome import Outcome
from torch_compat_matrix.runner.records import history
from torch_compat_matrix.runner.records.runs import home
from torch_compat_matrix.runner.records.since import Met, met_with
from torch_compat_matrix.runner.text import one_line


def main(options: argparse.Namespace) -> Status:
    wanted = options.signature.strip("#").lower()
    if not re.fullmatch(r"[0-9a-f]{2,8}", wanted):
        raise UsageError(f"{options.signature!r} is no signature", "a report shows it as #a3f9; `compat show` does too")
    history.sync(home())
    met = met_with(home(), wanted)
    if not met:
        raise NothingSelected(f"#{wanted}: no recorded failure has this signature")
    tell(options.json, Found(signature=wanted, checks=[check for check, _ in met]), _lines(met))
    return Status.AS_EXPECTED


def _lines(met: Sequence[tuple[Met, Outcome]]) -> Iterator[str]:
    for name in dict.fromkeys(outcome.signature for _, outcome in met):
        alike = [pair for pair in met if pair[1].signature == name]
        outcome = max(alike, key=lambda pair: pair[0].last)[1]
        blame = f", blame: {outcome.blame}" if outcome.blame else ""
        yield f"#{name}: {outcome.reason} ({outcome.verdict.value}{blame}), in {count(len(alike), 'check')}"
        yield one_line(f"  {outcome.evidence or outcome.detail}")
        for check, _ in alike:
            now = "still so at its last verdict" if check.open else "no longer"
            yield f"  {check.check}: {count(check.runs, 'run')}, {check.first} to {check.last}, {now}"
