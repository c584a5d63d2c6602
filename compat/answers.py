"""The shapes of what `--json` prints, from which `python -m docs.generate` makes docs/schemas/."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, TypedDict

from torch_compat_matrix.runner.records.shapes import CellRecord, EnvironmentRecord, ImageRecord, OutcomeRecord


class RunRow(TypedDict):
    """A recorded run, in words."""

    run: str
    state: str
    backend: str
    checks: str
    covers: str
    verdicts: str
    size: str


class ShownOutcome(TypedDict):
    """A recorded outcome; `install` and `reproduce` are commands, and `environment` is null where nothing ran."""

    outcome: OutcomeRecord
    environment: EnvironmentRecord | None
    install: str
    reproduce: str


class Shown(TypedDict):
    """The outcomes that a run recorded, and the selected checks that are still without one."""

    run: str
    going: bool
    outcomes: list[ShownOutcome]
    left: list[str]


class SeenOutcome(TypedDict):
    """An outcome of a run."""

    run: str
    started: str
    verdict: str
    reason: str
    detail: str


class Timeline(TypedDict):
    """The outcomes of a check, the earliest first."""

    check: str
    outcomes: list[SeenOutcome]


class FlakyCheck(TypedDict):
    """A check with different verdicts though nothing changed that it depends on."""

    check: str
    passes: int
    failures: int
    runs: list[str]


class History(TypedDict):
    """The timelines of the selected checks; without a selector, the flaky checks in their place."""

    timelines: list[Timeline]
    flaky: list[FlakyCheck]


class ResultDifference(TypedDict):
    """A result of a probe that differs; `by` is in units of its largest number."""

    result: str
    by: float
    said: str


class CellNumerics(TypedDict):
    """Two cells: how many results they have in common, which differ, and how near the others are."""

    before: str
    after: str
    results: int
    within: float
    differing: list[ResultDifference]
    other_probes: bool


class Differences(TypedDict):
    """The checks that differ between two runs, `likely` the cause of each, and the cells that compute differently."""

    baseline: str
    failing: list[str]
    fixed: list[str]
    other: list[str]
    new: list[str]
    gone: list[str]
    causes: list[str]
    numerics: list[CellNumerics]
    likely: Mapping[str, str]


class Numerics(TypedDict):
    """The numbers of the two sides, cell by cell."""

    before: str
    after: str
    comparisons: list[CellNumerics]


class Advice(TypedDict):
    """A combination that was verified together; versions and packages are by name, `files` are what was written."""

    image: str
    backend: str
    reference: str
    digest: str
    stand_in: bool
    gpu: str
    torch: str
    python: str
    versions: Mapping[str, str]
    added: Mapping[str, str]
    replaced: list[str]
    failed: str
    caveats: list[str]
    files: list[str]


class Advised(TypedDict):
    """The advice, null where nothing was verified; and the same in words."""

    advice: Advice | None
    words: list[str]


class FindingRow(TypedDict):
    """A finding; a backend cannot work without what is `needed`."""

    backend: str
    what: str
    works: bool
    needed: bool
    detail: str
    remedy: str


class Planned(TypedDict):
    """The plan, which `compat run --plan FILE` takes; images and cells hold more than is named here."""

    images: list[ImageRecord]
    cells: list[CellRecord]
    known: list[Mapping[str, Any]]
    claims: list[Mapping[str, Any]]
    source: str
    backend: str


ANSWERS: Mapping[str, Any] = {
    "advise": Advised,
    "diff": Differences,
    "doctor": list[FindingRow],
    "history": History,
    "numerics": Numerics,
    "plan": Planned,
    "runs": list[RunRow],
    "show": Shown,
}
"""Verb -> the shape of its answer."""
