"""Whether an image may go on: for each check that a policy requires, the evidence of the records, or what they lack."""

from __future__ import annotations

import datetime as dt
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from operator import attrgetter
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import Field, model_validator

from torch_compat_matrix.runner.bundle import asked_by
from torch_compat_matrix.runner.matrix import values
from torch_compat_matrix.runner.matrix.document import Document, MatrixError, read
from torch_compat_matrix.runner.matrix.entries import Entry
from torch_compat_matrix.runner.matrix.explain import validated
from torch_compat_matrix.runner.model import Check, Plan, Verdict
from torch_compat_matrix.runner.outcome import Outcome
from torch_compat_matrix.runner.pins import within
from torch_compat_matrix.runner.records.journal import Journal
from torch_compat_matrix.runner.records.runs import NoRun, Run, target_in
from torch_compat_matrix.runner.records.shapes import GateRow
from torch_compat_matrix.runner.records.shapes import outcome as outcome_of
from torch_compat_matrix.runner.selector import Selector
from torch_compat_matrix.runner.storage import parsed_age

AHEAD = dt.timedelta(minutes=5)
"""How far another machine's clock may be ahead."""
PROMOTE, HOLD, INCONCLUSIVE, WAIVED = "promote", "hold", "inconclusive", "waived"


class RequiredEntry(Entry):
    """Checks that must have passed on the device: `cuda`, unless the policy's target is `cpu`."""

    checks: values.Selection
    device: Literal["cuda", "cpu"] | None = None
    superficial: bool = False
    """Whether a pass of a generic probe, which compares nothing, is enough."""


class WaiverEntry(Entry):
    """Checks that need not pass up to a day, for a version of the library or a digest of the image."""

    checks: values.Selection
    owner: values.Word
    reason: values.Word
    expires: dt.date
    version: values.Specifier | None = None
    digest: values.Digest | None = None

    @model_validator(mode="after")
    def _bound(self) -> WaiverEntry:
        if not (self.version or self.digest):
            raise ValueError("a waiver for whatever comes; bind it with `version` or `digest`")
        return self

    def lacks(self, version: str, image: str, today: dt.date) -> str:
        """Why it does not hold; empty where it does."""
        if self.expires < today:
            return f"the waiver of {self.owner} ended on {self.expires}"
        if self.version and not within(f"x{self.version}", version):
            return f"the waiver of {self.owner} is for {self.version}"
        return f"the waiver of {self.owner} is for {self.digest}" if self.digest not in (None, image) else ""


class Policy(Entry):
    """The whole of gate.yaml; a stand-in certifies no image."""

    backend: Literal["docker", "kubernetes", "slurm"]
    target: Annotated[str, Field(pattern=r"^[A-Za-z0-9][\w.-]*$")]
    max_age: Annotated[str, Field(pattern=r"^[1-9]\d{0,3}[mhdw]$")]
    required: list[RequiredEntry] = Field(min_length=1)
    waivers: list[WaiverEntry] = Field([])


def _row(check: Check, state: str, excuse: str, run: str = "", started: str = "", device: str = "") -> GateRow:
    return GateRow(check=check.id, state=state, excuse=excuse, run=run, started=started, device=device)


@dataclass(frozen=True, kw_only=True, slots=True)
class Recorded:
    """A run, as far as it may be evidence."""

    id: str
    flaw: str = ""
    """What keeps the run from being evidence."""
    header: Mapping[str, Any] = field(default_factory=dict)
    plan: Plan | None = None
    """None where it cannot be read: it may have been about anything."""
    environments: Mapping[str, Mapping[str, Any]] = field(default_factory=dict)
    outcomes: Mapping[str, Sequence[Outcome]] = field(default_factory=dict)
    """Check -> all its records, the latest last; none yet for a check that was planned."""

    @classmethod
    def of(cls, run: Run, now: dt.datetime) -> Recorded:
        """The run's records."""
        try:
            header, plan = run.header(), run.plan()
        except NoRun:
            return cls(id=run.id, flaw="cannot be read")
        outcomes: dict[str, list[Outcome]] = {check.id: [] for check in plan.checks}
        for record in Journal(run.journal):
            if record["kind"] == "outcome":
                outcomes.setdefault(record["check"], []).append(outcome_of(record))
        latest = max((outcome.started for found in outcomes.values() for outcome in found), default="")
        unreadable = run.unreadable()
        flaws = [
            f"is a copy of run {header['run']}" if header["run"] != run.id else "",
            f"has {unreadable} records that cannot be read" if unreadable else "",
            "" if run.ended() else "did not come to its end",
            f"has a clock that is ahead of this one: {latest}" if latest > (now + AHEAD).isoformat() else "",
        ]
        flaw = next(filter(None, flaws), "")
        environments = run.environments()
        return cls(id=run.id, flaw=flaw, header=header, plan=plan, environments=environments, outcomes=outcomes)

    def environment(self, check: Check, outcome: Outcome | None) -> Mapping[str, Any]:
        """The environment of the outcome, else the last one of the check's image; empty where none was recorded."""
        own = [record for record in self.environments.values() if record["image"] == check.cell.image]
        return self.environments.get(outcome.environment if outcome else "") or (own[-1] if own else {})


