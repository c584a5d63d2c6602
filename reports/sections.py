"""The background of the verdicts: drift, environments, expectations, metrics, known issues, and the run itself."""

from __future__ import annotations

import shlex
from collections import Counter
from collections.abc import Iterator, Mapping
from typing import Any

from torch_compat_matrix.reports.changes import Changes
from torch_compat_matrix.reports.escape import code, count, grid, prose, text
from torch_compat_matrix.reports.table import Table
from torch_compat_matrix.runner.model import Module, Verdict
from torch_compat_matrix.runner.numerics import near
from torch_compat_matrix.runner.outcome import shown
from torch_compat_matrix.runner.pins import name_of
from torch_compat_matrix.runner.records.runs import again

MOST_NUMERICS = 100
"""The cells that are named."""
MOST_METRICS = 2000
"""GitHub drops a step summary over 1 MiB whole; a row takes about 100 bytes."""


def drift(table: Table) -> Iterator[str]:
    """The packages that a plain install would replace."""
    drifting = {outcome.cell: outcome.drift for outcome in table.outcomes.values() if outcome.drift}
    if not drifting:
        return
    yield "## Drift"
    yield ""
    yield "A plain `pip install` would replace these packages of the image:"
    yield ""
    for cell, drift in drifting.items():
        yield f"- {text(cell)}: {text(shown(drift))}"
    yield ""


def environments(table: Table) -> Iterator[str]:
    """The environments in which the checks ran."""
    if not table.environments:
        return
    yield "## Environments"
    yield ""
    rows = []
    expects = {image["name"]: image.get("expects") or {} for image in table.header.get("plan", {}).get("images", ())}
    for record in table.environments.values():
        facts = record["facts"]
        torch = facts.get("torch") or {}
        gpus = ", ".join(f"{gpu['name']} (sm_{gpu['capability'].replace('.', '')})" for gpu in facts.get("gpus", ()))
        name = record["image"] + (" (stand-in)" if record.get("stand_in") else "")
        row = (
            name,
            record["reference"],
            (record.get("digest") or "none") + (f", moved from {moved}" if (moved := table.moved_from(record)) else ""),
            torch.get("version") or "none",
            torch.get("cuda") or "none",
            torch.get("cudnn") or "none",
            facts["python"],
            facts.get("driver") or "none",
            gpus or "none",
            facts.get("os", ""),
            f"{facts.get('user') or 'no name'} ({facts['uid']})" if "uid" in facts else "",
            ", ".join(lacks(facts, expects.get(record["image"], {}))) if record.get("stand_in") else "",
        )
        rows.append([text(str(value)) for value in row])
    headers: tuple[str, ...] = (
        *("image", "reference", "digest", "torch", "CUDA", "cuDNN"),
        *("Python", "driver", "GPU", "system", "user", "lacks"),
    )
    if not any(row[-1] for row in rows):
        rows, headers = [row[:-1] for row in rows], headers[:-1]
    yield grid(rows, headers)
    yield ""


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


def expectations(table: Table) -> Iterator[str]:
    """The expectations of the images, and their verdicts."""
    shown = [judged for judged in table.expectations if judged.outcome.verdict is not Verdict.SKIP]
    if not shown:
        return
    yield "## Expectations of the images"
    yield ""
    rows = []
    for judged in shown:
        outcome = judged.outcome
        seen = outcome.evidence or outcome.detail.partition("seen: ")[2] or outcome.detail
        verdict = {Verdict.PASS: "true", Verdict.FAIL: "**false**"}.get(outcome.verdict, "not seen")
        said = [text(words) for words in (outcome.image, outcome.probe, outcome.version, seen)]
        rows.append([*said, f"{verdict} {judged.surprise}".strip()])
    yield grid(rows, ("image", "subject", "said", "seen", "verdict"))
    yield ""


def numerics(table: Table, changes: Changes | None) -> Iterator[str]:
    """The cells that compute other numbers than the version or the image before, or than the baseline."""
    found = [(f"{one.before} -> {one.after}", one) for one in table.numerics]
    found += [(f"{one.after}, since {changes.baseline}", one) for one in changes.numerics] if changes else []
    if not found:
        return
    yield "## What computes differently"
    yield ""
    yield "The results of the probes from the same inputs: between versions, between images, and since the baseline."
    yield ""
    differing = [(cells, comparison) for cells, comparison in found if comparison.differing]
    for cells, comparison in differing[:MOST_NUMERICS]:
        yield f"- {text(cells)}: {prose(comparison.sentence)}"
    if len(differing) > MOST_NUMERICS:
        yield f"- {len(differing) - MOST_NUMERICS} more are in report.json"
    alike = [comparison for _, comparison in found if not comparison.differing]
    if alike:
        results, within = sum(one.results for one in alike), max(one.within for one in alike)
        yield f"- {count(len(alike), 'comparison')} without a difference: {count(results, 'result')} {near(within)}"
    yield ""


def metrics(table: Table) -> Iterator[str]:
    """The metrics that the probes measured."""
    rows = [
        (outcome.check, name, f"{metric['value']:.4g} {metric['unit']}")
        for outcome in table.outcomes.values()
        for name, metric in outcome.metrics.items()
    ]
    if not rows:
        return
    yield "<details><summary>Metrics</summary>"
    yield ""
    shown = [[text(cell) for cell in row] for row in rows[:MOST_METRICS]]
    yield grid(shown, ("check", "metric", "value"))
    yield ""
    if len(rows) > len(shown):
        yield f"{len(rows) - len(shown)} more are in report.json."
        yield ""
    yield "</details>"
    yield ""


def known(table: Table) -> Iterator[str]:
    """The known issues, and whether the run shows them."""
    if not table.known:
        return
    yield "<details><summary>Known issues</summary>"
    yield ""
    rows = []
    for entry in table.known:
        covered = [judged for judged in table.judged if judged.known is entry]
        state = ", ".join(sorted({judged.surprise or "as expected" for judged in covered})) or "not in this run"
        row = (
            entry.cells,
            entry.expect.value,
            entry.code or "",
            entry.reason,
            entry.link or "",
            entry.expires or "",
            state,
        )
        rows.append([text(str(value)) for value in row])
    headers = ("cells", "expected", "code", "reason", "link", "expires", "state")
    yield grid(rows, headers)
    yield ""
    yield "</details>"
    yield ""


def made(table: Table) -> Iterator[str]:
    """How the run was made (its command, host and matrix), and the command that runs its open failures again."""
    header = table.header
    host = header.get("host", {})
    command = header.get("command") or ["compat"]
    yield "## How this was made"
    yield ""
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
    yield ""
