"""A run in parts on several machines, and as one run again."""

from __future__ import annotations

import datetime as dt
import json
from pathlib import Path
from typing import Any

import pytest

from tests.support.journals import records
from torch_compat_matrix.compat.cli import main
from torch_compat_matrix.compat.options import read
from torch_compat_matrix.reports.standing import Standing, standing
from torch_compat_matrix.reports.table import load
from torch_compat_matrix.runner.model import Cell, Plan
from torch_compat_matrix.runner.planning import sharded
from torch_compat_matrix.runner.records.journal import append
from torch_compat_matrix.runner.records.runs import Run

WHOLE = Plan.from_json(records()[0]["plan"])


def seconds(cell: Cell) -> float:
    """Gpytorch compiles for long."""
    return 60 if cell.subject == "gpytorch" else 10


@pytest.mark.parametrize("of", [1, 2, 3, 4, 40])
def test_shards_are_the_whole_cut_into_equal_pieces(of: int) -> None:
    """Each cell is in one of them; none takes longer than its share by more than a cell; the order of cells stays."""
    parts = [sharded(WHOLE, f"{number}/{of}", seconds) for number in range(1, of + 1)]
    assert [cell for part in parts for cell in part.cells] == list(WHOLE.cells)
    assert all(part.whole == WHOLE.coverage and part.shard for part in parts)
    share = sum(map(seconds, WHOLE.cells)) / of
    assert max(sum(map(seconds, part.cells)) for part in parts) <= share + 60
    assert all({image.name for image in part.images} == {cell.image for cell in part.cells} for part in parts)
    assert sum(len(part.images) for part in parts) <= len(WHOLE.images) + of - 1
    assert Plan.from_json(json.loads(json.dumps(parts[0].to_json()))) == parts[0]


@pytest.mark.parametrize("text", ["0/2", "3/2", "2", "1/0", "a/b"])
def test_no_shard(text: str, capsys: pytest.CaptureFixture[str]) -> None:
    """Is said with the form that would be one."""
    assert main(["run", "--shard", text]) == 2
    assert f"--shard: {text!r} is not a part like 2/4" in capsys.readouterr().err
    assert read(["plan", "--shard", "2/4"]).shard == "2/4"


def shard(folder: Path, number: int, of: int, *, state: str = "complete", wrong: str = "") -> Path:
    """The journal of one shard of the small run, as an artifact has it."""
    found = records()
    part = sharded(WHOLE, f"{number}/{of}", seconds)
    run = wrong or f"20300101T00000{number}000-000{number}"
    own = {check.id for check in part.checks}
    header = {**found[0], "run": run, "plan": part.to_json()}
    images = {image.name for image in part.images}
    rest = [one for one in found[1:] if one["kind"] != "outcome" or one["check"] in own]
    rest = [one for one in rest if one["kind"] != "environment" or one["image"] in images]
    rest[-1] = {**rest[-1], "state": state}
    path = folder / f"shard-{number}" / "journal.jsonl"
    path.parent.mkdir(parents=True)
    (path.parent / "plan.json").write_text("the secrets of URLs")
    append(path, header, *rest)
    return path


