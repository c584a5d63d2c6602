"""The table as Markdown for GitHub: headline, what to do, grid, notes, background; within a budget of bytes."""

from __future__ import annotations

from collections import Counter
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from functools import lru_cache

from torch_compat_matrix.reports import sections as background
from torch_compat_matrix.reports import several
from torch_compat_matrix.reports.changes import Changes
from torch_compat_matrix.reports.escape import count, text
from torch_compat_matrix.reports.grades import appeared
from torch_compat_matrix.reports.notes import DIFFERS, NEW, UNEXPLAINED, URGENT, Note, fold, number
from torch_compat_matrix.reports.page import NEW_MARK, Part, page, rows
from torch_compat_matrix.reports.standing import Standing, opening, standing, troubles
from torch_compat_matrix.reports.table import Table
from torch_compat_matrix.runner.judging import Judged
from torch_compat_matrix.runner.model import COMMANDS, PROBES, SUITE, Verdict
from torch_compat_matrix.runner.outcome import Outcome

NO_PASS = [verdict for verdict in Verdict if verdict is not Verdict.PASS]
MARKS = dict(zip(NO_PASS, ("❌", "💥", "⌛", "🪫", "🚫", "⬜", "⚠️", "❔"), strict=True))
ON_GPU, ON_CPU = "✅", "☑️"
SUPERFICIAL_ON_GPU, SUPERFICIAL_ON_CPU = "🔷", "🔹"
REPLACED, CONSTRAINED, PARTIAL = "🔀", "📌", "✂️"
PASSES = {
    ON_GPU: "passes on the GPU",
    ON_CPU: "passes on the CPU",
    SUPERFICIAL_ON_GPU: "superficial: runs on the GPU, by a generic probe that compares nothing",
    SUPERFICIAL_ON_CPU: "superficial: runs on the CPU, by a generic probe that compares nothing",
}
_WORDS = "fails|crashes|times out|out of memory|cannot work here|skipped|host trouble, no verdict|not run"
MEANINGS = dict(zip(NO_PASS, _WORDS.split("|"), strict=True))
SUMMARY_BYTES = 900 << 10
"""GitHub drops a step summary over 1 MiB whole."""
COLUMNS = 8
"""The images of one table: more are not readable on a screen."""


def markdown(table: Table, changes: Changes | None, most: int | None = SUMMARY_BYTES) -> str:
    """The whole report in at most so many bytes."""
    notes = number(table, changes)
    headline = ["# PyTorch compatibility matrix", "", f"**{text(summary(table, changes))}**", ""]
    made_on = (f"**{text(words)}**" if strong else text(words) for words, strong in circumstances(table))
    claims = Counter(claim.verdict for claim in table.claims)
    verdicts = ", ".join(f"{number} {verdict}" for verdict, number in claims.items())
    said = f"Claims about these images and libraries: {verdicts}; see `claims.md` beside this report."
    return page(
        [
            Part(name="headline", keep=99, blocks=[*headline, " ".join(made_on), ""]),
            background.notes(table, changes, "What to do", [note for note in notes if note.kind in URGENT], keep=90),
            *_grid(table, notes),
            background.fixed(changes),
            several.conflicts(table),
            several.listed(table),
            background.notes(table, changes, "Notes", [note for note in notes if note.kind not in URGENT], keep=40),
            background.environments(table),
            background.expectations(table),
            Part(name="claims", keep=80, blocks=[said, ""] if claims else []),
            background.numerics(table, changes),
            background.metrics(table),
            background.known(table),
            background.made(table),
        ],
        most,
    )


def what_to_do(table: Table, changes: Changes | None, most: int, only: Collection[str] = ()) -> str:
    """The urgent notes, or those of these checks alone, in at most so many bytes."""
    notes = [note for note in number(table, changes) if note.kind in URGENT]
    wanted = [note for note in notes if not only or any(judged.outcome.check in only for judged in note.members)]
    return page([background.notes(table, changes, "What to do", wanted, keep=1)], most)


