"""Several runs as one table, a column for each image on each target, and the words of a report about them."""

from __future__ import annotations

import datetime as dt
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import replace
from typing import Any

from torch_compat_matrix.reports.escape import code, count, text
from torch_compat_matrix.reports.page import Part, rows
from torch_compat_matrix.reports.table import Table
from torch_compat_matrix.runner.model import Known, Verdict, recorded_id
from torch_compat_matrix.runner.outcome import Outcome
from torch_compat_matrix.runner.records.history import Trails
from torch_compat_matrix.runner.records.runs import COMPLETE, STILL_GOING
from torch_compat_matrix.runner.records.since import Seen

Placed = tuple[Table, Outcome]
"""An outcome, under the name of its column, and the run that it is of."""


def merged(tables: Iterable[Table], within: dt.timedelta = dt.timedelta.max) -> Table:
    """One table of several runs: the newest outcome of a check on a target stands, the others may contradict it.

    What began longer before the newest outcome is no conflict.  A single run stays as it is; images keep their names
    where all runs have one target.
    """
    ordered = sorted(tables, key=lambda table: (table.started, table.run), reverse=True)
    if len(ordered) == 1:
        return ordered[0]
    known: dict[Known, Known] = {}  # the same entry of several files is one
    runs = tuple(
        replace(run, known=tuple(known.setdefault(replace(entry, place=""), entry) for entry in run.known))
        for run in ordered
    )
    named = dict(zip((run.run for run in runs), in_columns(runs, runs), strict=True))
    fullest = max(named.values(), key=lambda run: len(run.outcomes))  # its rows have the order of the matrix
    places: dict[str, list[Placed]] = {check: [] for check in fullest.outcomes}
    for run in runs:
        for check, outcome in named[run.run].outcomes.items():
            places.setdefault(check, []).append((run, outcome))
    images = list(dict.fromkeys(recorded_id(image) for run in named.values() for image in run.images))
    columns = {image: (images.index(recorded_id(image)), image) for run in named.values() for image in run.images}
    places = dict(sorted(places.items(), key=lambda item: columns[item[1][0][1].image]))
    ran = {check: [each for each in found if each[1].verdict is not Verdict.NOT_RUN] for check, found in places.items()}
    shown = {check: (ran[check] or found)[0] for check, found in places.items()}
    outcomes = {check: outcome for check, (_, outcome) in shown.items()}
    origins = {check: run for check, (run, _) in shown.items()}
    states = {run.run: run.state for run in origins.values()}
    open_ = [f"run {run}: {state}" for run, state in states.items() if state != COMPLETE]
    oldest_first = [named[run.run] for run in reversed(runs)]
    return Table(
        header=_header(oldest_first),
        outcomes=outcomes,
        environments=_environments(oldest_first, outcomes.values()),
        known=tuple(known.values()),
        finished=max(run.finished for run in runs),
        state=STILL_GOING if STILL_GOING in states.values() else "; ".join(open_) or COMPLETE,
        today=runs[0].today,
        unreadable=sum(run.unreadable for run in runs),
        earlier={key: digest for run in oldest_first for key, digest in run.earlier.items()},
        since={check: named[run.run].since[check] for check, run in origins.items() if check in named[run.run].since},
        trails=_trails([run.run for run in runs[:0:-1]], places),
        runs=runs,
        origins=origins,
        ran={check: run.run for check, run in origins.items() if run is not runs[0]},
        conflicts={check: found for check in places if (found := _conflict(places[check], within))},
    )


def in_columns(runs: Sequence[Table], tables: Iterable[Table]) -> Iterator[Table]:
    """The tables with images, and the ids of their checks, called as the columns of a table of these runs.

    `torch-2.13@h200` where the runs have several targets; a stand-in is never in the column of the image itself.
    """
    kinds: dict[tuple[str, str], set[bool]] = {}
    for run in runs:
        for image, stand_in in _stand_ins(run).items():
            kinds.setdefault((image, run.target), set()).add(stand_in)
    several = len({run.target for run in runs}) > 1
    for table in tables:
        stand_ins = _stand_ins(table)

        def column(image: str, target: str = table.target, stand_ins: Mapping[str, bool] = stand_ins) -> str:
            apart = stand_ins.get(image) and len(kinds.get((image, target), ())) > 1
            words = [*([target] if several else []), *(["stand-in"] if apart else [])]
            return f"{image}@{','.join(words)}" if words else image

        yield _named(table, column)


def _stand_ins(run: Table) -> Mapping[str, bool]:
    """Image -> whether it is a stand-in; one that was not launched is what the others of its run are."""
    seen = {record["image"]: bool(record.get("stand_in")) for record in run.environments.values()}
    planned = [image["name"] for image in run.header.get("plan", {}).get("images", ())]
    return {image: any(seen.values()) for image in (*planned, *run.images)} | seen


def _named(table: Table, column: Callable[[str], str]) -> Table:
    def key(name: str, image: str) -> str:
        return name and name + column(image)[len(image) :]

    def moved(outcome: Outcome) -> Outcome:
        name, image = column(outcome.image), outcome.image
        check = name + outcome.check[len(image) :]
        return replace(outcome, check=check, image=name, environment=key(outcome.environment, image))

    def earlier(seen: Seen | None) -> Seen | None:
        if seen is None:
            return None
        environment = seen.environment and {**seen.environment, "image": column(seen.environment["image"])}
        return replace(seen, outcome=moved(seen.outcome), environment=environment)

    plan = table.header.get("plan", {})
    if all(column(image) == image for image in _stand_ins(table)):
        return table
    outcomes = [moved(outcome) for outcome in table.outcomes.values()]
    images = [{**image, "name": column(image["name"])} for image in plan.get("images", ())]
    return replace(
        table,
        header={**table.header, "plan": {**plan, "images": images}},
        outcomes={outcome.check: outcome for outcome in outcomes},
        environments={
            key(name, record["image"]): {**record, "image": column(record["image"])}
            for name, record in table.environments.items()
        },
        earlier={(column(image), reference): digest for (image, reference), digest in table.earlier.items()},
        since={
            column(image := check.partition("/")[0]) + check[len(image) :]: replace(
                since, base=earlier(since.base), good=earlier(since.good)
            )
            for check, since in table.since.items()
        },
    )


