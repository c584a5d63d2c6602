"""`compat diff`: two runs compared, the likely cause first."""

from __future__ import annotations

import json
import time
from pathlib import Path
from typing import Any

import pytest

from tests.support.journals import outcome, records, write
from torch_compat_matrix.compat import cli
from torch_compat_matrix.reports.changes import as_json, compare
from torch_compat_matrix.reports.table import load
from torch_compat_matrix.runner.model import Cell

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
    assert "newly failing: gpu-image/pyro-ppl-1.9.1/sample (wrong-moments)\n      likely: gpu-image/pyro" in said
    assert json.loads((home / "diff.json").read_text())["failing"] == ["gpu-image/pyro-ppl-1.9.1/sample"]


def test_backwards_it_is_fixed(home: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Nothing fails newly: status 0."""
    assert cli.main(["diff", SECOND, FIRST]) == 0
    assert "fixed: gpu-image/pyro-ppl-1.9.1/sample" in capsys.readouterr().out


def test_first_run_has_no_baseline(home: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """That is said, and no comparison invented."""
    assert cli.main(["diff", "--baseline", FIRST[:9]]) == 3
    capsys.readouterr()
    (home / "runs" / SECOND / "journal.jsonl").unlink()
    assert cli.main(["diff"]) == 3
    assert "has no baseline" in capsys.readouterr().err
