"""A probe host in a container: its output and its end; and a user's command in its place."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import suppress
from typing import Any

import requests
from docker.errors import APIError, DockerException, NotFound
from docker.models.containers import Container

from torch_compat_matrix.runner.backends.base import Command, Exit, attend
from torch_compat_matrix.runner.backends.docker_errors import named, trouble_of
from torch_compat_matrix.runner.errors import Trouble
from torch_compat_matrix.runner.streams import Kept, whole_lines

CLIENTS = ("docker", "podman")
"""The engine's own clients: they know terminals, their sizes and their signals."""


class ContainerLaunch:
    """A launched container; attached before it starts, so that none of its output is lost."""

    def __init__(self, container: Container) -> None:
        self.container = container
        self.name = str(container.name)
        self.notes: tuple[str, ...] = ()
        self.said = Kept()
        """Its standard error."""
        self.stream = self._attach(logs=False)

    def _attach(self, logs: bool) -> Any:
        return self.container.attach(stdout=True, stderr=True, stream=True, logs=logs, demux=True)

    def lines(self) -> Iterator[bytes]:
        """Standard output, line by line; after a broken connection, from the engine's log from the start.

        The frames' own numbers tell repeated lines apart.
        """
        for attempt in range(5):
            try:
                yield from whole_lines(self._printed())
                if not self._runs():
                    return
            except (requests.exceptions.RequestException, OSError):
                time.sleep(0.5 * attempt)
            with suppress(APIError, requests.exceptions.RequestException):
                self.stream, self.said = self._attach(logs=True), Kept()

    def _printed(self) -> Iterator[bytes]:
        for out, err in self.stream:
            self.said.add(err or b"")
            if out:
                yield out

    def _runs(self) -> bool:
        try:
            self.container.reload()
        except (NotFound, APIError, requests.exceptions.RequestException):
            return False
        return bool(self.container.status == "running")

    def kill(self) -> None:
        """End the container now."""
        with suppress(NotFound, APIError, requests.exceptions.RequestException):
            self.container.kill()

    def exit(self) -> Exit:
        """Its exit status, and whether the kernel killed it for memory."""
        try:
            status = self.container.wait(timeout=30)["StatusCode"]
            self.container.reload()
            state = self.container.attrs["State"]
        except (NotFound, APIError, requests.exceptions.RequestException) as error:
            raise trouble_of(error, "asking how the container ended") from error
        said = self.said.text()
        if status in (126, 127) and "exec " in said:  # the engine's init starts, and then finds no interpreter
            raise trouble_of(DockerException(said.strip()), "starting the probe host")
        return Exit(status=int(status), oom_killed=bool(state.get("OOMKilled")), stderr=said)


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
