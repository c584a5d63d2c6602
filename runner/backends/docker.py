"""The `docker` backend: a container per image through the Docker SDK, on the engine that the client names.

The engine may be remote: no folder of this machine is mounted.  The probe bundle and the order are copied into a volume
that ends with the container; an overlay is copied once into its own volume, which later containers mount read-only.
"""

from __future__ import annotations

import io
import json
import os
import tarfile
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path
from typing import Any

import docker
import requests
from docker.errors import APIError, DockerException, ImageNotFound, NotFound
from docker.models.containers import Container
from docker.types import LogConfig, Mount

from torch_compat_matrix.runner.backends.base import Command, Finding, Gpu, Prepared, environment_of, room
from torch_compat_matrix.runner.backends.container import ContainerLaunch
from torch_compat_matrix.runner.backends.docker_errors import named, needs_writable_root
from torch_compat_matrix.runner.backends.docker_gpus import LABEL, EngineGpus, remove, request
from torch_compat_matrix.runner.backends.docker_pull import pull
from torch_compat_matrix.runner.backends.docker_shell import attach, has_terminal
from torch_compat_matrix.runner.backends.docker_storage import COMPILED_VOLUME, OVERLAY_VOLUME, WHOLE, kept
from torch_compat_matrix.runner.backends.owner import alive, owner
from torch_compat_matrix.runner.bundle import BUNDLE, NAME
from torch_compat_matrix.runner.errors import Trouble
from torch_compat_matrix.runner.files import locked
from torch_compat_matrix.runner.model import Image, Limits, digest, repository
from torch_compat_matrix.runner.storage import Kept
from torch_compat_matrix.runner.watch import phase