@pytest.fixture
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty home."""
    monkeypatch.setenv("COMPAT_HOME", str(tmp_path / "home"))
    return tmp_path / "home"


def gathered(folder: Path, capsys: pytest.CaptureFixture[str]) -> str:
    """What `compat import` says."""
    assert main(["import", str(folder)]) == 0
    return capsys.readouterr().out


def test_shards_become_one_run(tmp_path: Path, home: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """With every check, environment and duration; a second time nothing happens."""
    for number in (1, 2, 3):
        shard(tmp_path / "artifacts", number, 3)
    said = gathered(tmp_path / "artifacts", capsys)
    (run,) = Run.all(home)
    assert said == f"run {run.id}: taken of 3 shards: complete\n"
    table, whole = load(run.journal), load(_whole(tmp_path))
    assert table.outcomes == whole.outcomes
    assert table.environments == whole.environments
    assert standing(table) == standing(whole) == Standing.INCOMPLETE  # the small journal has host trouble
    assert run.finished() == "2030-01-01T00:10:00+00:00"
    assert len(json.loads((home / "durations.json").read_text())) > 20
    assert not list(home.rglob("plan.json"))
    before = run.journal.read_bytes()
    assert gathered(tmp_path / "artifacts", capsys) == f"run {run.id}: is here already\n"
    assert (Run.all(home), run.journal.read_bytes()) == ([run], before)


@pytest.mark.parametrize(("present", "state"), [((1, 2, 3), "complete"), ((1, 3), "only the shards 1/3, 3/3 are here")])
def test_a_report_joins_shards(tmp_path: Path, home: Path, present: tuple[int, ...], state: str) -> None:
    """As an import does, and leaves no run behind."""
    for number in present:
        shard(tmp_path / "artifacts", number, 3)
    assert main(["report", str(tmp_path / "artifacts"), "--out", str(tmp_path / "out")]) == 1
    data = json.loads((tmp_path / "out" / "report.json").read_text())
    assert (data["state"], "runs" in data) == (state, False)
    assert Run.all(home) == []


def _whole(folder: Path) -> Path:
    path = folder / "whole" / "journal.jsonl"
    path.parent.mkdir()
    append(path, *records())
    return path


@pytest.mark.parametrize(
    ("lacking", "said"),
    [
        ({"absent": 2}, "only the shards 1/3, 3/3 are here"),
        ({"state": "interrupted"}, "shard 2/3: interrupted"),
        ({"torn": True}, "shard 2/3: 1 records cannot be read"),
    ],
)
def test_a_part_of_the_shards_is_no_complete_run(
    tmp_path: Path, home: Path, capsys: pytest.CaptureFixture[str], lacking: dict[str, Any], said: str
) -> None:
    """It says what is missing, and takes it in when it comes."""
    for number in (1, 3):
        shard(tmp_path / "artifacts", number, 3)
    if not lacking.get("absent"):
        second = shard(tmp_path / "artifacts", 2, 3, state=lacking.get("state", "complete"))
        if lacking.get("torn"):
            with second.open("a") as stream:
                stream.write('{"kind": "outc\n')
    assert gathered(tmp_path / "artifacts", capsys).endswith(f": {said}\n")
    (run,) = Run.all(home)
    assert not run.ended()
    assert main(["report"]) != 0
    assert f"The run was stopped ({said}): " in capsys.readouterr().out
    if lacking.get("absent"):
        shard(tmp_path / "artifacts", 2, 3)
        assert gathered(tmp_path / "artifacts", capsys).endswith("taken of 3 shards: complete\n")
        assert [run.ended() for run in Run.all(home)] == [False, True]


def test_whole_runs_are_taken_as_they_are(tmp_path: Path, home: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Byte for byte, and anew where they have grown; a name that leads elsewhere is none."""
    artifact = tmp_path / "artifacts" / "night.jsonl"
    artifact.parent.mkdir()
    append(artifact, *records()[:-1])
    artifact.parent.joinpath("evil.jsonl").write_text(json.dumps({**records()[0], "run": "../../evil"}) + "\n")
    artifact.parent.joinpath("other.jsonl").write_text('{"kind": "log"}\nnothing\n')
    assert main(["import", str(artifact.parent)]) == 0
    (run,) = Run.all(home)
    assert (run.id, run.journal.read_bytes()) == ("20300101T000000-abcd", artifact.read_bytes())
    append(artifact, records()[-1])
    assert not run.ended()
    assert main(["import", str(artifact.parent)]) == 0
    assert run.ended()
    assert gathered(artifact.parent, capsys).endswith("is here already\n")
    assert main(["import", str(home / "absent")]) == 3


@pytest.mark.parametrize(
    ("hours", "state", "status", "said"),
    [
        (35, "complete", 0, "fresh: the last complete run, 20300101T000000-abcd, ended 35 h ago, at "),
        (37, "complete", 1, "stale: the last complete run, 20300101T000000-abcd, ended 37 h ago, at "),
        (1, "interrupted", 1, "has no complete run"),
    ],
)
def test_a_dead_night_is_noticed(
    home: Path, capsys: pytest.CaptureFixture[str], hours: int, state: str, status: int, said: str
) -> None:
    """By the age of the last run that came to its end; one without any is stale too."""
    assert main(["watch"]) == 1
    moment = dt.datetime.now(dt.timezone.utc) - dt.timedelta(hours=hours)
    run = Run(home / "runs" / "20300101T000000-abcd")
    run.folder.mkdir(parents=True)
    append(run.journal, *records()[:-1], {"kind": "end", "finished": moment.isoformat("T", "seconds"), "state": state})
    assert main(["watch", "--stale", "36h"]) == status
    assert said in capsys.readouterr().out
