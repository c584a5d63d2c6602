"""A journal read back: the planned checks, their outcomes and the surprises."""

from __future__ import annotations

import datetime as dt
import gc
import re
import shlex
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from pathlib import Path
from typing import Any, TypeVar

from torch_compat_matrix.reports import claims
from torch_compat_matrix.reports.escape import count
from torch_compat_matrix.reports.expectations import expected
from torch_compat_matrix.reports.grades import Grade, grades
from torch_compat_matrix.runner.judging import Judged, judge
from torch_compat_matrix.runner.model import PROBES, Known, Verdict, cell_id, check_id, recorded_id, utc_now, variant
from torch_compat_matrix.runner.numerics import Comparison, compare
from torch_compat_matrix.runner.outcome import Outcome
from torch_compat_matrix.runner.pins import canonical
from torch_compat_matrix.runner.records.history import Trails
from torch_compat_matrix.runner.records.journal import Journal
from torch_compat_matrix.runner.records.runs import STILL_GOING, Run, place_of, target_in
from torch_compat_matrix.runner.records.shapes import outcome as outcome_of
from torch_compat_matrix.runner.records.since import Since

_Item = TypeVar("_Item")

HERE = re.compile(
    r"(?:/[^\s/'\"():]{1,255}){1,20}/"
    r"(?=(?:site|dist)-packages/|overlays/[0-9a-f]{16}/|bundle/(?:compat_)?probes/|lib/python3)"
)
"""The part of a path that differs between machines: what leads to the packages."""


