"""Writes a run's outcomes to its journal, and each of their environments once."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from torch_compat_matrix.runner.backends.base import Prepared
from torch_compat_matrix.runner.bundle import asked_by
from torch_compat_matrix.runner.model import STRICT, Cell, Module, Verdict, digest
from torch_compat_matrix.runner.numerics import compare
from torch_compat_matrix.runner.outcome import Outcome
from torch_compat_matrix.runner.records.journal import append
from torch_compat_matrix.runner.records.runs import place_of
from torch_compat_matrix.runner.signature import signature
from torch_compat_matrix.runner.verdicts.preflight import Prediction, disagreement

if TYPE_CHECKING:
    from torch_compat_matrix.probes.contract import Facts


Earlier = Callable[[Outcome], tuple[str, Outcome] | None]
"""Outcome -> the run and the outcome with which its fingerprint is compared."""


@dataclass(kw_only=True)
class Recorder:
    """Writes outcomes and environments to the journal, and shows each outcome once it is on disk."""

    journal: Path
    backend: str
    listen: Callable[[Outcome], None]
    cells: Mapping[str, Cell] = field(default_factory=dict)
    """Cell id -> the cell, whose labels and owner an outcome carries."""
    modules: tuple[Module, ...] = ()
    """The probe modules that our own bundle lacks."""
    earlier: Earlier = lambda outcome: None
    target: str = ""
    """What the user calls the device of the run."""
    noisy: Mapping[str, Mapping[str, str]] = field(default_factory=dict)
    """Check -> target -> why it does not count there."""
    images: set[str] = field(default_factory=set)
    """The images of which an environment is recorded."""
    _environments: dict[str, tuple[str, str]] = field(default_factory=dict)
    """Environment's key -> the digest of its image and its target."""
    _keys: dict[str, str] = field(default_factory=dict)
    _predictions: dict[str, Prediction | None] = field(default_factory=dict)

    def expect(self, image: str, prediction: Prediction | None) -> None:
        """From now on note outcomes of the image that disagree with the prediction (None: it was to run)."""
        self._predictions[image] = prediction

    def know(self, keys: Mapping[str, str]) -> None:
        """From now on outcomes carry these keys (check id -> key), under which later runs find them."""
        self._keys.update(keys)

    def outcomes(self, outcomes: Iterable[Outcome]) -> None:
        """Write the outcomes to disk, then show them."""
        stamped = [replace(outcome, signature=signature(outcome)) for outcome in map(self._stamped, outcomes)]
        append(self.journal, *({"kind": "outcome", **outcome.to_json()} for outcome in stamped))
        for outcome in stamped:
            self.listen(outcome)

    def reused(self, outcomes: Iterable[Outcome], environments: Iterable[Mapping[str, Any]]) -> None:
        """Write reused outcomes of earlier runs, with their environments."""
        environments = list(environments)
        new = {record["key"]: record for record in environments if record["key"] not in self._environments}
        self._environments |= {key: place_of(record) for key, record in new.items()}
        self.images |= {record["image"] for record in environments}
        append(self.journal, *({**record, "kind": "environment"} for record in new.values()))
        self.outcomes(outcomes)

    def environment(self, prepared: Prepared, facts: Facts) -> str:
        """Record the environment; return the key by which outcomes name it."""
        record = {
            "image": prepared.image.name,
            "reference": prepared.reference,
            "digest": prepared.digest,
            "stand_in": prepared.stand_in,
            "backend": self.backend,
            "facts": {name: value for name, value in facts.items() if name != "metadata"},
        }
        key = digest(record)
        self.images.add(prepared.image.name)
        if key not in self._environments:
            self._environments[key] = place_of(record)
            append(self.journal, {"kind": "environment", "key": key, **record})
        return key

    def _stamped(self, outcome: Outcome) -> Outcome:
        notes = outcome.notes
        if outcome.image in self._predictions and not outcome.reused:
            note = disagreement(self._predictions[outcome.image], outcome)
            notes = (*notes, note) if note else notes
        # without an environment nothing ran, and the trouble must not be reused as the library's own answer
        key = self._keys.get(outcome.check, "") if outcome.environment else ""
        cell = self.cells.get(outcome.cell)
        if cell is not None:
            asked = asked_by(cell.members, self.modules)
            outcome = replace(outcome, labels=cell.labels, owner=cell.owner, probed_by=asked)
        image, target = self._environments.get(outcome.environment, ("", ""))
        noisy = self.noisy.get(outcome.check, {})  # where nothing ran, what is known of any target
        quarantined = noisy.get(target, "") if target else next(iter(noisy.values()), "")
        outcome = replace(outcome, key=key, notes=notes, digest=image, target=target, named=self.target)
        outcome = replace(outcome, quarantined=quarantined)
        if cell is None or not outcome.numerics or outcome.reused:
            return outcome
        return self._compared(outcome, cell)

    def _compared(self, outcome: Outcome, cell: Cell) -> Outcome:
        """The outcome with a note on numbers that differ from those before; `wrong-value` where they must not."""
        found = self.earlier(outcome) if outcome.verdict is Verdict.PASS else None
        comparisons = compare([found[1]], [outcome]) if found else []
        if found is None or not comparisons or not comparisons[0].differing:
            return outcome
        run, before = found
        (comparison,) = comparisons
        unchanged = bool(outcome.key) and outcome.key == before.key
        if not unchanged and (cell.numerics != STRICT or comparison.other_probes):
            note = f"computes differently than in run {run}: {comparison.sentence}"
            return replace(outcome, notes=(*outcome.notes, note))
        why = (
            "though image, packages and probes are the same: it varies from run to run, or the host computes wrongly"
            if unchanged
            else "and the matrix says `numerics: strict`"
        )
        return replace(
            outcome,
            verdict=Verdict.FAIL,
            reason="wrong-value",
            detail=f"other numbers than in run {run}, {why}",
            evidence=comparison.sentence,
            blame="unknown",
            remedy=f"`compat numerics {run} {self.journal.parent.name}` shows the numbers; `compat run {outcome.check} "
            "--rerun` asks again",
        )
