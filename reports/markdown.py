"""The table as Markdown for GitHub: headline, grid, numbered notes with evidence, environments, how to reproduce."""

from __future__ import annotations

import shlex
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass

from torch_compat_matrix.reports import sections as background
from torch_compat_matrix.reports.changes import Changes
from torch_compat_matrix.reports.escape import code, count, grid, prose, text
from torch_compat_matrix.reports.table import Table, waits
from torch_compat_matrix.runner.judging import Judged
from torch_compat_matrix.runner.model import COMMANDS, PROBES, SUITE, Verdict
from torch_compat_matrix.runner.outcome import Outcome
from torch_compat_matrix.runner.records.runs import STILL_GOING

MARKS = {
    Verdict.FAIL: "❌",
    Verdict.CRASH: "💥",
    Verdict.TIMEOUT: "⌛",
    Verdict.OOM: "🪫",
    Verdict.UNSUPPORTED: "🚫",
    Verdict.SKIP: "⬜",
    Verdict.INFRA: "⚠️",
    Verdict.NOT_RUN: "❔",
}
ON_GPU, ON_CPU = "✅", "☑️"
SUPERFICIAL_ON_GPU, SUPERFICIAL_ON_CPU = "🔷", "🔹"
REPLACED, CONSTRAINED, PARTIAL = "🔀", "📌", "✂️"
PASSES = {
    ON_GPU: "passes on the GPU",
    ON_CPU: "passes on the CPU",
    SUPERFICIAL_ON_GPU: "superficial: runs on the GPU, by a generic probe that compares nothing",
    SUPERFICIAL_ON_CPU: "superficial: runs on the CPU, by a generic probe that compares nothing",
}
MEANINGS = {
    Verdict.FAIL: "fails",
    Verdict.CRASH: "crashes",
    Verdict.TIMEOUT: "times out",
    Verdict.OOM: "out of memory",
    Verdict.UNSUPPORTED: "cannot work here",
    Verdict.SKIP: "skipped",
    Verdict.INFRA: "host trouble, no verdict",
    Verdict.NOT_RUN: "not run",
}
MOST_NOTES = 400
"""GitHub drops a step summary over 1 MiB whole; a note takes about one KiB."""


@dataclass(frozen=True, slots=True)
class Note:
    """Outcomes with the same message, under one number."""

    number: int
    members: tuple[Judged, ...]


def markdown(table: Table, changes: Changes | None, claims: Mapping[str, int] | None = None) -> str:
    """The whole report; `claims` counts the verdicts of claims.md beside it."""
    notes = number(table)
    parts = [
        _headline(table, changes),
        _grid(table, notes),
        _notes(notes),
        _changes(changes),
        background.drift(table),
        background.environments(table),
        background.expectations(table),
        _claims(claims or {}),
        background.numerics(table, changes),
        background.metrics(table),
        background.known(table),
        background.made(table),
    ]
    return "\n".join(line for part in parts for line in part).rstrip() + "\n"


