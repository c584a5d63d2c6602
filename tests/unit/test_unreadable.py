"""What is recorded may be mistyped, cut or of a later version: it costs that record, which is counted, and no more."""

from __future__ import annotations

import json
import math
import random
import sqlite3
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from tests.support import journals
from tests.support.mutations import changed
from torch_compat_matrix.compat import cli
from torch_compat_matrix.runner.errors import Status
from torch_compat_matrix.runner.records import history
from torch_compat_matrix.runner.records.journal import Journal, append
from torch_compat_matrix.runner.records.runs import Run

CHECK = "gpu-image/torch-installed/import"


@pytest.fixture
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A home with one run."""
    monkeypatch.setenv("COMPAT_HOME", str(tmp_path))
    monkeypatch.chdir(tmp_path)
    journals.write(tmp_path / "runs" / "20300101T000000-abcd" / "journal.jsonl", journals.records(), torn=False)
    return tmp_path


def spoil(home: Path, **changes: Any) -> None:
    """Add an outcome of a check with these fields changed; None takes a field away."""
    (run,) = Run.all(home)
    record = next(record for record in journals.records() if record.get("check") == CHECK)
    record = {name: value for name, value in {**record, **changes}.items() if value is not None}
    with run.journal.open("a") as stream:
        stream.write(json.dumps(record) + "\n")


@pytest.mark.parametrize(
    "changes",
    [
        {"notes": [1]},
        {"notes": "text"},
        {"verdict": "splendid"},
        {"verdict": None},
        {"image": None},
        {"seconds": "long"},
        {"seconds": math.nan},
        {"metrics": 3},
        {"parts": [{"name": "x"}]},
        {"check": 7},
        {"kind": "run", "schema": 99},
        {"kind": "environment"},
        {"kind": 5},
    ],
    ids=str,
)
def test_a_mistyped_record_costs_itself(
    home: Path, capsys: pytest.CaptureFixture[str], changes: dict[str, Any]
) -> None:
    """Report, show and history say how many there are, and tell everything else."""
    spoil(home, **changes)
    assert cli.main(["report"]) == Status.SURPRISES
    assert "1 record cannot be read." in capsys.readouterr().out
    assert cli.main(["show", CHECK]) == Status.AS_EXPECTED
    said = capsys.readouterr()
    assert "1 record cannot be read" in said.err
    assert f"{CHECK}: pass" in said.out
    assert cli.main(["history", CHECK]) == Status.AS_EXPECTED
    said = capsys.readouterr()
    assert "the journals: 1 record cannot be read" in said.err
    assert "20300101T000000-abcd  pass" in said.out
    report = json.loads((home / "runs" / "20300101T000000-abcd" / "report.json").read_text())
    assert report["unreadable"] == 1


@pytest.mark.parametrize("value", [math.nan, math.inf, None, "3", 10**400])
def test_a_metric_that_is_no_number_becomes_a_note(home: Path, capsys: pytest.CaptureFixture[str], value: Any) -> None:
    """The rest of its outcome counts, and report.json is JSON."""
    spoil(home, metrics={"speed": {"value": value, "unit": "s"}, "size": {"value": 2, "unit": "B"}})
    assert cli.main(["report"]) == Status.SURPRISES
    assert cli.main(["show", CHECK]) == Status.AS_EXPECTED
    said = capsys.readouterr().out
    assert "size 2 B" in said
    assert "the metric speed is no finite number" in said
    path = home / "runs" / "20300101T000000-abcd" / "report.json"
    json.loads(path.read_text(), parse_constant=lambda constant: pytest.fail(f"report.json holds {constant}"))


def test_what_is_written_is_json(tmp_path: Path) -> None:
    """No finite number, no number."""
    append(tmp_path / "journal", {"kind": "later", "values": (math.nan, -math.inf, 1.5), "texts": {"x": math.inf}})
    assert list(Journal(tmp_path / "journal")) == [{"kind": "later", "values": [None, None, 1.5], "texts": {"x": None}}]


def test_a_run_of_a_later_compat_hides_no_other(home: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """It is named where it is asked for."""
    head = {**journals.records()[0], "schema": 2, "plan": "another format"}
    journals.write(home / "runs" / "20310101T000000-ffff" / "journal.jsonl", [head])
    assert cli.main(["history"]) == Status.AS_EXPECTED
    assert cli.main(["report", "2030"]) == Status.SURPRISES
    assert cli.main(["report"]) == Status.NOTHING_SELECTED
    assert "the run record cannot be read: it is damaged, or of a later compat" in capsys.readouterr().err


def test_an_empty_journal_is_one_message(home: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """For each verb that is about a run."""
    journals.write(home / "runs" / "20310101T000000-ffff" / "journal.jsonl", [], torn=False)
    for arguments in (["report"], ["show", CHECK], ["run", "--resume"]):
        assert cli.main(arguments) == Status.NOTHING_SELECTED
        assert "no run record" in capsys.readouterr().err


def mutations(seed: int, text: bytes) -> Iterator[bytes]:
    """The text damaged in one of several ways: bytes flipped, cut, doubled; a value replaced by another type's."""
    chance = random.Random(seed)
    lines = text.splitlines(keepends=True)
    number = chance.randrange(len(lines))
    kind = chance.randrange(5)
    if kind == 0:
        place = chance.randrange(len(text))
        yield text[:place] + bytes([chance.randrange(256)]) + text[place + 1 :]
    elif kind == 1:
        yield text[: chance.randrange(len(text))]
    elif kind == 2:
        lines.insert(chance.randrange(len(lines)), lines[number])
        yield b"".join(lines)
    else:
        lines[number] = json.dumps(changed(json.loads(lines[number]), chance)).encode() + b"\n"
        yield b"".join(lines)


