"""The headline: only a finished run whose every check has a verdict, all as expected, ever sounds like a pass."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest

from tests.support.journals import records, write
from torch_compat_matrix.compat.verbs.report import status_of
from torch_compat_matrix.reports.ending import ending
from torch_compat_matrix.reports.standing import Standing
from torch_compat_matrix.reports.write import Compiled, compile_report
from torch_compat_matrix.runner.errors import Status

Records = list[dict[str, Any]]


def run(folder: Path, verdicts: Mapping[str, int], state: str | None = "complete", drop: int = 0) -> Compiled:
    """The report of a run with so many checks of each verdict, the last `drop` of them not recorded."""
    found = records()
    outcomes = [record for record in found if record["kind"] == "outcome"]
    listed = [verdict for verdict, number in verdicts.items() for _ in range(number)]
    cells = found[0]["plan"]["cells"]
    found[0]["plan"] |= {"known": [], "cells": [{**cell, "probes": []} for cell in cells]}
    kept: Records = []
    for record, verdict in zip(outcomes, listed, strict=False):
        reason = "gpu-unhealthy" if verdict == "infra" else ""
        kept.append({**record, "verdict": verdict, "reason": reason, "flaky": False, "remedy": "drain the host"})
        named = next(cell for cell in found[0]["plan"]["cells"] if record["check"].startswith(_cell(cell)))
        named["probes"] = [*named["probes"], record["probe"]]
    end = [{"kind": "end", "finished": "2030-01-01T00:10:00+00:00", "state": state}] if state else []
    folder = folder / "runs" / "20300101T000000-abcd"
    folder.mkdir(parents=True)
    return compile_report(write(folder / "journal.jsonl", [found[0], *kept[: len(kept) - drop], *end]), folder)


def _cell(cell: Mapping[str, str]) -> str:
    return f"{cell['image']}/{cell['subject']}-{cell['version']}/"


@pytest.mark.parametrize(
    ("verdicts", "more", "standing", "said", "status"),
    [
        ({"pass": 8}, {}, "clean", "Everything is as expected. (8 checks: 8 pass)", Status.AS_EXPECTED),
        ({"pass": 7, "fail": 1}, {}, "surprises", "1 unexpected failure: ", Status.SURPRISES),
        ({"pass": 7, "infra": 1}, {}, "incomplete", "No surprise so far. 1 check without a ", Status.INCOMPLETE),
        ({"pass": 8}, {"drop": 3}, "incomplete", "No surprise so far. 3 checks without a ", Status.INCOMPLETE),
        ({"pass": 8}, {"state": None}, "stopped", "The run was stopped: 8 of 8 checks are done.", Status.INCOMPLETE),
        ({"pass": 8}, {"state": "interrupted", "drop": 4}, "stopped", "The run was stopped: 4 ", Status.INCOMPLETE),
        ({"pass": 8}, {"state": "cancelled"}, "stopped", "The run was stopped (cancelled): 8 of 8 ", Status.INCOMPLETE),
        ({"pass": 7, "fail": 1}, {"state": "cancelled"}, "stopped", "The run was stopped (", Status.SURPRISES),
        ({}, {}, "nothing ran", "No check ran: this says nothing about any library.", Status.INCOMPLETE),
        ({"skip": 8}, {}, "nothing ran", "No check ran: this says nothing about any lib", Status.AS_EXPECTED),
        ({"pass": 8}, {"drop": 8}, "nothing ran", "No check ran: this says nothing about any ", Status.INCOMPLETE),
        ({"infra": 8}, {}, "unhealthy hosts", "The hosts were unhealthy: 8 of 8 checks got no ", Status.INCOMPLETE),
        ({"infra": 5, "pass": 2, "fail": 1}, {}, "unhealthy hosts", "The hosts were unhealthy: 5 of 8 checks got no "
         "verdict (5 gpu-unhealthy). 1 unexpected failure, to be repeated on healthy hosts: ", Status.INCOMPLETE),
        ({"infra": 5, "pass": 3}, {"state": "interrupted"}, "unhealthy hosts", "The hosts were ", Status.INCOMPLETE),
    ],
)  # fmt: skip
def test_every_state_has_its_headline(
    tmp_path: Path, verdicts: Mapping[str, int], more: Mapping[str, Any], standing: str, said: str, status: Status
) -> None:
    """The sentence that praises belongs to one state alone; report.json names the state, the exit status follows it."""
    found = run(tmp_path, verdicts, **more)
    assert found.standing == Standing(standing)
    assert found.summary.startswith(said)
    assert ("as expected" in found.summary) == (standing == "clean")
    assert f'"standing": "{standing}"' in (found.path.parent / "report.json").read_text()
    assert status_of(found) is status


def test_host_trouble_has_a_block_of_its_own(tmp_path: Path) -> None:
    """With the remedy, before what failed: it is not a library's fault."""
    lines = list(ending(run(tmp_path, {"infra": 5, "fail": 1}).table))
    assert lines[0] == "host trouble: gpu-image/torch-installed/import: gpu-unhealthy, and 4 more like it"
    assert lines[1:4] == ["  remedy: drain the host", "  compat show @infra", ""]
    assert lines[4].startswith("unexpected failure: ")
