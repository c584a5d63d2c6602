"""SIGTERM and SIGHUP end a run as Ctrl-C does: nothing goes on, and its end and its report are written."""

from __future__ import annotations

import json
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from tests.support import ROOT, light_images

MATRIX = """
images:
  small:
    LOCAL
    limits: { timeout: 60 }
probes: [import, sample, autograd, ./probes]
libraries:
  torchbnn: { versions: ["1.2"] }
  pyro-ppl: { versions: ["1.9.1"] }
""".replace("LOCAL", light_images.LOCAL)


def records(home: Path) -> list[dict[str, object]]:
    """The records of the only run so far."""
    found = []
    for journal in home.glob("runs/*/journal.jsonl"):
        found += [json.loads(line) for line in journal.read_text().splitlines()]
    return found


def relatives(place: Path) -> list[str]:
    """The processes whose environment names this folder for headers, which probe hosts inherit."""
    found = []
    for folder in Path("/proc").glob("[0-9]*"):
        try:
            if f"CPATH={place}".encode() in (folder / "environ").read_bytes():
                found.append((folder / "cmdline").read_text())
        except OSError:
            continue
    return found


@pytest.mark.parametrize(
    ("face", "number"),
    [
        pytest.param("compat", signal.SIGTERM, marks=pytest.mark.share),
        pytest.param("compat", signal.SIGHUP, marks=pytest.mark.slow),
        pytest.param("pytest", signal.SIGTERM, marks=pytest.mark.slow),
        pytest.param("pytest", signal.SIGHUP, marks=pytest.mark.slow),
        pytest.param("pytest -n 2", signal.SIGTERM, marks=pytest.mark.share),
    ],
)
def test_a_signal_ends_a_run_cleanly(tmp_path: Path, face: str, number: signal.Signals) -> None:
    """Also where it comes twice in a row."""
    home, place = tmp_path / "home", tmp_path / "tmp"
    place.mkdir()
    light_images.put(tmp_path, seconds=30)
    (tmp_path / "matrix.yaml").write_text(MATRIX)
    command = {
        "compat": ["torch_compat_matrix", "run", "--jobs", "2"],
        "pytest": ["pytest", "-m", "matrix", "-p", "no:cacheprovider"],
        "pytest -n 2": ["pytest", "-m", "matrix", "-p", "no:cacheprovider", "-n", "2"],
    }[face]
    environment = {**light_images.variables(tmp_path), "PYTHONPATH": str(ROOT / "src"), "COMPAT_HOME": str(home)}
    environment |= {"TMPDIR": str(place), "CPATH": str(place)}
    with subprocess.Popen(
        [sys.executable, "-m", *command],
        cwd=tmp_path,
        env=environment,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    ) as process:
        until = time.monotonic() + 200
        while not any(record["kind"] == "outcome" for record in records(home)):
            assert time.monotonic() < until
            time.sleep(0.05)
        process.send_signal(number)
        time.sleep(0.1)
        process.send_signal(number)
        said = process.communicate(timeout=60)[0]
    assert process.returncode == (130 if face == "compat" else pytest.ExitCode.INTERRUPTED), said
    assert "Traceback" not in said
    assert records(home)[-1] == {"kind": "end", "finished": records(home)[-1]["finished"], "state": "interrupted"}
    assert len(list(home.glob("runs/*/report.md"))) == 1
    until = time.monotonic() + 5  # nobody waits for what a killed worker had started, which ends with it
    while relatives(place) and time.monotonic() < until:
        time.sleep(0.05)
    assert relatives(place) == []
    assert list(place.glob("compat-*")) == []
