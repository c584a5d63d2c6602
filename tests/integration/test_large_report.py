"""A report over a hundred thousand outcomes, in a process of its own."""

from __future__ import annotations

import json
import random
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

from benchmarks.reports import night
from tests.support.journals import records
from torch_compat_matrix.reports import html
from torch_compat_matrix.reports.table import load
from torch_compat_matrix.runner.records.history import Trails


def test_hundred_thousand_outcomes(tmp_path: Path) -> None:
    """Compiled within seconds and half a gigabyte, in a process of its own; the summary stays below GitHub's limit."""
    found = records()
    template = next(record for record in found if record.get("check") == "gpu-image/pyro-ppl-1.9.1/sample")
    found[0]["plan"]["cells"] = []
    with (tmp_path / "journal.jsonl").open("w") as stream:
        for record in found[:3]:
            stream.write(json.dumps(record) + "\n")
        for number in range(25_000):
            for probe in ("import", "sample", "autograd", "compile"):
                check = f"gpu-image/lib{number % 500}-{number // 500}/{probe}"
                words = {"check": check, "subject": f"lib{number % 500}", "version": str(number // 500), "probe": probe}
                stream.write(json.dumps({**template, **words}) + "\n")
    program = (
        "import sys, resource; from pathlib import Path; from torch_compat_matrix.reports.write import compile_report;"
        "compile_report(Path(sys.argv[1]), Path(sys.argv[2]));"
        "used = resource.getrusage(resource.RUSAGE_SELF); print(used.ru_maxrss, used.ru_utime + used.ru_stime)"
    )
    arguments = [sys.executable, "-c", program, str(tmp_path / "journal.jsonl"), str(tmp_path / "out")]
    done = subprocess.run(arguments, capture_output=True, text=True, check=True)
    kibibytes, seconds = map(float, done.stdout.split())
    assert kibibytes * 1024 < 1_000_000_000
    assert seconds < 30, f"{seconds:.1f} s"
    assert (tmp_path / "out" / "report.md").stat().st_size < 4 << 20


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