@settings(max_examples=15, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(seed=st.integers(0, 2**32))
def test_a_damaged_journal_ends_no_verb_in_a_traceback(
    home: Path, capsys: pytest.CaptureFixture[str], seed: int
) -> None:
    """Whatever is damaged, and report.json is JSON."""
    (run,) = Run.all(home)
    text = "".join(json.dumps(record) + "\n" for record in journals.records()).encode()
    for mutated in mutations(seed, text):
        run.journal.write_bytes(mutated)
        for arguments in (["report"], ["show", CHECK], ["history", CHECK], ["history"], ["triage"], ["diff"]):
            assert cli.main(arguments) in (0, 1, 3, 5)
        capsys.readouterr().out.encode()
        path = run.folder / "report.json"
        if path.exists():
            json.loads(path.read_text(), parse_constant=lambda constant: pytest.fail(constant))
            path.unlink()


@settings(max_examples=15, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(seed=st.integers(0, 2**32))
def test_a_damaged_history_heals(home: Path, seed: int) -> None:
    """It is rebuilt from the journals where it cannot be read."""
    path = home / "history.sqlite"
    path.unlink(missing_ok=True)
    history.sync(home)
    with sqlite3.connect(path) as connection:
        connection.execute("PRAGMA wal_checkpoint(TRUNCATE)")
    connection.close()
    chance = random.Random(seed)
    content = bytearray(path.read_bytes())
    for _ in range(chance.choice((1, 10, 1000))):
        content[chance.randrange(100 if chance.random() < 0.3 else len(content))] = chance.randrange(256)
    path.write_bytes(content)
    try:
        cli.main(["history", CHECK])
        cli.main(["history"])
        history.settled(home, ["", "x"])
    except history.HistoryUnusable as error:
        assert "comes from a later compat" in str(error)


def test_a_record_of_history_that_is_none_heals(home: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """The file is rebuilt, and that is said."""
    history.sync(home)
    for garbage in ("no JSON", "[]", '{"kind": "outcome"}', b"\xff"):
        with sqlite3.connect(home / "history.sqlite") as connection:
            connection.execute("UPDATE outcomes SET record = ?", (garbage,))
        connection.close()
        assert cli.main(["history", CHECK]) == Status.AS_EXPECTED
        said = capsys.readouterr()
        assert "rebuilt from the journals" in said.err
        assert "20300101T000000-abcd  pass" in said.out