def summary(table: Table, changes: Changes | None) -> str:
    """The most important facts, in one or two sentences."""
    counts = Counter(outcome.grade or outcome.verdict.value for outcome in table.outcomes.values())
    done = ", ".join(f"{counts[verdict]} {verdict}" for verdict in sorted(counts, key=_rank))
    unexpected = [judged for judged in table.surprises if judged.surprise == "unexpected failure"]
    sentences = []
    if table.state == STILL_GOING:
        number = len(table.outcomes)
        sentences.append(f"The run is still going: {number - len(table.waiting)} of {number} checks are done.")
    if unexpected:
        whole = {judged.outcome.image for judged in unexpected} & table.unstarted
        single = sum(judged.outcome.image not in whole for judged in unexpected)
        cells = dict.fromkeys(_where(table, judged.outcome) for judged in unexpected)
        named = ", ".join(list(cells)[:3]) + (f" and {len(cells) - 3} more" if len(cells) > 3 else "")
        sentences.append(f"{count(single + len(whole), 'unexpected failure')}: {named}.")
    for kind, plural in (("unexpected pass", "unexpected passes"), ("expired", "expired `known:` entries")):
        number = sum(judged.surprise == kind for judged in table.surprises)
        if number:
            sentences.append(f"{number} {kind if number == 1 and kind != 'expired' else plural}.")
    if not table.surprises:
        clean = not (table.incomplete or table.waiting or table.unreadable)
        sentences.append("Everything is as expected." if clean else "No surprise so far.")
    if table.incomplete:
        sentences.append(f"{count(len(table.incomplete), 'check')} without a verdict.")
    if table.unreadable:
        sentences.append(f"{count(table.unreadable, 'record')} cannot be read.")
    untrue = sum(judged.outcome.verdict is Verdict.FAIL for judged in table.expectations)
    if untrue:
        sentences.append(f"{count(untrue, 'expectation')} of images not met.")
    unnamed = sum(outcome.reason == "unclassified" for outcome in table.outcomes.values())
    if unnamed:
        sentences.append(f"{count(unnamed, 'failure')} that no rule names.")
    if table.warm_disagreed:
        sentences.append(f"warm process disagreed: {table.warm_disagreed}.")
    reused = sum(bool(outcome.reused) for outcome in table.outcomes.values())
    if reused:
        sentences.append(f"{count(reused, 'outcome')} reused from earlier runs, since nothing changed.")
    if changes is not None:
        moved = [
            (len(changes.failing), "newly failing"),
            (len(changes.fixed), "fixed"),
            (len(changes.other), "failing differently"),
        ]
        words = ", ".join(f"{count} {what}" for count, what in moved if count)
        sentences.append(f"Since {changes.baseline}: {words or 'nothing changed'}.")
    return " ".join(sentences) + f" ({len(table.outcomes)} checks: {done})"


def _rank(shown: str) -> float:
    """The place of a verdict, or of a superficial pass, in the headline."""
    verdicts = [verdict.value for verdict in Verdict]
    return verdicts.index(shown) if shown in verdicts else 0.5


def _where(table: Table, outcome: Outcome) -> str:
    """The place of an unexpected failure: a cell, an expectation, or a whole image."""
    if outcome.image in table.unstarted:
        return f"the whole of {outcome.image}"
    if outcome.subject == "expects":
        return f"{outcome.check}, said to be {outcome.version}"
    if outcome.subject == COMMANDS:
        return outcome.check
    return f"{outcome.subject} {outcome.version} in {outcome.image}"


def _headline(table: Table, changes: Changes | None) -> Iterator[str]:
    yield "# PyTorch compatibility matrix"
    yield ""
    yield f"**{text(summary(table, changes))}**"
    yield ""
    gpus = sorted({gpu["name"] for record in table.environments.values() for gpu in record["facts"].get("gpus", ())})
    ran = [outcome for outcome in table.outcomes.values() if outcome.device]
    where = []
    if any(outcome.device == "cuda" for outcome in ran):
        where.append(f"Device under test: GPU ({text(', '.join(gpus))}).")
        if any(outcome.device == "cpu" for outcome in ran):
            where.append(f"Some checks ran on a CPU: {ON_CPU} says nothing about a GPU.")
    elif ran:
        where.append("Device under test: **CPU only. Nothing here says anything about a GPU.**")
    else:
        where.append("No probe ran on any device.")
    if any(record.get("stand_in") for record in table.environments.values()):
        where.append("Images are **stand-ins**: virtual environments in their place, not the images themselves.")
    yield " ".join(where)
    yield ""


def number(table: Table) -> tuple[Note, ...]:
    """The outcomes that need a note, grouped by message, surprises first."""
    groups: dict[tuple[str, ...], list[Judged]] = {}
    for judged in table.judged:
        outcome = judged.outcome
        plain = (
            outcome.verdict is Verdict.PASS or waits(outcome) or outcome.reason in ("import-failed", "not-applicable")
        )
        if plain and not (judged.surprise or outcome.flaky or _noted(outcome)):
            continue
        # host trouble, and what kept the whole image from starting, concern the image, not each cell
        whole = not outcome.verdict.final or outcome.image in table.unstarted
        cell = ("", "") if whole else (outcome.subject, outcome.version)
        key = (outcome.image, *cell, outcome.verdict.value, outcome.reason, outcome.evidence, *outcome.caveats.values())
        groups.setdefault(key, []).append(judged)
    ordered = sorted(groups.values(), key=_urgency)
    return tuple(Note(index, tuple(members)) for index, members in enumerate(ordered, 1))


