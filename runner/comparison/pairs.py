"""The verdict of a pair: what became of a check from the base to the candidate."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from enum import Enum
from typing import Any

from torch_compat_matrix.runner.comparison.confirm import Fall
from torch_compat_matrix.runner.comparison.sides import Pair
from torch_compat_matrix.runner.model import Cell, Check, Image, Verdict, check_id
from torch_compat_matrix.runner.outcome import Outcome
from torch_compat_matrix.runner.pins import canonical
from torch_compat_matrix.runner.records.since import Seen, state_of
from torch_compat_matrix.runner.signature import short, words_of

PILOT, FEWEST = 0.05, 3
"""The share of the pairs that a pilot takes, and the fewest of them."""
ROUND_S = 120.0
"""Seconds of each side after which the other has its turn: another launch of both images costs some eight."""


class PairVerdict(str, Enum):
    """What became of a check, in the order in which a reader wants it."""

    REGRESSED = "regressed"
    DIFFERS = "fails differently"
    FIXED = "fixed"
    NO_EVIDENCE = "no evidence"
    SAME = "same"


OF_STATE = {
    "new": PairVerdict.REGRESSED,
    "differs": PairVerdict.DIFFERS,
    "fixed": PairVerdict.FIXED,
    "still": PairVerdict.SAME,
    "same": PairVerdict.SAME,
}
HEADLINE = {PairVerdict.DIFFERS: "failing differently", PairVerdict.NO_EVIDENCE: "without evidence"}
FOLLOWS = "import-failed"
"""The reason of a check that its own import answers."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Compared:
    """A check on both sides, and what became of it."""

    pair: Pair
    probe: str
    then: Outcome | None
    now: Outcome | None

    @property
    def check(self) -> str:
        return check_id(self.pair.base.id, self.probe)

    @property
    def candidate(self) -> str:
        """The id of the candidate's check."""
        return check_id(self.pair.candidate.id, self.probe)

    @property
    def verdict(self) -> PairVerdict:
        then, now = self.then, self.now
        if then is None or now is None or then.flaky or not (then.verdict.tells and now.verdict.tells):
            return PairVerdict.NO_EVIDENCE
        return OF_STATE[state_of(now, then)]

    @property
    def silent(self) -> bool:
        """Whether it adds nothing: the verdict on its import says it all, or both sides skip it for one reason."""
        reasons = [side.reason for side in (self.then, self.now) if side and side.verdict is Verdict.SKIP]
        return FOLLOWS in reasons or (len(reasons) == 2 and reasons[0] == reasons[1])

    @property
    def lost(self) -> bool:
        """Whether one side alone has a verdict, and nothing else tells why."""
        told = [side is not None and side.verdict.tells for side in (self.then, self.now)]
        return told[0] != told[1] and not self.silent

    @property
    def open(self) -> bool:
        """Whether a side has still to be run, or host trouble kept it from a verdict."""
        return any(side is None or not side.verdict.final for side in (self.then, self.now))

    @property
    def reason(self) -> str:
        """From what to what."""
        then, now = self.then, self.now
        same = then and now and then.reason == now.reason and then.signature != now.signature
        words = f"{_words(then, bool(same))} -> {_words(now, bool(same))}"
        level = now.confirmed if now and self.verdict is PairVerdict.REGRESSED else ""
        return "; ".join(filter(None, (words, level, self.pair.note)))

    @property
    def unconfirmed(self) -> bool:
        """Whether it regressed, and did not when it was asked again."""
        return self.verdict is PairVerdict.REGRESSED and self.now is not None and bool(self.now.unconfirmed)

    @property
    def cause(self) -> str:
        """What makes two regressions one: reason and words, of whichever library; else the signature."""
        if self.now is None:
            return ""
        words = words_of(self.now.evidence)
        return f"{self.now.reason}: {words}" if len(words.split()) > 2 else self.now.signature or self.now.reason

    def to_json(self) -> dict[str, Any]:
        """Plain data."""
        return {
            **{name: getattr(self, name) for name in ("check", "candidate", "reason", "lost")},
            "verdict": self.verdict.value,
            "cause": self.cause if self.verdict is PairVerdict.REGRESSED else "",
            "confirmation": self.now.confirmation if self.now else "",
            "unconfirmed": self.now.unconfirmed if self.now else "",
            "changed": list(self.pair.changed),
            "reused": self.then.reused if self.then else "",
        }


