"""A report over a hundred thousand outcomes, in a process of its own."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

from tests.support.journals import records


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
