"""The GPUs that a container engine gives to containers, tried with a container.

The engine's `info()` proves little: a hook serves GPUs without a registered runtime, and CDI folders may serve none.
"""

from __future__ import annotations

import time
from functools import cached_property

import docker
import requests
from docker.errors import APIError, NotFound
from docker.models.containers import Container
from docker.types import DeviceRequest

from torch_compat_matrix.runner.backends import gpus
from torch_compat_matrix.runner.backends.base import Finding, Gpu
from torch_compat_matrix.runner.backends.docker_errors import has_no_gpus, named
from torch_compat_matrix.runner.backends.owner import owner
from torch_compat_matrix.runner.errors import Trouble

LABEL = "torch-compat-matrix"
THIS_MACHINE = "http+docker://localhost"
"""The client's address for a socket of this machine; TCP and SSH may lead to another machine."""

CAPABILITIES = [["gpu", "compute", "utility"]]
"""CUDA and NVML, also in an image whose own variables ask the runtime for graphics only."""


class EngineGpus:
    """Asks an engine for its GPUs, each question once a run."""

    def __init__(self, client: docker.DockerClient) -> None:
        self.client = client

    @cached_property
    def taken(self) -> tuple[Gpu, ...]:
        """The usable GPUs of the engine's machine; Trouble where the engine does not give them to containers."""
        if self.client.api.base_url != THIS_MACHINE:
            return self._theirs()
        visible = gpus.visible()
        if visible and self.refusal is not None:
            raise self.refusal
        return visible

    def _theirs(self) -> tuple[Gpu, ...]:
        """The GPUs of an engine on another machine, as the nvidia-smi that it adds to a container lists them.

        Raises Trouble where they cannot be listed.
        """

        def ask(arguments: tuple[str, ...]) -> tuple[int, str]:
            try:
                return self._on_gpus("nvidia-smi", *arguments)
            except Trouble as trouble:
                if trouble.code == "no-python":  # there is no such program: the engine added nothing
                    return 127, trouble.evidence
                raise

        if self.refusal is not None:
            if has_no_gpus(self.refusal):
                return ()
            raise self.refusal
        if not self._images:
            raise Trouble(
                "gpu-not-chosen",
                f"the engine at {self.client.api.base_url} holds no image in which its GPUs could be listed",
                "Pull an image there (`docker pull`), or set `gpus: none` for the image to test on the CPU.",
            )
        return gpus.chosen(gpus.listed(ask), {}, ask)

    @cached_property
    def refusal(self) -> Trouble | None:
        """The failure of a container that asks for GPUs; None where it starts, or where there is no image to try."""
        if not self._images:
            return None
        try:
            self._on_gpus("true")
        except Trouble as trouble:
            return None if trouble.code == "no-python" else trouble  # the image's lack, met after the GPUs were added
        return None

    def finding(self) -> Finding:
        """The result of the try."""
        what = "GPUs in containers"
        if not self._images:
            untried, remedy = "not tried: the engine holds no image", "pull an image and try again"
            return Finding(what=what, works=False, detail=untried, remedy=remedy, needed=False)
        if self.refusal is not None:
            return Finding(what=what, works=False, detail=str(self.refusal), code=self.refusal.code, needed=False)
        return Finding(what=what, works=True, detail="a container that asked for all GPUs has started")

    @cached_property
    def _images(self) -> list[str]:
        """Ids of the engine's images, the largest first: it most likely holds a C library and programs."""
        with named("listing the engine's images"):
            held = sorted(self.client.images.list(), key=lambda image: -int(image.attrs["Size"]))
        return [str(image.id) for image in held]

    def _on_gpus(self, program: str, *arguments: str) -> tuple[int, str]:
        """Exit status and output of a program on all GPUs, in the engine's largest image."""
        container = None
        with named("asking the engine for its GPUs"):
            try:
                container = self.client.containers.create(
                    self._images[0],
                    entrypoint=[program],
                    command=list(arguments),
                    environment={"NVIDIA_DISABLE_REQUIRE": "1"},  # which driver the image demands is not asked here
                    labels={f"{LABEL}.owner": owner()},
                    network_mode="none",
                    device_requests=[DeviceRequest(count=-1, capabilities=CAPABILITIES)],
                )
                container.start()
                status = container.wait(timeout=gpus.PATIENCE_S)["StatusCode"]
                return int(status), container.logs().decode(errors="replace")
            finally:
                remove(container)


def request(gpu: Gpu) -> DeviceRequest:
    """The engine's request for the GPUs of this lease."""
    return DeviceRequest(device_ids=[card.uuid for card in gpu.all], capabilities=CAPABILITIES)


def remove(container: Container | None) -> None:
    """Remove the container, if any, and its volumes; a container that is already gone is no error."""
    if container is None:
        return
    for wait in (0.0, 0.5, 2.0):
        time.sleep(wait)  # the engine does not kill a container that it starts at this moment
        try:
            container.remove(force=True, v=True)
        except NotFound:
            return
        except (APIError, requests.exceptions.RequestException):
            continue
        return
