"""Claims judged by what a run saw: true, false, partly, or not tested; never true for want of an answer."""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from torch_compat_matrix.reports.escape import text
from torch_compat_matrix.reports.table import Table
from torch_compat_matrix.runner.model import Outcome, Verdict
from torch_compat_matrix.runner.selector import Selector

TRUE, FALSE, PARTLY, NOT_TESTED = "true", "false", "partly true", "not tested"
ORDER = (FALSE, PARTLY, TRUE, NOT_TESTED)
SHOWN = 3
"""Pieces of evidence shown for each condition."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Judged:
    """A claim with its verdict and what that rests on."""

    claim: Mapping[str, Any]
    verdict: str
    evidence: tuple[str, ...]

    def to_json(self) -> dict[str, Any]:
        """Plain data."""
        return {**self.claim, "verdict": self.verdict, "evidence": list(self.evidence)}


def judge(table: Table) -> tuple[Judged, ...]:
    """Every claim that was recorded with the run, false ones first."""
    found = [_judge(table, claim) for claim in table.header.get("plan", {}).get("claims", ())]
    return tuple(sorted(found, key=lambda one: ORDER.index(one.verdict)))


def _judge(table: Table, claim: Mapping[str, Any]) -> Judged:
    answers: list[bool] = []
    evidence: list[str] = []
    open_ = False
    for condition in claim.get("holds_if", ()):
        said = list(_answers(table, condition))
        open_ |= not any(answer is not None for answer, _ in said) or _unanswered(table, condition)
        answers += [answer for answer, _ in said if answer is not None]
        telling = sorted(said, key=lambda pair: (pair[0] is None, pair[0] is True))
        evidence += [words for _, words in telling[:SHOWN]]
        if len(said) > SHOWN:
            evidence.append(f"and {len(said) - SHOWN} more like these")
        if not said:
            evidence.append(f"{_asked(condition)}: not in this run")
    if not answers:
        verdict = NOT_TESTED
    elif all(answers):
        verdict = PARTLY if open_ else TRUE
    else:
        verdict = PARTLY if any(answers) else FALSE
    return Judged(claim=claim, verdict=verdict, evidence=tuple(evidence))


def _unanswered(table: Table, condition: Mapping[str, Any]) -> bool:
    """Whether host trouble, or an end before its time, left a part of what the condition looks at without an answer."""
    return any(not outcome.verdict.final for outcome in _looked_at(table, condition))


def _looked_at(table: Table, condition: Mapping[str, Any]) -> Iterator[Outcome]:
    """The outcomes of the checks, or the verdicts on the expectations, that the condition selects."""
    if "exists" in condition:
        return
    expectations = (judged.outcome for judged in table.expectations)
    outcomes = expectations if "expects" in condition else table.outcomes.values()
    selector = Selector(condition.get("expects") or condition["checks"])
    yield from (outcome for outcome in outcomes if selector.takes(outcome.address))


def _answers(table: Table, condition: Mapping[str, Any]) -> Iterator[tuple[bool | None, str]]:
    """(whether it holds, evidence) of each outcome that the condition looks at; None where it says nothing."""
    if "exists" in condition:
        yield from _exists(table, condition["exists"])
    elif "expects" in condition:
        for outcome in _looked_at(table, condition):
            met = {Verdict.PASS: True, Verdict.FAIL: False}.get(outcome.verdict)
            yield met, f"{outcome.check}: {outcome.detail}"
    else:
        for outcome in _looked_at(table, condition):
            yield _answer(table, condition, outcome)


def _exists(table: Table, image: str) -> Iterable[tuple[bool | None, str]]:
    seen = [outcome for outcome in table.outcomes.values() if outcome.image == image]
    missing = [outcome for outcome in seen if outcome.reason == "image-not-found"]
    if missing:
        return [(False, f"{image}: {missing[0].detail}")]
    records = [one for one in table.environments.values() if one["image"] == image and not one.get("stand_in")]
    if not records and seen:
        return [(None, f"{image}: {seen[0].verdict.value} ({seen[0].reason})")]
    return [(True, f"{one['reference']} {one.get('digest') or ''}".strip()) for one in records[:1]]


def _answer(table: Table, condition: Mapping[str, Any], outcome: Outcome) -> tuple[bool | None, str]:
    record = table.environments.get(outcome.environment, {})
    where = outcome.device_name or "no device"
    stand_in = bool(record.get("stand_in"))
    words = f"{outcome.check}: {outcome.verdict.value}{f' ({outcome.reason})' if outcome.reason else ''}"
    words += f" on {where}{', a stand-in' if stand_in else ''}"
    answer: bool | None = None
    if "metric" in condition:
        answer, more = _bounded(condition, outcome)
        words += more
    elif "true_note" in condition or "false_note" in condition:
        answer, more = _noted(condition, outcome.notes)
        words += more
    elif outcome.verdict is Verdict.PASS or outcome.verdict.broken:
        answer = outcome.verdict is Verdict.PASS
    if stand_in and not condition.get("anywhere"):
        return None, f"{words}, which says nothing of the image"
    if condition.get("gpu") and not table.passed_on_gpu(outcome):
        return None, f"{words}, which says nothing of a GPU"
    return answer, words


def _bounded(condition: Mapping[str, Any], outcome: Outcome) -> tuple[bool | None, str]:
    found = next((one for name, one in outcome.metrics.items() if name.endswith(condition["metric"])), None)
    if found is None:
        return None, f", {condition['metric']} not measured"
    least, most = condition.get("at_least"), condition.get("at_most")
    within = (least is None or found["value"] >= least) and (most is None or found["value"] <= most)
    said = " to ".join(str(bound) for bound in (least, most) if bound is not None)
    return within, f", {condition['metric']}: {found['value']:.3g} {found['unit']} (said: {said})"


def _noted(condition: Mapping[str, Any], notes: Sequence[str]) -> tuple[bool | None, str]:
    for answer, key in ((False, "false_note"), (True, "true_note")):
        for note in notes:
            if key in condition and re.search(condition[key], note):
                return answer, f": {note}"
    return None, ", and it noted nothing of this"


def _asked(condition: Mapping[str, Any]) -> str:
    return str(condition.get("exists") or condition.get("expects") or condition.get("checks"))


def page(table: Table, judged: Sequence[Judged]) -> Iterator[str]:
    """The page of the claims as Markdown: what is false first."""
    counts = ", ".join(f"{sum(one.verdict == verdict for one in judged)} {verdict}" for verdict in ORDER)
    yield f"# What is claimed, and what run {table.run} saw\n\n**{counts}.** The table of the run is in report.md.\n"
    for verdict in ORDER:
        found = [one for one in judged if one.verdict == verdict]
        if not found:
            continue
        yield f"\n## {verdict.capitalize()}\n"
        for one in found:
            claim = one.claim
            yield f"\n**{text(claim['id'])}. {text(claim['says'])}** ({text(claim['source'])}): **{verdict}**\n\n"
            yield from (f"- {text(words)}\n" for words in one.evidence)
            if claim.get("remark"):
                yield f"- {text(claim['remark'])}\n"
