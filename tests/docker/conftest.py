"""A real engine, a real image with torch in it, and a real registry; without an engine a skip, in CI a failure."""

from __future__ import annotations

import fcntl
import os
import secrets
import shutil
import socket
import subprocess
import time
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

import docker
import pytest
from docker.models.containers import Container

from tests.support.baseimage import build
from tests.support.registries import Registry
from torch_compat_matrix.runner.backends.docker import DockerBackend, connect
from torch_compat_matrix.runner.backends.docker_gpus import LABEL
from torch_compat_matrix.runner.backends.owner import alive, owner
from torch_compat_matrix.runner.errors import Trouble
from torch_compat_matrix.runner.files import holding


@pytest.fixture(scope="session")
def client(tmp_path_factory: pytest.TempPathFactory) -> docker.DockerClient:
    """The engine's client."""
    try:
        return connect(tmp_path_factory.mktemp("home")).client
    except Trouble as trouble:
        if os.environ.get("CI"):
            pytest.fail(str(trouble))
        pytest.skip(str(trouble))


@pytest.fixture(scope="session")
def tag(client: docker.DockerClient) -> str:
    """An image made on this machine, in which the real torch 2.13.0 is installed."""
    return build(client)


ENGINE = Path("/tmp/compat-test-engine.lock")
"""The lock of the engine, for tests of several processes: `backend` removes what others made meanwhile."""


@pytest.fixture
def shared_engine() -> Iterator[None]:
    """The engine, beside other tests that each look after their own containers."""
    with holding(ENGINE, fcntl.LOCK_SH):
        yield


@pytest.fixture
def engine_alone() -> Iterator[None]:
    """The engine, on which no other test removes anything."""
    with holding(ENGINE, fcntl.LOCK_EX):
        yield


def of_another_test(container: Container) -> bool:
    """Whether the process that launched it lives and is not this one: a test beside this one still uses it."""
    launcher = container.labels.get(f"{LABEL}.owner", "")
    return launcher not in ("", owner()) and alive(launcher)


@pytest.fixture
def backend(client: docker.DockerClient, tmp_path: Path, shared_engine: None) -> Iterator[DockerBackend]:
    """The backend; what a test made on the engine is removed after it."""
    before = {container.id for container in client.containers.list(all=True)}
    volumes = {volume.name for volume in client.volumes.list()}
    yield DockerBackend(client, tmp_path / "home")
    left = [one for one in client.containers.list(all=True) if one.id not in before and not of_another_test(one)]
    for container in left:
        container.remove(force=True, v=True)
    unused = client.volumes.list(filters={"dangling": True})  # a container of a test beside this one keeps its own
    made = [volume for volume in unused if volume.name not in volumes]
    for volume in made:
        with suppress(docker.errors.APIError):  # a test beside this one may use it by now, and removes it then
            volume.remove(force=True)
    assert left == []
    assert all(volume.name.startswith(("compat-overlay-", "compat-compiled-")) for volume in made)


@pytest.fixture(scope="session")
def registry(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Registry]:
    """Debian's docker-registry, started for the session."""
    program = shutil.which("docker-registry")
    if program is None:
        message = "docker-registry is not installed; .ci/engine installs it"
        if os.environ.get("CI"):
            pytest.fail(message)
        pytest.skip(message)
    folder = tmp_path_factory.mktemp("registry")
    user, password = "tester", secrets.token_hex(8)
    listing = subprocess.run(["htpasswd", "-Bbn", user, password], capture_output=True, text=True, check=True).stdout
    (folder / "htpasswd").write_text(listing)
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    (folder / "config.yml").write_text(
        f"version: 0.1\n"
        f"storage:\n  filesystem:\n    rootdirectory: {folder}/data\n"
        f"http:\n  addr: 127.0.0.1:{port}\n"
        f"auth:\n  htpasswd:\n    realm: test\n    path: {folder}/htpasswd\n"
    )
    with (folder / "log").open("wb") as log:
        process = subprocess.Popen([program, "serve", str(folder / "config.yml")], stdout=log, stderr=log)
    try:
        until = time.monotonic() + 20
        while time.monotonic() < until:
            with socket.socket() as probe:
                if probe.connect_ex(("127.0.0.1", port)) == 0:
                    break
        yield Registry(f"127.0.0.1:{port}", user, password)
    finally:
        process.kill()
        process.wait()