def load(path: Path) -> tuple[Policy, Document]:
    """The policy and its file; MatrixError with every mistake."""
    document = read(path)
    return validated(Policy, document), document


def required(policy: Policy, document: Document, checks: Sequence[Check]) -> dict[str, tuple[Check, RequiredEntry]]:
    """Check id -> the check and the first entry that requires it; MatrixError for an entry that requires none."""
    found: dict[str, tuple[Check, RequiredEntry]] = {}
    for index, entry in enumerate(policy.required):
        taken = [check for check in checks if Selector(entry.checks).takes(check.address)]
        if not taken:
            message = f"{entry.checks!r} takes none of the image's checks, so that it would require nothing"
            document.mistake(("required", index, "checks"), message)
        found = {**{check.id: (check, entry) for check in taken}, **found}
    if document.mistakes:
        raise MatrixError(document.mistakes)
    return found


def decide(
    policy: Policy, document: Document, plan: Plan, image: str, runs: Sequence[Run], now: dt.datetime
) -> tuple[str, list[GateRow], list[str]]:
    """The decision on the plan's only image at this digest, a row for each required check, and what is not certified.

    Raises MatrixError for an entry of the policy that requires nothing.
    """
    needed = required(policy, document, plan.checks)
    oldest = now - dt.timedelta(seconds=parsed_age(policy.max_age))
    # a journal that nobody has written to since then has nothing that is young enough
    young = [run for run in reversed(runs) if run.journal.stat().st_mtime >= oldest.timestamp()]
    asked = _Asked(policy, plan, image, [Recorded.of(run, now) for run in young], oldest.isoformat(), now.date())
    rows = [asked.row(check, entry) for check, entry in needed.values()]
    states = {row["state"] for row in rows}
    decision = HOLD if HOLD in states else INCONCLUSIVE if INCONCLUSIVE in states else PROMOTE
    return decision, rows, list(asked.limits(rows))