@lru_cache(1)  # each file of a report begins with it
def summary(table: Table, changes: Changes | None) -> str:
    """The most important facts, in one or two sentences."""
    counts = Counter(outcome.grade or outcome.verdict.value for outcome in table.outcomes.values())
    order = [verdict.value for verdict in Verdict]
    told = sorted(counts, key=lambda name: order.index(name) if name in order else 0.5)  # a superficial pass
    done = ", ".join(f"{counts[verdict]} {verdict}" for verdict in told)
    failures = [judged for judged in table.surprises if judged.surprise == "unexpected failure"]
    unexpected = [judged for judged in failures if not judged.outcome.unconfirmed]
    stands = standing(table)
    sentences = list(filter(None, [opening(table, stands)]))
    if changes is not None and (changes.failing or changes.lost):
        sentences.append(f"Against {changes.baseline}: {changes.counts}.")
    if unexpected:
        whole = {judged.outcome.image for judged in unexpected} & table.unstarted
        single = sum(judged.outcome.image not in whole for judged in unexpected)
        cells = dict.fromkeys(_where(table, judged.outcome) for judged in unexpected)
        named = ", ".join(list(cells)[:3]) + (f" and {len(cells) - 3} more" if len(cells) > 3 else "")
        causes = sum(note.kind in (NEW, DIFFERS, UNEXPLAINED) for note in number(table, changes))
        of = f" of {count(causes, 'cause')}" if 0 < causes < single + len(whole) else ""
        doubt = ", to be repeated on healthy hosts" if stands is Standing.UNHEALTHY else ""
        sentences.append(f"{count(single + len(whole), 'unexpected failure')}{of}{doubt}: {named}.")
    if doubtful := len(failures) - len(unexpected):
        sentences.append(
            f"{count(doubtful, 'unconfirmed failure')}, which {'is' if doubtful == 1 else 'are'} no news yet."
        )
    if noisy := sum(bool(outcome.quarantined) for outcome in table.outcomes.values()):
        sentences.append(f"{count(noisy, 'quarantined check')}, which {'does' if noisy == 1 else 'do'} not count.")
    for kind, plural in (("unexpected pass", "unexpected passes"), ("expired", "expired `known:` entries")):
        if found := sum(judged.surprise == kind for judged in table.surprises):
            sentences.append(f"{found} {kind if found == 1 and kind != 'expired' else plural}.")
    if stands is Standing.CLEAN:
        sentences.append("Everything is as expected.")
    elif not (table.surprises or stands is Standing.EMPTY):
        sentences.append("No surprise so far.")
    releases = list(appeared(table))
    sentences += releases[: background.MOST_SHOWN]
    sentences += ["More appeared: see the table."] if len(releases) > background.MOST_SHOWN else []
    if table.incomplete:
        why = "" if stands is Standing.UNHEALTHY else troubles(table)
        sentences.append(f"{count(len(table.incomplete), 'check')} without a verdict{f' ({why})' if why else ''}.")
    if table.unreadable:
        sentences.append(f"{count(table.unreadable, 'record')} cannot be read.")
    sentences += several.sentences(table)
    outcomes = table.outcomes.values()
    if untrue := sum(judged.outcome.verdict is Verdict.FAIL for judged in table.expectations):
        sentences.append(f"{count(untrue, 'expectation')} of images not met.")
    if unnamed := sum(outcome.reason == "unclassified" for outcome in outcomes):
        sentences.append(f"{count(unnamed, 'failure')} that no rule names.")
    if table.warm_disagreed:
        sentences.append(f"warm process disagreed: {table.warm_disagreed}.")
    if reused := sum(bool(outcome.reused) for outcome in outcomes):
        sentences.append(f"{count(reused, 'outcome')} reused from earlier runs, since nothing changed.")
    if changes is not None and not (changes.failing or changes.lost):
        sentences.append(f"Against {changes.coverage(len(table.outcomes))}: {changes.counts}.")
    return " ".join(sentences) + f" ({len(table.outcomes)} checks: {done})"


def _where(table: Table, outcome: Outcome) -> str:
    """The place of an unexpected failure: a cell, an expectation, or a whole image."""
    if outcome.image in table.unstarted:
        return f"the whole of {outcome.image}"
    if outcome.subject == "expects":
        return f"{outcome.check}, said to be {outcome.version}"
    if outcome.subject == COMMANDS:
        return outcome.check
    return f"{outcome.subject} {outcome.version} in {outcome.image}"


def circumstances(table: Table) -> Iterator[tuple[str, bool]]:
    """What the run was made on and how many cells work, in sentences, each with whether nobody may miss it."""
    gpus = sorted({gpu["name"] for record in table.environments.values() for gpu in record["facts"].get("gpus", ())})
    devices = {outcome.device for outcome in table.outcomes.values()} - {""}
    if "cuda" in devices:
        yield f"Device under test: GPU ({', '.join(gpus)}).", False
        if "cpu" in devices:
            yield "Some checks ran on a CPU, which says nothing about a GPU.", False
    elif devices:
        yield "Device under test: CPU only. Nothing here says anything about a GPU.", True
    else:
        yield "No probe ran on any device.", False
    if any(record.get("stand_in") for record in table.environments.values()):
        yield "Images are stand-ins: virtual environments in their place, not the images themselves.", True
    working = [grade for grade in table.grades if grade.works]
    superficial = sum(grade.superficial for grade in working)
    generic = f", {superficial} of them superficially" if superficial else ""
    works = f"{len(working)} of {len(table.grades)} cells work{generic}"
    yield f"{works}: all that the matrix asks for passes, on the device that it asks for.", False