def _urgency(members: Sequence[Judged]) -> tuple[bool, bool, bool, bool]:
    """Surprises come first, then the other failures, then what a pass has to say; what blames nobody follows apart."""
    first = members[0]
    noted = _noted(first.outcome) and not first.outcome.flaky
    return first.outcome.blames_nobody, not first.surprise, noted, first.known is not None


def _noted(outcome: Outcome) -> bool:
    """Whether a pass holds only for other packages than the image's, or without some of its parts."""
    return outcome.verdict is Verdict.PASS and bool(outcome.caveats)


def _grid(table: Table, notes: Sequence[Note]) -> Iterator[str]:
    numbers = {judged.outcome.check: note.number for note in notes for judged in note.members}
    used = {verdict for verdict in Verdict if table.counts[verdict]}
    yield "## Table"
    yield ""
    yield "The marks of a box: import, sample, autograd, compile. " + " · ".join(_legend(table, used))
    yield ""
    rows = []
    for subject, version in table.rows:
        boxes = [_box(table, table.boxes.get((image, subject, version), {}), numbers) for image in table.images]
        rows.append([text(f"{subject} {version}".strip()), *boxes])
    yield grid(rows, ["", *map(text, table.images)])
    yield ""


def _legend(table: Table, used: Iterable[Verdict]) -> Iterator[str]:
    passed = [outcome for outcome in table.outcomes.values() if outcome.verdict is Verdict.PASS]
    marks = {mark(table, outcome)[0] for outcome in passed}
    yield from (f"{meant} {meaning}" for meant, meaning in PASSES.items() if meant[0] in marks)
    for verdict in MARKS:
        if verdict in used:
            yield f"{MARKS[verdict]} {MEANINGS[verdict]}"
    if any(outcome.flaky for outcome in passed):
        yield "🔁 flaky: passes after a fresh process failed"
    if any(outcome.replaced for outcome in passed):
        yield f"{REPLACED} with packages of the image replaced"
    if any(outcome.drift for outcome in passed):
        yield f"{CONSTRAINED} passes constrained; a plain `pip install` replaces packages of the image"
    if any(outcome.left_out for outcome in passed):
        yield f"{PARTIAL} passes without a part that could not run here"
    yield "[n] see note n"


def _box(table: Table, box: Mapping[str, Judged], numbers: Mapping[str, int]) -> str:
    if not box:
        return ""
    probes = PROBES if box.keys() & {*PROBES} else tuple(box)  # an image's own commands have a mark each
    probes = (*probes, *([SUITE] if SUITE in box and SUITE not in probes else []))
    marks = "".join(mark(table, box[probe].outcome) if probe in box else "·" for probe in probes)
    passed = [judged.outcome for judged in box.values() if judged.outcome.verdict is Verdict.PASS]
    marks += REPLACED if any(outcome.replaced for outcome in passed) else ""
    marks += CONSTRAINED if any(outcome.drift for outcome in passed) else ""
    marks += PARTIAL if any(outcome.left_out for outcome in passed) else ""
    noted = sorted({numbers[judged.outcome.check] for judged in box.values() if judged.outcome.check in numbers})
    return marks + "".join(f"[{number}](#note-{number})" for number in noted)


def mark(table: Table, outcome: Outcome) -> str:
    """One character for an outcome; a pass on a CPU looks different from one on a GPU."""
    if outcome.verdict is Verdict.PASS:
        marks = (SUPERFICIAL_ON_GPU, SUPERFICIAL_ON_CPU) if outcome.grade else (ON_GPU, ON_CPU)
        return marks[not table.passed_on_gpu(outcome)] + ("🔁" if outcome.flaky else "")
    return MARKS[outcome.verdict]


