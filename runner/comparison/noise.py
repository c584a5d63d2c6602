"""An A/A experiment: the same checks several times, and how often that alone would have been an alarm."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from statistics import median

from torch_compat_matrix.runner.model import Plan, Verdict
from torch_compat_matrix.runner.outcome import Outcome
from torch_compat_matrix.runner.records import history
from torch_compat_matrix.runner.records.journal import Journal
from torch_compat_matrix.runner.records.shapes import CheckNoise

Ask = Callable[[Plan, bool], Mapping[str, Outcome]]
"""Runs a plan, on demand with new overlays and empty caches."""

LIMIT, CALM = 0.05, 5
"""A check that flips more often is quarantined, and returns after so many passes in a row."""
LEVELS = ("seen", "again", "clean", "bracketed")


def experiment(plan: Plan, runs: int, ask: Ask) -> list[CheckNoise]:
    """Run the plan so many times, ask what falls up the ladder, and tell what each check did."""
    seen: dict[str, list[Outcome]] = {check.id: [] for check in plan.checks}
    alarms: dict[str, Counter[str]] = {check: Counter() for check in seen}
    for _ in range(runs):
        outcomes = ask(plan, False)
        fallen: dict[str, list[str]] = {"seen": [], "again": []}
        for check, now in outcomes.items():
            told = [outcome for outcome in seen[check] if outcome.verdict.tells]
            if told and told[-1].verdict is Verdict.PASS:
                fallen["seen"] += [check] if now.verdict.broken or now.attempts else []
                fallen["again"] += [check] if now.verdict.broken else []
            seen[check].append(now)
        fallen["clean"] = [check for check, now in _asked(plan, fallen["again"], ask) if now.verdict.broken]
        fallen["bracketed"] = [check for check, now in _asked(plan, fallen["clean"], ask) if not now.verdict.broken]
        for level, checks in fallen.items():
            for check in checks:
                alarms[check][level] += 1
    return [_noise(check, outcomes, alarms[check]) for check, outcomes in seen.items()]


def quarantined(home: Path, backend: str) -> dict[str, dict[str, str]]:
    """Check -> target -> rate and date of the flips for which it does not count, until it has passed in a row since."""
    path, measured = home / "noise.jsonl", dict[tuple[str, str], tuple[CheckNoise, str]]()
    for record in Journal(path) if path.exists() else ():
        if record["kind"] == "noise" and record["backend"] == backend:
            measured |= {(row["check"], record["target"]): (row, record["date"]) for row in record["checks"]}
    query = f"""
        SELECT verdict = 'pass' AND flaky != 1 FROM outcomes JOIN runs USING (run)
        WHERE name = ? AND backend = ? AND coalesce(json_extract(record, '$.target'), 'cpu') = ? AND started > ?
        AND verdict NOT IN {history.UNSETTLED} ORDER BY run DESC LIMIT ?
        """
    found: dict[str, dict[str, str]] = {}
    loud = {place: seen for place, seen in measured.items() if seen[0]["flips"] > 1 and seen[0]["rate"] > LIMIT}
    with suppress(history.HistoryUnusable):
        if loud:
            history.sync(home)
        for (check, target), (row, date) in loud.items():
            since = history.rows_of(home, query, check, backend, target, date, CALM)
            if len(since) < CALM or not all(passed for (passed,) in since):
                words = f"flipped in {row['rate']:.0%} of equal runs on {date[:10]}"
                found.setdefault(check, {})[target] = f"{words}; it counts again once {CALM} runs in a row pass"
    return found


def _asked(plan: Plan, checks: Sequence[str], ask: Ask) -> Iterator[tuple[str, Outcome]]:
    """These checks and their outcomes, asked alone with new overlays."""
    yield from ask(plan.only(checks), True).items() if checks else ()


def _noise(check: str, outcomes: Sequence[Outcome], alarms: Counter[str]) -> CheckNoise:
    told = [outcome.verdict for outcome in outcomes if outcome.verdict.tells]
    flips = sum(one is not other for one, other in zip(told, told[1:], strict=False))
    metrics: dict[str, list[float]] = {}
    for outcome in outcomes:
        for name, metric in outcome.metrics.items():
            metrics.setdefault(name, []).append(float(metric["value"]))
    return CheckNoise(
        check=check,
        verdicts=[outcome.verdict.value for outcome in outcomes],
        flips=flips,
        rate=round(flips / max(1, len(told) - 1), 4),
        alarms={level: alarms[level] for level in LEVELS},
        spread={
            name: round((max(values) - min(values)) / abs(median(values)), 4)
            for name, values in metrics.items()
            if len(values) > 1 and median(values)
        },
    )