@dataclass(frozen=True, kw_only=True, eq=False)
class Table:
    """One run: rows are library versions, columns images, boxes the outcomes of the probes; equal to itself alone."""

    header: Mapping[str, Any]
    outcomes: Mapping[str, Outcome]
    """By check id, in the plan's order; a check without an outcome is `not-run`."""
    environments: Mapping[str, Mapping[str, Any]]
    known: tuple[Known, ...] = ()
    finished: str = ""
    state: str = "interrupted"
    today: dt.date = field(default_factory=dt.date.today)
    unreadable: int = 0
    """The records of the journal that cannot be read."""
    earlier: Mapping[tuple[str, str], str] = field(default_factory=dict)
    """(image, reference) -> the digest of it in the last run before, where the history tells."""

    since: Mapping[str, Since] = field(default_factory=dict)
    """Check -> how it stands to its own earlier verdicts, where the history tells."""
    trails: Trails = field(default_factory=Trails)
    """The verdicts and metrics of the runs before, where the history tells."""
    ran: Mapping[str, str] = field(default_factory=dict)
    """Check -> the run of its verdict, where that is an older one."""

    runs: tuple[Table, ...] = ()
    """The runs of which this is one table, the newest first; empty where it is one run."""
    origins: Mapping[str, Table] = field(default_factory=dict)
    """Check -> the one of the runs that its outcome is of."""
    conflicts: Mapping[str, Sequence[tuple[Table, Outcome]]] = field(default_factory=dict)
    """Check -> its outcomes that disagree on the same image, backend and target, the newest first."""

    @property
    def target(self) -> str:
        """What the run calls its device, else the kind of device that it saw; of several runs, all of these."""
        targets = dict.fromkeys(run.target for run in self.runs)
        return ", ".join(targets) or target_in(self.header, self.environments.values())

    @cached_property
    def blocked(self) -> Mapping[str, str]:
        """Check -> the library in whose code it fails, where that is another with a failing cell in the same image."""
        broken = [outcome for outcome in self.outcomes.values() if outcome.verdict.broken]
        failing = {(outcome.image, canonical(outcome.subject)) for outcome in broken}
        raisers = ((outcome, canonical(outcome.names.get("raiser", "").partition(" ")[0])) for outcome in broken)
        return {
            outcome.check: raiser
            for outcome, raiser in raisers
            if raiser != canonical(outcome.subject) and (outcome.image, raiser) in failing
        }

    @cached_property
    def device(self) -> str:
        """The kind of device that the run saw, whatever it calls it."""
        return target_in({}, self.environments.values())

    @cached_property
    def started(self) -> dt.datetime:
        return dt.datetime.fromisoformat(self.header["started"])

    def origin(self, check: str) -> Table:
        """The run that the check's outcome is of."""
        return self.origins.get(check, self)

    def age(self, run: Table) -> int:
        """The whole days by which a run is older than the newest; 0 up to a day."""
        older = self.runs[0].started - run.started if self.runs else dt.timedelta()
        return older.days if older > dt.timedelta(days=1) else 0

    @cached_property
    def titles(self) -> Mapping[str, str]:
        """Column -> its heading, which tells a stand-in, and the age of a column in which everything is old."""
        stand_ins = {record["image"] for record in self.environments.values() if record.get("stand_in")}
        ages: dict[str, int] = {}
        for check, outcome in self.outcomes.items():
            age = self.age(self.origin(check))
            ages[outcome.image] = min(age, ages.get(outcome.image, age))
        titles = {}
        for image, age in ages.items():
            words = [*(["stand-in"] if image in stand_ins else []), *([f"{count(age, 'day')} older"] if age else [])]
            titles[image] = image + (f" ({', '.join(words)})" if words else "")
        return titles

    def shows(self, outcome: Outcome, name: str = "", run: str = "") -> str:
        """The command that shows all that is recorded of the check, or of `name`; `run` where it has to be named."""
        run = self.origins[outcome.check].run if outcome.check in self.origins else run
        return f"compat show {shlex.quote(recorded_id(name or outcome.check))}{f' --run {run}' if run else ''}"

    def moved_from(self, environment: Mapping[str, Any]) -> str:
        """The digest that the environment's tag had in the last run of the image; empty where it has it still."""
        before = self.earlier.get((environment["image"], environment["reference"]), "")
        return before if before != environment.get("digest", "") else ""

    @property
    def run(self) -> str:
        return str(self.header.get("run", ""))

    @cached_property
    def images(self) -> tuple[str, ...]:
        return tuple(dict.fromkeys(outcome.image for outcome in self.outcomes.values()))

    @cached_property
    def rows(self) -> tuple[tuple[str, str], ...]:
        """(library or stack, version) in the plan's order."""
        return tuple(dict.fromkeys((outcome.subject, outcome.version) for outcome in self.outcomes.values()))

    @cached_property
    def boxes(self) -> Mapping[tuple[str, str, str], Mapping[str, Judged]]:
        """(image, subject, version) -> probe -> outcome, the probes in their order."""
        boxes: dict[tuple[str, str, str], dict[str, Judged]] = {}
        for judged in self.judged:
            outcome = judged.outcome
            boxes.setdefault((outcome.image, outcome.subject, outcome.version), {})[outcome.probe] = judged
        return {key: {probe: box[probe] for probe in (*PROBES, *box) if probe in box} for key, box in boxes.items()}

    @cached_property
    def judged(self) -> tuple[Judged, ...]:
        """Every outcome beside the `known:` entry of its run."""
        return tuple(judge(outcome, self.origin(check).known, self.today) for check, outcome in self.outcomes.items())

    @cached_property
    def expectations(self) -> tuple[Judged, ...]:
        """The judged expectations of the images; no surprise for an image whose tag is itself a claim."""
        plan = self.header.get("plan", {})
        claimed = {image["name"] for image in plan.get("images", ()) if image.get("claim")}
        why = {
            outcome.image: outcome.reason
            for outcome in self.outcomes.values()
            if outcome.reason and not outcome.environment
        }
        outcomes = expected(plan, tuple(self.environments.values()), why)
        expectations = (judge(outcome, self.known, self.today) for outcome in outcomes)
        return tuple(
            replace(judged, surprise="") if judged.outcome.image in claimed else judged for judged in expectations
        )

    @cached_property
    def grades(self) -> tuple[Grade, ...]:
        """How much each cell shows."""
        return tuple(grades(self))

    @cached_property
    def claims(self) -> tuple[claims.Judged, ...]:
        """Every claim recorded with the run, judged."""
        return claims.judge(self)

    @cached_property
    def unstarted(self) -> frozenset[str]:
        """The images whose cells, several, all ended in the same words before anything ran: it is the image's end."""
        ends: dict[str, set[tuple[str, ...]]] = {}
        cells: dict[str, set[str]] = {}
        for outcome in self.outcomes.values():
            ends.setdefault(outcome.image, set()).add((outcome.reason, outcome.detail, outcome.environment))
            cells.setdefault(outcome.image, set()).add(outcome.cell)
        return frozenset(
            image for image, (end, *more) in ends.items() if end[0] and not (more or end[2]) and len(cells[image]) > 1
        )

    @cached_property
    def surprises(self) -> tuple[Judged, ...]:
        return tuple(judged for judged in (*self.judged, *self.expectations) if judged.surprise)

    @cached_property
    def incomplete(self) -> tuple[Outcome, ...]:
        """Checks that host trouble or an early end left without a verdict."""
        return tuple(outcome for outcome in self.outcomes.values() if not (outcome.verdict.final or waits(outcome)))

    @cached_property
    def waiting(self) -> tuple[Outcome, ...]:
        """Checks of a run that is still going whose turn is to come."""
        return tuple(filter(waits, self.outcomes.values()))

    @cached_property
    def counts(self) -> Counter[Verdict]:
        return Counter(outcome.verdict for outcome in self.outcomes.values())

    @cached_property
    def warm_disagreed(self) -> int:
        """The passes of fresh processes that the warm process had failed."""
        return sum(outcome.warm_disagreed for outcome in self.outcomes.values())

    @cached_property
    def numerics(self) -> tuple[Comparison, ...]:
        """Each cell beside the version before it in its image, then beside the same version in the image before."""
        cells = {key: [judged.outcome for judged in box.values()] for key, box in self.boxes.items()}
        found: list[Comparison] = []
        for place in (2, 0):
            before: dict[tuple[str, ...], list[Outcome]] = {}
            for key, outcomes in cells.items():
                if any(outcome.numerics for outcome in outcomes):
                    rest = (*key[:place], *key[place + 1 :])
                    found += compare(before.get(rest, ()), outcomes)
                    before[rest] = outcomes
        return tuple(found)

    @cached_property
    def on_gpu(self) -> frozenset[str]:
        """The environments that saw a GPU."""
        return frozenset(key for key, record in self.environments.items() if record["facts"].get("gpus"))

    def passed_on_gpu(self, outcome: Outcome) -> bool:
        """Whether the outcome says something about a GPU: by its device, or for an import by its environment."""
        if outcome.device:
            return outcome.device == "cuda"
        return outcome.environment in self.on_gpu