PLACE = "/compat"
COMPILED = f"{PLACE}/compiled"
SHELL = (f"{PLACE}/order.json", f"{PLACE}/overlays", f"{PLACE}/work")
USER = "65534:65534"
HOME = "/tmp/home"
PASSED_ON = ("LANG", "LC_ALL", "TZ")
LOG = {"max-size": "32m", "max-file": "2"}
CACHES = ("inductor", "triton", "torch_extensions", "nv")
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
    def launch(
        self,
        prepared: Prepared,
        order: Mapping[str, Any],
        overlays: Mapping[str, Path],
        *,
        limits: Limits,
        labels: Mapping[str, str],
        gpu: Gpu | None = None,
    ) -> Iterator[ContainerLaunch]:
        """Create, fill and start a container; remove it, whatever happens.

        Where a hook that adds the GPU fails on the read-only root (crun's, CDI's), start again with a writable root.
        """
        volumes = self._volumes(prepared, overlays)
        with ExitStack() as stack:
            try:
                launch = stack.enter_context(self._started(prepared, volumes, limits, labels, order, gpu))
            except Trouble as trouble:
                if gpu is None or not needs_writable_root(trouble):
                    raise
                again = self._started(prepared, volumes, limits, labels, order, gpu, read_only=False)
                launch = stack.enter_context(again)
                launch.notes = (WRITABLE_ROOT,)
            yield launch

    def interact(
        self,
        prepared: Prepared,
        order: Mapping[str, Any],
        overlays: Mapping[str, Path],
        command: Command,
        *,
        limits: Limits,
        labels: Mapping[str, str],
        gpu: Gpu | None = None,
    ) -> int:
        """Run a user's command in a container like `launch`'s, through the engine's own client."""
        volumes = self._volumes(prepared, overlays)
        try:
            with self._filled(prepared, volumes, limits, labels, order, gpu, True, command) as container:
                return attach(container, command)
        except Trouble as trouble:
            if gpu is None or not needs_writable_root(trouble):
                raise
        with self._filled(prepared, volumes, limits, labels, order, gpu, False, command) as container:
            return attach(container, command)

    def _volumes(self, prepared: Prepared, overlays: Mapping[str, Path]) -> dict[str, str]:
        with named(f"launching {prepared.reference}"):
            return {key: self._overlay(key, folder, prepared) for key, folder in overlays.items()}

    @contextmanager
    def _started(
        self,
        prepared: Prepared,
        volumes: Mapping[str, str],
        limits: Limits,
        labels: Mapping[str, str],
        order: Mapping[str, Any],
        gpu: Gpu | None,
        read_only: bool = True,
    ) -> Iterator[ContainerLaunch]:
        with self._filled(prepared, volumes, limits, labels, order, gpu, read_only) as container:
            with named(f"launching {prepared.reference}"):
                launch = ContainerLaunch(container)
                container.start()
            yield launch

    @contextmanager
    def _filled(
        self,
        prepared: Prepared,
        volumes: Mapping[str, str],
        limits: Limits,
        labels: Mapping[str, str],
        order: Mapping[str, Any],
        gpu: Gpu | None,
        read_only: bool,
        command: Command | None = None,
    ) -> Iterator[Container]:
        """A container with all that it needs to start; it is removed, whatever happens."""
        container = None
        try:
            with named(f"launching {prepared.reference}"):
                if gpu is not None:
                    self._await(gpu)
                container = self._create(prepared, volumes, limits, labels, order, gpu, read_only, command)
                container.put_archive(PLACE, self._bundle(order, command))
            yield container
        finally:
            remove(container)

    def _create(
        self,
        prepared: Prepared,
        volumes: Mapping[str, str],
        limits: Limits,
        labels: Mapping[str, str],
        order: Mapping[str, Any],
        gpu: Gpu | None,
        read_only: bool,
        command: Command | None,
    ) -> Container:
        cache = order.get("compile_cache")
        compiled = COMPILED if cache else "/tmp"
        places = {
            "HOME": HOME,
            "TMPDIR": "/tmp",
            "TORCHINDUCTOR_CACHE_DIR": f"{compiled}/inductor",
            "TRITON_CACHE_DIR": f"{compiled}/triton",
            "TORCH_EXTENSIONS_DIR": f"{compiled}/torch_extensions",
            "CUDA_CACHE_PATH": f"{compiled}/nv",
            "MPLCONFIGDIR": "/tmp/matplotlib",
            "USER": "compat",  # the user has no entry in /etc/passwd, and getpass.getuser() asks the environment first
            "LOGNAME": "compat",
        }
        if limits.network == "none":  # an image may name an interface that is not there, and NCCL then finds none
            places["NCCL_SOCKET_IFNAME"] = "lo"
        every = {**labels, "owner": owner(), "deadline": str(int(time.time() + order["deadline_s"] + 60))}
        if gpu is not None:
            every |= {"gpu": gpu.uuid, **{f"gpu.{card.uuid}": "beside" for card in gpu.beside}}
        mounts = [Mount(to, path, type="bind", read_only=True) for to, path in prepared.image.mounts.items()]
        mounts += [
            Mount(f"{PLACE}/overlays/{key}", volume, type="volume", read_only=True) for key, volume in volumes.items()
        ]
        if cache:
            mounts.append(Mount(COMPILED, f"{COMPILED_VOLUME}{cache}", type="volume"))
        host = [f"{PLACE}/order.json", "--overlays", f"{PLACE}/overlays"]
        terminal = command is not None and has_terminal(command)
        return self.client.containers.create(
            prepared.identity,
            entrypoint=[prepared.python],
            command=["-m", NAME, *(host if command is None else ["--shell", *SHELL, *command.words])],
            working_dir=PLACE,
            environment={
                **{name: os.environ[name] for name in PASSED_ON if name in os.environ},
                **environment_of(prepared.image),
                **places,
            },
            labels={f"{LABEL}.{name}": value for name, value in every.items()},
            mounts=[Mount(PLACE, None, type="volume"), *mounts],
            # inductor loads from /tmp what it has compiled; no entry point makes the home
            tmpfs={"/tmp": "exec,mode=1777", HOME: "exec,mode=1777"},
            network_mode=limits.network,
            user=prepared.image.user or USER,
            read_only=read_only,
            cap_drop=["ALL"],
            security_opt=["no-new-privileges"],
            # as process 1 the probe host collects orphans itself, and no other process holds its output
            init=command is not None,
            tty=terminal,
            stdin_open=command is not None and command.output is None,
            mem_limit=limits.memory,
            memswap_limit=limits.memory,
            shm_size=limits.shm,
            pids_limit=limits.pids,
            nano_cpus=int(limits.cpus * 1e9) if limits.cpus else None,
            log_config=LogConfig(type="json-file", config=LOG),  # a broken stream is read again from there
            device_requests=[request(gpu)] if gpu else None,
            detach=command is None,  # the client shows what the container has attached
        )

    def _bundle(self, order: Mapping[str, Any], command: Command | None) -> bytes:
        """The probes, the order and the command's files as a tar archive that anyone may read, with the folders that
        anyone may write: those of a compile cache, and the command's own."""
        archive = io.BytesIO()
        files = {"order.json": json.dumps(order).encode()}
        folders = [f"compiled/{name}" for name in (CACHES if order.get("compile_cache") else ())]
        if command is not None:
            files |= {f"work/{name}": content for name, content in command.files.items()}
            folders.append("work")
        with tarfile.open(fileobj=archive, mode="w") as tar:
            tar.add(self.bundle, NAME, filter=_readable)
            for name in folders:
                folder = tarfile.TarInfo(name)  # a new volume is root's, and the user is nobody
                folder.type, folder.mode = tarfile.DIRTYPE, 0o1777
                tar.addfile(folder)
            for name, content in files.items():
                entry = tarfile.TarInfo(name)
                entry.size, entry.mode = len(content), 0o444
                tar.addfile(entry, io.BytesIO(content))
        return archive.getvalue()

    def _overlay(self, key: str, folder: Path, prepared: Prepared) -> str:
        """The name of the volume that holds the overlay; it is filled on first use.

        A volume cannot be renamed into place: a marker volume, made last, tells that the overlay's volume is whole.
        """
        name = f"{OVERLAY_VOLUME}{key}"
        marker = f"{name}{WHOLE}"
        used = self.home / "volumes" / key
        with locked(used):
            os.utime(used)
            if self._volume(marker):
                return name
            phase("copy the packages")
            with suppress(NotFound):
                self.client.volumes.get(name).remove(force=True)
            self.client.volumes.create(name, labels={f"{LABEL}.overlay": key})
            filler = self.client.containers.create(
                prepared.identity,
                entrypoint=["true"],
                mounts=[Mount("/overlay", name, type="volume")],
                labels={f"{LABEL}.owner": owner()},
            )
            try:
                with _archive(folder) as stream:
                    filler.put_archive("/overlay", stream)
            finally:
                filler.remove(force=True)
            self.client.volumes.create(marker, labels={f"{LABEL}.overlay": key})
        return name

    def _volume(self, name: str) -> bool:
        try:
            self.client.volumes.get(name)
        except NotFound:
            return False
        return True

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


def _readable(entry: tarfile.TarInfo) -> tarfile.TarInfo | None:
    """The entry made readable for any user of the container; None for a cache of bytecode."""
    if "__pycache__" in entry.name:
        return None
    entry.uid = entry.gid = 0
    entry.mode = 0o755 if entry.isdir() else 0o644
    return entry


@contextmanager
def _archive(folder: Path) -> Iterator[Any]:
    """The overlay as a tar archive on disk: it may be larger than memory."""
    import tempfile

    with tempfile.TemporaryFile() as file:
        with tarfile.open(fileobj=file, mode="w") as tar:
            for path in sorted(folder.iterdir()):
                tar.add(path, path.name, filter=_owned)
        file.seek(0)
        yield file


def _owned(entry: tarfile.TarInfo) -> tarfile.TarInfo:
    entry.uid = entry.gid = 0
    entry.mode |= 0o444 | (0o111 if entry.isdir() else 0)
    return entry
