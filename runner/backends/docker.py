"""The `docker` backend: a container per image through the Docker SDK, on the engine that the client names.

The engine may be remote: no folder of this machine is mounted.  The probe bundle and the order are copied into a volume
that ends with the container; an overlay is copied once into its own volume, which later containers mount read-only.
"""

from __future__ import annotations

import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import replace
from pathlib import Path
from typing import Any

import docker
import requests
from docker.errors import APIError, DockerException, ImageNotFound, NotFound
from docker.models.containers import Container
from docker.utils import parse_repository_tag

from torch_compat_matrix.runner.backends.base import Command, Finding, Gpu, Launch, Prepared, room
from torch_compat_matrix.runner.backends.container import ContainerLaunch, attach
from torch_compat_matrix.runner.backends.docker_errors import named, needs_writable_root
from torch_compat_matrix.runner.backends.docker_gpus import LABEL, EngineGpus, remove
from torch_compat_matrix.runner.backends.docker_request import PLACE, ContainerRequest
from torch_compat_matrix.runner.backends.docker_storage import kept, overlay_volume
from torch_compat_matrix.runner.backends.owner import alive
from torch_compat_matrix.runner.bundle import BUNDLE
from torch_compat_matrix.runner.errors import Trouble
from torch_compat_matrix.runner.files import locked
from torch_compat_matrix.runner.model import Image, digest, repository
from torch_compat_matrix.runner.storage import Kept
from torch_compat_matrix.runner.watch import phase

GPU_PATIENCE_S = 10
STILL_HELD = "Mend that, or test the image that is here ({}): `pull: missing`, or `compat run --pull missing`."
WRITABLE_ROOT = "the container's root was writable: the engine's GPU hook fails on a read-only one"


def connect(home: Path) -> DockerBackend:
    """The engine that DOCKER_HOST or the client's context names."""
    try:
        client = docker.from_env(timeout=120)
        client.ping()
    except (DockerException, requests.exceptions.RequestException) as error:
        raise Trouble("engine-unreachable", f"no container engine answers: {error}") from error
    return DockerBackend(client, home)


