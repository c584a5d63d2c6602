"""Runs killed again and again at random points: what was told stays on disk, and no kill becomes a verdict."""

from __future__ import annotations

import os
import random
import re
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path

import docker
import pytest

from tests.docker.conftest import client, engine_alone, tag
from tests.support import ROOT, light_images
from tests.support.environments import HOME
from torch_compat_matrix.runner.backends import process
from torch_compat_matrix.runner.backends.docker import DockerBackend
from torch_compat_matrix.runner.outcome import Outcome
from torch_compat_matrix.runner.records.runs import Run

__all__ = ["client", "engine_alone", "tag"]

MATRIX = """
images:
  small:
    tag: {tag}
    local: {{ python: "3.11", requires: ["torch==2.13.0", numpy] }}
    limits: {{ timeout: 100, memory: 2g, shm: 64m }}
probes: [import, sample]
libraries:
  torchbnn: {{ versions: ["1.2"] }}
  pyro-ppl: {{ versions: ["1.9.1"] }}
"""
TOLD = re.compile(r"^\[\d+/\d+\] (\S+) +(\S+)")


def started(place: Path, *arguments: str) -> subprocess.Popen[str]:
    """The command, whose standard error is a pipe."""
    light = light_images.variables(place) if (place / "links").exists() else os.environ
    environment = {**light, "PYTHONPATH": str(ROOT / "src"), "COMPAT_HOME": str(place / "home")}
    environment["TMPDIR"] = str(place / "tmp")
    command = [sys.executable, "-m", "torch_compat_matrix", *arguments]
    return subprocess.Popen(
        command, cwd=place, env=environment, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True
    )


def outcomes(place: Path) -> dict[tuple[str, str], Outcome]:
    """(run, check) -> its outcome, of all runs."""
    return {(run.id, check): outcome for run in Run.all(place / "home") for check, outcome in run.outcomes().items()}


def kill(place: Path, backend: str, kills: int, seed: int = 16) -> int:
    """Kill as many runs, each resumed until it is complete; return the number of acknowledged outcomes."""
    chance = random.Random(seed)
    (place / "tmp").mkdir()
    told: set[tuple[str, str, str]] = set()
    killed, unfinished, longest = -1, False, 0.0
    while killed < kills or unfinished:
        began = time.monotonic()
        more = ["--resume"] if unfinished else ["--backend", backend, "--rerun"]
        with started(place, "run", *more) as runner:
            assert runner.stderr is not None
            timer = threading.Timer(chance.uniform(0, longest), runner.send_signal, [signal.SIGKILL])
            if 0 <= killed < kills:
                timer.start()
            said = runner.stderr.read().splitlines()
            runner.wait()
            timer.cancel()
        assert runner.returncode in (-signal.SIGKILL, 0, 1, 3), said
        assert not any("Traceback" in line for line in said), said
        killed += killed < 0 or runner.returncode == -signal.SIGKILL
        if (
            runner.returncode >= 0 and "--resume" not in more
        ):  # the first is never killed: it tells how long a run takes
            longest = time.monotonic() - began
        run = re.search(r"^run (\S+): ", "\n".join(said), re.MULTILINE)
        if run:
            told |= {(run[1], line[2], line[1]) for line in map(TOLD.match, said) if line}
        newest = Run.all(place / "home")[-1:]
        unfinished = bool(newest) and newest[0].journal.stat().st_size > 0 and not newest[0].ended()
    found = outcomes(place)
    lost = [(run, check) for run, check, verdict in told if found[run, check].verdict.value != verdict]
    assert lost == []
    assert [outcome for outcome in found.values() if not outcome.verdict.final] == []
    assert {outcome.verdict.value for outcome in found.values()} == {"pass"}, found
    print(
        f"{backend}: {killed} kills, {len(told)} acknowledged outcomes, none lost; {len(Run.all(place / 'home'))} runs"
    )
    return len(told)


@pytest.fixture
def place(tmp_path: Path, torch_python: str) -> Path:
    """A folder with a home whose environments are those of the other tests."""
    assert torch_python
    (tmp_path / "home").mkdir()
    (tmp_path / "home" / "standins").symlink_to(HOME.absolute() / "standins")
    (tmp_path / "matrix.yaml").write_text(MATRIX.format(tag="example/none:1"))
    return tmp_path


@pytest.mark.parametrize("kills", [pytest.param(3, marks=pytest.mark.share), pytest.param(100, marks=pytest.mark.slow)])
def test_kills_of_local_runs(place: Path, monkeypatch: pytest.MonkeyPatch, kills: int) -> None:
    """And nothing of theirs is left in the temporary folder after the next run; few kills need no real torch."""
    if kills < 100:
        light_images.put(place, seconds=0.5)
        text = MATRIX.format(tag="example/none:1").replace("[import, sample]", "[import, sample, ./probes]")
        (place / "matrix.yaml").write_text(re.sub("local: .*", light_images.LOCAL, text))
        (place / "home" / "standins").unlink()
    assert kill(place, "local", kills) > 0
    monkeypatch.setattr("tempfile.tempdir", str(place / "tmp"))
    process.reap()
    assert list((place / "tmp").glob("compat-[0-9]*")) == []


@pytest.mark.slow
@pytest.mark.parametrize("kills", [3, 100])
@pytest.mark.usefixtures("engine_alone")
def test_kills_of_docker_runs(place: Path, client: docker.DockerClient, tag: str, kills: int) -> None:
    """And no container of theirs is left after the next run."""
    (place / "matrix.yaml").write_text(MATRIX.format(tag=tag))
    assert kill(place, "docker", kills) > 0
    DockerBackend(client, place / "home").reap()
    runs = {run.id for run in Run.all(place / "home")}
    left = client.containers.list(all=True, filters={"label": "torch-compat-matrix.run"}, ignore_removed=True)
    assert [container.name for container in left if container.labels["torch-compat-matrix.run"] in runs] == []
