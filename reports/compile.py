"""A run's journal compiled: report.md, report.json and junit.xml, each whole or not at all."""

from __future__ import annotations

import json
import os
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from reports import diff
from reports.diff import Changes, compare
from reports.junit import junit
from reports.markdown import markdown, summary
from reports.table import Table, load

SCHEMA = 1


@dataclass(frozen=True, slots=True)
class Compiled:
    """Where the report is and what it comes to."""

    path: Path
    summary: str
    surprises: int
    incomplete: int


def compile_report(journal: Path, out: Path, baseline: Path | None = None) -> Compiled:
    """Write the reports of a run to a folder, compared with the baseline's journal where there is one."""
    table = load(journal)
    before = load(baseline) if baseline is not None else None
    comparable = before is not None and not before.outcomes.keys().isdisjoint(table.outcomes)
    changes = compare(before, table) if before is not None and comparable else None
    out.mkdir(parents=True, exist_ok=True)
    write(out / "report.json", json.dumps(as_json(table, changes), indent=1, ensure_ascii=False) + "\n")
    write(out / "junit.xml", junit(table))
    path = out / "report.md"
    try:
        write(path, markdown(table, changes))
    except (
        ModuleNotFoundError
    ) as error:  # a bare host: everything is in the JSON, and the journal can be taken elsewhere
        print(f"report.md not written: {error.name} is not installed here; `compat report` writes it where it is")
        path = out / "report.json"
    return Compiled(
        path=path,
        summary=summary(table, changes),
        surprises=len(table.surprises),
        incomplete=len(table.incomplete),
    )


def as_json(table: Table, changes: Changes | None) -> dict[str, Any]:
    """Everything that the other reports show, as plain data."""
    return {
        "schema": SCHEMA,
        "summary": summary(table, changes),
        "run": {name: value for name, value in table.header.items() if name not in ("kind", "schema")},
        "finished": table.finished,
        "state": table.state,
        "environments": {
            key: {name: value for name, value in record.items() if name not in ("kind", "key")}
            for key, record in table.environments.items()
        },
        "outcomes": [
            {
                **one.outcome.to_json(),
                **({"surprise": one.surprise} if one.surprise else {}),
                **({"known": one.known.to_json()} if one.known else {}),
            }
            for one in table.judged
        ],
        "expectations": [
            {**one.outcome.to_json(), **({"surprise": one.surprise} if one.surprise else {})}
            for one in table.expectations
        ],
        "changes": changes and diff.as_json(changes),
    }


def write(path: Path, content: str) -> None:
    """Replace a file in one step, so that a reader never sees half of it."""
    partial = path.with_name(f".{path.name}.{os.getpid()}")
    partial.write_text(content, encoding="utf-8", errors="replace")
    partial.replace(path)
