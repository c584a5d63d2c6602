"""Claims judged by a run's outcomes: true, false, partly true or not tested; never true without an answer."""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from torch_compat_matrix.reports.escape import text
from torch_compat_matrix.runner.model import Verdict, recorded_id
from torch_compat_matrix.runner.outcome import Outcome
from torch_compat_matrix.runner.selector import Selector

if TYPE_CHECKING:
    from torch_compat_matrix.reports.table import Table

TRUE, FALSE, PARTLY, NOT_TESTED = "true", "false", "partly true", "not tested"
ORDER = (FALSE, PARTLY, TRUE, NOT_TESTED)
SHOWN = 3
"""Pieces of evidence shown for each condition."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Judged:
    """A claim with its verdict and the evidence."""

    claim: Mapping[str, Any]
    verdict: str
    evidence: tuple[str, ...]

    def to_json(self) -> dict[str, Any]:
        """Plain data."""
        return {**self.claim, "verdict": self.verdict, "evidence": list(self.evidence)}


def judge(table: Table) -> tuple[Judged, ...]:
    """Every claim recorded with the run, the false ones first."""
    judged = [_judge(table, claim) for claim in table.header.get("plan", {}).get("claims", ())]
    return tuple(sorted(judged, key=lambda claim: ORDER.index(claim.verdict)))


def _judge(table: Table, claim: Mapping[str, Any]) -> Judged:
    answers: list[bool] = []
    evidence: list[str] = []
    open_ = False
    for condition in claim.get("holds_if", ()):
        pieces = list(_answers(table, condition))
        open_ |= not any(answer is not None for answer, _ in pieces)
        # host trouble or an early end left some outcome without a verdict
        open_ |= any(not outcome.verdict.final for outcome in _looked_at(table, condition))
        answers += [answer for answer, _ in pieces if answer is not None]
        telling = sorted(pieces, key=lambda pair: (pair[0] is None, pair[0] is True))
        evidence += [words for _, words in telling[:SHOWN]]
        if len(pieces) > SHOWN:
            evidence.append(f"and {len(pieces) - SHOWN} more like these")
        if not pieces:
            subject = condition.get("exists") or condition.get("expects") or condition.get("checks")
            evidence.append(f"{subject}: not in this run")
    if not answers:
        verdict = NOT_TESTED
    elif all(answers):
        verdict = PARTLY if open_ else TRUE
    else:
        verdict = PARTLY if any(answers) else FALSE
    return Judged(claim=claim, verdict=verdict, evidence=tuple(evidence))


def _looked_at(table: Table, condition: Mapping[str, Any]) -> Iterator[Outcome]:
    """The outcomes of the checks, or the verdicts on the expectations, that the condition selects."""
    if "exists" in condition:
        return
    expectations = (judged.outcome for judged in table.expectations)
    outcomes = expectations if "expects" in condition else table.outcomes.values()
    selector = Selector(condition.get("expects") or condition["checks"])
    yield from (outcome for outcome in outcomes if selector.takes(outcome.address))


def _answers(table: Table, condition: Mapping[str, Any]) -> Iterator[tuple[bool | None, str]]:
    """(whether the condition holds, evidence) for each outcome that it looks at; None where the outcome cannot tell."""
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
    seen = [outcome for outcome in table.outcomes.values() if recorded_id(outcome.image) == image]
    missing = [outcome for outcome in seen if outcome.reason == "image-not-found"]
    if missing:
        return [(False, f"{image}: {missing[0].detail}")]
    records = [
        record
        for record in table.environments.values()
        if recorded_id(record["image"]) == image and not record.get("stand_in")
    ]
    if not records and seen:
        return [(None, f"{image}: {seen[0].verdict.value} ({seen[0].reason})")]
    return [(True, f"{record['reference']} {record.get('digest') or ''}".strip()) for record in records[:1]]


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
    elif outcome.verdict.tells:
        answer = outcome.verdict is Verdict.PASS
    if outcome.grade:
        return None, f"{words}, {outcome.grade}: a generic probe compares nothing"
    if stand_in and not condition.get("anywhere"):
        return None, f"{words}, which says nothing about the image"
    if condition.get("gpu") and not table.passed_on_gpu(outcome):
        return None, f"{words}, which says nothing about a GPU"
    return answer, words


def _bounded(condition: Mapping[str, Any], outcome: Outcome) -> tuple[bool | None, str]:
    metric = next((metric for name, metric in outcome.metrics.items() if name.endswith(condition["metric"])), None)
    if metric is None:
        return None, f", {condition['metric']} not measured"
    least, most = condition.get("at_least"), condition.get("at_most")
    within = (least is None or metric["value"] >= least) and (most is None or metric["value"] <= most)
    claimed = " to ".join(str(bound) for bound in (least, most) if bound is not None)
    return within, f", {condition['metric']}: {metric['value']:.3g} {metric['unit']} (claimed: {claimed})"


def _noted(condition: Mapping[str, Any], notes: Sequence[str]) -> tuple[bool | None, str]:
    for answer, key in ((False, "false_note"), (True, "true_note")):
        for note in notes:
            if key in condition and re.search(condition[key], note):
                return answer, f": {note}"
    return None, ", without a note about this"


def page(table: Table) -> Iterator[str]:
    """The page of the claims as Markdown, the false ones first."""
    judged = table.claims
    counts = ", ".join(f"{sum(claim.verdict == verdict for claim in judged)} {verdict}" for verdict in ORDER)
    older = f" and {len(table.runs) - 1} older" if table.runs else ""
    yield f"# Claims judged by run {text(table.run)}{older}\n\n**{counts}.** The table of the run is in report.md.\n"
    for verdict in ORDER:
        of_verdict = [entry for entry in judged if entry.verdict == verdict]
        if not of_verdict:
            continue
        yield f"\n## {verdict.capitalize()}\n"
        for entry in of_verdict:
            claim = entry.claim
            yield f"\n**{text(claim['id'])}. {text(claim['says'])}** ({text(claim['source'])}): **{verdict}**\n\n"
            yield from (f"- {text(words)}\n" for words in entry.evidence)
            if claim.get("remark"):
                yield f"- {text(claim['remark'])}\n"
