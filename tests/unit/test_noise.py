"""An A/A experiment counts what would have been an alarm, level by level, though nothing changed."""

from __future__ import annotations

import datetime as dt
from collections.abc import Mapping
from pathlib import Path

import pytest

from tests.unit import test_since
from tests.unit.test_history import outcome as recorded
from torch_compat_matrix.reports.markdown import markdown
from torch_compat_matrix.reports.table import Table
from torch_compat_matrix.runner.comparison.noise import CALM, experiment, quarantined
from torch_compat_matrix.runner.judging import judge
from torch_compat_matrix.runner.model import Cell, Image, Plan, Verdict
from torch_compat_matrix.runner.outcome import Outcome
from torch_compat_matrix.runner.records.journal import append

CELL = Cell(image="i", subject="l", version="1", requires=("l==1",), members=("l",), probes=("import", "sample"))
PLAN = Plan(images=(Image(name="i"), Image(name="other")), cells=(CELL,))
IMPORT, SAMPLE = (check.id for check in CELL.checks)


def outcome(check: str, verdict: str, value: float = 1.0, *attempts: str) -> Outcome:
    """What came of a check that measures."""
    return Outcome(
        check=check,
        image="i",
        subject="l",
        version="1",
        probe=check.rpartition("/")[2],
        verdict=Verdict(verdict),
        attempts=attempts,
        metrics={"draw": {"value": value, "unit": "s"}},
    )


def test_levels_are_counted_and_only_what_fell_is_asked_again() -> None:
    """A failure that stays in a new overlay and then passes would have been announced: the worst."""
    story = {
        False: iter(["pass", "fail", "pass", "fail", "infra", "pass", "warm"]),
        True: iter(["pass", "fail", "pass"]),
    }
    asked: list[tuple[bool, list[str]]] = []

    def ask(plan: Plan, clean: bool) -> Mapping[str, Outcome]:
        ids = [check.id for check in plan.checks]
        asked.append((clean, ids))
        assert [image.name for image in plan.images] == (["i"] if clean else ["i", "other"])
        word = next(story[clean])
        sample = outcome(SAMPLE, "pass", 1.0, "fail") if word == "warm" else outcome(SAMPLE, word)
        return {check: sample if check == SAMPLE else outcome(check, "pass", 1 + len(asked) / 10) for check in ids}

    calm, noisy = experiment(PLAN, 7, ask)
    assert [ids for clean, ids in asked if clean] == [[SAMPLE], [SAMPLE], [SAMPLE]]
    assert noisy["verdicts"] == ["pass", "fail", "pass", "fail", "infra", "pass", "pass"]
    assert (noisy["flips"], noisy["rate"]) == (4, 0.8)
    assert noisy["alarms"] == {"seen": 3, "again": 2, "clean": 1, "bracketed": 1}
    assert (calm["flips"], calm["rate"], calm["alarms"]["seen"]) == (0, 0, 0)
    assert noisy["spread"] == {"draw": 0.0}
    assert 0.5 < calm["spread"]["draw"] < 0.9


def measured(home: Path, flips: int, rate: float, date: str = "2030-01-02", target: str = "cpu") -> None:
    """A noise record of the check that the history tests have."""
    row = {"check": "i/l-1/sample", "verdicts": ["pass"], "flips": flips, "rate": rate, "alarms": {}, "spread": {}}
    head = {"kind": "noise", "date": date, "backend": "local", "target": target, "runs": 9, "alarms": {}}
    append(home / "noise.jsonl", {**head, "checks": [row]})


def test_quarantine_ends_by_itself(tmp_path: Path) -> None:
    """After passes in a row since the measurement; a failure among them begins anew."""
    assert quarantined(tmp_path, "local").get("i/l-1/sample", {}).get("cpu") is None
    measured(tmp_path, 3, 0.3)
    words = f"flipped in 30% of equal runs on 2030-01-02; it counts again once {CALM} runs in a row pass"
    for day in range(3, 3 + CALM):
        test_since.run(tmp_path, day, recorded("fail" if day == 3 else "pass"))
        assert quarantined(tmp_path, "local") == {"i/l-1/sample": {"cpu": words}}
    test_since.run(tmp_path, 3 + CALM, recorded())
    assert quarantined(tmp_path, "local").get("i/l-1/sample", {}).get("cpu") is None


@pytest.mark.parametrize(
    ("flips", "rate", "target"), [(1, 0.5, "cpu"), (3, 0.05, "cpu"), (3, 0.3, "h100")], ids=["one", "seldom", "other"]
)
def test_calm_check_is_not_quarantined(tmp_path: Path, flips: int, rate: float, target: str) -> None:
    """Nor is one that flips elsewhere; the newest measurement counts."""
    measured(tmp_path, 3, 0.3, "2030-01-01", target)
    measured(tmp_path, flips, rate, target=target)
    assert quarantined(tmp_path, "local").get("i/l-1/sample", {}).get("cpu") is None


def test_damaged_measurement_shuts_nothing_out(tmp_path: Path) -> None:
    """It is passed over, as any record that cannot be read."""
    (tmp_path / "noise.jsonl").write_text('{"kind":"noise","backend":"local"}\n{"kind":\n')
    assert quarantined(tmp_path, "local").get("i/l-1/sample", {}).get("cpu") is None


def test_quarantined_check_does_not_count_and_is_named() -> None:
    """In the headline and in a note."""
    failed = Outcome(
        **{name: getattr(outcome(SAMPLE, "fail"), name) for name in ("check", "image", "subject", "version", "probe")},
        verdict=Verdict.FAIL,
        reason="wrong-value",
        quarantined="flipped in 30% of equal runs on 2030-01-02",
    )
    assert judge(failed, (), dt.date(2030, 1, 3)).surprise == ""
    header = {"run": "r", "started": "2030-01-03T00:00:00+00:00", "backend": "local", "plan": {}}
    page = markdown(Table(header=header, outcomes={SAMPLE: failed}, environments={}, state="complete"), None)
    assert "1 quarantined check, which does not count." in page
    assert "quarantined: flipped in 30% of equal runs on 2030-01-02" in page
