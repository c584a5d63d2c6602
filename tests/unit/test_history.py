"""History: every run in SQLite, whatever becomes of the file; what is settled and what is flaky follows from it."""

from __future__ import annotations

import sqlite3
import time
from contextlib import closing
from dataclasses import replace
from pathlib import Path

import pytest

from torch_compat_matrix.compat import cli
from torch_compat_matrix.runner.execution.reuse import reusable
from torch_compat_matrix.runner.model import Known, Verdict
from torch_compat_matrix.runner.outcome import Outcome
from torch_compat_matrix.runner.records import history
from torch_compat_matrix.runner.records.journal import append
from torch_compat_matrix.runner.records.runs import Run
from torch_compat_matrix.runner.selector import Selector

CHECK = "i/l-1/sample"


ENVIRONMENT = {
    "kind": "environment",
    "key": "e",
    "image": "i",
    "reference": "i:1",
    "facts": {"python": "3.11.7", "gpus": []},
}


def outcome(verdict: str = "pass", key: str = "k", check: str = CHECK, **more: str) -> Outcome:
    """What came of a check."""
    image, cell, probe = check.split("/")
    subject, _, version = cell.partition("-")
    whole = {"check": check, "image": image, "subject": subject, "version": version, "probe": probe, "key": key}
    return Outcome(**whole, verdict=Verdict(verdict), environment="e", **more)  # type: ignore[arg-type]


def run(home: Path, number: int, *outcomes: Outcome) -> Run:
    """A run with these outcomes."""
    made = Run(home / "runs" / f"2030010{number}T000000-0000")
    made.folder.mkdir(parents=True)
    append(
        made.journal,
        {"kind": "run", "run": made.id, "started": f"2030-01-0{number}", "backend": "local"},
        ENVIRONMENT,
        *({"kind": "outcome", **one.to_json()} for one in outcomes),
    )
    return made


def settled(home: Path, *keys: str) -> dict[str, tuple[Outcome, object]]:
    """After bringing the history up to date."""
    history.sync(home)
    return dict(history.settled(home, keys))


def test_newest_outcome_is_found_by_its_key(tmp_path: Path) -> None:
    """With the run it is from and the environment that it was seen in."""
    run(tmp_path, 1, outcome(detail="older"), outcome(check="i/l-1/import", key="other"))
    second = run(tmp_path, 2, outcome(detail="newer"))
    run(tmp_path, 3, outcome("infra", detail="no verdict"))
    found, environment = settled(tmp_path, "k", "unknown")["k"]
    assert (found.verdict, found.reused, found.detail) == (Verdict.PASS, second.id, "newer")
    assert environment == ENVIRONMENT


def test_reused_outcome_counts_once(tmp_path: Path) -> None:
    """An outcome stays that of the run in which the check ran."""
    first = run(tmp_path, 1, outcome())
    run(tmp_path, 2, replace(outcome(), reused=first.id))
    assert settled(tmp_path, "k")["k"][0].reused == first.id


@pytest.mark.parametrize("second", [outcome("fail"), replace(outcome(), flaky=True)], ids=["failed", "flaky"])
def test_disagreement_settles_nothing(tmp_path: Path, second: Outcome) -> None:
    """Both verdicts under one key: flaky."""
    run(tmp_path, 1, outcome())
    run(tmp_path, 2, second)
    assert settled(tmp_path, "k") == {}
    assert [(one.check, one.passes > 0, one.failures) for one in history.flaky(tmp_path)] == [(CHECK, True, 1)]


def test_host_trouble_says_nothing(tmp_path: Path) -> None:
    """Neither does it settle a check nor make it flaky."""
    run(tmp_path, 1, outcome())
    run(tmp_path, 2, outcome("infra", reason="engine-unreachable"))
    assert settled(tmp_path, "k")["k"][0].verdict is Verdict.PASS
    assert history.flaky(tmp_path) == []


def test_change_of_key_is_no_flakiness(tmp_path: Path) -> None:
    """Another image may well give another verdict."""
    run(tmp_path, 1, outcome())
    run(tmp_path, 2, outcome("fail", key="new"))
    history.sync(tmp_path)
    assert history.flaky(tmp_path) == []


def test_run_that_goes_on_is_read_again(tmp_path: Path) -> None:
    """Its rows are replaced, not doubled."""
    made = run(tmp_path, 1, outcome("infra"))
    assert settled(tmp_path, "k") == {}
    append(made.journal, {"kind": "outcome", **outcome().to_json()})
    assert settled(tmp_path, "k")["k"][0].verdict is Verdict.PASS
    assert [len(seen) for seen in history.timelines(tmp_path, Selector("l-1"), 9).values()] == [1]


