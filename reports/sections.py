"""The sections of the page beside its table: notes, environments, expectations, numbers, known issues, the run."""

from __future__ import annotations

import shlex
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from torch_compat_matrix.reports.changes import Changes
from torch_compat_matrix.reports.escape import code, count, prose, text
from torch_compat_matrix.reports.expectations import cudnn
from torch_compat_matrix.reports.notes import DIFFERS, EXPECTED_NO_LONGER, EXPIRED, LOST, NEW, UNEXPLAINED, Note, places
from torch_compat_matrix.reports.page import Part, grid
from torch_compat_matrix.reports.table import Table
from torch_compat_matrix.runner.model import Module, Verdict
from torch_compat_matrix.runner.numerics import near
from torch_compat_matrix.runner.outcome import shown
from torch_compat_matrix.runner.pins import name_of
from torch_compat_matrix.runner.records.runs import again
from torch_compat_matrix.runner.signature import short
from torch_compat_matrix.runner.storage import shown_size

CHANGED = 1.5
"""A metric is shown where it is so many times what it was, or was so many times what it is: less is noise."""


MOST_PLACES = 6
"""The places that a note names."""
MOST_SHOWN = 3
"""The `known:` entries, the ways of an install and the likely causes that a note names."""


def notes(table: Table, changes: Changes | None, title: str, found: Sequence[Note], keep: int) -> Part:
    """Notes under a title, each with all that is known of its cause."""
    blocked = table.blocked
    blocks = ["\n".join(_note(table, changes, note, blocked)) for note in found]
    return Part(name="note", keep=keep, head=[f"## {title}", ""], blocks=blocks, tail=[""])


def _note(table: Table, changes: Changes | None, note: Note, blocked: Mapping[str, str]) -> Iterator[str]:
    first, outcomes = note.members[0], [judged.outcome for judged in note.members]
    outcome, passes = first.outcome, first.outcome.verdict is Verdict.PASS
    on = {("sample", "cuda"): "CUDA sample"}
    probes = ", ".join(dict.fromkeys(on.get((one.probe, one.device), one.probe) for one in outcomes))
    blame = f", blame: {text(outcome.blame)}" if outcome.blame else ""
    what = f"{code(outcome.reason)} ({outcome.shown}{blame})" if outcome.reason else outcome.shown
    named = f" #{text(short(outcome.signature)[1:])}" if outcome.signature else ""
    where = list(places(table, outcomes))
    more = f" and {len(where) - MOST_PLACES} more places" if len(where) > MOST_PLACES else ""
    reach = f", {len(note.cells)} cells" if len(note.cells) > 1 else ""
    place = text("; ".join(where[:MOST_PLACES]) + more)
    yield f"{note.number}. **{note.kind}**: {what}{named}{reach}: {place} ({text(probes)})"
    facts = list(_facts(table, changes, note, blocked))
    for title, words in dict.fromkeys((title, words) for title, words in facts if words):
        yield f"   - {title}{words}"
    cell = note.cells[0]
    if days := table.age(table.origin(outcome.check)):
        yield f"   - {count(days, 'day')} older than the newest run"
    command = code(table.shows(outcome, cell))
    yield f"   - {command}" + (
        f", {code(f'compat find {outcome.signature}')}" if len(note.cells) > 1 and named and not passes else ""
    )


def _facts(table: Table, changes: Changes | None, note: Note, blocked: Mapping[str, str]) -> Iterator[tuple[str, str]]:
    """Title and words of each line of a note, in Markdown."""
    first, outcomes = note.members[0], [judged.outcome for judged in note.members]
    outcome, passes = first.outcome, first.outcome.verdict is Verdict.PASS
    quiet = ("same",) if note.kind == UNEXPLAINED else ("same", "no-base")
    since = sorted(
        (found for one in outcomes if (found := table.since.get(one.check)) and found.state not in quiet),
        key=lambda found: (found.date, found.run),
    )
    if since:
        yield "failing " if outcome.verdict.broken else "", text(since[0].words)
    if outcome.detail and outcome.detail != outcome.evidence:
        yield "", prose(outcome.detail)
    if outcome.evidence and (outcome.evidence not in outcome.detail or outcome.evidence == outcome.detail):
        yield "evidence: ", code(outcome.evidence)
    if changes and note.kind in (NEW, DIFFERS):
        causes = dict.fromkeys(filter(None, map(changes.cause_of, outcomes)))
        yield "likely: ", text("; ".join(list(causes)[:MOST_SHOWN])) or "nothing that the check depends on changed"
    yield "quarantined: ", text(outcome.quarantined) if outcome.quarantined else ""
    yield "confirmation: ", prose(outcome.confirmed) if outcome.confirmed else ""
    yield "", prose(outcome.guess) if outcome.guess else ""
    installs = dict.fromkeys(one.install_note for one in outcomes if passes and one.install_note)
    for words in list(installs)[:MOST_SHOWN]:
        yield "", prose(words)
    yield "left out: ", prose(outcome.left_out) if outcome.left_out else ""
    if outcome.drift and not passes and shown(outcome.drift) not in outcome.detail:
        yield "a plain install would replace: ", text("; ".join(dict.fromkeys(shown(one.drift) for one in outcomes)))
    yield "remedy: ", prose(outcome.remedy) if outcome.remedy else ""
    if not passes:
        yield "owner: ", text(", ".join(dict.fromkeys(one.owner for one in outcomes if one.owner)))
    for library in dict.fromkeys(blocked[one.check] for one in outcomes if one.check in blocked):
        inside = [one for one in outcomes if blocked.get(one.check) == library]
        yield f"blocked by {text(library)}: ", text("; ".join(list(places(table, inside))[:MOST_PLACES]))
    if {*outcome.attempts} - {outcome.verdict.value}:
        yield "earlier attempts: ", text(", ".join(outcome.attempts))
    entries = list(dict.fromkeys(judged.known for judged in note.members if judged.known and note.kind != LOST))
    for entry in entries[:MOST_SHOWN]:
        link = f" ({entry.link})" if entry.link else ""
        other = f"as {entry.expected}, which this is not: " if first.surprise == "unexpected failure" else ""
        yield "known: ", text(other + entry.reason + link) + (f", until {entry.expires}" if entry.expires else "")
        if note.kind in (EXPECTED_NO_LONGER, EXPIRED):
            remedy = "remove or narrow" if note.kind == EXPECTED_NO_LONGER else "review"
            yield "remedy: ", f"{remedy} the entry {code(entry.place or entry.cells)}"
    if entries[MOST_SHOWN:]:
        yield "known: ", f"{len(entries) - MOST_SHOWN} more entries"


