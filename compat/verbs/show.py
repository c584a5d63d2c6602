"""Show all that a run recorded of a cell, and the command that reproduces it.

cell CELL  a cell or check, or a glob over them
--json  print it as JSON
--run RUN = latest  id of the run, or its beginning (%(default)s)

compat show pyro-ppl-1.8.0
compat show 'torch-2.13/*/compile' --run 20260801
"""

from __future__ import annotations

import argparse
import shlex
from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING, Any, cast

from torch_compat_matrix.compat.answers import Shown, ShownOutcome
from torch_compat_matrix.compat.progress import answer, answer_json, say_unreadable
from torch_compat_matrix.runner.bundle import catalogue
from torch_compat_matrix.runner.errors import NothingSelected, Status, did_you_mean
from torch_compat_matrix.runner.matrix.select import names_of
from torch_compat_matrix.runner.outcome import Outcome
from torch_compat_matrix.runner.pins import name_of, version_of
from torch_compat_matrix.runner.planning import chosen
from torch_compat_matrix.runner.records.runs import Run, again, home
from torch_compat_matrix.runner.selector import Checks
from torch_compat_matrix.runner.text import one_line

if TYPE_CHECKING:
    from torch_compat_matrix.runner.records.shapes import EnvironmentRecord


def main(options: argparse.Namespace) -> Status:
    selector = chosen(options.cell, options.run)
    current = Run.open(home(), selector.run if isinstance(selector, Checks) else options.run)
    going, seen, plan = current.is_going(), current.outcomes(), current.plan()
    outcomes = [outcome for outcome in seen.values() if selector.takes(outcome.address)]
    left = [check for check in plan.checks if check.id not in seen and selector.takes(check.address)]
    if not outcomes and not left:
        near = did_you_mean(options.cell, names_of(plan.cells))
        raise NothingSelected(f"{options.cell}: not in run {current.id}{near}")
    header = current.header()
    requires = {cell.id: cell.requires for cell in plan.cells}
    environments = current.environments()
    say_unreadable(current.unreadable(), f"run {current.id}")
    if options.json:
        shown = [
            ShownOutcome(
                outcome=cast(Any, outcome.to_json()),  # an Outcome as plain data
                environment=cast("EnvironmentRecord | None", environments.get(outcome.environment)),
                install=shlex.join(_pip(outcome, requires.get(outcome.cell, ()))) if outcome.resolved else "",
                reproduce=again(header, outcome.check),
            )
            for outcome in outcomes
        ]
        answer_json(Shown(run=current.id, going=going, outcomes=shown, left=[check.id for check in left]))
        return Status.AS_EXPECTED if outcomes else Status.INCOMPLETE
    for outcome in outcomes:
        environment = environments.get(outcome.environment, {})
        answer("\n".join(describe(outcome, header, environment, requires.get(outcome.cell, ()))), end="\n\n")
    for check in left:
        answer(f"{check.id}: {'not yet' if going else 'not run'}")
    if left and going:
        answer(f"run {current.id} is still going: {len(seen)} of {len(plan.checks)} checks are done")
    elif left:
        answer(f"run {current.id} ended early: `compat run --resume {current.id}` goes on")
    return Status.AS_EXPECTED if outcomes else Status.INCOMPLETE


def describe(
    outcome: Outcome, header: dict[str, Any], environment: dict[str, Any], requires: Sequence[str] = ()
) -> Iterable[str]:
    """An outcome in lines: verdict, evidence, environment, and the commands that install and reproduce it."""
    yield f"{outcome.check}: {outcome.shown}{' (flaky)' if outcome.flaky else ''}"
    facts = environment.get("facts", {})
    torch = facts.get("torch") or {}
    stand_in = " (a stand-in, not the image)" if environment.get("stand_in") else ""
    # the leading entry points of the cell's libraries that our probes do not exercise (docs/coverage.md)
    gaps = (gap for name in catalogue().members_of(requires) for gap in catalogue().entries[name].gaps)
    metrics = (f"{name} {metric['value']:.4g} {metric['unit']}" for name, metric in outcome.metrics.items())
    rows = {
        "reason": f"{outcome.reason}, blame: {outcome.blame}" if outcome.reason else "",
        "detail": outcome.detail,
        "evidence": outcome.evidence,
        "confirmation": outcome.confirmed,
        "quarantined": outcome.quarantined,
        "first suspects": outcome.guess,
        "remedy": outcome.remedy,
        "owner": outcome.owner,
        "labels": ", ".join(outcome.labels),
        "device": f"{outcome.device} ({outcome.device_name})" if outcome.device else "",
        "image": f"{environment['reference']}{stand_in}" if environment else "",
        "digest": environment.get("digest", ""),
        "environment": (
            f"Python {facts['python']}, torch {torch.get('version')}, CUDA {torch.get('cuda') or 'none'}, "
            f"driver {facts.get('driver') or 'none'}, {facts.get('os')}"
            if facts
            else ""
        ),
        "installed": outcome.installed,
        "added to the image": ", ".join(outcome.resolved),
        "install with": shlex.join(_pip(outcome, requires)) if outcome.resolved else "",
        "note": outcome.install_note,
        "left out": outcome.left_out,
        "drift": ", ".join(outcome.drift),
        "isolation": outcome.isolation,
        "earlier attempts": ", ".join(outcome.attempts),
        "metrics": ", ".join(metrics),
        "notes": "; ".join(outcome.notes),
        "not covered": ", ".join(gaps),
        "reused from": outcome.reused and f"run {outcome.reused}: nothing that the check depends on changed",
        "when": f"{outcome.started}, {outcome.seconds:.1f} s",
    }
    for name, text in rows.items():
        if text:
            yield f"  {name + ':':<20}{one_line(text)}"
    if outcome.parts:
        yield "  parts:"
        for part in outcome.parts:
            message = part.get("message", "").partition("\n")[0]
            words = one_line(f"{part['name']}{message and ': '}{message}")
            yield f"    {part['status']:<8}{part['seconds']:>8.2f} s  {words}"
    for name, text in (("traceback", outcome.traceback), ("output", outcome.output)):
        if text:
            yield f"  {name}:"
            yield from (f"    {line}" for line in text.rstrip().splitlines())
    yield f"  {'reproduce:':<20}{again(header, outcome.check)}"


def _pip(outcome: Outcome, requires: Sequence[str]) -> list[str]:
    """The command that installs into the image what was tested.

    It names the packages of the image that a plain install would replace, as they are, so that pip keeps them.
    """
    added = {name_of(pin): pin for pin in outcome.resolved if version_of(pin)}
    lines = [line if "[" in line else added.get(name_of(line), line) for line in requires]
    kept = [f"{name}=={held}" for name, held, *_ in map(str.split, outcome.drift)]
    return ["pip", "install", *lines, *kept]
