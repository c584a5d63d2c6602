"""The report as one page of HTML: it loads nothing, and without JavaScript it is a plain table."""

from __future__ import annotations

import base64
import hashlib
import re
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

from torch_compat_matrix.reports import several
from torch_compat_matrix.reports.changes import Changes
from torch_compat_matrix.reports.details import Placed, details, facts
from torch_compat_matrix.reports.markdown import MEANINGS, circumstances, summary
from torch_compat_matrix.reports.notes import NOTED, URGENT, Note, fold, number, places
from torch_compat_matrix.reports.table import Table
from torch_compat_matrix.runner.files import to_json
from torch_compat_matrix.runner.model import PROBES, SUITE, Verdict
from torch_compat_matrix.runner.model import digest as digest_of
from torch_compat_matrix.runner.outcome import Outcome
from torch_compat_matrix.runner.signature import short
from torch_compat_matrix.runner.text import printable

if TYPE_CHECKING:
    from jinja2 import Environment

TEMPLATES = Path(__file__).with_name("templates")
SYMBOLS = dict(zip(Verdict, "✓✗‼◷▣⊘-△◌", strict=True))
WORDS = {Verdict.UNSUPPORTED: "cannot", Verdict.NOT_RUN: "not run"}
LABELS = {
    "new": "newly failing",
    "differs": "failing differently",
    "still": "still failing",
    "first": "failing, never seen before",
    "fixed": "fixed",
    "lost": "lost evidence",
    "open": "no verdict",
    "known": "known",
    "pass": "pass",
    "skip": "skipped",
}
"""The states of a check, the most urgent first."""
ALWAYS = ("new", "still", "fixed", "lost", "open")
"""The states that have a counter even where it is zero."""
VIEWS = {"grid": "Table", "images": "By image", "libraries": "By library", "compare": "Compare", "metrics": "Metrics"}
MOST_CAUSES = 100
"""The causes in the list of what to do."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Mark:
    """A check in the grid; `name` where it stands below no probe's heading."""

    words: str
    look: str
    name: str = ""


@dataclass(frozen=True, kw_only=True, slots=True)
class Use:
    """The versions of a library in an image: those that work, those that do not, and those that showed too little."""

    works: list[str] = field(default_factory=list)
    fails: list[str] = field(default_factory=list)
    partly: list[str] = field(default_factory=list)


@dataclass(frozen=True, kw_only=True, slots=True)
class Cause:
    """A note of what did not pass, with the states of its checks and the places where it is seen."""

    note: Note
    states: str
    places: list[str]


def page(table: Table, changes: Changes | None, links: Mapping[str, Sequence[Any]] | None = None) -> Iterator[str]:
    """The page in pieces; `links`: other pages under their headings, each with a name and a path."""
    states = states_of(table, changes)
    probes = (*PROBES, *([SUITE] if any(SUITE in box for box in table.boxes.values()) else []))
    marked: list[Placed] = []
    by_image, by_library = usable(table)
    rows = list(_rows(table, states, probes, marked))
    yield from render(
        "report.html",
        table=table,
        changes=changes,
        several=several.as_json(table),
        conflicts={check: list(map(several.said, found)) for check, found in table.conflicts.items()},
        title="PyTorch compatibility matrix",
        summary=summary(table, changes),
        circumstances=list(circumstances(table)),
        labels=LABELS,
        always=ALWAYS,
        views=VIEWS,
        counts=Counter(states.values()),
        links=links or {},
        causes=list(causes(table, changes, states)),
        urgent=URGENT,
        most=MOST_CAUSES,
        states=states,
        probes=probes,
        rows=rows,
        legend={f"{SYMBOLS[verdict]} {WORDS.get(verdict, verdict.value)}": MEANINGS[verdict] for verdict in MEANINGS},
        by_image=by_image,
        by_library=by_library,
        data=details(table, states, marked),
    )


def causes(table: Table, changes: Changes | None, states: Mapping[str, str]) -> Iterator[Cause]:
    """The notes, the most important first, but those about passes that only have something to say."""
    for note in number(table, changes):
        if note.kind != NOTED:
            outcomes = [judged.outcome for judged in note.members]
            of_members = " ".join(sorted({states.get(outcome.check, "") for outcome in outcomes}))
            yield Cause(note=note, states=of_members, places=list(places(table, outcomes)))


def states_of(table: Table, changes: Changes | None) -> Mapping[str, str]:
    """Check -> what a reader has to know of it at once, one of LABELS."""
    states: dict[str, str] = {}
    for judged in table.judged:
        outcome = judged.outcome
        state: str = changes.states.get(outcome.check, "no-base") if changes else "no-base"
        if outcome.verdict.broken and judged.known and not judged.surprise:
            state = "known"
        elif state in ("no-base", "same"):
            state = "first" if outcome.verdict.broken else outcome.verdict.value if outcome.verdict.final else "open"
        states[outcome.check] = state
    return states


