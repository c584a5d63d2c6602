"""Whatever is printed, and to whichever descriptor: the runner stays small, and what it keeps is bounded."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any
from zipfile import ZipFile

import pytest

from tests.support import ROOT
from tests.support.tinywheels import sdist, wheel

MATRIX = """
images:
  x: { local: { python: host, requires: [helper] }, limits: { timeout: 100 } }
libraries:
  torchbnn: { versions: ["1.0"], probes: [import] }
"""

FLOOD = """
import os
def flood(descriptor, size, end=b""):
    piece = (b"x" * ((1 << 20) - len(end))) + end
    for _ in range(size >> 20):
        view = memoryview(piece)
        while view:
            view = view[os.write(descriptor, view):]
"""

AT_START = """
import sys
if "compat_probes" in sys.orig_argv and "--child" not in sys.orig_argv:
    {code}
"""
"""In the interpreter of the probe host, before that has turned its standard output away."""

FLOODS = {
    "host's output, one line": ("helper", "flood(1, SIZE)", "pass"),
    "host's output, many lines": ("helper", "flood(1, SIZE, b'\\n')", "pass"),
    "host's errors": ("helper", "flood(2, SIZE)", "pass"),
    "library's output, one line": ("torchbnn", "flood(1, SIZE)", "pass"),
    "library's errors, then an exception": ("torchbnn", "flood(2, SIZE, b'\\n'); raise OSError('z' * SIZE)", "fail"),
    "library's errors, then a death": ("torchbnn", "flood(2, SIZE); os.abort()", "crash"),
}
"""Who prints, the code, and the verdict."""

RUN = """
import re, sys  # VmHWM is of this program alone: ru_maxrss is also of the process that forked it
from torch_compat_matrix.compat.cli import main
status = main(["run", "--backend", "local", "--out", "out"])
print("status", status, "peak", int(re.search(r"VmHWM:\\s+(\\d+)", open("/proc/self/status").read())[1]) << 10)
"""
MOST = 200_000_000
"""Bytes of the runner's memory."""


def peak_of(folder: Path, who: str, code: str, size: int) -> tuple[dict[str, Any], int, int]:
    """The outcome of a run in which this code floods, the runner's peak memory, and the bytes that the run left."""
    files, text = folder / "files", code.replace("SIZE", str(size))
    for name in ("helper", "torchbnn"):
        body = FLOOD + (AT_START.format(code=text) if name == "helper" else text) + "\n"
        wheel(files, name, "1.0", code=body if name == who else "")
    with ZipFile(files / "helper-1.0-py3-none-any.whl", "a") as archive:
        archive.writestr("helper.pth", "import helper\n")
    (folder / "matrix.yaml").write_text(MATRIX)
    environment = {
        **{name: value for name, value in os.environ.items() if not name.startswith(("PIP_", "UV_", "COMPAT_"))},
        "PYTHONPATH": str(ROOT / "src"),
        "PIP_CONFIG_FILE": os.devnull,
        "PIP_NO_INDEX": "1",
        "PIP_FIND_LINKS": str(files),
        "UV_CACHE_DIR": str(folder / "uv"),
    }
    command = [sys.executable, "-c", RUN]
    done = subprocess.run(command, cwd=folder, env=environment, capture_output=True, text=True, check=False)
    assert "peak" in done.stdout, done.stdout[-2000:] + done.stderr[-2000:]
    (journal,) = (folder / ".compat" / "runs").glob("*/journal.jsonl")
    records = [json.loads(line) for line in journal.read_text().splitlines()]
    (outcome,) = (record for record in records if record["kind"] == "outcome")
    left = sum(path.stat().st_size for each in ("out", ".compat/runs") for path in (folder / each).rglob("*"))
    return outcome, int(done.stdout.split()[-1]), left + len(done.stdout) + len(done.stderr)


def check(folder: Path, flood: str, size: int) -> None:
    """The verdict is the library's own, and neither memory nor disk knows how much was printed."""
    who, code, verdict = FLOODS[flood]
    outcome, peak, left = peak_of(folder, who, code, size)
    assert outcome["verdict"] == verdict, outcome
    assert peak < MOST, f"{peak / 1e6:.0f} MB"
    assert left < 1_000_000
    if verdict != "pass":
        assert "bytes left out" in outcome["output"]


@pytest.mark.share
@pytest.mark.parametrize("flood", FLOODS)
def test_a_flood_of_250_megabytes(tmp_path: Path, flood: str) -> None:
    """To each descriptor."""
    check(tmp_path, flood, 250 << 20)


@pytest.mark.slow
@pytest.mark.parametrize("flood", FLOODS)
def test_a_flood_of_a_gigabyte(tmp_path: Path, flood: str) -> None:
    """The same, at length."""
    check(tmp_path, flood, 1 << 30)


@pytest.mark.share
def test_a_build_that_floods(tmp_path: Path) -> None:
    """What a package prints as it is built is uv's to tell, and ours to cut."""
    sdist(tmp_path, "lib", "1.0", at_build="import sys; [sys.stderr.write('x' * (1 << 20)) for _ in range(100)]; 1 / 0")
    program = (
        "import re; from torch_compat_matrix.runner.packages import uv;"
        "ran = uv.run(('pip', 'install', '--no-index', '--target', 'x', 'lib-1.0.tar.gz'), {'UV_CACHE_DIR': 'uv'});"
        "print(ran.reason, len(ran.err) < 1 << 20,"
        "int(re.search(r'VmHWM:\\s+(\\d+)', open('/proc/self/status').read())[1]) << 10)"
    )
    environment = {**os.environ, "PYTHONPATH": str(ROOT / "src")}
    command = [sys.executable, "-c", program]
    done = subprocess.run(command, cwd=tmp_path, env=environment, capture_output=True, text=True, check=True)
    reason, short, peak = done.stdout.split()
    assert (reason, short) == ("sdist-build-failed", "True")
    assert int(peak) < MOST
