"""The first suspects of a failure that blames nobody: what is new in its cell against the nearest cell that passes."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import suppress
from dataclasses import replace
from functools import cache
from pathlib import Path
from typing import Any

from torch_compat_matrix.runner.model import TORCH, Verdict
from torch_compat_matrix.runner.outcome import Outcome
from torch_compat_matrix.runner.pins import read_pins, same_version
from torch_compat_matrix.runner.records import history
from torch_compat_matrix.runner.records.runs import Run

MOST = 4
"""Suspects that a guess names; more are counted."""


OF_THE_GPU = frozenset({"no-gpu", "cuda-not-started", "cpu-only-torch"})
"""Reasons that no pass on a GPU in the same environment leaves room for."""


def contradicted(outcomes: Mapping[str, Outcome]) -> Iterator[Outcome]:
    """The failures that another probe's pass rules out, with ourselves to blame: the harness asked wrongly.

    Without an import, or without torch, no probe of a cell passes; without CUDA none does on a GPU.
    """
    passing: dict[tuple[str, str], list[Outcome]] = {}
    for outcome in outcomes.values():
        if outcome.verdict is Verdict.PASS and not outcome.flaky:
            passing.setdefault((outcome.cell, outcome.environment), []).append(outcome)
    for failure in outcomes.values():
        if not failure.verdict.broken or failure.detail.endswith(failure.evidence):  # evidence of the probe's own
            continue
        for other in passing.get((failure.cell, failure.environment), ()):
            on_gpu = other.device == "cuda" and failure.reason in OF_THE_GPU
            if failure.probe == "import" or failure.reason == "no-torch" or on_gpu:
                guess = f"guess: our own probes ask wrongly, since {other.check} passes in the same environment"
                yield replace(failure, blame="us", guess=guess)
                break


def guessed(home: Path, run: Run) -> Iterator[Outcome]:
    """The run's failures that blame nobody, each with a guess, where a cell that passes is known.

    The run's own passes count, and those of earlier runs, by the same probe of the same library or stack.
    """
    outcomes, environments = run.outcomes(), run.environments()

    @cache
    def passes(subject: str, probe: str) -> list[tuple[str, Outcome, dict[str, str]]]:
        found: list[tuple[str, Outcome, Mapping[str, Any]]] = [
            ("", outcome, environments.get(outcome.environment, {}))
            for outcome in outcomes.values()
            if outcome.verdict is Verdict.PASS and (outcome.subject, outcome.probe) == (subject, probe)
        ]
        with suppress(history.HistoryUnusable):
            found += history.passes(home, subject, probe, besides=run.id)
        return [(name, outcome, _holds(outcome, held)) for name, outcome, held in found if held]

    for failure in outcomes.values():
        if not failure.verdict.broken or failure.blame != "unknown" or failure.environment not in environments:
            continue
        here, known = _holds(failure, environments[failure.environment]), passes(failure.subject, failure.probe)
        akin = [entry for entry in known if entry[1].image == failure.image or entry[1].version == failure.version]
        near = [(_new(here, held, failure.subject), name, outcome) for name, outcome, held in akin or known]
        if near:
            new, name, outcome = min(near, key=lambda entry: len(entry[0]))
            where = f"{outcome.cell}, which passed in run {name}" if name else f"{outcome.cell}, which passes"
            yield replace(failure, guess=_words(new, where))


def _holds(outcome: Outcome, environment: Mapping[str, Any]) -> dict[str, str]:
    """Name -> version of all that the cell held: the image's packages, what was added, Python, driver and GPU."""
    facts = environment.get("facts") or {}
    gpu: Mapping[str, Any] = next(iter(facts.get("gpus") or ()), {})
    others = {"Python": facts.get("python"), "driver": facts.get("driver"), "GPU": gpu.get("name")}
    others["image"] = environment.get("digest") or environment.get("reference")
    known = {name: str(value) for name, value in others.items() if value}
    return {**(facts.get("packages") or {}), **read_pins(outcome.resolved), **known}


def _new(here: Mapping[str, str], there: Mapping[str, str], subject: str) -> list[str]:
    """What the cell holds and the other does not, or in another version: the library first, then torch."""
    names = [name for name in {**here, **there} if not same_version(here.get(name, ""), there.get(name, ""))]
    names.sort(key=lambda name: (name != subject, name != TORCH, name == "image", name))
    packages = [name for name in names if name != "image"]
    return [
        f"{name} {here[name] or 'from a URL'}" if name in here else f"the absence of {name}"
        for name in packages or names  # an image of the same contents is the last thing to suspect
    ]


def _words(new: list[str], where: str) -> str:
    if not new:
        return f"guess: nothing is new against {where}: look for chance, the host, or what is fetched"
    more = f" and {len(new) - MOST} more" if new[MOST:] else ""
    return f"guess: {', '.join(new[:MOST])}{more} {'are' if new[1:] else 'is'} new against {where}"