def render(template: str, **values: Any) -> Iterator[str]:
    """The template filled in, in pieces."""
    return environment().get_template(template).generate(**values)


@cache
def environment() -> Environment:
    """Jinja with every recorded text escaped and inert."""
    from jinja2 import Environment, FileSystemLoader, StrictUndefined  # only now: a bare host compiles the rest

    def quiet(value: Any) -> Any:
        return printable(value) if type(value) is str else value

    found = Environment(
        loader=FileSystemLoader(TEMPLATES),
        autoescape=True,
        finalize=quiet,
        trim_blocks=True,
        lstrip_blocks=True,
        undefined=StrictUndefined,
    )
    found.policies["json.dumps_function"] = lambda value, **_: to_json(value)
    script = (TEMPLATES / "report.js").read_text(encoding="utf-8")
    digest = base64.b64encode(hashlib.sha256(script.encode()).digest()).decode()
    style = (TEMPLATES / "style.css").read_text(encoding="utf-8")
    found.globals |= {
        "file": file_of,
        "short": short,
        "facts": facts,
        "script": script,
        "digest": digest,
        "style": style,
    }
    return found


def file_of(name: str) -> str:
    """The name as a file's: itself where it can be, else with a hash, so that no two names share a file."""
    plain = re.sub(r"[^A-Za-z0-9._@-]+", "-", name)
    return plain if plain == name and name.strip(".") else f"{plain.strip('.')}-{digest_of(name)[:6]}"


def _rows(
    table: Table, states: Mapping[str, str], probes: Sequence[str], marked: list[Placed]
) -> Iterator[tuple[str, list[tuple[bool, list[Mark | None]]]]]:
    """Name and boxes of each row; a box is marks in the order of the probes, or named ones.

    Each mark's outcome is added to `marked`, with the numbers of its row and column.
    """
    for place, (subject, version) in enumerate(table.rows):
        boxes: list[tuple[bool, list[Mark | None]]] = []
        for column, image in enumerate(table.images):
            box = table.boxes.get((image, subject, version), {})
            named = bool(box) and not box.keys() & {*PROBES}
            marks: list[Mark | None] = []
            for probe in box if named else probes:
                if probe in box:
                    marked.append((box[probe], place, column))
                    marks.append(_mark(table, box[probe].outcome, states[box[probe].outcome.check], named))
                else:
                    marks.append(None)
            boxes.append((named, marks))
        yield f"{subject} {version}".strip(), boxes


def _mark(table: Table, outcome: Outcome, state: str, named: bool) -> Mark:
    symbol, word = SYMBOLS[outcome.verdict], WORDS.get(outcome.verdict, outcome.verdict.value)
    if outcome.verdict is Verdict.PASS:
        symbol, word = "≈" if outcome.grade else symbol, "GPU" if table.passed_on_gpu(outcome) else "CPU"
    look = f"{outcome.verdict.value} {state}" if outcome.verdict.value != state else state
    return Mark(words=f"{symbol} {word}", look=look, name=outcome.probe if named else "")


def usable(table: Table) -> tuple[Mapping[str, Mapping[str, Use]], Mapping[str, Mapping[str, Use]]]:
    """Image -> library -> its versions, and library -> image -> its versions."""
    found: dict[tuple[str, str], list[tuple[str, tuple[str, str]]]] = {}
    for grade in table.grades:
        box = table.boxes[grade.image, grade.subject, grade.version]
        broken = next((judged.outcome for judged in box.values() if judged.outcome.verdict.broken), None)
        where = " on the GPU" if grade.on_gpu else " on the CPU" if grade.shows else ""
        if grade.works:
            answer = "works", where + (", superficially" if grade.superficial else "")
        elif broken is not None:
            reason = f"blocked by {grade.blocked_by}" if grade.blocked_by else broken.reason or broken.verdict.value
            answer = "fails", f" ({broken.probe}: {reason})"
        else:
            answer = "partly", f" ({', '.join(grade.shows)}{where})" if grade.shows else " (no verdict)"
        found.setdefault((grade.image, grade.subject), []).append((grade.version or ", ".join(box), answer))
    by_image: dict[str, dict[str, Use]] = {}
    by_library: dict[str, dict[str, Use]] = {}
    for (image, subject), versions in found.items():
        use = by_image.setdefault(image, {}).setdefault(subject, Use())
        by_library.setdefault(subject, {})[image] = use
        for version, (kind, words) in fold(versions):
            getattr(use, kind).append(version + words)
    return by_image, by_library
