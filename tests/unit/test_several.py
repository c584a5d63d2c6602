"""Several runs as one report: columns, the newest outcome, conflicts."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest

from tests.support.journals import records, write
from torch_compat_matrix.compat.cli import main
from torch_compat_matrix.compat.options import read
from torch_compat_matrix.reports.several import merged
from torch_compat_matrix.reports.standing import Standing, standing
from torch_compat_matrix.reports.table import Table, load
from torch_compat_matrix.runner.errors import UsageError
from torch_compat_matrix.runner.records.runs import again

CHECK = "gpu-image/torchbnn-1.2/autograd"


def journal(folder: Path, day: int, change: Mapping[str, str] | None = None, gpu: bool = True, **header: Any) -> Path:
    """The journal of the small run on that day."""
    found = records(change, gpu)
    found[0] |= {"run": f"203001{day:02}T000000-abcd", "started": f"2030-01-{day:02}T00:00:00+00:00", **header}
    if not gpu:
        for record in found:
            if "key" in record:
                record["key"] += "-cpu"
            if record.get("environment"):
                record["environment"] += "-cpu"
    return write(folder / f"{header.get('target', '')}{day}{gpu}" / "journal.jsonl", found, torn=False)


def table_of(*journals: Path) -> Table:
    """Their table."""
    return merged(map(load, journals))


def test_one_target_keeps_todays_shape(tmp_path: Path) -> None:
    """Column for column and id for id; a single run is not touched at all."""
    first, second = journal(tmp_path, 1), journal(tmp_path, 1, run="20300101T000001-abcd")
    one, both = load(first), table_of(second, first)
    assert (both.images, both.rows) == (one.images, one.rows)
    assert both.outcomes == one.outcomes
    assert both.surprises == one.surprises
    assert merged([one]) is one


def test_a_target_is_a_column_of_its_own(tmp_path: Path) -> None:
    """Of the same image, side by side, under one name in every check's id; entries of `known:` hold for all."""
    table = table_of(journal(tmp_path, 1), journal(tmp_path, 2, gpu=False))
    assert table.images == ("gpu-image@cpu", "gpu-image@h200", "stand-in@cpu", "stand-in@h200")
    assert len(table.outcomes) == 2 * 56
    one = table.outcomes["gpu-image@h200/torchbnn-1.2/autograd"]
    assert (one.image, one.cell) == ("gpu-image@h200", "gpu-image@h200/torchbnn-1.2")
    assert table.passed_on_gpu(one)
    assert not table.passed_on_gpu(table.outcomes["gpu-image@cpu/torchbnn-1.2/autograd"])
    known = [judged for judged in table.judged if judged.known and judged.known.cells == "*/pyro-ppl-1.8.0/import"]
    assert [judged.surprise for judged in known] == [""] * 4
    assert table.shows(one) == f"compat show {CHECK} --run 20300101T000000-abcd"
    assert not table.conflicts


def test_the_newest_stands_and_age_is_told(tmp_path: Path) -> None:
    """More than a day older than the newest run; a check that the newest run did not come to keeps its last outcome."""
    newer = journal(tmp_path, 4)
    kept = [line for line in newer.read_text().splitlines() if json.loads(line).get("check") != CHECK]
    newer.write_text("\n".join(kept))
    table = table_of(journal(tmp_path, 1, {CHECK: "fail"}), newer)
    assert table.outcomes[CHECK].verdict.value == "fail"
    ages = {check: table.age(run) for check, run in table.origins.items()}
    assert {check for check, age in ages.items() if age} == {CHECK}
    assert ages[CHECK] == 3
    assert set(table.titles.values()) == {"gpu-image", "stand-in (stand-in)"}
    aged = table_of(newer, journal(tmp_path, 2, gpu=False))
    assert aged.titles["gpu-image@cpu"] == "gpu-image@cpu (2 days older)"
    other = table_of(journal(tmp_path, 1), journal(tmp_path, 2, {CHECK: "fail"}))
    assert other.outcomes[CHECK].verdict.value == "fail"


def test_a_few_checks_asked_again_leave_the_rows_in_their_order(tmp_path: Path) -> None:
    """The order is that of the run with the most checks, not of the newest."""
    plan = records(None)[0]["plan"]
    image, library, _ = CHECK.split("/")
    cells = [cell for cell in plan["cells"] if (cell["image"], cell["subject"]) == (image, library.partition("-")[0])]
    whole, newer = journal(tmp_path, 1), journal(tmp_path, 4, plan={**plan, "cells": cells})
    lines = newer.read_text().splitlines()
    newer.write_text("\n".join(line for line in lines if json.loads(line).get("check") in (None, CHECK)))
    assert len(load(newer).rows) == 1
    assert table_of(whole, newer).rows == load(whole).rows