class DockerBackend:
    """Launches images as containers."""

    name = "docker"
    pulls = True
    heeds: Sequence[str] = ("platform", "user", "mounts")

    def __init__(self, client: docker.DockerClient, home: Path, bundle: Path = BUNDLE) -> None:
        self.client = client
        self.home = home
        self.bundle = bundle
        self.machine = str(client.info().get("Architecture", ""))
        self.engine_gpus = EngineGpus(client)

    def prepare(self, image: Image) -> Prepared:
        """Pull the image where the engine lacks it, or where its tag may have moved and is always to be pulled."""
        held = self.peek(image)
        if held is None or (image.pull == "always" and not image.digest):
            held = self._pulled(image)
        if held is None:
            raise Trouble("image-not-found", f"{image.reference} was pulled, but the engine does not hold it")
        return held

    def _pulled(self, image: Image) -> Prepared | None:
        assert image.reference is not None
        ours = self.home / "pulls" / digest(image.reference)
        with locked(ours):
            before = self.peek(image)
            if before is not None and (image.pull == "missing" or image.digest):  # another process was quicker
                return before
            try:
                with named(f"pulling {image.reference}"):
                    pull(self.client, image.reference, image.platform)
            except Trouble as trouble:
                if before is not None:
                    trouble.remedy = STILL_HELD.format(before.digest or "never pushed")
                raise
            held = self.peek(image)
            if before is None:
                ours.write_text(image.reference)  # `compat clean` may remove it
            elif held is not None and held.identity != before.identity and ours.read_text():
                with suppress(APIError):  # a container of another run may still need it
                    self.client.images.remove(before.identity)
        return held

    def peek(self, image: Image) -> Prepared | None:
        """The image where the engine holds it already."""
        if image.reference is None:
            raise Trouble(
                "image-not-found",
                f"{image.name} has no `tag:`",
                "Add a `tag:` to the image in matrix.yaml, or use another backend.",
            )
        with named(f"looking for {image.reference}"):
            try:
                held = self.client.images.get(image.reference)
            except (ImageNotFound, NotFound):
                return None
        platform = "/".join(str(held.attrs.get(name) or "") for name in ("Os", "Architecture", "Variant")).rstrip("/")
        if image.platform and not f"{platform}/".startswith(f"{image.platform}/"):
            return None
        digests = dict(entry.split("@") for entry in held.attrs.get("RepoDigests") or [])  # by repository
        own = digests.get(repository(image.reference)) or next(iter(digests.values()), "")
        return Prepared(
            image=image,
            identity=str(held.id),
            reference=image.reference,
            digest=image.digest or own,
            python=image.python,
        )

    @contextmanager
    def launch(self, launch: Launch) -> Iterator[ContainerLaunch]:
        """Create, fill and start a container; remove it, whatever happens.

        Where a hook that adds the GPU fails on the read-only root (crun's, CDI's), start again with a writable root.
        """
        request = self._request(launch)
        with ExitStack() as stack:
            try:
                started = stack.enter_context(self._started(request))
            except Trouble as trouble:
                if launch.gpu is None or not needs_writable_root(trouble):
                    raise
                started = stack.enter_context(self._started(replace(request, read_only=False)))
                started.notes = (WRITABLE_ROOT,)
            yield started

    def interact(self, launch: Launch, command: Command) -> int:
        """Run a user's command in a container like `launch`'s, through the engine's own client."""
        request = self._request(launch, command)
        try:
            with self._filled(request) as container:
                return attach(container, command)
        except Trouble as trouble:
            if launch.gpu is None or not needs_writable_root(trouble):
                raise
        with self._filled(replace(request, read_only=False)) as container:
            return attach(container, command)

    def _request(self, launch: Launch, command: Command | None = None) -> ContainerRequest:
        """What to ask the engine for, once each overlay is in its volume."""
        identity = launch.prepared.identity
        with named(f"launching {launch.prepared.reference}"):
            volumes = {
                key: overlay_volume(self.client, self.home, key, folder, identity)
                for key, folder in launch.overlays.items()
            }
        return ContainerRequest(launch, volumes, command)

    @contextmanager
    def _started(self, request: ContainerRequest) -> Iterator[ContainerLaunch]:
        with self._filled(request) as container:
            with named(f"launching {request.launch.prepared.reference}"):
                launch = ContainerLaunch(container)
                container.start()
            yield launch

    @contextmanager
    def _filled(self, request: ContainerRequest) -> Iterator[Container]:
        """A container with all that it needs to start; it is removed, whatever happens."""
        container = None
        try:
            with named(f"launching {request.launch.prepared.reference}"):
                if request.launch.gpu is not None:
                    self._await(request.launch.gpu)
                container = request.create(self.client)
                container.put_archive(PLACE, request.files(self.bundle))
            yield container
        finally:
            if container is None:  # a signal may come between the engine's work and its answer
                with suppress(DockerException, requests.exceptions.RequestException):
                    container = self.client.containers.get(request.name)
            remove(container)

    def gpus(self) -> Sequence[Gpu]:
        """The usable GPUs of the engine's machine, once a container that asked for GPUs has started."""
        return self.engine_gpus.taken

    def _await(self, gpu: Gpu) -> None:
        """Wait until no container holds the leased GPU: it may outlive an owner that this process cannot see."""
        labels = [label for card in gpu.all for label in (f"{LABEL}.gpu={card.uuid}", f"{LABEL}.gpu.{card.uuid}")]
        holding: list[dict[str, Any]] = [
            {"label": label, "status": ["created", "running", "paused"]} for label in labels
        ]
        for _ in range(GPU_PATIENCE_S):
            listed = (self.client.containers.list(all=True, filters=each, ignore_removed=True) for each in holding)
            holders = [holder for holders in listed for holder in holders]
            if all(map(_is_late, holders)):
                return
            time.sleep(1)
        names = ", ".join(str(holder.name) for holder in holders)
        raise Trouble("gpu-busy", f"{gpu.name} ({gpu.uuid}) is held by another run's container: {names}")

    def reap(self) -> Sequence[str]:
        """Remove containers whose owner on this machine has died, or whose deadline has passed."""
        removed = []
        with named("looking for leftover containers"):
            for container in self.client.containers.list(
                all=True, filters={"label": f"{LABEL}.owner"}, ignore_removed=True
            ):
                if _is_late(container) or not alive(container.labels[f"{LABEL}.owner"]):
                    with suppress(NotFound, APIError):
                        container.remove(force=True, v=True)
                        removed.append(f"container {container.name}")
        return removed

    def room(self, images: Sequence[Image]) -> Finding:
        """The free disk space for the images that are not yet pulled: 3 GB each, the least that a CUDA build takes."""
        missing = [image for image in images if image.reference is not None and self.peek(image) is None]
        root = Path(self.client.info().get("DockerRootDir", ""))
        # the engine may be on another machine, whose disk only its own errors tell of
        return room(root if root.is_dir() else self.home, 3e9 * len(missing) if root.is_dir() else 0)

    def kept(self) -> Sequence[Kept]:
        """The volumes of overlays and compiled code, and the images that this home has pulled."""
        with named("looking for what the engine keeps"):
            return list(kept(self.client, self.home))

    def doctor(self) -> Sequence[Finding]:
        """The engine, and its answer to a container that asks for GPUs."""
        info, where = self.client.info(), self.client.api.base_url
        engine = (
            f"{info.get('ServerVersion')} at {where}, {info.get('Driver')}, cgroup v{info.get('CgroupVersion', '1')}"
        )
        return [Finding(what="engine", works=True, detail=engine), self.engine_gpus.finding()]