@dataclass
class _Asked:
    """The question that is put to the runs, the newest first."""

    policy: Policy
    plan: Plan
    image: str
    runs: Sequence[Recorded]
    oldest: str
    today: dt.date
    seen: dict[str, Mapping[str, Any]] = field(default_factory=dict)
    """The environments of the evidence."""

    def row(self, check: Check, entry: RequiredEntry) -> GateRow:
        """What the runs say of a check, or the waiver that excuses it."""
        outcome, row = self._evidence(check, entry)
        if row["state"] == PROMOTE:
            return row
        lacks = []
        for waiver in self.policy.waivers:
            if Selector(waiver.checks).takes(check.address):
                version = (outcome.installed if outcome else "") or check.cell.version
                why = waiver.lacks(version, self.image, self.today)
                if not why:
                    words = f"waived by {waiver.owner} until {waiver.expires}: {waiver.reason} ({row['excuse']})"
                    return {**row, "state": WAIVED, "excuse": words}
                lacks.append(why)
        return {**row, "excuse": "; ".join([row["excuse"], *lacks])}

    def _evidence(self, check: Check, entry: RequiredEntry) -> tuple[Outcome | None, GateRow]:
        elsewhere, troubled, key = "", "", attrgetter("key", "resolved")
        newest: tuple[Recorded, Outcome] | None = None
        for run in (run for run in self.runs if run.plan is None or check.id in run.outcomes):
            outcome = next(reversed(run.outcomes.get(check.id, ())), None)
            foreign = self._foreign(run, check, outcome)
            if run.flaw and not foreign:
                return outcome, _row(check, HOLD, f"run {run.id} {run.flaw}", run.id)
            if foreign or outcome is None:
                elsewhere = elsewhere or f"run {run.id} {foreign or 'has no outcome of it'}"
            elif outcome.verdict is Verdict.INFRA:
                troubled = troubled or f"host trouble kept it from a verdict in run {run.id} ({outcome.reason})"
            elif newest is None:
                newest = run, outcome
            elif outcome.verdict.broken and newest[1].verdict is Verdict.PASS and key(outcome) == key(newest[1]):
                why = f"it failed in run {run.id} under the same conditions, and only passed when it was asked again"
                return newest[1], _row(check, HOLD, why, run.id)
        if newest is None:
            excuse = troubled or elsewhere or f"no run of the last {self.policy.max_age} asked it"
            return None, _row(check, INCONCLUSIVE if troubled else HOLD, excuse)
        run, outcome = newest
        environment = run.environment(check, outcome)
        device = outcome.device or ("cuda" if environment.get("facts", {}).get("gpus") else "cpu")
        lacks = self._lacks(entry, outcome, device, run.outcomes[check.id])
        self.seen |= {} if lacks else {outcome.environment: environment}
        passed = "passed" + (f", without {outcome.left_out}" if outcome.left_out else "")
        state, excuse = (HOLD, lacks) if lacks else (PROMOTE, passed)
        return outcome, _row(check, state, excuse, run.id, outcome.started, device)

    def _foreign(self, run: Recorded, check: Check, outcome: Outcome | None) -> str:
        """Why a run says nothing of the check in this image now; empty where it does, or where nobody can tell."""
        if run.plan is None:
            return ""
        environment, policy = run.environment(check, outcome), self.policy
        digest, target = (
            str(environment.get("digest") or ""),
            target_in(run.header, [environment] if environment else []),
        )
        placed = [
            (run.header["backend"] == policy.backend, f"ran on {run.header['backend']}"),
            (not environment.get("stand_in"), "ran in a stand-in"),
            (not environment or digest == self.image, f"was of {digest or 'an image without a digest'}"),
            (not environment or target == policy.target, f"was made on {target}"),
            (_question(run.plan, check) == _question(self.plan, check), "asked for something else by this name"),
        ]
        if outcome is not None:
            asked = asked_by(check.cell.members, self.plan.modules)
            ran = outcome.verdict is not Verdict.PASS or outcome.environment in run.environments
            placed += [
                (ran, "does not say where it passed"),
                (outcome.probed_by == asked, "asked it by other probes than today's"),
                (outcome.started >= self.oldest, f"is older than {policy.max_age}: {outcome.started or 'no time'}"),
            ]
        return next((why for holds, why in placed if not holds), "")

    def _lacks(self, entry: RequiredEntry, outcome: Outcome, device: str, outcomes: Sequence[Outcome]) -> str:
        """What keeps a verdict from being the pass that the entry requires; empty where it is."""
        wanted = entry.device or ("cpu" if self.policy.target == "cpu" else "cuda")
        said = {each.verdict.value for each in outcomes if each.verdict.final}
        if len(said) > 1:
            return f"the run has several verdicts of it: {', '.join(sorted(said))}"
        if outcome.verdict is not Verdict.PASS:
            return f"{outcome.verdict.value} ({outcome.reason}) {outcome.detail}".strip()
        if outcome.flaky:
            return "flaky: it passed after it had failed"
        if outcome.grade and not entry.superficial:
            return f"{outcome.grade}: a generic probe passed, which compares nothing"
        return f"it passed on {device}, and {wanted} is required" if device != wanted else ""

    def limits(self, rows: Sequence[GateRow]) -> Iterator[str]:
        """What no row certifies."""
        rest, waived = len(self.plan.checks) - len(rows), sum(row["state"] == WAIVED for row in rows)
        yield from ([f"checks of the image in the matrix that the policy does not require: {rest}"] if rest else [])
        yield from ([f"waived checks: {waived}"] if waived else [])
        yield "libraries together, other than the stacks of the matrix: each was tested without the others"
        times = sorted(row["started"] for row in rows if row["state"] == PROMOTE)
        yield from ([f"any moment but these: evidence from {times[0]} to {times[-1]}"] if times else [])
        facts = [record["facts"] for record in self.seen.values()]
        kinds = {
            "driver": {str(each["driver"]) for each in facts if each.get("driver")},
            "machine": {str(each["machine"]) for each in facts if each.get("machine")},
            "GPU": {gpu["name"] for each in facts for gpu in each.get("gpus", ())},
        }
        for what, known in kinds.items():
            yield f"a {what} other than {', '.join(sorted(known))}" if known else f"any {what}"


def _question(plan: Plan, check: Check) -> list[Any]:
    """What a plan asks for by the name of the check."""
    cells = [cell for cell in plan.cells if cell.id == check.cell.id]
    images = [image for image in plan.images if image.name == check.cell.image and not check.cell.members]
    commands = [command for image in images for command in image.commands if command.name == check.probe]
    return [[(cell.requires, cell.members, cell.install) for cell in cells], commands]