def fixed(changes: Changes | None) -> Part:
    """What the notes do not tell of the changes: what else changed, fixed checks, and those without a base."""
    lines: list[str] = []
    if changes is not None and (changes.moved or changes.lost or changes.new or changes.gone):
        if changes.causes:
            whats = "; ".join(text(cause.what) for cause in changes.causes[:12])
            lines += [f"Other changes, the likely cause first: {whats}.", ""]
        for title, checks in (
            ("fixed", [outcome.check for outcome in changes.fixed]),
            ("without a base", changes.new),
            ("gone", changes.gone),
        ):
            if checks:
                more = f" and {len(checks) - 20} more" if len(checks) > 20 else ""
                lines.append(f"- {title}: {', '.join(map(text, checks[:20]))}{more}")
    title = f"## Changes against {text(changes.baseline)}" if changes else ""
    return Part(name="line about changes", keep=50, head=[title, ""], blocks=lines, tail=[""])


def environments(table: Table) -> Part:
    """The environments in which the checks ran."""
    found = []
    expects = {image["name"]: image.get("expects") or {} for image in table.header.get("plan", {}).get("images", ())}
    for record in table.environments.values():
        facts = record["facts"]
        torch = facts.get("torch") or {}
        gpus = ", ".join(f"{gpu['name']} (sm_{gpu['capability'].replace('.', '')})" for gpu in facts.get("gpus", ()))
        row = (
            record["image"] + (" (stand-in)" if record.get("stand_in") else ""),
            record["reference"],
            (record.get("digest") or "none") + (f", moved from {moved}" if (moved := table.moved_from(record)) else ""),
            *(value or "none" for value in (torch.get("version"), torch.get("cuda"), cudnn(torch.get("cudnn")))),
            *(facts["python"], facts.get("driver") or "none", gpus or "none", facts.get("os", "")),
            f"{facts.get('user') or 'no name'} ({facts['uid']})" if "uid" in facts else "",
            ", ".join(lacks(facts, expects.get(record["image"], {}))) if record.get("stand_in") else "",
        )
        found.append([text(str(value)) for value in row])
    headers: tuple[str, ...] = (
        *("image", "reference", "digest", "torch", "CUDA", "cuDNN"),
        *("Python", "driver", "GPU", "system", "user", "lacks"),
    )
    if not any(row[-1] for row in found):
        found, headers = [row[:-1] for row in found], headers[:-1]
    return grid("environment", 45, "Environments", headers, found)


def lacks(facts: Mapping[str, Any], expects: Mapping[str, Any]) -> Iterator[str]:
    """The parts of a GPU image, and of what the matrix says of this one, that are not in its stand-in."""
    torch, packages = facts.get("torch") or {}, facts["packages"]
    if torch and not torch.get("cuda"):
        yield "CUDA libraries"
    elif torch and not str(torch["cuda"]).startswith(str(expects.get("cuda", ""))):
        yield f"CUDA {expects['cuda']}"
    if torch and not any("triton" in name for name in packages):
        yield "Triton"
    yield from sorted(set(map(name_of, expects.get("preinstalled", ()))) - packages.keys())
    yield from sorted(set(expects.get("tools", ())) - set(facts.get("tools", ())))