@pytest.mark.parametrize(
    ("second", "conflicting"),
    [({"change": {CHECK: "fail"}}, [CHECK]), ({"change": {CHECK: "infra"}}, []), ({"digest": "sha256:1"}, [])],
)
def test_a_conflict_is_two_verdicts_on_one_image(
    tmp_path: Path, second: dict[str, Any], conflicting: list[str]
) -> None:
    """Neither one on another digest, nor where one of the two has none."""
    later = journal(tmp_path, 2, second.get("change", {CHECK: "fail"}))
    later.write_text(later.read_text().replace("sha256:" + "0" * 64, second.get("digest", "sha256:" + "0" * 64)))
    table = table_of(journal(tmp_path, 1), later)
    assert list(table.conflicts) == conflicting
    for found in table.conflicts.values():
        assert [(run.run[:8], one.verdict.value) for run, one in found] == [("20300102", "fail"), ("20300101", "pass")]


def test_a_stand_in_is_never_in_the_column_of_the_image(tmp_path: Path) -> None:
    """Even on the same target."""
    second = journal(tmp_path, 2)
    second.write_text(second.read_text().replace('"stand_in": false', '"stand_in": true'))
    table = table_of(journal(tmp_path, 1), second)
    assert table.images == ("gpu-image", "gpu-image@stand-in", "stand-in")
    assert not table.conflicts


def test_an_entry_holds_for_the_outcomes_of_its_run(tmp_path: Path) -> None:
    """One that the newest matrix no longer has excuses no failure of the newest run."""
    plan = records()[0]["plan"]
    older = journal(tmp_path, 1, target="a", plan={**plan, "known": [{**plan["known"][0], "place": "old.yaml:1:1"}]})
    newer = journal(tmp_path, 2, target="b", plan={**plan, "known": plan["known"][1:]})
    table = table_of(older, newer)
    found = {judged.outcome.image: judged.surprise for judged in table.judged if "1.8.0/import" in judged.outcome.check}
    assert found == {
        **dict.fromkeys(("gpu-image@a", "stand-in@a"), ""),
        **dict.fromkeys(("gpu-image@b", "stand-in@b"), "unexpected failure"),
    }
    both = table_of(older, journal(tmp_path, 3, target="c"))
    assert len(both.known) == 2
    assert {judged.known for judged in both.judged} == {None, *both.known}


def test_half_a_run_is_never_clean(tmp_path: Path) -> None:
    """As long as the table shows any of it."""
    change = dict.fromkeys(load(journal(tmp_path, 9)).outcomes, "pass")
    whole, half = journal(tmp_path, 3, change), journal(tmp_path, 2, change, gpu=False)
    half.write_text("\n".join(half.read_text().splitlines()[:-1]))
    table = table_of(whole, half)
    assert standing(table) is Standing.STOPPED
    assert table.state == "run 20300102T000000-abcd: interrupted"


def test_the_report_says_it_all(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: Any) -> None:
    """In every file, by the run's own name for its device; runs from elsewhere are only read."""
    monkeypatch.setenv("COMPAT_HOME", str(tmp_path / "home"))
    nights = tmp_path / "artifacts"
    journal(nights, 1, {CHECK: "fail"}, target="left", backend="here")
    journal(nights, 4, target="left")
    journal(nights, 5, gpu=False, target="right")
    before = sorted(nights.rglob("*"))
    out = tmp_path / "out"
    assert main(["report", str(nights)]) == 2
    assert "--out" in capsys.readouterr().err
    assert main(["report", str(nights), str(nights / "left4True" / "journal.jsonl"), "--out", str(out)]) == 1
    said = capsys.readouterr().out
    assert "1 conflict between the runs." in said
    assert "more than a day older" not in said
    assert sorted(nights.rglob("*")) == before
    data = json.loads((out / "report.json").read_text())
    assert [(run["target"], run["backend"], run["days_older"], run["shown"]) for run in data["runs"]] == [
        ("right", "docker", 0, 56),
        ("left", "docker", 0, 56),
        ("left", "here", 4, 0),
    ]
    (conflict,) = data["conflicts"]
    assert conflict == "gpu-image@left/torchbnn-1.2/autograd"
    assert {one["run"] for one in data["outcomes"]} == {"20300104T000000-abcd", "20300105T000000-abcd"}
    assert len(data["cells"]) == 28
    page = (out / "report.md").read_text()
    heads = "|  | gpu-image@left | gpu-image@right | stand-in@left (stand-in) | stand-in@right (stand-in) |"
    assert heads in page
    assert f"- {conflict}: pass in run 20300104T000000-abcd of 2030-01-04, backend docker; fail (wrong-moments)" in page
    assert 'name="gpu-image@left"' in (out / "junit.xml").read_text()
    assert "gpu-image@right" in (out / "report.html").read_text()
    assert main(["report", str(tmp_path / "home"), "--out", str(out)]) == 3


def test_a_run_may_name_its_target() -> None:
    """It is handed on to the command that runs its checks again."""
    assert read(["run", "--target", "l4-spot"]).target == "l4-spot"
    with pytest.raises(UsageError, match="is no name"):
        read(["run", "--target", "a/b"])
    assert "--target l4-spot" in again({"backend": "docker", "target": "l4-spot"}, "x")