@pytest.mark.parametrize("text", ["l", "l-1", "i", "i/l-1", "*/l-*", CHECK, "l-1/sample"])
def test_timeline_is_oldest_first(tmp_path: Path, text: str) -> None:
    """By cell, by check, by glob, and no further back than asked."""
    for number, verdict in enumerate(("pass", "fail", "pass"), 1):
        run(tmp_path, number, outcome(verdict))
    history.sync(tmp_path)
    found = history.timelines(tmp_path, Selector(text), 2)
    assert [one.verdict.value for _, one in found[CHECK]] == ["fail", "pass"]


def test_verb_says_since_when_and_what_changed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """Only the same key makes a turn flaky; repetitions are counted; no cell: the flaky ones."""
    monkeypatch.setenv("COMPAT_HOME", str(tmp_path))
    days = [f"day {number}" for number in range(7)]
    run(tmp_path, 1, outcome(started=days[1]))
    run(tmp_path, 2, replace(outcome("fail", "new", started=days[2], reason="drift"), resolved=("numpy==2",)))
    run(tmp_path, 3, replace(outcome("fail", "new", started=days[3], reason="drift"), resolved=("numpy==2",)))
    run(tmp_path, 4, replace(outcome("pass", "new", started=days[4]), resolved=("numpy==2",)))
    run(tmp_path, 5, replace(outcome("fail", "", started=days[5]), environment="f"))
    run(tmp_path, 6, replace(outcome("pass", "", started=days[6]), environment="f"))
    assert cli.main(["history", "l-1"]) == 0
    lines = [line.strip() for line in capsys.readouterr().out.splitlines()]
    assert lines[0] == CHECK
    assert [line for line in lines if line.startswith(("since", "..."))] == [
        "since day 2: now installs numpy==2",
        "... the same in 1 more",
        "since day 4: nothing that the check depends on changed: flaky",
        "since day 5: in another environment (`compat diff` shows the changes)",
        "since day 6: in the same environment; probes, rules, limits or settings may have changed",
    ]
    assert cli.main(["history"]) == 0
    said = capsys.readouterr().out
    assert said.startswith(f"{CHECK}: 1 passes and 2 failures, though nothing changed, in 20300104T000000-0000")
    assert said.endswith("flaky checks: 1\n")
    assert cli.main(["history", "unheard-of"]) == 3


def test_damaged_file_is_set_aside_and_made_anew(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Nothing is lost: the journals have it all."""
    run(tmp_path, 1, outcome())
    (tmp_path / "history.sqlite").write_bytes(b"no database" * 1000)
    assert settled(tmp_path, "k")["k"][0].verdict is Verdict.PASS
    assert "set aside as history.sqlite.damaged" in capsys.readouterr().err
    assert (tmp_path / "history.sqlite.damaged").read_bytes().startswith(b"no database")


def test_damage_within_the_file_is_found_when_it_is_read(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """The header is whole, every page behind it is not: made anew, and what was asked for is answered."""
    run(tmp_path, 1, *(outcome(key=str(number), check=f"i/l-{number}/sample") for number in range(999)))
    history.sync(tmp_path)
    path = tmp_path / "history.sqlite"
    page = 4096
    path.write_bytes(path.read_bytes()[:page] + b"\xff" * (path.stat().st_size - page))
    assert len(history.settled(tmp_path, map(str, range(999)))) == 999
    assert "set aside as history.sqlite.damaged" in capsys.readouterr().err


def test_file_of_a_later_version_is_left_alone(tmp_path: Path) -> None:
    """With the remedy."""
    run(tmp_path, 1, outcome())
    history.sync(tmp_path)
    with closing(sqlite3.connect(tmp_path / "history.sqlite")) as connection:
        assert connection.execute("PRAGMA journal_mode").fetchone() == ("wal",)
        connection.execute("PRAGMA user_version = 99")
    with pytest.raises(history.HistoryUnusable, match=r"schema 99.*update compat"):
        history.sync(tmp_path)


def test_what_may_stand_for_a_check() -> None:
    """Never what is expected to fail, what failed by another's fault, or what the host may have caused."""
    known = [Known(cells="i/l-1", expect=Verdict.FAIL, reason="broken")]
    assert reusable(outcome(), ())
    assert reusable(outcome("fail", reason="wrong-value"), ())
    assert not reusable(outcome("fail", reason="wrong-value"), known)
    assert not reusable(outcome(), known)
    assert not reusable(outcome("skip", reason="import-failed"), ())
    assert not any(reusable(outcome(verdict), ()) for verdict in ("crash", "timeout", "oom", "infra", "not-run"))


@pytest.mark.parametrize(
    "count", [pytest.param(20_000, marks=pytest.mark.share), pytest.param(100_000, marks=pytest.mark.slow)]
)
def test_a_hundred_thousand_outcomes_are_taken_in_within_seconds(tmp_path: Path, count: int) -> None:
    """And found again by their keys."""
    run(tmp_path, 1, *(outcome(key=str(number), check=f"i/l-{number}/sample") for number in range(count)))
    started = time.process_time()
    assert len(settled(tmp_path, *map(str, range(count)))) == count
    assert time.process_time() - started < 30 * count / 100_000
