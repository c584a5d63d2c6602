"""`compat diff`: two runs compared, the likely cause of each change first."""

from __future__ import annotations

import argparse
from collections.abc import Iterator, Sequence

from torch_compat_matrix.compat.options import PRINTED
from torch_compat_matrix.compat.progress import answer, answer_json
from torch_compat_matrix.reports.changes import Changes, as_json, compare
from torch_compat_matrix.reports.table import Table, load
from torch_compat_matrix.runner.errors import NothingSelected, Status, writing
from torch_compat_matrix.runner.files import to_json
from torch_compat_matrix.runner.model import cell_of
from torch_compat_matrix.runner.records.runs import Run, home

SHOWN = 40


def main(options: argparse.Namespace) -> Status:
    """Compare two runs; status 1 where a check newly fails."""
    named = options.before is not None and not options.baseline
    later = Run.open(home(), options.after if named or options.before is None else options.before)
    if named:
        earlier: Run | None = Run.open(home(), options.before)
    else:
        earlier = later.baseline(home())
    if earlier is None:
        raise NothingSelected(f"{later.id} has no baseline: no complete run on its backend came before it")
    before, after = load(earlier.journal), load(later.journal)
    if before.outcomes.keys().isdisjoint(after.outcomes):
        raise NothingSelected(f"{before.run} and {after.run} have no check in common: they cover different cells")
    changes = compare(before, after)
    if options.json == PRINTED:
        answer_json(as_json(changes))
        return Status.SURPRISES if changes.failing else Status.AS_EXPECTED
    if options.json is not None:
        with writing(options.json, "name another file with --json"):
            options.json.write_text(to_json(as_json(changes), indent=1) + "\n")
    answer("\n".join(_lines(before, after, changes)))
    return Status.SURPRISES if changes.failing else Status.AS_EXPECTED


def _lines(before: Table, after: Table, changes: Changes) -> Iterator[str]:
    yield f"{before.run} ({before.header.get('started')}) -> {after.run} ({after.header.get('started')})"
    backends = [str(table.header.get("backend")) for table in (before, after)]
    if backends[0] != backends[1]:
        yield f"on different backends: {backends[0]}, then {backends[1]}"
    moved = []
    for title, outcomes in (("newly failing", changes.failing), ("fixed", changes.fixed)):
        moved += [(title, outcome, outcome.reason) for outcome in outcomes]
    moved += [("failing differently", now, f"{then.reason} -> {now.reason}") for then, now in changes.other]
    for title, outcome, reason in moved[:SHOWN]:
        yield f"  {title}: {outcome.check}{f' ({reason})' if reason else ''}"
        cause = changes.cause_of(outcome)
        yield (
            f"      likely: {cause}"
            if cause
            else "      nothing that the check depends on changed: it is flaky, or the host is the cause"
        )
    yield from _more(len(moved))
    for title, checks in (("new", changes.new), ("gone", changes.gone)):
        cells = list(dict.fromkeys(cell_of(check) for check in checks))
        yield from (f"  {title}: {cell}" for cell in cells[:SHOWN])
        yield from _more(len(cells))
    if not (moved or changes.new or changes.gone):
        yield "  every check has the same verdict as before"
    for comparison in [one for one in changes.numerics if one.differing][:SHOWN]:
        yield f"  computes differently: {comparison.after}: {comparison.sentence}"
    yield from _changed(changes)


def _changed(changes: Changes) -> Iterator[str]:
    if changes.causes:
        yield "other changes, the likely cause first:"
        yield from (f"  {cause.what}" for cause in changes.causes[:SHOWN])
        yield from _more(len(changes.causes))


def _more(count: int) -> Sequence[str]:
    return [f"  and {count - SHOWN} more; --json FILE has all"] if count > SHOWN else []
