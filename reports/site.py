"""The latest state as a folder of pages for any web server; the same records give the same bytes."""

from __future__ import annotations

import datetime as dt
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from torch_compat_matrix.reports import html
from torch_compat_matrix.reports.changes import compare, own_baseline
from torch_compat_matrix.reports.markdown import summary
from torch_compat_matrix.reports.several import merged
from torch_compat_matrix.reports.table import Table, load
from torch_compat_matrix.reports.write import json_text, with_history
from torch_compat_matrix.runner.errors import NothingSelected, UsageError
from torch_compat_matrix.runner.files import write_whole
from torch_compat_matrix.runner.model import Verdict
from torch_compat_matrix.runner.outcome import Outcome
from torch_compat_matrix.runner.records.runs import COMPLETE, STILL_GOING, Run
from torch_compat_matrix.runner.verdicts.reasons import REASONS, TEXTS

FOLDERS = ("image", "library", "run", "reason", "badge")
NIGHT = dt.timedelta(hours=12)
"""Runs that began so close are of one night, and may conflict; what older nights said is in the trail of each check."""
TITLES = {"image": "Images", "library": "Libraries", "run": "Runs", "reason": "Reasons"}


@dataclass(frozen=True, slots=True)
class Link:
    """A page of the site."""

    name: str
    path: str


def write_site(home: Path, runs: Sequence[Run], out: Path) -> int:
    """Write the site of these runs of a home; return the number of its files."""
    if out.exists() and any(out.iterdir()) and not (out / "latest.json").exists():
        raise UsageError("holds other files than a site", "name an empty folder, or that of an earlier site", str(out))
    written: set[Path] = set()
    links: dict[str, list[Link]] = {kind: [] for kind in TITLES}

    def write(path: str, pieces: Iterable[str]) -> None:
        (out / path).parent.mkdir(parents=True, exist_ok=True)
        write_whole(out / path, pieces)
        written.add(out / path)

    def page(folder: str, name: str, template: str, **values: object) -> None:
        links[folder].append(Link(name, f"{folder}/{html.file_of(name)}.html"))
        write(links[folder][-1].path, html.render(template, title=name, **values))

    found = []
    for each, shown in tables(home, runs):
        causes = list(html.causes(each, None, {}))
        page("run", each.run, "run.html", table=each, summary=summary(each, None), causes=causes)
        found.append(each if shown else traces(each))
    if not found:
        raise NothingSelected(f"{home / 'runs'}: no run has ended; `compat run` makes one")
    table = merged(found, NIGHT)
    by_image, by_library = html.usable(table)
    groups = {"image": ("library", by_image), "library": ("image", by_library)}
    for kind, (inner, cells) in groups.items():
        for name, uses in cells.items():
            page(kind, name, "group.html", kind=kind, inner=inner, uses=uses, table=table)
            working = sum(bool(use.works) for use in uses.values())
            said = f"{working} of {len(uses)} {'libraries' if kind == 'image' else 'images'}"
            write(f"badge/{kind}-{html.file_of(name)}.svg", badge(name, said, working, len(uses)))
    for code in sorted({outcome.reason for outcome in table.outcomes.values()} & REASONS.keys()):
        now = list(dict.fromkeys(one.cell for one in table.outcomes.values() if one.reason == code))
        texts = {name: REASONS[code].text(name) for name in TEXTS}
        page("reason", code, "reason.html", reason=REASONS[code], texts=texts, cells=now)
    if table.claims:
        write("claims.html", html.render("claims.html", title="Claims", claims=table.claims, table=table))
    changes = compare(own_baseline(table), table)
    nav = {TITLES[kind]: pages for kind, pages in links.items() if pages}
    nav |= {"Claims": [Link("what articles say", "claims.html")]} if table.claims else {}
    write("index.html", html.page(table, changes, nav))
    write("latest.json", json_text(published(table), changes))
    for old in (path for folder in FOLDERS for path in (out / folder).glob("*.*") if path not in written):
        old.unlink()
    return len(written)


def tables(home: Path, runs: Sequence[Run]) -> Iterator[tuple[Table, bool]]:
    """The table of each run that has ended, the newest first, judged on the day of its end, whatever day it is now.

    With each whether it has the newest outcome of a check: only such a run comes with its history.
    """
    seen: set[tuple[str, str]] = set()
    for run in sorted(runs, key=lambda run: run.id, reverse=True):
        table = load(run.journal, dt.date.min)
        if table.state == STILL_GOING or not (table.header and table.outcomes):
            continue  # of a run without a head nothing tells where it was made
        finished = table.finished if table.state == COMPLETE else str(table.header["started"])
        table = replace(table, finished=finished, today=dt.date.fromisoformat(finished[:10]))
        began = (check for check, outcome in table.outcomes.items() if outcome.verdict is not Verdict.NOT_RUN)
        ran = {(table.target, check) for check in began}
        yield (table, False) if ran <= seen else (with_history(table, home), True)
        seen |= ran


def traces(table: Table) -> Table:
    """The verdicts and metrics of a run alone: thirty whole runs are half a gigabyte."""
    names = ("check", "image", "subject", "version", "probe", "verdict", "reason", "digest", "environment", "metrics")
    outcomes = {
        check: Outcome(**{name: getattr(outcome, name) for name in names}) for check, outcome in table.outcomes.items()
    }
    return replace(table, outcomes=outcomes, header={**table.header, "plan": {**table.header["plan"], "cells": []}})


def published(table: Table) -> Table:
    """The table without outputs and metrics, and with no more of the plan than the grades of its cells depend on."""
    header = {name: value for name, value in table.header.items() if name in ("run", "started", "backend", "version")}
    kept, images = ("name", "expects", "limits"), table.header["plan"]["images"]
    header["plan"] = {"images": [{name: image[name] for name in kept if name in image} for image in images]}
    empty: dict[str, Any] = {"traceback": "", "output": "", "numerics": {}, "metrics": {}, "key": ""}
    outcomes = {check: replace(outcome, **empty) for check, outcome in table.outcomes.items()}
    return replace(table, header=header, outcomes=outcomes)


def badge(name: str, said: str, working: int, all_: int) -> Iterator[str]:
    """A badge as SVG; its colour says the same as its words."""
    colour = "#0e6032" if working == all_ else "#7a4b00" if working else "#a8102a"
    left, right = (10 + 7 * len(words) for words in (name, said))
    return html.render("badge.svg", name=name, said=said, colour=colour, left=left, right=right)