def _is_late(container: Container) -> bool:
    """Whether the container's deadline has passed, so that its probe host has ended or hangs."""
    try:
        return time.time() > float(container.labels.get(f"{LABEL}.deadline", "inf"))
    except ValueError:
        return False


def pull(client: docker.DockerClient, reference: str, platform: str = "") -> None:
    """Pull an image, for the engine's own platform or this one; APIError in the engine's words where it breaks off."""
    repository, tag = parse_repository_tag(reference)
    layers: dict[str, tuple[int, int]] = {}
    for event in client.api.pull(repository, tag=tag or "latest", stream=True, decode=True, platform=platform or None):
        if "error" in event:
            raise APIError(event["error"], explanation=event["error"])
        count(event, layers)
        done, total = bytes_of(layers)
        phase("pull", reference, done=done, total=total)


def count(event: Mapping[str, Any], layers: dict[str, tuple[int, int]]) -> None:
    """Enter an event of the engine: layer -> bytes that have arrived, and bytes of all, 0 until the engine says.

    A layer that the engine holds already is no part of the pull.
    """
    name, status = event.get("id", ""), event.get("status", "")
    if status == "Pulling fs layer":
        layers[name] = (0, 0)
    elif status == "Already exists":
        layers.pop(name, None)
    elif status == "Downloading" and name in layers:
        detail = event.get("progressDetail") or {}
        layers[name] = (detail.get("current", 0), detail.get("total", 0))
    elif status == "Download complete" and name in layers:
        layers[name] = (layers[name][1], layers[name][1])


def bytes_of(layers: Mapping[str, tuple[int, int]]) -> tuple[int, int]:
    """The bytes that have arrived, and those of all layers; 0 while the engine has not told the size of each."""
    total = sum(size for _, size in layers.values()) if all(size for _, size in layers.values()) else 0
    return sum(done for done, _ in layers.values()), total