def _grid(table: Table, notes: Sequence[Note]) -> Iterator[Part]:
    """A table for at most so many images of a line of CUDA each."""
    numbers = {judged.outcome.check: note for note in notes for judged in note.members}
    used = {verdict for verdict in Verdict if table.counts[verdict]}
    legend = "Marks in a box: import, sample, autograd, compile. " + " · ".join(_legend(table, used, notes))
    yield Part(name="legend", keep=95, blocks=["## Table", "", legend, ""])
    blocked = table.blocked
    for title, images in _columns(table):
        heads = [text(table.titles[image]) for image in images]
        head, lines = rows(["", *heads], _lines(table, images, numbers, blocked))
        yield Part(
            name="row", keep=60, head=[*([f"### {text(title)}", ""] if title else []), *head], blocks=lines, tail=[""]
        )


def _columns(table: Table) -> Iterator[tuple[str, Sequence[str]]]:
    """The images of each table, under a title where there are several."""
    if len(table.images) <= COLUMNS:
        yield "", table.images
        return
    lines: dict[str, list[str]] = {}
    cuda = {one["image"]: (one["facts"].get("torch") or {}).get("cuda") for one in table.environments.values()}
    for image in table.images:
        lines.setdefault(f"CUDA {cuda[image]}" if cuda.get(image) else "Without CUDA", []).append(image)
    for title, images in sorted(lines.items()):
        for start in range(0, len(images), COLUMNS):
            yield title + (", continued" if start else ""), images[start : start + COLUMNS]


def _lines(
    table: Table, images: Sequence[str], numbers: Mapping[str, Note], blocked: Mapping[str, str]
) -> Iterator[list[str]]:
    """The rows; neighbouring versions of a library whose boxes are equal share one."""
    subjects: dict[str, list[tuple[str, tuple[str, ...]]]] = {}
    for subject, version in table.rows:
        found = (table.boxes.get((image, subject, version), {}) for image in images)
        boxes = tuple(_box(table, box, numbers, blocked) for box in found)
        if any(boxes):
            subjects.setdefault(subject, []).append((version, boxes))
    for subject, versions in subjects.items():
        for folded, boxes in fold(versions):
            yield [text(f"{subject} {folded}".strip()), *boxes]


def _legend(table: Table, used: Iterable[Verdict], notes: Sequence[Note]) -> Iterator[str]:
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
    if any(note.kind == NEW for note in notes):
        yield f"{NEW_MARK} fails, and passed at its last verdict"
    yield "<sup>n</sup> see note n"


def _box(table: Table, box: Mapping[str, Judged], numbers: Mapping[str, Note], blocked: Mapping[str, str]) -> str:
    if not box:
        return ""
    probes = PROBES if box.keys() & {*PROBES} else tuple(box)  # an image's own commands have a mark each
    probes = (*probes, *([SUITE] if SUITE in box and SUITE not in probes else []))
    marks = "".join(mark(table, box[probe].outcome) if probe in box else "·" for probe in probes)
    passed = [judged.outcome for judged in box.values() if judged.outcome.verdict is Verdict.PASS]
    marks += REPLACED if any(outcome.replaced for outcome in passed) else ""
    marks += CONSTRAINED if any(outcome.drift for outcome in passed) else ""
    marks += PARTIAL if any(outcome.left_out for outcome in passed) else ""
    noted = {
        note.number: note for judged in box.values() for note in [numbers.get(judged.outcome.check)] if note is not None
    }
    for library in dict.fromkeys(
        blocked[judged.outcome.check] for judged in box.values() if judged.outcome.check in blocked
    ):
        marks += f" blocked by {text(library)}"
    marks += f" {NEW_MARK}" if any(note.kind == NEW for note in noted.values()) else ""
    return marks + (f"<sup>{', '.join(map(str, sorted(noted)))}</sup>" if noted else "")


def mark(table: Table, outcome: Outcome) -> str:
    """One character for an outcome; a pass on a CPU looks different from one on a GPU."""
    if outcome.verdict is Verdict.PASS:
        marks = (SUPERFICIAL_ON_GPU, SUPERFICIAL_ON_CPU) if outcome.grade else (ON_GPU, ON_CPU)
        return marks[not table.passed_on_gpu(outcome)] + ("🔁" if outcome.flaky else "")
    return MARKS[outcome.verdict]
