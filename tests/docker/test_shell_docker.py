"""`compat shell` in a container: the walls, the user and the packages of a launch, and no container left."""

from __future__ import annotations

import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest

from tests.support import ROOT
from torch_compat_matrix.runner.backends.docker import DockerBackend

MATRIX = """
images:
  torch-2.13: {{ tag: "{tag}", limits: {{ memory: 4g, shm: 256m }} }}
libraries:
  torchbnn: {{ versions: ["1.2"] }}
"""
SEE = """
import os, sys, torchbnn
status = open("/proc/self/status").read()
open("written", "w").write("here anyone may write")
print(os.getuid(), os.listdir("/sys/class/net"), torchbnn.__file__, os.access("/", os.W_OK), os.getcwd())
print([line.split()[1] for line in status.splitlines() if line.startswith(("CapEff", "CapBnd", "NoNewPrivs"))])
sys.exit(7)
"""
COMMAND = [sys.executable, "-m", "torch_compat_matrix", "shell", "--backend", "docker", "torch-2.13/torchbnn-1.2"]


@pytest.fixture
def place(backend: DockerBackend, tag: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder with a matrix of the image."""
    assert backend
    (tmp_path / "matrix.yaml").write_text(MATRIX.format(tag=tag))
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("PYTHONPATH", str(ROOT / "src"))
    monkeypatch.setenv("COMPAT_HOME", str(tmp_path / "home"))
    return tmp_path


def test_a_command_runs_behind_the_same_walls(place: Path) -> None:
    """Its own files beside it, and its exit status, also where a signal ends it."""
    (place / "see.py").write_text(SEE)
    done = subprocess.run(
        [*COMMAND, "--copy", "see.py", "--", "python", "see.py"],
        capture_output=True,
        text=True,
        timeout=280,
        check=False,
    )
    assert done.returncode == 7, done.stderr
    first, second = done.stdout.splitlines()
    assert first.startswith("65534 ['lo'] /compat/overlays/")
    assert first.endswith("/torchbnn/__init__.py False /compat/work")
    assert second == "['0000000000000000', '0000000000000000', '1']"
    echoed = subprocess.run([*COMMAND, "--", "cat"], input="in", capture_output=True, text=True, timeout=99, check=True)
    assert echoed.stdout == "in"
    killed = subprocess.run([*COMMAND, "--", "python", "-c", "import os; os.abort()"], timeout=99, check=False)
    assert killed.returncode == 128 + signal.SIGABRT


def test_a_signal_removes_the_container(place: Path, backend: DockerBackend) -> None:
    """However long its command would run."""
    assert place
    process = subprocess.Popen([*COMMAND, "--", "sleep", "500"])

    def shells() -> list[str]:
        """The containers of commands; before them comes one that tells the image's facts."""
        wanted: dict[str, Any] = {"label": "torch-compat-matrix.run=shell"}
        found = backend.client.containers.list(all=True, filters=wanted, ignore_removed=True)
        return [str(one.id) for one in found if "--shell" in one.attrs["Config"]["Cmd"]]

    try:
        until = time.monotonic() + 120
        while not shells():
            assert time.monotonic() < until
            time.sleep(0.1)
        process.terminate()
        assert process.wait(60) == 130
    finally:
        process.kill()
    assert shells() == []