def _words(outcome: Outcome | None, signed: bool) -> str:
    if outcome is None:
        return "not run"
    mark = f" {short(outcome.signature)}" if signed and outcome.signature else ""
    flaky = " flaky" if outcome.flaky else ""
    return outcome.shown + (f" ({outcome.reason}{mark})" if outcome.reason else "") + flaky


def compared(pairs: Iterable[Pair], outcomes: Mapping[str, Outcome]) -> list[Compared]:
    """Every check of the pairs, by the outcomes of their run."""
    return [
        Compared(
            pair=pair,
            probe=probe,
            then=outcomes.get(check_id(pair.base.id, probe)),
            now=outcomes.get(check_id(pair.candidate.id, probe)),
        )
        for pair in pairs
        for probe in pair.base.probes
    ]


def falls(
    checks: Iterable[Compared], images: Iterable[Image], environments: Mapping[str, Mapping[str, Any]], run: str
) -> Iterator[Fall]:
    """The regressions, to be confirmed: the candidate fails again in a new overlay, and the base passes after that."""
    named = {image.name: image for image in images}
    for check in checks:
        if check.verdict is PairVerdict.REGRESSED and check.then and check.now and not check.now.confirmation:
            base, candidate = (replace(cell, probes=(check.probe,)) for cell in check.pair.cells)
            seen = environments.get(check.then.environment, {})
            good = Seen(run=check.then.reused or run, date=check.then.started, outcome=check.then, environment=seen)
            before = named[base.image], base
            yield Fall(outcome=check.now, image=named[candidate.image], cell=candidate, good=good, before=before)


def causes(checks: Iterable[Compared]) -> list[list[Compared]]:
    """The regressions, those with one cause together, the commonest cause first."""
    groups: dict[str, list[Compared]] = {}
    for check in checks:
        if check.verdict is PairVerdict.REGRESSED:
            groups.setdefault(check.cause, []).append(check)
    return sorted(groups.values(), key=len, reverse=True)


def collapsed(checks: Sequence[Compared], percent: int) -> str:
    """Why the rest need not run: a share of the judged checks above this many percent regressed with one cause."""
    judged = sum(check.verdict is not PairVerdict.NO_EVIDENCE for check in checks)
    worst = next(iter(causes(checks)), [])
    if not worst or len(worst) * 100 <= judged * percent:
        return ""
    return f"stopped after the pilot: {len(worst)} of its {judged} checks regressed with one cause"


def rounds(
    pairs: Sequence[Pair], seconds: Callable[[Cell], float], *, pilot: bool, goes_on: Callable[[], bool]
) -> Iterator[list[Check]]:
    """The checks in turns that take in both sides; `goes_on` is asked after the pilot, which has the most dependents.

    Sides of one image share each launch, where they alternate anyway; those of two images take turns.
    """
    left = list(pairs)
    if pilot:
        needed = Counter(name for pair in pairs for name in pair.needed)
        left.sort(key=lambda pair: -needed[canonical(pair.base.subject)])
        number = max(FEWEST, math.ceil(len(left) * PILOT))
        yield _checks(left[:number])
        left = left[number:]
        if not left or not goes_on():
            return
    turn: list[Pair] = []
    for pair in left:
        if turn and pair.base.image != pair.candidate.image and sum(seconds(p.base) for p in turn) > ROUND_S:
            yield _checks(turn)
            turn = []
        turn.append(pair)
    yield _checks(turn)


def _checks(pairs: Iterable[Pair]) -> list[Check]:
    return [check for pair in pairs for cell in pair.cells for check in cell.checks]


def counts(checks: Iterable[Compared]) -> Counter[PairVerdict]:
    """How many checks became what, the silent ones left out."""
    return Counter(check.verdict for check in checks if not check.silent)


def headline(checks: Sequence[Compared]) -> str:
    """`2 regressed, 1 fixed, 9 same; evidence lost: 1 with a verdict on one side only`."""
    told = counts(checks)
    said = [f"{told[verdict]} {HEADLINE.get(verdict, verdict.value)}" for verdict in PairVerdict if told[verdict]]
    lost = sum(check.lost for check in checks)
    doubtful = sum(check.unconfirmed for check in checks)
    if doubtful:
        said[0] += f" ({doubtful} unconfirmed)"
    more = f"; evidence lost: {lost} with a verdict on one side only" if lost else ""
    none = "nothing regressed" if told.keys() - {PairVerdict.NO_EVIDENCE} else "nothing compared"
    return ", ".join([*([] if told[PairVerdict.REGRESSED] else [none]), *said]) + more