def expectations(table: Table) -> Part:
    """The expectations of the images, and their verdicts."""
    found = []
    for judged in table.expectations:
        outcome = judged.outcome
        if outcome.verdict is Verdict.SKIP:
            continue
        seen = outcome.evidence or outcome.detail.partition("seen: ")[2] or outcome.detail
        verdict = {Verdict.PASS: "true", Verdict.FAIL: "**false**"}.get(outcome.verdict, "not seen")
        said = [text(words) for words in (outcome.image, outcome.probe, outcome.version, seen)]
        found.append([*said, f"{verdict} {judged.surprise}".strip()])
    headers = ("image", "subject", "said", "seen", "verdict")
    return grid("expectation", 55, "Expectations of the images", headers, found)


def numerics(table: Table, changes: Changes | None) -> Part:
    """The cells that compute other numbers than the version or the image before, or than the baseline."""
    found = [(f"{one.before} -> {one.after}", one) for one in table.numerics]
    found += [(f"{one.after}, since {changes.baseline}", one) for one in changes.numerics] if changes else []
    blocks = [f"- {text(cells)}: {prose(one.sentence)}" for cells, one in found if one.differing]
    alike = [comparison for _, comparison in found if not comparison.differing]
    if alike:
        results, within = sum(one.results for one in alike), max(one.within for one in alike)
        blocks.insert(
            0, f"- {count(len(alike), 'comparison')} without a difference: {count(results, 'result')} {near(within)}"
        )
    head = [
        "## What computes differently",
        "",
        "The results of the probes from the same inputs: between versions, between images, and since the baseline.",
        "",
    ]
    return Part(name="comparison of numbers", keep=20, head=head, blocks=blocks, tail=[""])


def metrics(table: Table) -> Part:
    """The metrics that changed since the check's last verdict, the most changed first."""
    found = []
    for outcome in table.outcomes.values():
        since = table.since.get(outcome.check)
        before = since.base.outcome.metrics if since and since.base else {}
        for name in outcome.metrics.keys() & before.keys():
            now, then = outcome.metrics[name], before[name]
            low, high = sorted((now["value"], then["value"]))
            if now["unit"] == then["unit"] and low > 0 and high / low >= CHANGED:
                words = (outcome.check, name, measured(then), measured(now))
                found.append((high / low, [text(word) for word in words]))
    ordered = [row for _, row in sorted(found, key=lambda pair: -pair[0])]
    headers = ("check", "metric", "before", "now")
    return grid("metric", 10, "Metrics that changed", headers, ordered, folded=True)


def measured(metric: Mapping[str, Any]) -> str:
    """A metric for people: `477 MB`, `35 ms`, `1.2 s`."""
    value, unit = metric["value"], metric["unit"]
    if unit == "bytes":
        return shown_size(value)
    if unit == "ratio":
        return f"{value:.3g}"
    return f"{1000 * value:.3g} ms" if unit == "s" and 0 < value < 1 else f"{value:.3g} {unit}"


def known(table: Table) -> Part:
    """The known issues, and whether the run shows them."""
    found = []
    for entry in table.known:
        covered = [judged for judged in table.judged if judged.known is entry]
        state = ", ".join(sorted({judged.surprise or "as expected" for judged in covered})) or "not in this run"
        bounds = (entry.version, entry.digest, entry.target, entry.signature)
        first = (entry.cells, entry.expect.value, entry.code, ", ".join(filter(None, bounds)))
        row = (*first, entry.reason, entry.link, entry.expires, state)
        found.append([text(str(value or "")) for value in row])
    headers = ("cells", "expected", "code", "only", "reason", "link", "expires", "state")
    return grid("known issue", 15, "Known issues", headers, found, folded=True)


def made(table: Table) -> Part:
    """How the run was made, and the command that runs its open failures again."""
    head = ["## How this was made", ""]
    shown = {run.run for run in table.origins.values()}
    runs = [run for run in table.runs if run.run in shown] or [table]
    lines = [line for run in runs for line in _made(run)]
    return Part(name="line about the run", keep=85, head=head, blocks=lines, tail=[""])


def _made(table: Table) -> Iterator[str]:
    header = table.header
    host = header.get("host", {})
    command = header.get("command") or ["compat"]
    yield f"- {code(shlex.join(command))} on the backend {code(str(header.get('backend')))}"
    yield f"- run {code(table.run)}, " + text(f"{header.get('started')} to {table.finished}, {table.state}")
    yield "- host: " + text(f"{host.get('platform')}, {host.get('cpus')} CPUs, Python {host.get('python')}")
    reused = Counter(outcome.reused for outcome in table.outcomes.values() if outcome.reused)
    for run, number in sorted(reused.items()):
        yield f"- {count(number, 'outcome')} reused from run {code(run)}, since nothing changed"
    plan = header.get("plan", {})
    source = plan.get("source")
    modules = [Module(**module) for module in plan.get("modules", ())]
    if modules:
        yield "- probes that are not ours: " + text(", ".join(map(str, modules)))
    yield "- matrix: " + text(f"{source}; torch-compat-matrix {header.get('version')}")
    verdicts = [outcome.verdict for outcome in table.outcomes.values()]
    open_ = {"@failed": any(v.broken for v in verdicts), "@infra": any(not v.final for v in verdicts)}
    if any(open_.values()):
        selectors = [f"{name}@run:{table.run}" for name, some in open_.items() if some]
        yield f"- run its open failures again: {code(again(header, *selectors))}"
