"""From a probe host's observations to a check's outcome: its members are classified, and the worst decides."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Any, Literal

from torch_compat_matrix.runner.backends.base import Exit
from torch_compat_matrix.runner.errors import Trouble
from torch_compat_matrix.runner.execution.protocol import Work
from torch_compat_matrix.runner.model import PLAIN, SUPERFICIAL, TORCH, Check, Limits, Verdict, check_id, utc_now
from torch_compat_matrix.runner.outcome import Outcome
from torch_compat_matrix.runner.pins import changes
from torch_compat_matrix.runner.verdicts.classify import Classified, classify
from torch_compat_matrix.runner.verdicts.reasons import reason_for

if TYPE_CHECKING:
    from torch_compat_matrix.probes.contract import BeginFrame, Facts, ObservationFrame

WORST_FIRST = (
    Verdict.INFRA,
    Verdict.OOM,
    Verdict.CRASH,
    Verdict.TIMEOUT,
    Verdict.FAIL,
    Verdict.UNSUPPORTED,
    Verdict.NOT_RUN,
    Verdict.PASS,
    Verdict.SKIP,
)
"""A stack's check is as good as its worst member; a skip only where the probe applies to no member."""

VERDICT_OF = {"died": Verdict.CRASH, "timeout": Verdict.TIMEOUT}
"""The verdict of an attempt that a fresh process repeated."""


Attempts = Mapping[str, tuple[str, ...]]
"""Check id -> the verdicts of earlier launches."""


def from_trouble(check: Check, trouble: Trouble, backend: str, **more: Any) -> Outcome:
    """The outcome of a check that a trouble kept from running; `more` are further fields of it."""
    reason = reason_for(trouble.code)
    return Outcome(
        check=check.id,
        image=check.cell.image,
        subject=check.cell.subject,
        version=check.cell.variant,
        probe=check.probe,
        verdict=reason.verdict,
        reason=trouble.code,
        detail=str(trouble),
        evidence=trouble.evidence,
        blame=trouble.blame or reason.blame,
        remedy=trouble.remedy or reason.text("remedy", {"backend": backend}),
        started=utc_now(),
        **more,
    )


