"""A token in a URL is used on the host alone: no container, and nothing that a container may read, has one."""

from __future__ import annotations

import json
import threading
import time
from contextlib import suppress
from pathlib import Path

import docker
import pytest
from docker.errors import APIError

from tests.integration.test_secrets import CANARY, User, user
from torch_compat_matrix.runner.backends.docker import DockerBackend
from torch_compat_matrix.runner.backends.docker_gpus import LABEL

__all__ = ["user"]

IMAGE = """images:
  x: {{ tag: "{tag}", limits: {{ memory: 4g, shm: 256m, timeout: 100 }} }}
"""


def watch(client: docker.DockerClient, seen: list[bytes], until: threading.Event) -> None:
    """All that the engine tells of our containers, and what is in the folders that we mount into them."""
    while not until.is_set():
        for container in client.containers.list(all=True, filters={"label": f"{LABEL}.owner"}, ignore_removed=True):
            with suppress(APIError):
                seen.append(json.dumps(container.attrs).encode())
                seen.append(b"".join(container.get_archive("/compat")[0]))
                seen.append(container.logs())
        time.sleep(0.2)


@pytest.mark.share
def test_no_secret_reaches_a_container(user: User, backend: DockerBackend, tag: str, tmp_path: Path) -> None:
    """Neither in its environment, labels, command and log, nor in its overlay and order; nor is one left."""
    matrix = user.folder / "matrix.yaml"
    matrix.write_text(IMAGE.format(tag=tag) + "".join(matrix.read_text().partition("libraries:")[1:]))
    seen: list[bytes] = []
    until = threading.Event()
    thread = threading.Thread(target=watch, args=(backend.client, seen, until))
    thread.start()
    try:
        user.compat("run", "--backend", "docker", "x/pair-stack", "x/torchbnn-1.0", "--out", "out")
    finally:
        until.set()
        thread.join()
    everything = b"".join(seen)
    assert b"torchbnn-1.0.dist-info/direct_url.json" in everything, "an overlay was seen"
    assert CANARY.encode() not in everything
    matrix.unlink()
    assert user.leaks(tmp_path / "home", user.folder) == set()