def _header(oldest_first: Sequence[Table]) -> Mapping[str, Any]:
    """The newest run's, with the images, modules and claims of all."""
    newest, plans = oldest_first[-1].header, [run.header.get("plan", {}) for run in oldest_first]

    def all_of(key: str, name: str) -> list[Any]:
        return list({entry[name]: entry for plan in plans for entry in plan.get(key, ())}.values())

    kept = ("run", "started", "settings", "command", "version")
    return {
        **{name: value for name, value in newest.items() if name in kept},
        "backend": ", ".join(dict.fromkeys(str(run.header["backend"]) for run in reversed(oldest_first))),
        "plan": {**plans[-1], "cells": [], "images": all_of("images", "name"), "claims": all_of("claims", "id")},
    }


def _environments(oldest_first: Sequence[Table], shown: Iterable[Outcome]) -> Mapping[str, Mapping[str, Any]]:
    """The environments of the outcomes that are shown, and the newest of each column, the newest last."""
    found: dict[str, Mapping[str, Any]] = {}
    for run in oldest_first:
        for key, record in run.environments.items():
            found.pop(key, None)
            found[key] = record
    newest = {record["image"]: key for key, record in found.items()}
    used = {outcome.environment for outcome in shown} | {*newest.values()}
    return {key: record for key, record in found.items() if key in used}


def _trails(runs: Sequence[str], places: Mapping[str, Sequence[Placed]]) -> Trails:
    """What the runs but the newest say of each check."""
    verdicts: dict[str, list[str]] = {}
    metrics: dict[str, dict[str, list[float | None]]] = {}
    for check, found in places.items():
        others = {run.run: outcome for run, outcome in found}
        row = [others.get(run) for run in runs]
        verdicts[check] = [outcome.verdict.value if outcome else "" for outcome in row]
        metrics[check] = {
            name: [outcome.metrics[name]["value"] if outcome and name in outcome.metrics else None for outcome in row]
            for name in dict.fromkeys(name for outcome in others.values() for name in outcome.metrics)
        }
    return Trails(runs=tuple(runs), verdicts=verdicts, metrics=metrics)


def _conflict(found: Sequence[Placed], within: dt.timedelta) -> list[Placed]:
    """The newest outcome of each verdict, where there are several on the image of one digest."""
    verdicts: dict[str, dict[Verdict, Placed]] = {}
    for run, outcome in found:
        if outcome.verdict.tells:
            alike = verdicts.setdefault(outcome.digest, {})
            newest, _ = next(iter(alike.values()), (run, outcome))
            if newest.started - run.started <= within:
                alike.setdefault(outcome.verdict, (run, outcome))
    return [placed for alike in verdicts.values() if len(alike) > 1 for placed in alike.values()]


def sentences(table: Table) -> Iterator[str]:
    """What the headline says of several runs."""
    if old := sum(table.age(run) > 0 for run in table.origins.values()):
        yield f"{count(old, 'result')} more than a day older than the newest run."
    if table.conflicts:
        yield f"{count(len(table.conflicts), 'conflict')} between the runs."


def conflicts(table: Table) -> Part:
    """The checks with different verdicts in the same image on the same target, the newest verdict first."""
    lines = [f"- {text(check)}: {text('; '.join(map(said, found)))}" for check, found in table.conflicts.items()]
    words = "The same check in the same image on the same target, with different verdicts; the newest comes first."
    return Part(name="conflict", keep=70, head=["## Conflicts", "", words, ""], blocks=lines, tail=[""])


def said(placed: Placed) -> str:
    """An outcome with its run."""
    run, outcome = placed
    why = f" ({outcome.reason})" if outcome.reason else ""
    return f"{outcome.shown}{why} in run {run.run} of {run.started:%Y-%m-%d}, backend {run.header['backend']}"


def listed(table: Table) -> Part:
    """The runs of which the table is made."""
    found = []
    for run in as_json(table).get("runs", ()):
        aged = f", {count(run['days_older'], 'day')} older than the newest" if run["days_older"] else ""
        rest = (text(str(run[name])) for name in ("target", "backend", "state", "shown"))
        found.append((code(run["run"]), text(run["started"] + aged), *rest))
    head, blocks = rows(("run", "started", "target", "backend", "state", "checks in the table"), found)
    words = "The newest outcome of a check on a target stands in the table."
    return Part(name="run", keep=45, head=["## Runs", "", words, "", *head], blocks=blocks, tail=[""])


def as_json(table: Table) -> dict[str, Any]:
    """The runs and their conflicts as plain data; nothing for a single run."""
    if not table.runs:
        return {}
    shown = Counter(run.run for run in table.origins.values())
    return {
        "runs": [
            {"run": run.run, "started": run.header["started"], "days_older": table.age(run), "target": run.target}
            | {"backend": run.header["backend"], "state": run.state, "shown": shown[run.run]}
            for run in table.runs
        ],
        "conflicts": {
            check: [{"run": run.run, "verdict": one.verdict.value, "reason": one.reason} for run, one in found]
            for check, found in table.conflicts.items()
        },
    }
