"""The advice on a real engine: its Dockerfile builds, keeps the image's torch, and its matrix passes in the image."""

from __future__ import annotations

import os
import subprocess
import sys
import threading
from collections.abc import Iterator
from functools import partial
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest

from tests.support import ROOT
from torch_compat_matrix.runner.backends.docker import DockerBackend
from torch_compat_matrix.runner.packages.pip_config import Index
from torch_compat_matrix.runner.packages.uv import run

PARENT, DERIVED = "compat-test/advice-parent:1", "compat-test/advice-derived:1"

MATRIX = f"""
probes: [import, sample]
images:
  parent: {{ tag: "{PARENT}", limits: {{ memory: 4g, shm: 256m, timeout: 100 }} }}
libraries:
  torchbnn: {{ versions: ["1.2"] }}
  pyro-ppl: {{ versions: ["1.9.1"] }}
"""


class Quiet(SimpleHTTPRequestHandler):
    """Serves a folder without a word."""

    def log_message(self, *arguments: object) -> None:
        """Say nothing."""


@pytest.fixture
def wheels(tmp_path: Path) -> Iterator[tuple[Path, str]]:
    """A folder for wheels, and where a build finds it: no index can be reached from in there."""
    folder = tmp_path / "wheels"
    folder.mkdir()
    with ThreadingHTTPServer(("127.0.0.1", 0), partial(Quiet, directory=str(folder))) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        yield folder, f"http://127.0.0.1:{server.server_port}/"
        server.shutdown()


@pytest.fixture
def pip(tmp_path: Path) -> Path:
    """A folder with pip in it, which neither the image nor a uv environment need hold."""
    index = Index.from_pip()
    ran = run(("pip", "install", "--target", str(tmp_path / "pip"), *index.uv_flags(), "pip"), index.uv_environment())
    assert ran.status == 0, ran.err
    return tmp_path / "pip"


def compat(place: Path, *arguments: str) -> str:
    """What `compat` says; it must end well."""
    environment = {**os.environ, "PYTHONPATH": str(ROOT / "src"), "COMPAT_HOME": str(place / "home")}
    command = [sys.executable, "-m", "torch_compat_matrix", *arguments]
    done = subprocess.run(command, cwd=place, env=environment, capture_output=True, text=True, timeout=300, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


@pytest.mark.slow
def test_the_dockerfile_builds(
    backend: DockerBackend, tag: str, wheels: tuple[Path, str], pip: Path, tmp_path: Path
) -> None:
    """From a run of each library alone to a derived image that holds both beside the image's own torch."""
    client = backend.client
    folder, url = wheels
    code = "import platform, torch; print(platform.python_version(), torch.__version__)"
    python, torch = client.containers.run(tag, ["python3", "-c", code], remove=True).decode().split()
    (tmp_path / "parent").mkdir()
    pip.rename(tmp_path / "parent" / "pip")
    (tmp_path / "parent" / "Dockerfile").write_text(
        f"FROM {tag}\nCOPY pip /opt/pip\nENV PYTHONPATH=/opt/pip PIP_NO_INDEX=1 PIP_FIND_LINKS={url}\n"
    )
    try:
        client.images.build(path=str(tmp_path / "parent"), tag=PARENT, rm=True)
        (tmp_path / "matrix.yaml").write_text(MATRIX)
        compat(tmp_path, "run", "--backend", "docker")
        said = compat(tmp_path, "advise", "torchbnn", "pyro-ppl", "--backend", "docker")
        assert "Never run together" in said
        assert "stand-in" not in said
        download = ("-m", "pip", "download", "-q", "--no-deps", "--require-hashes", "-r", "advice/requirements.txt")
        subprocess.run(
            [sys.executable, *download, "-d", str(folder), "--python-version", python, "--only-binary", ":all:"],
            cwd=tmp_path,
            env={**os.environ, "PYTHONPATH": str(tmp_path / "parent" / "pip")},
            check=True,
        )
        client.images.build(path=str(tmp_path / "advice"), tag=DERIVED, rm=True, network_mode="host")
        code = "import torch, torchbnn, pyro; print(torch.__version__, pyro.__version__)"
        shown = client.containers.run(DERIVED, ["python3", "-c", code], remove=True, network_mode="none")
        assert shown.decode().split() == [torch, "1.9.1"]
        compat(tmp_path, "run", "--matrix", "advice/matrix.yaml", "--backend", "docker")
        assert "together: import, sample passed" in compat(tmp_path, "advise", "torchbnn", "pyro-ppl")
    finally:
        for name in (DERIVED, PARENT):
            for image in client.images.list(name):
                client.images.remove(str(image.id), force=True)
