"""Remedies that can be followed: what the records say passes, and what the index offers."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace
from itertools import islice

from torch_compat_matrix.runner.advice.candidates import Candidates, Failure, Option
from torch_compat_matrix.runner.advice.evidence import Evidence, Seen
from torch_compat_matrix.runner.advice.search import NONE, number
from torch_compat_matrix.runner.model import PROBES, Verdict
from torch_compat_matrix.runner.outcome import Outcome
from torch_compat_matrix.runner.packages.offers import Offers
from torch_compat_matrix.runner.pins import same_version

MOST = 3
"""Options in a remedy."""
COMPILED = ("dynamo-error", "raises-compiled", "compile-mismatch", "not-compiled")
EAGER = Option("leave this part out of `torch.compile`", "`torch.compiler.disable`")


def can_be_advised(outcome: Outcome) -> bool:
    """Whether another version, package or image may help: nothing that passed, was skipped, is reused or still open."""
    settled = outcome.changes or outcome.reused or outcome.verdict in (Verdict.PASS, Verdict.SKIP)
    return outcome.verdict.final and not settled


def advised(failure: Failure, evidence: Evidence, backend: str, offers: Offers | None) -> Outcome:
    """The outcome with a remedy that names what to use; as it is, where neither records nor index have anything.

    `offers` is None where the index is not asked; Trouble where it does not answer.
    """
    records = Records(failure, evidence, backend)
    options = list(records.passing_here())
    lost = ""
    if offers is not None:
        found = Candidates(failure=failure, offers=offers, failing=records.failing_here(), releases=not options)
        options += islice(found.options(), MOST - len(options))
        lost = found.lost
    options += records.passing_elsewhere()
    outcome = failure.outcome
    if not options and not lost:
        return outcome
    changes = tuple(option.change for option in options)
    if options and outcome.reason in COMPILED:
        options.append(EAGER)
    use = ", or ".join(f"{option.what} ({option.why})" for option in options)
    remedy = f"{lost} {use[:1].upper()}{use[1:]}{'.' if use else ''}".strip()
    return replace(outcome, remedy=remedy, changes=changes)


@dataclass(frozen=True)
class Records:
    """What earlier checks say of the library that failed, on the same backend."""

    failure: Failure
    evidence: Evidence
    backend: str

    def _seen(self, *, here: bool) -> Iterator[tuple[Seen, str]]:
        """The evidence of the library alone, with its version, in this image or in others."""
        name = self.failure.subject
        for seen in self.evidence.of(name) if len(self.failure.cell.members) == 1 else ():
            same = seen.place.facts.get("packages") == self.failure.facts["packages"]
            if seen.members == {name} and seen.place.backend == self.backend and same is here and not seen.replaced:
                yield seen, seen.versions[name]

    def _passes(self, seen: Seen) -> bool:
        probes = {PROBES[0], self.failure.outcome.probe}
        return all(probe in seen.outcomes and seen.outcomes[probe].verdict is Verdict.PASS for probe in probes)

    def passing_here(self) -> Iterator[Option]:
        """The version of the library nearest to this one, of those that pass the probe in this image."""
        own = number(self.failure.version(self.failure.subject))
        versions = {number(version) for seen, version in self._seen(here=True) if self._passes(seen)} - {NONE, own}
        later = sorted(version for version in versions if version > own)[:1]
        earlier = sorted(version for version in versions if version < own)[-1:]
        older_first = self.failure.outcome.reason == "python-too-old"
        for version in (earlier or later) if older_first else (later or earlier):
            name, accepts = self.failure.subject, f"accepts {self.failure.drifted} and " if self.failure.drifted else ""
            yield Option(f"use {name} {version}", f"it {accepts}passes here", f"use {name}=={version}")

    def failing_here(self) -> tuple[str, ...]:
        """The versions that are known to fail the probe, or to import, in this image."""
        probes = {PROBES[0], self.failure.outcome.probe}
        failed = {
            number(version)
            for seen, version in self._seen(here=True)
            if any(probe in seen.outcomes and seen.outcomes[probe].verdict.broken for probe in probes)
        }
        return tuple(map(str, sorted(failed - {NONE})))

    def passing_elsewhere(self) -> Iterator[Option]:
        """An image of the records in which this very version passes."""
        name, own = self.failure.subject, self.failure.version(self.failure.subject)
        for seen, version in self._seen(here=False):
            if own and same_version(version, own) and self._passes(seen) and seen.place.torch:
                image, torch = seen.place.image.name, seen.place.torch.partition("+")[0]
                yield Option(f"use the image {image}, torch {torch}", f"{name} {own} passes there", f"image {image}")
                return