def _notes(notes: Sequence[Note]) -> Iterator[str]:
    if not notes:
        return
    yield "## Notes"
    yield ""
    headed = False
    for note in notes[:MOST_NOTES]:
        first = note.members[0]
        if first.outcome.blames_nobody and not headed:
            headed = True
            yield from ("", "### Failures that blame nobody", "")
            yield from ("No rule has evidence against anybody; a guess is none.", "")
        outcome = first.outcome
        probes = ", ".join(dict.fromkeys(_probe_name(judged.outcome) for judged in note.members))
        cells = dict.fromkeys(judged.outcome.cell for judged in note.members)
        cell = next(iter(cells)) if len(cells) == 1 else f"{outcome.image}/*"
        where = cell if len(cells) == 1 else f"{outcome.image}, {len(cells)} cells"
        kind = f"**{first.surprise}**: " if first.surprise else ""
        blame = f", blame: {text(outcome.blame)}" if outcome.blame else ""
        verdict = outcome.shown
        what = f"{code(outcome.reason)} ({verdict}{blame})" if outcome.reason else verdict
        anchor = f'<a id="note-{note.number}"></a>'
        yield f"{note.number}. {anchor}{kind}{text(f'{where} ({probes})')}: {what}"
        if outcome.detail and outcome.detail != outcome.evidence:
            yield f"   - {prose(outcome.detail)}"
        if outcome.evidence:
            yield f"   - evidence: {code(outcome.evidence)}"
        if outcome.guess:
            yield f"   - {prose(outcome.guess)}"
        if outcome.install_note:
            yield f"   - {prose(outcome.install_note)}"
        if outcome.left_out:
            yield f"   - left out: {prose(outcome.left_out)}"
        if outcome.drift and outcome.verdict is not Verdict.PASS:
            yield f"   - a plain install would replace: {text(', '.join(outcome.drift))}"
        if outcome.remedy:
            yield f"   - remedy: {prose(outcome.remedy)}"
        owners = dict.fromkeys(judged.outcome.owner for judged in note.members if judged.outcome.owner)
        if owners and outcome.verdict is not Verdict.PASS:
            yield f"   - owner: {text(', '.join(owners))}"
        if {*outcome.attempts} - {outcome.verdict.value}:
            yield f"   - earlier attempts: {text(', '.join(outcome.attempts))}"
        if outcome.reused:
            yield f"   - reused from run {code(outcome.reused)} of {text(outcome.started)}"
        if first.known is not None:
            link = f" ({first.known.link})" if first.known.link else ""
            expires = f", until {first.known.expires}" if first.known.expires else ""
            yield f"   - known: {text(first.known.reason + link)}{expires}"
        yield f"   - {code('compat show ' + shlex.quote(cell))}"
    if len(notes) > MOST_NOTES:
        yield ""
        yield f"{len(notes) - MOST_NOTES} more notes are left out here; report.json has all of them."
    yield ""


def _probe_name(outcome: Outcome) -> str:
    return "CUDA sample" if outcome.probe == "sample" and outcome.device == "cuda" else outcome.probe


def _changes(changes: Changes | None) -> Iterator[str]:
    if changes is None or not (changes.failing or changes.fixed or changes.other or changes.new or changes.gone):
        return
    yield f"## Changes since {text(changes.baseline)}"
    yield ""
    if changes.causes:
        yield (
            "Other changes, the likely cause first: "
            + "; ".join(text(cause.what) for cause in changes.causes[:12])
            + "."
        )
        yield ""
    for title, checks in (
        ("newly failing", [_caused(changes, outcome) for outcome in changes.failing]),
        ("fixed", [outcome.check for outcome in changes.fixed]),
        ("failing differently", [f"{now.check} ({then.reason} -> {now.reason})" for then, now in changes.other]),
        ("new", changes.new),
        ("gone", changes.gone),
    ):
        if checks:
            more = f" and {len(checks) - 20} more" if len(checks) > 20 else ""
            yield f"- {title}: {', '.join(map(text, checks[:20]))}{more}"
    yield ""


def _caused(changes: Changes, outcome: Outcome) -> str:
    cause = changes.cause_of(outcome)
    return f"{outcome.check} (likely: {cause})" if cause else outcome.check


def _claims(counts: Mapping[str, int]) -> Iterator[str]:
    if counts:
        verdicts = ", ".join(f"{number} {verdict}" for verdict, number in counts.items())
        yield f"Claims about these images and libraries: {verdicts}; see [claims.md](claims.md)."
        yield ""
