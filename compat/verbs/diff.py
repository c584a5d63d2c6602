"""Compare a run with another, or with each check's own last verdict, and name the likely causes of the changes. The
exit status is 1 where a check newly fails.

before [A]  the earlier run (default: what each check of B was last)
after [B] = latest  the later run (%(default)s)
--baseline  compare the named run (default: the latest) with each check's own last verdict
--json [FILE=-]  write the changes as JSON too; without FILE, print them alone

compat diff 20260801 20260802
compat diff --baseline --json
"""

from __future__ import annotations

import argparse
from collections.abc import Iterator, Sequence

from torch_compat_matrix.compat.options import PRINTED
from torch_compat_matrix.compat.progress import tell
from torch_compat_matrix.reports.changes import Changes, as_json, compare, how_differently, own_baseline
from torch_compat_matrix.reports.table import Table
from torch_compat_matrix.reports.write import table_of
from torch_compat_matrix.runner.errors import NothingSelected, Status, writing
from torch_compat_matrix.runner.files import to_json
from torch_compat_matrix.runner.model import cell_of
from torch_compat_matrix.runner.records.runs import Run, home

SHOWN = 40


def main(options: argparse.Namespace) -> Status:
    named = options.before is not None and not options.baseline
    later = Run.open(home(), options.after if named or options.before is None else options.before)
    after = table_of(later.journal)
    before = table_of(Run.open(home(), options.before).journal) if named else own_baseline(after)
    if not named and not before.outcomes:
        raise NothingSelected(f"{later.id} has no baseline: no run before it gave a verdict on any of its checks")
    changes = compare(before, after)
    if not changes.covered:
        raise NothingSelected(f"{before.run} is no baseline of {after.run}: it has no verdict on any of its checks")
    if options.json is not None and options.json != PRINTED:
        with writing(options.json, "name another file with --json"):
            options.json.write_text(to_json(as_json(changes), indent=1) + "\n")
    tell(options.json == PRINTED, as_json(changes), _lines(before, after, changes))
    return Status.SURPRISES if changes.failing else Status.AS_EXPECTED


def _lines(before: Table, after: Table, changes: Changes) -> Iterator[str]:
    yield f"{after.run} ({after.header.get('started')}) against {changes.coverage(len(after.outcomes))}"
    backends = [str(table.header.get("backend")) for table in (before, after)]
    if backends[0] != backends[1]:
        yield f"on different backends: {backends[0]}, then {backends[1]}"
    if before.target != after.target:
        yield f"on different targets: {before.target}, then {after.target}"
    moved = [("newly failing, unconfirmed", outcome, outcome.reason) for outcome in changes.failing]
    moved += [("fixed", outcome, outcome.reason) for outcome in changes.fixed]
    moved += [("fails differently", now, how_differently(then, now)) for then, now in changes.other]
    for title, outcome, reason in moved[:SHOWN]:
        yield f"  {title}: {outcome.check}{f' ({reason})' if reason else ''}"
        since = after.since.get(outcome.check)
        if since is not None and outcome.verdict.broken:
            yield f"      {since.words}"
        cause = changes.cause_of(outcome)
        yield (
            f"      likely: {cause}"
            if cause
            else "      nothing that the check depends on changed: it is flaky, or the host is the cause"
        )
    yield from _more(len(moved))
    yield from (f"  lost its verdict: {outcome.check} ({outcome.reason})" for outcome in changes.lost[:SHOWN])
    yield from _more(len(changes.lost))
    for title, checks in (("without a base", changes.new), ("gone", changes.gone)):
        cells = list(dict.fromkeys(cell_of(check) for check in checks))
        yield from (f"  {title}: {cell}" for cell in cells[:SHOWN])
        yield from _more(len(cells))
    if not (moved or changes.lost or changes.new or changes.gone):
        yield "  every check has the same verdict as before"
    for comparison in [one for one in changes.numerics if one.differing][:SHOWN]:
        yield f"  computes differently: {comparison.after}: {comparison.sentence}"
    if changes.causes:
        yield "other changes, the likely cause first:"
        yield from (f"  {cause.what}" for cause in changes.causes[:SHOWN])
        yield from _more(len(changes.causes))


def _more(count: int) -> Sequence[str]:
    return [f"  and {count - SHOWN} more; --json FILE has all"] if count > SHOWN else []
