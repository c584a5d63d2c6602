"""A container as the engine is asked for it: its settings, and the files that are put into it."""

from __future__ import annotations

import io
import json
import os
import tarfile
import time
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from uuid import uuid4

import docker
from docker.models.containers import Container
from docker.types import LogConfig, Mount

from torch_compat_matrix.runner.backends.base import Command, Launch, environment_of
from torch_compat_matrix.runner.backends.container import has_terminal
from torch_compat_matrix.runner.backends.docker_gpus import LABEL, request
from torch_compat_matrix.runner.backends.docker_storage import COMPILED_VOLUME
from torch_compat_matrix.runner.backends.owner import owner
from torch_compat_matrix.runner.backends.process import COMPILED
from torch_compat_matrix.runner.bundle import NAME

PLACE = "/compat"
SHELL = (f"{PLACE}/order.json", f"{PLACE}/overlays", f"{PLACE}/work")
USER = "65534:65534"
HOME = "/tmp/home"
PASSED_ON = ("LANG", "LC_ALL", "TZ")
LOG = {"max-size": "32m", "max-file": "2"}


@dataclass(frozen=True, slots=True)
class ContainerRequest:
    """A container for the probe host of a work order, or for a user's command in its place."""

    launch: Launch
    volumes: Mapping[str, str]
    """Key of an overlay -> the volume that holds it."""
    command: Command | None = None
    read_only: bool = True
    """Whether the container may not write to its root."""
    name: str = field(default_factory=lambda: f"compat-{uuid4().hex[:12]}")
    """Of the container, so that it is found also where the engine's answer to its making was not heard."""

    def create(self, client: docker.DockerClient) -> Container:
        """The container, not yet started."""
        launch, limits = self.launch, self.launch.limits
        cache = launch.order.get("compile_cache")
        compiled = f"{PLACE}/compiled" if cache else "/tmp"
        places = {
            "HOME": HOME,
            "TMPDIR": "/tmp",
            **{variable: f"{compiled}/{name}" for variable, name in COMPILED.items()},
            "MPLCONFIGDIR": "/tmp/matplotlib",
            "USER": "compat",  # the user has no entry in /etc/passwd, and getpass.getuser() asks the environment first
            "LOGNAME": "compat",
        }
        if limits.network == "none":  # an image may name an interface that is not there, and NCCL then finds none
            places["NCCL_SOCKET_IFNAME"] = "lo"
        every = {**launch.labels, "owner": owner(), "deadline": str(int(time.time() + launch.order["deadline_s"] + 60))}
        if launch.gpu is not None:
            every |= {"gpu": launch.gpu.uuid, **{f"gpu.{card.uuid}": "beside" for card in launch.gpu.beside}}
        mounts = [Mount(to, path, type="bind", read_only=True) for to, path in launch.prepared.image.mounts.items()]
        mounts += [
            Mount(f"{PLACE}/overlays/{key}", volume, type="volume", read_only=True)
            for key, volume in self.volumes.items()
        ]
        if cache:
            mounts.append(Mount(compiled, f"{COMPILED_VOLUME}{cache}", type="volume"))
        host = [f"{PLACE}/order.json", "--overlays", f"{PLACE}/overlays"]
        terminal = self.command is not None and has_terminal(self.command)
        return client.containers.create(
            launch.prepared.identity,
            name=self.name,
            entrypoint=[launch.prepared.python],
            command=["-m", NAME, *(host if self.command is None else ["--shell", *SHELL, *self.command.words])],
            working_dir=PLACE,
            environment={
                **{name: os.environ[name] for name in PASSED_ON if name in os.environ},
                **environment_of(launch.prepared.image),
                **places,
            },
            labels={f"{LABEL}.{name}": value for name, value in every.items()},
            mounts=[Mount(PLACE, None, type="volume"), *mounts],
            # inductor loads from /tmp what it has compiled; no entry point makes the home
            tmpfs={"/tmp": "exec,mode=1777", HOME: "exec,mode=1777"},
            network_mode=limits.network,
            user=launch.prepared.image.user or USER,
            read_only=self.read_only,
            cap_drop=["ALL"],
            security_opt=["no-new-privileges"],
            # as process 1 the probe host collects orphans itself, and no other process holds its output
            init=self.command is not None,
            tty=terminal,
            stdin_open=self.command is not None and self.command.output is None,
            mem_limit=limits.memory,
            memswap_limit=limits.memory,
            shm_size=limits.shm,
            pids_limit=limits.pids,
            nano_cpus=int(limits.cpus * 1e9) if limits.cpus else None,
            log_config=LogConfig(type="json-file", config=LOG),  # a broken stream is read again from there
            device_requests=[request(launch.gpu)] if launch.gpu else None,
            detach=self.command is None,  # the client shows what the container has attached
        )

    def files(self, bundle: Path) -> bytes:
        """A tar archive of the probes, the order and the command's files, which anyone may read.

        Its folders are those that anyone may write: of a compile cache, and the command's own.
        """
        archive = io.BytesIO()
        files = {"order.json": json.dumps(self.launch.order).encode()}
        folders = [f"compiled/{name}" for name in COMPILED.values() if self.launch.order.get("compile_cache")]
        if self.command is not None:
            files |= {f"work/{name}": content for name, content in self.command.files.items()}
            folders.append("work")
        with tarfile.open(fileobj=archive, mode="w") as tar:
            tar.add(bundle, NAME, filter=_readable)
            for name in folders:
                folder = tarfile.TarInfo(name)  # a new volume is root's, and the user is nobody
                folder.type, folder.mode = tarfile.DIRTYPE, 0o1777
                tar.addfile(folder)
            for name, content in files.items():
                entry = tarfile.TarInfo(name)
                entry.size, entry.mode = len(content), 0o444
                tar.addfile(entry, io.BytesIO(content))
        return archive.getvalue()


def _readable(entry: tarfile.TarInfo) -> tarfile.TarInfo | None:
    """The entry made readable for any user of the container; None for a cache of bytecode."""
    if "__pycache__" in entry.name:
        return None
    entry.uid = entry.gid = 0
    entry.mode = 0o755 if entry.isdir() else 0o644
    return entry
