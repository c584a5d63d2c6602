"""What the script of report.html shows of each check, as plain data that stays small.

Metrics are judged over runs: two in a row outside the band of the noise are a note, never a failure.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from statistics import median
from typing import Any

from torch_compat_matrix.reports.table import Table
from torch_compat_matrix.runner.files import to_json
from torch_compat_matrix.runner.judging import Judged
from torch_compat_matrix.runner.model import Verdict
from torch_compat_matrix.runner.outcome import Outcome
from torch_compat_matrix.runner.records.history import Trails
from torch_compat_matrix.runner.records.runs import again
from torch_compat_matrix.runner.signature import short
from torch_compat_matrix.runner.verdicts.reasons import REASONS, TEXTS

Placed = tuple[Judged, int, int]
"""An outcome with the numbers of its row and its column in the grid."""
LETTERS = {verdict.value: verdict.value[0] for verdict in Verdict} | {"crash": "k", "": "."}
"""Verdict -> its letter in a trail."""
LOGS = ("output", "traceback")
LONG = ("detail", "evidence", "remedy", "guess", "resolved", "drift", "replaced", "parts", "notes", *LOGS)
"""The fields of an outcome that many outcomes share: the page holds each text once."""
SHORT = ("check", "reason", "blame", "device", "device_name", "environment", "installed", "seconds", "owner", "reused")
FEWEST = 5
"""The values before the last two from which a band can be told."""
SHARE = 0.1
"""The band's half width, at least, as a share of the median."""
WATCHED = re.compile(r"^import$|first compile$|compiled/eager|CPU/GPU|GPU/CPU|^peak ")
"""The metrics that are plotted: import, compile, compiled against eager, GPU against CPU, peak memory."""
MOST_LOG = 6_000
"""Characters of an output or a traceback."""
MOST_LOGS = 1_500_000
"""Characters of all of them: the page stays below 5 MB."""


def details(table: Table, states: Mapping[str, str], marked: Sequence[Placed]) -> Mapping[str, Any]:
    """What the script shows, the checks in the order of the grid."""
    places: dict[str, int] = {}
    texts: list[Any] = []
    left, trails = MOST_LOGS, table.trails

    def kept(name: str, value: Any) -> int:
        nonlocal left
        if name in LOGS:
            value = value[-MOST_LOG:] if left > 0 else "left out here: report.json has it"
        text = to_json(value)
        if text not in places:
            places[text] = len(texts)
            texts.append(value)
            left -= len(text) if name in LOGS else 0
        return places[text]

    checks = []
    for judged, row, column in marked:
        outcome = judged.outcome
        fields: dict[str, Any] = {"r": row, "c": column, "p": outcome.probe, "s": states[outcome.check]}
        fields |= {name: value for name in SHORT if (value := getattr(outcome, name)) not in ("", ())}
        fields |= {name: kept(name, value) for name in LONG if (value := getattr(outcome, name)) not in ("", ())}
        before = trails.verdicts.get(outcome.check, [""] * len(trails.runs))
        now = "" if outcome.check in table.ran else outcome.verdict.value
        fields["t"] = "".join(LETTERS[verdict] for verdict in (*before, now))
        more = {
            "v": outcome.shown,
            "ran": table.ran.get(outcome.check),
            "since": table.since[outcome.check].words if outcome.check in table.since else "",
            "sign": short(outcome.signature) if outcome.signature else "",
            "known": " ".join(filter(None, (judged.known.reason, judged.known.link))) if judged.known else "",
            "m": _series(outcome, trails),
        }
        fields |= {name: value for name, value in more.items() if value}
        checks.append(fields)
    codes = {judged.outcome.reason for judged in table.judged} & REASONS.keys()
    return {
        "run": table.run,
        "runs": [*trails.runs, table.run],
        "again": {run.run: again(run.header, "CHECK") for run in table.runs or (table,)},
        "columns": table.images,
        "checks": checks,
        "texts": texts,
        "letters": {letter: verdict for verdict, letter in LETTERS.items()},
        "reasons": {code: [REASONS[code].text(text) for text in TEXTS] for code in sorted(codes)},
        "environments": {key: facts(record) for key, record in table.environments.items()},
    }


def _series(outcome: Outcome, trails: Trails) -> Mapping[str, Any]:
    """The watched metrics of a check over the runs: unit, values, and the band and word of their trend."""
    before = trails.metrics.get(outcome.check, {})
    series = {}
    for name, metric in outcome.metrics.items():
        if WATCHED.search(name):
            values = [*before.get(name, [None] * len(trails.runs)), metric["value"]]
            judged = trend(name, metric["unit"], values)
            unit, scale = ("MB", 1e-6) if metric["unit"] == "bytes" else (metric["unit"], 1.0)
            band = [*_short((judged.low, judged.high), scale), judged.word] if judged else []
            series[name] = [unit, _short(values, scale), *band]
    return series


@dataclass(frozen=True, slots=True)
class Trend:
    """The band in which a metric lies by its noise, and a word where it has left that for the worse."""

    low: float
    high: float
    word: str


def trend(name: str, unit: str, values: Sequence[float | None]) -> Trend | None:
    """The band of all but the last two values: median and 3 robust standard deviations; None for too few values."""
    known = [value for value in values if value is not None]
    *before, last, newest = known if len(known) >= FEWEST + 2 else [0.0, 0.0]
    if not before:
        return None
    middle = median(before)
    width = max(3 * 1.4826 * median(abs(value - middle) for value in before), SHARE * abs(middle))
    low, high = middle - width, middle + width
    more_is_better = unit.endswith("/s") or "CPU/GPU" in name
    worse = max(last, newest) < low if more_is_better else min(last, newest) > high
    return Trend(low, high, ("more memory" if unit == "bytes" else "slower") if worse else "")


def _short(values: Sequence[float | None], scale: float) -> list[float | None]:
    """The values to three digits, as integers where they are large, since a page has a hundred thousand of them."""
    rounded = (None if value is None else float(f"{value * scale:.3g}") for value in values)
    return [value if value is None or abs(value) < 100 else round(value) for value in rounded]


def facts(record: Mapping[str, Any]) -> Mapping[str, str]:
    """An environment in words."""
    held = record["facts"]
    torch = held.get("torch") or {}
    found = {
        "image": record["image"] + (" (a stand-in, not the image)" if record.get("stand_in") else ""),
        "reference": record["reference"],
        "digest": record.get("digest"),
        "torch": torch.get("version"),
        "CUDA": torch.get("cuda"),
        "Python": held.get("python"),
        "GPU": ", ".join(gpu["name"] for gpu in held.get("gpus", ())),
        "driver": held.get("driver"),
        "system": held.get("os"),
        "packages": ", ".join(f"{name} {version}" for name, version in held.get("packages", {}).items()),
    }
    return {name: str(value) for name, value in found.items() if value}
