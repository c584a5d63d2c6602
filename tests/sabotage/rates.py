"""The kill rate of mutants made by machine, and the survivors by entry point, as Markdown."""

from __future__ import annotations

import csv
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any

Row = Mapping[str, Any]

READ = Path(__file__).with_name("survivors.tsv")
"""The survivors that somebody has read: `equivalent` where no caller can tell it from the original, else `gap`."""


def readings() -> dict[tuple[str, ...], str]:
    """Library, function, text and changed text of a mutant -> how it was read."""
    with READ.open(newline="") as stream:
        rows = list(csv.DictReader(stream, delimiter="\t"))
    return {_key(row): row["reading"] for row in rows}


def page(rows: Iterable[Row]) -> Iterator[str]:
    """A section for each library: its rate with and without equivalent mutants, then what survived.

    The rate without takes the share of equivalents among the survivors that were read for that of all survivors.
    """
    rows, read = [row for row in rows if row.get("killed", "") is not None], readings()
    for head in [row for row in rows if "run" in row]:
        library = head["library"]
        mutants = [row for row in rows if row["library"] == library and "run" not in row]
        alive = [row for row in mutants if not row["killed"]]
        known = [read[_key(row)] for row in alive if _key(row) in read]
        yield f"## {library}\n"
        yield (
            f"{head['run']} places that a probe runs, {head['not_run']} in the same modules that none runs; "
            f"{len(mutants)} mutants, {len(mutants) - len(alive)} killed: **{_rate(len(mutants), len(alive)):.0%}**."
        )
        if known:
            share = known.count("equivalent") / len(known)
            real = len(alive) * (1 - share)
            yield (
                f"Of {len(known)} survivors that were read, {known.count('equivalent')} are equivalent: "
                f"**{_rate(len(mutants) - len(alive) + real, real):.0%}** of those that are not."
            )
        yield "\n| entry point | mutants | killed |\n|---|---|---|"
        for entry in sorted({row["entry"] for row in mutants}):
            own = [row for row in mutants if row["entry"] == entry]
            yield f"| `{entry}` | {len(own)} | {sum(bool(row['killed']) for row in own)} |"
        yield "\n| survivor of | function | change | read as |\n|---|---|---|---|" if alive else ""
        for row in sorted(alive, key=lambda row: str(row["entry"])):
            change = f"`{row['before']}` -> `{row['after']}` ({row['kind']})".replace("|", "\\|")
            yield f"| `{row['entry']}` | `{row['function']}:{row['line']}` | {change} | {read.get(_key(row), '')} |"
        yield ""


def _rate(all_: float, alive: float) -> float:
    return 1 - alive / all_ if all_ else 1.0


def _key(row: Row) -> tuple[str, ...]:
    return tuple(str(row[name]) for name in ("library", "function", "before", "after"))
