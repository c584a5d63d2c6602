"""A user's command in a container, by the engine's own client: it knows terminals, their sizes and their signals."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys

from docker.errors import DockerException
from docker.models.containers import Container

from torch_compat_matrix.runner.backends.base import Command, attend
from torch_compat_matrix.runner.backends.docker_errors import named, trouble_of
from torch_compat_matrix.runner.errors import Trouble

CLIENTS = ("docker", "podman")


def has_terminal(command: Command) -> bool:
    """Whether the command gets a terminal of its own: where this process has one."""
    return command.output is None and sys.stdin.isatty() and sys.stdout.isatty()


def attach(container: Container, command: Command) -> int:
    """Start the container with this process's terminal, and return the exit status of its command.

    Raises Trouble where there is no client, or the container does not start.
    """
    client = next(filter(None, map(shutil.which, CLIENTS)), None)
    if client is None:
        raise Trouble(
            "host-error",
            f"a command in a container needs the engine's own client, and none is here: {', '.join(CLIENTS)}",
            "Install the client (`docker` or `podman`), or take `--backend local`.",
        )
    engine = os.environ.get("DOCKER_HOST", "unix:///var/run/docker.sock")  # the SDK's, not that of a client's context
    wired = ["--attach"] if command.output is not None else ["--attach", "--interactive"]
    popen = subprocess.Popen(
        [client, "start", *wired, str(container.id)],
        env={**os.environ, "DOCKER_HOST": engine},
        stdin=None if command.output is None else subprocess.DEVNULL,
        stdout=command.output,
        stderr=command.output,
    )
    try:
        status = attend(popen, command)
    finally:
        popen.kill()
        popen.wait()
    with named("asking how the container ended"):
        container.reload()
    if container.status == "created":
        words = str(container.attrs["State"].get("Error") or f"the client ended with status {status}")
        raise trouble_of(DockerException(words), "starting the container")
    return status
