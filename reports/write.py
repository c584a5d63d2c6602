"""A run's journal compiled: report.md, report.json and junit.xml, each whole or not at all."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import suppress
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

from torch_compat_matrix.reports import changes as diff
from torch_compat_matrix.reports import html, several
from torch_compat_matrix.reports.changes import Changes, compare, own_baseline
from torch_compat_matrix.reports.claims import page
from torch_compat_matrix.reports.junit import junit
from torch_compat_matrix.reports.markdown import SUMMARY_BYTES, markdown, summary
from torch_compat_matrix.reports.standing import Standing, standing
from torch_compat_matrix.reports.table import Table, load, waits
from torch_compat_matrix.runner.files import to_json, write_whole
from torch_compat_matrix.runner.judging import Judged
from torch_compat_matrix.runner.records import history
from torch_compat_matrix.runner.records.since import standings
from torch_compat_matrix.runner.text import printable

SCHEMA = 1
MOST_RUNS = 30
"""The runs whose verdicts and metrics report.html shows."""


@dataclass(frozen=True, slots=True)
class Compiled:
    """Where the report is, and its summary."""

    path: Path
    summary: str
    table: Table
    standing: Standing


def table_of(journal: Path, trails: bool = False) -> Table:
    """The run that a journal records, with what the history of its home tells of earlier runs; `trails`: of all."""
    table, home = load(journal), journal.parent.parent.parent
    if journal.parent.parent.name == "runs":
        with suppress(history.HistoryUnusable):  # a home may be read-only
            history.sync(home)
            table = with_history(table, home)
            if trails:
                before = str(table.header.get("backend")), table.target, MOST_RUNS - 1
                table = replace(table, trails=history.trails(home, table.run, *before))
    return table


def with_history(table: Table, home: Path) -> Table:
    """The run with what the history of its home tells of earlier runs."""
    backend = str(table.header.get("backend"))
    began = [outcome for outcome in table.outcomes.values() if not waits(outcome)]
    since = standings(home, table.run, backend, table.target, began)
    return replace(table, earlier=history.digests(home, table.run, backend), since=since)


def compile_report(
    journal: Path, out: Path, baseline: Path | None = None, *, alone: bool = False, most: int = SUMMARY_BYTES
) -> Compiled:
    """Write the reports of a run to a folder, report.md in at most so many bytes.

    The run is compared with the baseline's journal, else with each check's own last verdict, or `alone` with nothing.
    """
    return write_report(table_of(journal, trails=True), out, baseline, alone=alone, most=most)


def write_report(
    table: Table, out: Path, baseline: Path | None = None, *, alone: bool = False, most: int = SUMMARY_BYTES
) -> Compiled:
    """Write the reports of a run, or of several as one table; otherwise as `compile_report`."""
    if baseline is None:
        before = own_baseline(table)
    else:
        (before,) = several.in_columns(table.runs, [load(baseline)])
    changes = compare(before, table) if before.outcomes and not alone else None
    out.mkdir(parents=True, exist_ok=True)
    write_whole(out / "report.json", json_text(table, changes))
    write_whole(out / "junit.xml", junit(table))
    path = out / "report.md"
    write_whole(path, [markdown(table, changes, most)])
    if table.claims:
        write_whole(out / "claims.md", page(table))
    try:
        write_whole(out / "report.html", html.page(table, changes))
    except ModuleNotFoundError as error:  # a bare host, whose journal can be taken elsewhere
        missing = f"{error.name} is not installed; run `compat report` where it is"
        print(printable(f"report.html not written: {missing}"))
    return Compiled(path=path, summary=summary(table, changes), table=table, standing=standing(table))


def json_text(table: Table, changes: Changes | None) -> Iterator[str]:
    """The JSON report in pieces, a line per outcome, so that 100,000 of them need not be in memory at once."""
    for name, value in _frame(table, changes).items():
        yield f'{"{" if name == "schema" else ","}\n"{name}": {to_json(value)}'
    yield ',\n"outcomes": ['
    for number, judged in enumerate(table.judged):
        since = table.since.get(judged.outcome.check)
        more: dict[str, Any] = {"state": since.state, "since": since.to_json()} if since else {}
        more |= {"run": table.origin(judged.outcome.check).run} if table.runs else {}
        yield ("," if number else "") + "\n " + to_json({**_judged(judged), **more})
    yield "\n]\n}\n"


def _judged(judged: Judged) -> dict[str, Any]:
    more: dict[str, Any] = {"surprise": judged.surprise} if judged.surprise else {}
    more |= judged.outcome.caveats
    more |= {"known": judged.known.to_json()} if judged.known else {}
    return {**judged.outcome.to_json(), **more}


def _frame(table: Table, changes: Changes | None) -> dict[str, Any]:
    """The content of the other reports as plain data, without the outcomes."""

    def without(record: Mapping[str, Any], *names: str) -> dict[str, Any]:
        return {name: value for name, value in record.items() if name not in names}

    environments = {key: without(record, "kind", "key") for key, record in table.environments.items()}
    for record in environments.values():
        record |= {"moved_from": moved} if (moved := table.moved_from(record)) else {}
    head = {"schema": SCHEMA, "summary": summary(table, changes), "run": without(table.header, "kind", "schema")}
    head |= {name: getattr(table, name) for name in ("finished", "state")} | {"standing": standing(table).value}
    counts = {name: getattr(table, name) for name in ("warm_disagreed", "unreadable")}
    return {
        **head,
        "target": table.target,
        **several.as_json(table),
        **counts,
        "environments": environments,
        "cells": list(map(asdict, table.grades)),
        "claims": [claim.to_json() for claim in table.claims],
        "expectations": list(map(_judged, table.expectations)),
        "numerics": list(map(asdict, table.numerics)),
        "changes": changes and diff.as_json(changes),
    }
