"""The shapes of what `--json` prints, from which `python -m docs.generate` makes docs/schemas/."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, TypedDict

from torch_compat_matrix.reports.grades import Grade
from torch_compat_matrix.runner.numerics import Comparison as NumericComparison
from torch_compat_matrix.runner.outcome import Outcome
from torch_compat_matrix.runner.records.history import Flaky
from torch_compat_matrix.runner.records.shapes import (
    CellRecord,
    EnvironmentRecord,
    GateRow,
    ImageRecord,
    Noise,
)
from torch_compat_matrix.runner.records.since import Met


class RunRow(TypedDict):
    """A recorded run, in words."""

    run: str
    kind: str
    state: str
    backend: str
    checks: str
    covers: str
    verdicts: str
    size: str


class JobRow(TypedDict):
    """A job of a scheduler, in words."""

    job: str
    state: str
    covers: str


class ShownOutcome(TypedDict):
    """A recorded outcome; `install` and `reproduce` are commands, and `environment` is null where nothing ran."""

    outcome: Outcome
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


class History(TypedDict):
    """The timelines of the selected checks; without a selector, the flaky checks in their place."""

    timelines: list[Timeline]
    flaky: list[Flaky]


class Found(TypedDict):
    """The checks that ever failed with a signature."""

    signature: str
    checks: list[Met]


class ComparedCheck(TypedDict):
    """A check on both sides; `candidate` is the id of the candidate's, `changed` the packages that differ.

    `verdict`: regressed, fails differently, fixed, no evidence or same; `lost`: one side alone has a verdict; `cause`
    is the signature that regressions share; `confirmation` how far up the ladder one came, `unconfirmed` what keeps it
    from being confirmed; `reused` the run that the base's outcome comes from.
    """

    check: str
    candidate: str
    verdict: str
    reason: str
    cause: str
    confirmation: str
    unconfirmed: str
    lost: bool
    changed: list[str]
    reused: str


class Comparison(TypedDict):
    """What became of each check from the base to the candidate, and the cells that were not run on both.

    `unaffected`: the change leaves their packages as they are; `alone`: the candidate's image has no such cell;
    `stopped`: why the run ended after its pilot.
    """

    run: str
    base: str
    candidate: str
    headline: str
    stopped: str
    regressed: int
    lost: int
    checks: list[ComparedCheck]
    unaffected: list[str]
    alone: list[str]


class Bounded(TypedDict):
    """A library at a version: the probes that pass, the bounds in words, and the requirements that they come to."""

    library: str
    version: str
    probes: list[str]
    found: list[str]
    requires: list[str]
    python: str


class Bounds(TypedDict):
    """Declared against measured bounds, in an image."""

    image: str
    libraries: list[Bounded]


class Dependent(TypedDict):
    """A cell whose resolution holds a package; `problem` is the reason code where the cell cannot be installed."""

    cell: str
    version: str
    added: bool
    problem: str


class Dependents(TypedDict):
    """The cells that need a package; `unknown` are the images that were never launched from here."""

    package: str
    cells: list[Dependent]
    unknown: list[str]


class Differences(TypedDict):
    """The checks that differ from the baseline, `likely` the cause of each, and the cells that compute differently.

    `covered`: the number of checks with a verdict in the baseline; `lost`: those without one now; `new`: without base.
    """

    baseline: str
    covered: int
    failing: list[str]
    fixed: list[str]
    other: list[str]
    lost: list[str]
    new: list[str]
    gone: list[str]
    causes: list[str]
    numerics: list[NumericComparison]
    likely: Mapping[str, str]


class Numerics(TypedDict):
    """The numbers of the two sides, cell by cell."""

    before: str
    after: str
    comparisons: list[NumericComparison]


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


class CheckedRequirement(TypedDict):
    """A requirement by published results: `works`, `fails` or `untested` at a version; `instead`: those that work."""

    requirement: str
    answer: str
    version: str
    why: str
    instead: list[str]


class Checked(TypedDict):
    """What published results say of requirements in an image; each library was tested without the others."""

    image: str
    reference: str
    run: str
    finished: str
    requirements: list[CheckedRequirement]
    left_out: list[str]


class Gated(TypedDict):
    """What a gate decided of an image: `promote`, `hold` or `inconclusive`."""

    decision: str
    image: str
    digest: str
    policy: str
    backend: str
    target: str
    max_age: str
    decided: str
    checks: list[GateRow]
    not_certified: list[str]


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


class Before(TypedDict, total=False):
    """A verdict of an earlier run; `version` is the installed one, `digest` and `reference` are the image's."""

    run: str
    date: str
    verdict: str
    reason: str
    signature: str
    version: str
    reference: str
    digest: str


class Began(TypedDict, total=False):
    """The run in which a check began to fail, or to pass; its last verdict and its last pass before this run."""

    run: str
    date: str
    runs: int
    base: Before
    good: Before


class ReportedOutcome(TypedDict, total=False):
    """An outcome beside its `known:` entry and its own earlier verdicts: what it has beyond an `Outcome`."""

    surprise: str
    install_note: str
    left_out: str
    known: Mapping[str, Any]
    state: str
    since: Began
    run: str


class MergedRun(TypedDict):
    """One of the runs of a report over several; `shown`: how many of its outcomes stand in the table."""

    run: str
    started: str
    days_older: int
    target: str
    backend: str
    state: str
    shown: int


class ConflictingVerdict(TypedDict):
    """One of the verdicts of a check on the same image and target, the newest first."""

    run: str
    verdict: str
    reason: str


class _Report(TypedDict, total=False):
    runs: list[MergedRun]
    conflicts: Mapping[str, list[ConflictingVerdict]]


class Report(_Report):
    """A run as report.json has it; what is not named here is described beside its key in docs/json.md."""

    schema: int
    summary: str
    run: Mapping[str, Any]
    finished: str
    state: str
    standing: str
    target: str
    environments: Mapping[str, Mapping[str, Any]]
    cells: list[Grade]
    outcomes: list[ReportedOutcome]


ANSWERS: Mapping[str, Any] = {
    "advise": Advised,
    "bounds": Bounds,
    "check": Checked,
    "compare": Comparison,
    "dependents": Dependents,
    "diff": Differences,
    "doctor": list[FindingRow],
    "find": Found,
    "gate": Gated,
    "history": History,
    "noise": Noise,
    "numerics": Numerics,
    "plan": Planned,
    "runs": list[RunRow],
    "status": list[JobRow],
    "show": Shown,
}
"""Verb -> the shape of its answer."""
