"""What a killed launcher leaves behind is removed by the next one, and what a living launcher needs is not."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import pytest

from tests.support import ROOT
from torch_compat_matrix.runner.backends import process
from torch_compat_matrix.runner.backends.owner import alive

LAUNCHER = """
import sys, tempfile, time
from pathlib import Path
from torch_compat_matrix.runner.backends import process
from torch_compat_matrix.runner.backends.owner import alive
process.BUNDLE = Path(sys.argv[1])
with process.launched(sys.executable, {"device": "cpu"}, {}, home=Path(sys.argv[1]), gpu=None) as launch:
    print(next(Path(tempfile.gettempdir()).glob("compat-*")).name, flush=True)
    time.sleep(1000)
"""


def test_folder_of_a_killed_launcher_is_reaped(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """However it died."""
    bundle, folders = tmp_path / "bundle", tmp_path / "folders"
    bundle.mkdir()
    folders.mkdir()
    (bundle / "__init__.py").touch()
    (bundle / "__main__.py").write_text("import sys; sys.stdin.read()")
    monkeypatch.setattr(tempfile, "tempdir", str(folders))
    command = [sys.executable, "-c", LAUNCHER, str(bundle)]
    environment = {**os.environ, "TMPDIR": str(folders)}
    with subprocess.Popen(command, cwd=ROOT, env=environment, stdout=subprocess.PIPE, text=True) as launcher:
        assert launcher.stdout is not None
        folder = launcher.stdout.readline().strip()
        assert process.reap() == []
        launcher.send_signal(signal.SIGKILL)
    assert process.reap() == [folder]
    assert list(folders.iterdir()) == []


def test_an_owner_that_nobody_waits_for_is_dead() -> None:
    """As in a container without an init, where a killed process stays in the table."""
    code = "from torch_compat_matrix.runner.backends.owner import owner; print(owner(), flush=True); input()"
    with subprocess.Popen(
        [sys.executable, "-c", code], cwd=ROOT, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    ) as process:
        assert process.stdout is not None
        name = process.stdout.readline().strip()
        assert alive(name)
        process.kill()
        until = time.monotonic() + 20
        while alive(name) and time.monotonic() < until:
            time.sleep(0.01)
        assert not alive(name)