def waits(outcome: Outcome) -> bool:
    """Whether the check's turn in a run that is still going is to come."""
    return outcome.verdict is Verdict.NOT_RUN and not outcome.reason


def _portable(outcome: Outcome) -> dict[str, Any]:
    """The texts without the folders of their machine: a report is read elsewhere, the journal is not."""
    messages = "".join(part.get("message", "") for part in outcome.parts)
    if "/" not in outcome.detail + outcome.evidence + outcome.traceback + outcome.output + messages:
        return {}
    said = [{**part, "message": HERE.sub("", part["message"])} if "message" in part else part for part in outcome.parts]
    texts = ("detail", "evidence", "traceback", "output")
    return {**{name: HERE.sub("", getattr(outcome, name)) for name in texts}, "parts": tuple(said)}


def load(journal: Path, today: dt.date | None = None) -> Table:
    """The run that a journal records; records of unknown kind are skipped, unreadable ones counted."""
    header: dict[str, Any] = {}
    outcomes: dict[str, Outcome] = {}
    environments: dict[str, Any] = {}
    end: dict[str, Any] = {}
    going = Run(journal.parent).is_going()  # asked first: a run that ends from here on says so in its journal
    records = Journal(journal)
    for record in _uncollected(iter(records)):
        kind = record["kind"]
        if kind == "outcome":
            outcomes[record["check"]] = _told(outcome_of(record), environments, header)
        elif kind == "environment":
            environments[record["key"]] = record
        elif kind == "run":
            header = record
        elif kind in ("end", "resume"):
            end = record
    plan = header.get("plan", {})
    state = end.get("state") or (STILL_GOING if going else "interrupted")
    whole = {
        name: outcomes.pop(name) if name in outcomes else _not_run(state, name, cell, probe)
        for name, cell, probe in _planned(plan)
    } | outcomes
    return Table(
        header=header,
        outcomes=whole,
        environments=environments,
        known=tuple(Known.from_json(entry) for entry in plan.get("known", ())),
        finished=end.get("finished", "") or utc_now(),
        state=state,
        today=today or dt.date.today(),
        unreadable=records.unreadable,
    )


def _told(outcome: Outcome, environments: Mapping[str, Mapping[str, Any]], header: Mapping[str, Any]) -> Outcome:
    """The outcome as a report tells it: with the target and digest that older records leave to the environment."""
    changed = _portable(outcome)
    if header.get("target", "") != outcome.named:
        changed["named"] = header.get("target", "")
    if not outcome.target and outcome.environment in environments:
        changed["digest"], changed["target"] = place_of(environments[outcome.environment])
    return replace(outcome, **changed) if changed else outcome


def _uncollected(records: Iterator[_Item]) -> Iterator[_Item]:
    """The same records, read with the garbage collector off, which would search all of them again and again."""
    was = gc.isenabled()
    gc.disable()
    try:
        yield from records
    finally:
        if was:
            gc.enable()


def _planned(plan: Mapping[str, Any]) -> Iterator[tuple[str, Mapping[str, Any], str]]:
    """Each check of the plan: its id, its cell and its probe."""
    for cell in plan.get("cells", ()):
        name = cell_id(cell["image"], cell["subject"], variant(cell["version"], cell.get("label", "")))
        for probe in cell["probes"]:
            yield check_id(name, probe), cell, probe


def _not_run(state: str, check: str, cell: Mapping[str, Any], probe: str) -> Outcome:
    said: dict[str, Any] = {"image": cell["image"], "subject": cell["subject"], "owner": cell.get("owner", "")}
    said["version"] = variant(cell["version"], cell.get("label", ""))
    if state == STILL_GOING:
        said |= {"detail": "the run is still going: this check has not had its turn"}
    else:
        said |= {"reason": "interrupted", "detail": "the run ended before this check", "blame": "host"}
        said |= {"remedy": "`compat run --resume` continues the run"}
    labels = tuple(cell.get("labels", ()))
    return Outcome(check=check, probe=probe, verdict=Verdict.NOT_RUN, labels=labels, **said)
