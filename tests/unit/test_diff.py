"""`compat diff`: two runs compared, the likely cause first."""

from __future__ import annotations

import json
import re
import time
from pathlib import Path
from typing import Any

import pytest

from tests.support.journals import outcome, records, write
from torch_compat_matrix.compat import cli
from torch_compat_matrix.reports.changes import as_json, compare, own_baseline
from torch_compat_matrix.reports.table import load
from torch_compat_matrix.reports.write import table_of
from torch_compat_matrix.runner.model import Cell
from torch_compat_matrix.runner.records.runs import Run

FIRST, SECOND = "20300101T000000-aaaa", "20300102T000000-bbbb"


def run(home: Path, name: str, found: list[dict[str, Any]]) -> None:
    """A recorded run of that id."""
    found[0]["run"] = name
    write(home / "runs" / name / "journal.jsonl", found, torn=False)


def resolved(found: list[dict[str, Any]], cell: str, *pins: str) -> list[dict[str, Any]]:
    """What the cell installs."""
    for record in found:
        if record.get("check", "").startswith(f"{cell}/"):
            record["resolved"] = list(pins)
    return found


@pytest.fixture
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Two runs: NumPy changed everywhere, and a dependency of one cell, which fails now."""
    monkeypatch.setenv("COMPAT_HOME", str(tmp_path))
    cell = "gpu-image/pyro-ppl-1.9.1"
    run(tmp_path, FIRST, resolved(records({f"{cell}/sample": "pass"}), cell, "pyro-ppl==1.9.1", "opt-einsum==3.3"))
    second = resolved(records(), cell, "pyro-ppl==1.9.1", "opt-einsum==3.4")
    second[1]["facts"]["packages"]["numpy"] = "2.4.6"
    run(tmp_path, SECOND, second)
    return tmp_path


def test_likely_cause_comes_first(home: Path) -> None:
    """What the failing cell rests on alone, before what all the passing ones rest on too."""
    before, after = (load(home / "runs" / name / "journal.jsonl") for name in (FIRST, SECOND))
    changes = compare(before, after)
    assert [cause.what for cause in changes.causes] == [
        "gpu-image/pyro-ppl-1.9.1: installs opt-einsum 3.3 -> 3.4",
        "gpu-image: numpy none -> 2.4.6",
    ]
    assert changes.cause_of(after.outcomes["gpu-image/pyro-ppl-1.9.1/sample"]).endswith("opt-einsum 3.3 -> 3.4")
    assert changes.cause_of(after.outcomes["gpu-image/torch-installed/sample"]) == "gpu-image: numpy none -> 2.4.6"
    assert changes.cause_of(after.outcomes["stand-in/torch-installed/sample"]) == ""


@pytest.mark.share
def test_a_cause_each_for_thousands_of_checks_is_found_in_seconds(tmp_path: Path) -> None:
    """Every cell installs something else and fails: the time must not grow with causes times checks."""
    tables = []
    for number, verdict in enumerate(("pass", "fail")):
        found = records()[:1]
        for library in range(5_000):
            cell = Cell(image="i", subject=f"l{library}", version="1", requires=(), members=())
            for probe in ("import", "sample", "autograd", "compile"):
                found.append({**outcome(cell, probe, verdict, True), "resolved": [f"numpy=={number}"]})
        tables.append(load(write(tmp_path / f"{number}.jsonl", found, torn=False)))
    started = time.process_time()
    changes = as_json(compare(*tables))
    assert time.process_time() - started < 3
    assert changes["likely"]["i/l7-1/sample"] == "i/l7-1: installs numpy 0 -> 1"
    assert len(changes["likely"]) == 20_000


@pytest.mark.parametrize("arguments", [[FIRST, SECOND], [FIRST], ["--baseline"], []], ids=" ".join)
def test_verb(home: Path, capsys: pytest.CaptureFixture[str], arguments: list[str]) -> None:
    """The later run against the earlier, named or found; status 1, since something fails newly."""
    assert cli.main(["diff", *arguments, "--json", str(home / "diff.json")]) == 1
    said = capsys.readouterr().out
    assert "newly failing, unconfirmed: gpu-image/pyro-ppl-1.9.1/sample (wrong-moments)\n" in said
    assert (
        "last good 2030-01-01 with pyro-ppl 1.9.1, image sha256:000000000000\n      likely: gpu-image/pyro-ppl-1.9.1"
        in said
    )
    whose = "each check's own last verdict" if arguments in ([], ["--baseline"]) else FIRST
    assert f"against {whose}, which covers 42 of 56 checks\n" in said
    assert json.loads((home / "diff.json").read_text())["failing"] == ["gpu-image/pyro-ppl-1.9.1/sample"]


def test_backwards_it_is_fixed(home: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Nothing fails newly: status 0."""
    assert cli.main(["diff", SECOND, FIRST]) == 0
    assert "fixed: gpu-image/pyro-ppl-1.9.1/sample" in capsys.readouterr().out


