"""A probe host in a container: its output and its end."""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import suppress
from typing import Any

import requests
from docker.errors import APIError, DockerException, NotFound
from docker.models.containers import Container

from torch_compat_matrix.runner.backends.base import Exit
from torch_compat_matrix.runner.backends.docker_errors import trouble_of
from torch_compat_matrix.runner.streams import Kept, whole_lines


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
