"""A run's journal compiled: report.md, report.json and junit.xml, each whole or not at all."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

from torch_compat_matrix.reports import changes as diff
from torch_compat_matrix.reports.changes import Changes, compare
from torch_compat_matrix.reports.claims import judge, page
from torch_compat_matrix.reports.junit import junit
from torch_compat_matrix.reports.markdown import markdown, summary
from torch_compat_matrix.reports.table import Table, load
from torch_compat_matrix.runner.files import to_json, write_whole
from torch_compat_matrix.runner.judging import Judged
from torch_compat_matrix.runner.records import history
from torch_compat_matrix.runner.text import printable

SCHEMA = 1


@dataclass(frozen=True, slots=True)
class Compiled:
    """Where the report is, and its summary."""

    path: Path
    summary: str
    table: Table
    surprises: int
    incomplete: int


def compile_report(journal: Path, out: Path, baseline: Path | None = None) -> Compiled:
    """Write the reports of a run to a folder, compared with the baseline's journal where there is one."""
    table = load(journal)
    home = journal.parent.parent.parent
    if (home / "history.sqlite").is_file():
        with suppress(history.HistoryUnusable):
            table = replace(table, earlier=history.digests(home, table.run, str(table.header.get("backend"))))
    before = load(baseline) if baseline is not None else None
    comparable = before is not None and not before.outcomes.keys().isdisjoint(table.outcomes)
    changes = compare(before, table) if before is not None and comparable else None
    out.mkdir(parents=True, exist_ok=True)
    write_whole(out / "report.json", json_text(table, changes))
    write_whole(out / "junit.xml", junit(table))
    path = out / "report.md"
    claims = judge(table)
    try:
        write_whole(path, [markdown(table, changes, Counter(claim.verdict for claim in claims))])
        if claims:
            write_whole(out / "claims.md", page(table, claims))
    except (
        ModuleNotFoundError
    ) as error:  # a bare host: everything is in the JSON, and the journal can be taken elsewhere
        print(printable(f"report.md not written: {error.name} is not installed; run `compat report` where it is"))
        path = out / "report.json"
    return Compiled(
        path=path,
        summary=summary(table, changes),
        table=table,
        surprises=len(table.surprises),
        incomplete=len(table.incomplete) + len(table.waiting),
    )


def json_text(table: Table, changes: Changes | None) -> Iterator[str]:
    """The JSON report in pieces, a line per outcome, so that 100,000 of them need not be in memory at once."""
    for name, value in _frame(table, changes).items():
        yield f'{"{" if name == "schema" else ","}\n"{name}": {to_json(value)}'
    yield ',\n"outcomes": ['
    for number, judged in enumerate(table.judged):
        yield ("," if number else "") + "\n " + to_json(_judged(judged))
    yield "\n]\n}\n"


def _judged(judged: Judged) -> dict[str, Any]:
    more: dict[str, Any] = {"surprise": judged.surprise} if judged.surprise else {}
    more |= judged.outcome.caveats
    more |= {"known": judged.known.to_json()} if judged.known else {}
    return {**judged.outcome.to_json(), **more}


def _frame(table: Table, changes: Changes | None) -> dict[str, Any]:
    """The content of the other reports as plain data, without the outcomes."""
    return {
        "schema": SCHEMA,
        "summary": summary(table, changes),
        "run": {name: value for name, value in table.header.items() if name not in ("kind", "schema")},
        "finished": table.finished,
        "state": table.state,
        "warm_disagreed": table.warm_disagreed,
        "unreadable": table.unreadable,
        "environments": {
            key: {
                **{name: value for name, value in record.items() if name not in ("kind", "key")},
                **({"moved_from": table.moved_from(record)} if table.moved_from(record) else {}),
            }
            for key, record in table.environments.items()
        },
        "claims": [claim.to_json() for claim in judge(table)],
        "expectations": list(map(_judged, table.expectations)),
        "numerics": list(map(asdict, table.numerics)),
        "changes": changes and diff.as_json(changes),
    }
