"""An engine that goes away for ten seconds, as at its restart, costs a run no outcome."""

from __future__ import annotations

import os
import socket
import threading
import time
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

import docker
import pytest

from torch_compat_matrix.runner.backends.docker import DockerBackend
from torch_compat_matrix.runner.execution.engine import Engine
from torch_compat_matrix.runner.model import Cell, Image, Limits, Plan, Verdict
from torch_compat_matrix.runner.packages.pip_config import Index
from torch_compat_matrix.runner.records.journal import Follower

AWAY_S = 10


class Door:
    """A socket in front of the engine's own, which can be shut: then connections break and none is accepted."""

    def __init__(self, path: Path, engine: str) -> None:
        self.path, self.engine = path, engine
        self.open: list[socket.socket] = []
        self.listener = self._listen()

    def _listen(self) -> socket.socket:
        self.path.unlink(missing_ok=True)
        listener = socket.socket(socket.AF_UNIX)
        listener.bind(str(self.path))
        listener.listen()
        threading.Thread(target=self._accept, args=(listener,), daemon=True).start()
        return listener

    def _accept(self, listener: socket.socket) -> None:
        while True:
            try:
                outside, _ = listener.accept()
            except OSError:
                return
            inside = socket.socket(socket.AF_UNIX)
            inside.connect(self.engine)
            self.open += [outside, inside]
            for pair in ((outside, inside), (inside, outside)):
                threading.Thread(target=self._copy, args=pair, daemon=True).start()

    def _copy(self, source: socket.socket, target: socket.socket) -> None:
        try:
            while data := source.recv(1 << 16):
                target.sendall(data)
            target.shutdown(socket.SHUT_WR)
        except OSError:
            return

    def shut(self, seconds: float) -> None:
        """Break every connection and accept none for so long."""
        self.listener.shutdown(socket.SHUT_RDWR)
        self.listener.close()
        self.path.unlink()
        for connection in self.open:
            with suppress(OSError):
                connection.shutdown(socket.SHUT_RDWR)  # a close alone would not wake who reads from it
            connection.close()
        time.sleep(seconds)
        self.listener = self._listen()


@pytest.fixture
def door(tmp_path: Path, client: docker.DockerClient) -> Iterator[Door]:
    """A door to the engine."""
    address = os.environ.get("DOCKER_HOST", "unix:///var/run/docker.sock")
    assert client.ping() and address.startswith("unix://")
    yield Door(tmp_path / "engine.sock", address.removeprefix("unix://"))


@pytest.mark.share
def test_an_engine_that_restarts_costs_no_outcome(door: Door, backend: DockerBackend, tag: str, tmp_path: Path) -> None:
    """It goes away while a probe runs; the next launch waits until it is back."""
    through = DockerBackend(docker.DockerClient(base_url=f"unix://{door.path}"), tmp_path / "home")
    cell = Cell(image="a", subject="torch", version="installed", requires=(), members=("torch",), probes=("sample",))
    limits = Limits(memory=2 << 30, shm=64 << 20)
    plan = Plan(images=(Image(name="a", tag=tag, limits=limits),), cells=(cell,))
    folder = tmp_path / "run"
    folder.mkdir()
    engine = Engine(plan=plan, backend=through, home=tmp_path / "home", folder=folder, index=Index.from_pip())
    running = threading.Thread(target=engine.run, args=(plan.checks,))
    running.start()
    until = time.monotonic() + 120
    while not engine.running.launches and time.monotonic() < until:
        time.sleep(0.05)
    door.shut(AWAY_S)
    running.join(200)
    (outcome,) = Follower(folder / "journal.jsonl").look().values()
    assert outcome.verdict is Verdict.PASS, outcome
    for leftover in backend.client.containers.list(all=True, filters={"label": "torch-compat-matrix.owner"}):
        leftover.remove(force=True, v=True)
