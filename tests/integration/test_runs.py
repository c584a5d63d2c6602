"""`compat runs`: which runs there are, what they covered, and how they ended."""

from __future__ import annotations

import json
from pathlib import Path

from tests.integration.test_cli import compat
from tests.support.journals import records
from torch_compat_matrix.runner.records.runs import Run


def write(place: Path, name: str, keep: int) -> Run:
    """A run of which only the first records were written."""
    folder = place / ".compat" / "runs" / name
    folder.mkdir(parents=True)
    lines = [json.dumps(record) for record in records()][:keep]
    (folder / "journal.jsonl").write_text("".join(f"{line}\n" for line in lines))
    return Run(folder)


def test_runs_are_listed_with_their_states(tmp_path: Path) -> None:
    """The newest first; a run that was cut off, one that goes on, and one that was killed before it began."""
    assert "no run yet" in compat(tmp_path, "runs")
    write(tmp_path, "20260101T000000000-aaaa", 10_000)
    write(tmp_path, "20260102T000000000-bbbb", 4)
    going = write(tmp_path, "20260103T000000000-cccc", 4)
    write(tmp_path, "20260104T000000000-dddd", 0)
    with going.going():
        rows = json.loads(compat(tmp_path, "runs", "--json"))
        text = compat(tmp_path, "runs", "--last", "2")
    assert [(row["run"][-4:], row["state"]) for row in rows] == [
        ("dddd", "never began"),
        ("cccc", "still going"),
        ("bbbb", "interrupted"),
        ("aaaa", "complete"),
    ]
    whole = rows[-1]
    assert whole["checks"] == "56 of 56" and "pass" in whole["verdicts"]
    assert whole["covers"] == "gpu-image, stand-in x torch, pyro-ppl and 4 more"
    assert "dddd" in text and "cccc" in text and "bbbb" not in text
