"""A report over very many outcomes, in a process of its own."""

from __future__ import annotations

import json
import random
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest

from benchmarks.reports import night
from tests.support.journals import records
from torch_compat_matrix.reports import html
from torch_compat_matrix.reports.table import load
from torch_compat_matrix.runner.records.history import Trails


@pytest.mark.parametrize("outcomes", [20_000, pytest.param(100_000, marks=pytest.mark.slow)])
def test_very_many_outcomes(tmp_path: Path, outcomes: int) -> None:
    """Compiled in a time that grows with their number alone, and within a gigabyte; report.md stays below 4 MiB.

    Ten times as many take 7.4 and 9 times as long, since the start of the process counts in both.
    """
    few, _ = compiled(tmp_path / "few", outcomes // 40)
    seconds, kibibytes = compiled(tmp_path / "many", outcomes // 4)
    assert kibibytes * 1024 < 1_000_000_000
    assert seconds < 14 * few, f"{seconds:.1f} s, and {few:.1f} s for a tenth"
    assert (tmp_path / "many" / "out" / "report.md").stat().st_size < 4 << 20


def compiled(folder: Path, versions: int) -> tuple[float, float]:
    """The processor time in seconds and the peak memory in KiB of a report over four probes of so many versions."""
    found = records()
    template = next(record for record in found if record.get("check") == "gpu-image/pyro-ppl-1.9.1/sample")
    found[0]["plan"]["cells"] = []
    folder.mkdir()
    with (folder / "journal.jsonl").open("w") as stream:
        for record in found[:3]:
            stream.write(json.dumps(record) + "\n")
        for number in range(versions):
            for probe in ("import", "sample", "autograd", "compile"):
                check = f"gpu-image/lib{number % 500}-{number // 500}/{probe}"
                words = {"check": check, "subject": f"lib{number % 500}", "version": str(number // 500), "probe": probe}
                stream.write(json.dumps({**template, **words}) + "\n")
    program = (
        "import sys, resource; from pathlib import Path; from torch_compat_matrix.reports.write import compile_report;"
        "compile_report(Path(sys.argv[1]), Path(sys.argv[2]));"
        "used = resource.getrusage(resource.RUSAGE_SELF); print(used.ru_utime + used.ru_stime, used.ru_maxrss)"
    )
    arguments = [sys.executable, "-c", program, str(folder / "journal.jsonl"), str(folder / "out")]
    done = subprocess.run(arguments, capture_output=True, text=True, check=True)
    seconds, kibibytes = map(float, done.stdout.split())
    return seconds, kibibytes


def test_thousand_cells_over_thirty_runs(tmp_path: Path) -> None:
    """report.html stays below 5 MB, with two metrics of every check and a traceback of every tenth."""
    table, noise = load(night(tmp_path, 0, 4000).journal), random.Random(0)
    trails = Trails(
        runs=tuple(map(str, range(29))),
        verdicts={check: ["pass"] * 29 for check in table.outcomes},
        metrics={
            check: {
                name: [metric["value"] * noise.uniform(1, 1.1) for _ in range(29)]
                for name, metric in outcome.metrics.items()
            }
            for check, outcome in table.outcomes.items()
        },
    )
    size = sum(len(piece.encode()) for piece in html.page(replace(table, trails=trails), None))
    assert 1_000_000 < size < 5_000_000