def test_run_in_between_hides_no_new_failure(home: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Neither one that host trouble ended; a lost verdict is told, and a base that covers nothing is none."""
    check, between = "gpu-image/pyro-ppl-1.9.1/sample", "20300101T120000-cccc"
    run(home, between, [one for one in records({check: "infra"}) if one.get("check", check) == check])
    third = "20300103T000000-dddd"
    run(home, third, records({"gpu-image/torch-installed/import": "infra"}))
    assert cli.main(["diff", "--baseline", SECOND]) == 1
    assert f"newly failing, unconfirmed: {check}" in capsys.readouterr().out
    assert cli.main(["diff", between, SECOND]) == 3
    assert f"{between} is no baseline of {SECOND}" in capsys.readouterr().err
    assert cli.main(["diff"]) == 0
    said = capsys.readouterr().out
    assert "lost its verdict: gpu-image/torch-installed/import (engine-unreachable)" in said
    assert cli.main(["show", "@new", "--run", SECOND]) == 0
    assert capsys.readouterr().out.startswith(f"{check}: fail")
    assert cli.main(["show", "@new"]) == 3


def test_checks_to_come_have_lost_nothing(home: Path) -> None:
    """As long as the run goes on; once it has ended without them, they have."""
    third = "20300103T000000-dddd"
    run(home, third, [one for one in records() if one["kind"] != "end" and one.get("subject") != "torchbnn"])
    journal = home / "runs" / third / "journal.jsonl"
    with Run(journal.parent).going():
        going = table_of(journal)
    ended = table_of(journal)
    lost = [{one.subject for one in compare(own_baseline(table), table).lost} for table in (going, ended)]
    assert lost == [set(), {"torchbnn"}]


def test_same_reason_in_other_words_fails_differently(home: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Both signatures are told, and each finds its runs."""
    check = "gpu-image/pyro-ppl-1.9.1/sample"
    found = records()
    next(one for one in found if one.get("check") == check)["evidence"] = "variance of the draws is far too small"
    run(home, "20300103T000000-dddd", found)
    assert cli.main(["diff"]) == 0
    (line,) = [line for line in capsys.readouterr().out.splitlines() if "fails differently" in line]
    (before, after) = re.findall(r"#\w{4}", line)
    assert cli.main(["find", after]) == 0
    said = capsys.readouterr().out
    assert f"  {check}: 1 run, 20300103T000000-dddd to 20300103T000000-dddd, still so at its last verdict\n" in said
    assert cli.main(["find", before]) == 0
    assert f"  {check}: 1 run, {SECOND} to {SECOND}, no longer\n" in capsys.readouterr().out
    assert (cli.main(["find", "ffff"]), cli.main(["find", "captum"])) == (3, 2)


def test_first_run_has_no_baseline(home: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """That is said, and no comparison invented."""
    assert cli.main(["diff", "--baseline", FIRST[:9]]) == 3
    capsys.readouterr()
    (home / "runs" / SECOND / "journal.jsonl").unlink()
    assert cli.main(["diff"]) == 3
    assert "has no baseline" in capsys.readouterr().err
