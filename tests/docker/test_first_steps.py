"""A newcomer's first commands on a real engine: `compat init --image`, and runs that nobody tells where to run."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

from tests.support import ROOT
from torch_compat_matrix.runner.backends.docker import DockerBackend
from torch_compat_matrix.runner.matrix.load import load


def compat(place: Path, *arguments: str) -> str:
    """What the command says."""
    place.mkdir(exist_ok=True)
    environment = {**os.environ, "PYTHONPATH": str(ROOT / "src"), "COMPAT_HOME": str(place / "home")}
    command = [sys.executable, "-m", "torch_compat_matrix", *arguments]
    done = subprocess.run(command, cwd=place, env=environment, capture_output=True, text=True, timeout=400, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout + done.stderr


def test_init_asks_the_image(backend: DockerBackend, tag: str, tmp_path: Path) -> None:
    """`expects:` says what the image holds, as the facts of a run tell it; an absent image does not matter."""
    place = tmp_path / "init"
    said = compat(place, "init", "--image", tag, "--image", "127.0.0.1:9/none/none:1", "--lib", "torchbnn==1.2")
    assert "none: " in said
    images = load(place / "matrix.yaml").images
    held = images["torch"].expects
    assert (held.torch, held.cuda, held.python, held.os) == ("2.13.0", None, "3.11", "Debian 12")
    assert images["none"].expects.torch is None
    assert "could not be asked" in (place / "matrix.yaml").read_text()
    assert compat(place, "plan", "torch").startswith("torch: ")


def test_an_image_without_a_file(backend: DockerBackend, tag: str, tmp_path: Path) -> None:
    """Runs on the engine that answers, which the first line says, and is called after its repository."""
    said = compat(tmp_path / "run", "run", "--image", tag, "--lib", "torchbnn==1.2", "--probe", "import")
    assert "backend: docker\n" in said
    assert "pass        torch/torchbnn-1.2/import" in said
    assert not (tmp_path / "run" / "matrix.yaml").exists()
