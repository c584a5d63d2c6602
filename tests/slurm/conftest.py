"""A real Slurm (`.ci/slurm up`), and a home and a matrix for each test; without a Slurm a skip, in CI a failure."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from tests.support import ROOT
from torch_compat_matrix.runner.backends.slurm_queue import slurm

ANSWERS = ROOT / "tests" / "support" / "answers.py"


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Mark the tests of this folder."""
    for item in items:
        if item.path.is_relative_to(Path(__file__).parent):
            item.add_marker(pytest.mark.slurm)


@pytest.fixture(scope="session")
def cluster() -> Path:
    """The folder of the Slurm that SLURM_CONF names."""
    if slurm("scontrol", "ping").returncode or "SLURM_CONF" not in os.environ:
        why = 'no Slurm: eval "$(.ci/slurm up)", as root'
        pytest.fail(why) if os.environ.get("CI") else pytest.skip(why)
    return Path(os.environ["SLURM_CONF"]).parent


@dataclass
class Site:
    """A user's folder with a matrix, and the cluster."""

    folder: Path
    cluster: Path

    @property
    def log(self) -> Path:
        """What the probe hosts have logged."""
        return self.folder / "log"

    def write(self, images: int = 1, target: str = "", limits: str = "", **env: object) -> None:
        """A matrix with so many images, whose probe host answers by itself."""
        variables = json.dumps({**{name: str(value) for name, value in env.items()}, "LOG": str(self.log)})
        lines = [f"  image-{number}: {{ python: {ANSWERS}, env: {variables} }}" for number in range(images)]
        text = "\n".join(["images:", *lines, "libraries:", "  sympy: { versions: [installed] }"])
        target = target or "mem: 100m, time: '5'"
        Path(self.folder / "matrix.yaml").write_text(
            f"limits: {{ {limits} }}\n{text}\ntargets:\n  site: {{ gpu: H100, arch: '9.0', slurm: {{ {target} }} }}\n"
        )

    def start(self, *words: str) -> subprocess.Popen[str]:
        """Start the command."""
        command = [sys.executable, "-m", "torch_compat_matrix", *words]
        environment = {**os.environ, "COMPAT_HOME": str(self.folder / "home")}
        pipes: dict[str, Any] = {"stdout": subprocess.PIPE, "stderr": subprocess.STDOUT, "text": True}
        return subprocess.Popen(command, cwd=self.folder, env=environment, **pipes)

    def compat(self, *words: str, status: int | None = 0) -> str:
        """Run the command, and return what it prints."""
        started = self.start(*words)
        said = started.communicate(timeout=600)[0]
        assert status in (None, started.returncode), said
        return said

    def outcomes(self) -> list[dict[str, Any]]:
        """Every outcome in the journal of the latest run."""
        journal = max((self.folder / "home" / "runs").glob("*/journal.jsonl"))
        records = map(json.loads, journal.read_text().splitlines())
        return [record for record in records if record["kind"] == "outcome"]

    def starts(self) -> list[list[str]]:
        """The checks of each launch, in their order."""
        lines = self.log.read_text().splitlines() if self.log.exists() else []
        return [line.split()[3:] for line in lines if line.startswith("start")]

    def running(self) -> dict[str, str]:
        """Job -> node of what runs with checks."""
        return dict(line.split() for line in slurm("squeue", "-h", "-t", "R", "-o", "%i %N").stdout.splitlines())

    def kill(self, node: str) -> None:
        """Take the node away as a power cut does."""
        os.kill(int((self.cluster / f"{node}.pid").read_text()), 9)


@pytest.fixture
def site(cluster: Path, tmp_path: Path) -> Iterator[Site]:
    """A folder of its own; afterwards all nodes are up again, and nothing is left in the queue."""
    yield Site(tmp_path, cluster)
    slurm("scancel", "--me")
    for node in ("node1", "node2", "node3"):
        subprocess.run([ROOT / ".ci" / "slurm", "node", node, cluster], check=True)
    await_(lambda: len(slurm("sinfo", "-h", "-N", "-t", "idle", "-o", "%N").stdout.split()) == 3)


def await_(there: Callable[[], object], seconds: float = 120) -> None:
    """Wait until it is there."""
    until = time.monotonic() + seconds
    while not there():
        assert time.monotonic() < until
        time.sleep(0.2)