class Collector:
    """Gathers a launch's observations until each check's members have all answered."""

    def __init__(
        self,
        work: Sequence[Work],
        limits: Limits,
        *,
        backend: str = "",
        stand_in: bool = False,
        misfits: bool = False,
        attempts: Attempts | None = None,
    ) -> None:
        self.backend = backend
        self.work = {piece.cell.id: piece for piece in work}
        self.limits = limits
        self.attempts = attempts or {}
        """The verdicts of earlier launches, by the check's id."""
        self.not_the_images = frozenset(
            (*(("cpu-only-torch",) if stand_in else ()), *(("missing-operator",) if misfits else ()))
        )
        """Reasons that come of the stand-in's own build of torch, and say nothing about the image."""
        self.facts: Facts | None = None
        self.environment = ""
        self.notes: tuple[str, ...] = ()
        """Notes for every outcome: unusual steps of the launch's start."""
        self.pending: dict[tuple[str, str], list[ObservationFrame]] = {}
        self.printed: dict[tuple[str, str], str] = {}
        """The output of each cell's members while they were imported, which may explain what fails later."""

    def enter(self, facts: Facts, environment: str) -> None:
        """Set the environment of the following observations."""
        self.facts = facts
        self.environment = environment

    def add(self, observation: ObservationFrame) -> Outcome | None:
        """Take a member's observation; return the check's outcome after the last member's."""
        key = observation["cell"], observation["probe"]
        if observation["probe"] == "import":
            self.printed[observation["cell"], observation["member"]] = observation.get("output", "")
        seen = self.pending.setdefault(key, [])
        seen.append(observation)
        if len(seen) < len(self.work[key[0]].cell.members):
            return None
        return self._outcome(self.work[key[0]], self.pending.pop(key))

    def died(self, begun: BeginFrame, ended: Exit) -> Outcome:
        """The outcome of the check during which the whole probe host ended."""
        signal = ended.status - 128 if ended.status > 128 else -ended.status if ended.status < 0 else None
        observation: ObservationFrame = {
            "kind": "observation",
            "cell": begun["cell"],
            "probe": begun["probe"],
            "member": begun["member"],
            "status": "died",
            "isolation": "",
            "installed": "",
            "device_name": "",
            "signal": signal,
            "exit": None if signal else ended.status,
            "message": f"the probe host ended with status {ended.status}",
            "output": ended.stderr,
        }
        if ended.oom_killed or ended.unprovoked:
            observation["oom_kills"] = int(ended.oom_killed)
        if ended.unprovoked and check_id(begun["cell"], begun["probe"]) in self.attempts:
            observation["attempts"] = ["died"]
        seen = self.pending.pop((begun["cell"], begun["probe"]), [])
        return self._outcome(self.work[begun["cell"]], [*seen, observation])

    def _classify(self, observation: ObservationFrame, facts: Mapping[str, Any], work: Work) -> Classified:
        printed = self.printed.get((observation["cell"], observation["member"]), "")
        seen = {**observation, "import_output": printed}
        found = classify(seen, facts, work.cell.limits(self.limits), self.backend, work.added)
        if found.reason not in self.not_the_images:
            return found
        reason = reason_for("no-stand-in")
        return replace(found, verdict=reason.verdict, reason=reason.code, blame=reason.blame, remedy=reason.remedy)

    def _outcome(self, work: Work, seen: Sequence[ObservationFrame]) -> Outcome:
        facts = _with(work, self.facts) if self.facts else {}
        classified = [(self._classify(observation, facts, work), observation) for observation in seen]
        worst, observation = min(classified, key=lambda pair: WORST_FIRST.index(pair[0].verdict))
        cell, stack = work.cell, len(work.cell.members) > 1
        verdict = worst.verdict
        check = check_id(cell.id, observation["probe"])
        before = self.attempts.get(check, ())
        repeated = (status for member in seen for status in member.get("attempts", ()))

        def measured(key: Literal["metrics", "numerics"]) -> dict[str, Any]:
            named = ((member, item) for member in seen for item in member.get(key, {}).items())
            return {_of(member, name, stack, ":"): value for member, (name, value) in named}

        return Outcome(
            check=check,
            image=cell.image,
            subject=cell.subject,
            version=cell.variant,
            probe=observation["probe"],
            verdict=verdict,
            reason=worst.reason,
            detail=f"{observation['member']}: {worst.detail}" if stack and worst.detail else worst.detail,
            evidence=worst.evidence,
            blame=worst.blame,
            remedy=worst.remedy,
            names=worst.names,
            device=observation.get("device", ""),
            device_name=observation["device_name"],
            environment=self.environment,
            resolved=tuple(f"{name}=={version}" for name, version in sorted(work.added.items())),
            drift=work.drift,
            replaced=tuple(changes(work.replaces, {name: work.added[name] for name in work.replaces})),
            install=cell.install if work.replaces and cell.install == PLAIN else "",
            installed=", ".join(_of(member, member["installed"], stack) for member in seen if member["installed"]),
            isolation=observation["isolation"],
            metrics=measured("metrics"),
            parts=tuple(
                {**part, "name": _of(member, part["name"], stack, ":")}
                for member in seen
                for part in member.get("parts", ())
            ),
            numerics=measured("numerics"),
            notes=(
                *self.notes,
                *work.notes,
                *(_of(member, note, stack, ":") for member in seen for note in member.get("notes", ())),
            ),
            output="" if verdict is Verdict.PASS else observation.get("output", ""),
            traceback=observation.get("traceback", ""),
            seconds=round(sum(member.get("seconds", 0.0) for member in seen), 3),
            started=utc_now(),
            attempts=(*before, *(VERDICT_OF.get(status, Verdict.FAIL).value for status in repeated)),
            grade=SUPERFICIAL if verdict is Verdict.PASS and observation["probe"] in cell.superficial else "",
            flaky=verdict is Verdict.PASS and (bool(before) or any(member.get("flaky") for member in seen)),
        )


def _with(work: Work, facts: Facts) -> Mapping[str, Any]:
    """The facts as the cell's probes found them: with the versions of the packages that its overlay replaces."""
    now = {name: work.added[name] for name in work.replaces}
    torch = {"version": now[TORCH]} if TORCH in now else facts["torch"]
    return {**facts, "packages": {**facts["packages"], **now}, "torch": torch}


def _of(observation: ObservationFrame, text: str, stack: bool, mark: str = "") -> str:
    """The text, after the name of its member where a cell has several."""
    return f"{observation['member']}{mark} {text}" if stack else text
