"""The `local` backend: a uv virtual environment stands in for the image; no engine and no GPU needed."""

from __future__ import annotations

import os
import platform
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from torch_compat_matrix.runner.backends import gpus
from torch_compat_matrix.runner.backends import process as processes
from torch_compat_matrix.runner.backends.base import Command, Finding, Gpu, Launched, Prepared, environment_of, room
from torch_compat_matrix.runner.errors import Trouble
from torch_compat_matrix.runner.files import locked
from torch_compat_matrix.runner.model import Image, Limits
from torch_compat_matrix.runner.packages import standin, uv
from torch_compat_matrix.runner.packages.pip_config import Index
from torch_compat_matrix.runner.storage import Kept


def connect(home: Path) -> LocalBackend:
    """The backend that keeps its environments under `home`."""
    processes.refuse_long_names()
    return LocalBackend(home)


class LocalBackend:
    """Builds stand-ins and launches the probe host in them as processes of this machine."""

    name = "local"
    pulls = False
    machine = platform.machine()

    def __init__(self, home: Path) -> None:
        self.home = home

    def prepare(self, image: Image) -> Prepared:
        """Build the stand-in of the image's `local:` entry, once."""
        if image.local is None:
            raise Trouble("no-stand-in", f"{image.name} has no `local:` entry")
        return self._prepared(
            image, standin.build(image.local, self.home, Index.from_pip(os.environ), gpu=self._has_gpu(image))
        )

    def peek(self, image: Image) -> Prepared | None:
        """The stand-in, if it is built."""
        if image.local is None:
            return None
        built = standin.find(image.local, self.home, Index.from_pip(os.environ), gpu=self._has_gpu(image))
        return None if built is None else self._prepared(image, built)

    def _has_gpu(self, image: Image) -> bool:
        """Whether this machine has a GPU; Trouble where nobody can tell, unless the image takes none."""
        usable, trouble = gpus.offered(self)
        if trouble is not None and image.limits.gpus != "none":
            raise trouble
        return bool(usable)

    def _prepared(self, image: Image, built: standin.StandIn) -> Prepared:
        return Prepared(
            image=image,
            identity=built.identity,
            reference=built.description,
            stand_in=True,
            misfits=built.misfits,
            python=str(built.python),
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
    ) -> Iterator[Launched]:
        """Start the probe host as a process; the limits of memory, shm and network apply to containers only.

        A stand-in that a library has changed meanwhile is built again first.
        """
        more = environment_of(prepared.image)
        with (
            self._in_use(prepared),
            processes.launched(prepared.python, order, overlays, home=self.home, gpu=gpu, variables=more) as launch,
        ):
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
        """Run a user's command as `launch` starts the probe host."""
        with self._in_use(prepared):
            more = environment_of(prepared.image)
            return processes.interact(
                prepared.python, order, overlays, command, home=self.home, gpu=gpu, variables=more
            )

    @contextmanager
    def _in_use(self, prepared: Prepared) -> Iterator[None]:
        """Keep others from building the stand-in again; one that a library has changed meanwhile is mended first."""
        self.prepare(prepared.image)
        with locked(standin.users_of(Path(prepared.python)), shared=True):
            yield

    def gpus(self) -> Sequence[Gpu]:
        """The GPUs that nvidia-smi lists and CUDA_VISIBLE_DEVICES allows."""
        return gpus.visible()

    def reap(self) -> Sequence[str]:
        """Remove the folders of launches whose owner died."""
        return processes.reap()

    def room(self, images: Sequence[Image]) -> Finding:
        """The free disk space for the stand-ins that are not yet built: 1 GB each, 5 GB with a CUDA build of torch."""
        missing = [image for image in images if image.local is not None and self.peek(image) is None]
        return room(self.home, len(missing) * (5e9 if gpus.offered(self)[0] else 1e9))

    def kept(self) -> Sequence[Kept]:
        """Nothing: all of it is in the home."""
        return ()

    def doctor(self) -> Sequence[Finding]:
        """Whether uv works."""
        try:
            installer = Finding(what="uv", works=True, detail=uv.version())
        except Trouble as trouble:
            installer = Finding(what="uv", works=False, detail=str(trouble), code=trouble.code)
        return [installer]
