"""What came of a check: its verdict, and whatever a report needs to explain it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from enum import Enum
from sys import intern
from typing import Any

from torch_compat_matrix.runner.model import PLAIN, TORCH, Verdict, cell_of, recorded_id
from torch_compat_matrix.runner.selector import Address, address

MOST_CHANGES = 10
"""How many changes of packages are shown in a line: a new torch comes with a dozen packages of CUDA."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Outcome:
    """A check's verdict with reason code, evidence, metrics, duration and environment."""

    check: str
    """The check's id."""
    image: str
    subject: str
    version: str = ""
    """With the label of its entry in the matrix: `1.9.1@numpy1`; empty for an image's own command."""
    probe: str
    verdict: Verdict
    reason: str = ""
    """A stable reason code (`undefined-symbol`, `drift`, ...); empty on a pass."""
    detail: str = ""
    """One or two sentences for a person."""
    evidence: str = ""
    """The line that shows the reason."""
    blame: str = ""
    """library, dependency, image, host, matrix, us, or unknown: nobody has evidence."""
    remedy: str = ""
    guess: str = ""
    """Where nobody is blamed: what is new against the nearest cell that passes; marked as a guess, never a blame."""
    changes: tuple[str, ...] = ()
    """The options of a computed remedy as data: `use NAME==VERSION`, `with REQUIREMENT`, `without NAME`,
    `build REQUIREMENT` (a constraint of builds), `image REQUIREMENT ...` or `image NAME`."""
    names: Mapping[str, str] = field(default_factory=dict)
    """What the reason's rule caught (`module`, `holder`, ...), and the `raiser`."""
    device: str = ""
    """`cuda` or `cpu`: the device that did the work; empty where nothing ran."""
    device_name: str = ""
    environment: str = ""
    """Key of the record of its environment (facts)."""
    resolved: tuple[str, ...] = ()
    """The exact set added to the image (`name==version`)."""
    drift: tuple[str, ...] = ()
    """The packages that a plain install would replace (`torch 2.6.0 -> 2.13.0`)."""
    replaced: tuple[str, ...] = ()
    """The packages of the image that were replaced for the check (`numpy 2.4.6 -> 1.26.4`)."""
    install: str = ""
    """`plain` where they were replaced as `pip install` does it; else empty."""
    installed: str = ""
    """The imported version."""
    isolation: str = ""
    metrics: Mapping[str, Mapping[str, Any]] = field(default_factory=dict)
    """name -> {"value": number, "unit": str}."""
    parts: tuple[Mapping[str, Any], ...] = ()
    """The probe's named steps: {"name", "status", "seconds"}, and {"code", "message"} where one did not pass."""
    numerics: Mapping[str, Mapping[str, Any]] = field(default_factory=dict)
    """The fingerprint: `part: result` -> {"dtype": str, "shape": [int], "values": [float]}."""
    probed_by: str = ""
    """Hash of the probes' sources that asked; earlier records have it with a fingerprint alone."""
    notes: tuple[str, ...] = ()
    output: str = ""
    """The end of the library's output, on a non-pass."""
    traceback: str = ""
    seconds: float = 0.0
    started: str = ""
    """UTC, ISO 8601."""
    attempts: tuple[str, ...] = ()
    """Verdicts of earlier attempts in the same run."""
    grade: str = ""
    """`superficial` where a generic probe passes, which compares nothing; else empty."""
    flaky: bool = False
    """Whether it passes after a fresh process failed; in older records also after a forked one did."""
    key: str = ""
    """Hash of all that the outcome may depend on: image, exact packages, probe, GPU, limits; empty where unknown."""
    reused: str = ""
    """The run from which this outcome is reused, unchanged; empty where the check ran in this run."""
    labels: tuple[str, ...] = ()
    """The words that select its cell."""
    owner: str = ""
    """Whoever looks after its library or its image."""
    digest: str = ""
    """The registry's digest of its image; empty where nothing ran, and for a stand-in."""
    target: str = ""
    """The kind of device that its launch was made on: `cpu`, or the GPU's model (`h100`); empty where nothing ran."""
    named: str = ""
    """What `--target` calls the device of its run; empty where it was not named."""
    confirmation: str = ""
    """How far up the ladder a new failure came: seen, again, clean, bracketed, elsewhere; empty where nobody asked."""
    unconfirmed: str = ""
    """What keeps it from being confirmed; empty where it is, or where nobody asked."""
    quarantined: str = ""
    """Why it does not count: how often its check flips though nothing changes; empty where it counts."""
    signature: str = ""
    """Eight hexadecimal digits, the same for the same failure (runner/signature.py); empty where there is none."""

    @property
    def shown(self) -> str:
        """The verdict for a reader: a superficial pass never looks like another."""
        return f"{self.verdict.value} ({self.grade})" if self.grade else self.verdict.value

    @property
    def cell(self) -> str:
        """The id of the check's cell."""
        return cell_of(self.check)

    @property
    def warm_disagreed(self) -> bool:
        """Whether it passes in a fresh process and fails in one forked from the warm process: a fault of ours."""
        return self.verdict is Verdict.PASS and bool(self.attempts) and not self.flaky

    @property
    def address(self) -> Address:
        return address(recorded_id(self.check), self.subject, self.labels)

    @property
    def install_note(self) -> str:
        """How the packages under test differ from the image's, or from those that pip would take; empty if neither."""
        notes = []
        if self.replaced:
            why = "as a plain `pip install` does" if self.install == PLAIN else "as the matrix asks"
            notes.append(f"{shown(self.replaced)}, {why}")
        if self.drift and self.verdict is Verdict.PASS:
            replaces = shown(self.drift).replace(" -> ", " by ")
            notes.append(f"passes constrained; a plain `pip install` replaces {replaces}")
        return "; ".join(notes)

    @property
    def confirmed(self) -> str:
        """The level of the confirmation in words; empty where there is none."""
        return self.confirmation + (f", unconfirmed: {self.unconfirmed}" if self.unconfirmed else "")

    @property
    def left_out(self) -> str:
        """The parts that could not run, with their reasons: `files (TorchCodec is not installed)`; empty if none."""
        reasons: dict[str, list[str]] = {}
        for part in self.parts:
            if part["status"] == "skipped":
                reasons.setdefault(part.get("message", ""), []).append(part["name"])
        return "; ".join(f"{', '.join(names)} ({why})" if why else ", ".join(names) for why, names in reasons.items())

    @property
    def caveats(self) -> Mapping[str, str]:
        """The notes that a report puts beside a verdict, those that say nothing left out."""
        said = {"install_note": self.install_note, "left_out": self.left_out}
        return {name: words for name, words in said.items() if words}

    def to_json(self) -> dict[str, Any]:
        """Only the fields that differ from their defaults."""
        return {name: _plain(getattr(self, name)) for name in self.__slots__ if getattr(self, name) not in ("", (), {})}

    @classmethod
    def from_json(cls, data: Mapping[str, Any]) -> Outcome:
        """The outcome from plain data; unknown fields, of later versions, are ignored."""
        known = {name: data[name] for name in cls.__slots__ if name in data}
        for name in ("resolved", "drift", "replaced", "notes", "attempts", "labels", "changes"):
            if name in known:
                known[name] = tuple(map(intern, known[name]))
        known["parts"] = tuple(known.get("parts", ()))
        for name in ("image", "subject", "version", "probe", "environment", "device_name"):  # the same in thousands
            if name in known:
                known[name] = intern(known[name])
        known["verdict"] = Verdict(known["verdict"])
        return cls(**known)


def _plain(value: Any) -> Any:
    if isinstance(value, Enum):
        return value.value
    if isinstance(value, tuple):
        return [_plain(item) for item in value]
    return value


def shown(changes: Sequence[str]) -> str:
    """The first of these changes of packages (`torch 2.6.0 -> 2.13.0`), torch's own before all, and how many follow."""
    ordered = sorted(changes, key=lambda change: not change.startswith(f"{TORCH} "))
    return ", ".join(ordered[:MOST_CHANGES]) + (
        f" and {len(changes) - MOST_CHANGES} more" if changes[MOST_CHANGES:] else ""
    )
