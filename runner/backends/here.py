"""The `here` backend: the interpreter of this command is the image; for pods, HPC nodes and notebook hosts."""

from __future__ import annotations

import platform
import site
import sys
from collections.abc import Sequence
from contextlib import AbstractContextManager
from importlib import metadata
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from torch_compat_matrix.runner.backends import base
from torch_compat_matrix.runner.backends import process as processes
from torch_compat_matrix.runner.backends.base import Command, Finding, Launch, Launched, Prepared
from torch_compat_matrix.runner.errors import BackendUnusable
from torch_compat_matrix.runner.model import Image, digest

OF_THE_USER = (
    *("CUDA_MODULE_LOADING", "NVIDIA_TF32_OVERRIDE", "TORCH_ALLOW_TF32_CUBLAS_OVERRIDE"),
    *("NCCL_*", "TRITON_LIBCUDA_PATH", "TRITON_PTXAS_PATH"),
)
"""Variables that change a GPU's behaviour: `here` tests the caller's own environment."""
KEPT = ("PYTHONPATH", "VIRTUAL_ENV", *OF_THE_USER)

REMEDY = "start compat with the interpreter that holds torch: `that/python -m torch_compat_matrix ...`"


def connect(home: Path) -> HereBackend:
    """The backend of this interpreter."""
    processes.refuse_long_names()
    return HereBackend(home)


def require_torch() -> None:
    """Raise BackendUnusable where this interpreter lacks torch, which no overlay could replace."""
    if find_spec("torch") is None:
        raise BackendUnusable(f"{sys.executable} has no torch", REMEDY, "--backend here")


def installed() -> dict[str, str]:
    """Distribution -> version of everything that this interpreter sees."""
    versions: dict[str, str] = {}
    for distribution in metadata.distributions():
        name = distribution.metadata["Name"]
        if name:
            versions.setdefault(name, distribution.version)
    return versions


def _user_site() -> dict[str, str]:
    """The variables by which another home leaves the user's own packages as importable as they are to this process."""
    return {"PYTHONUSERBASE": site.getuserbase()} if site.ENABLE_USER_SITE else {"PYTHONNOUSERSITE": "1"}


class HereBackend(processes.ThisMachine):
    """Launches the probe host under the running interpreter, PYTHONPATH included."""

    name = "here"

    def prepare(self, image: Image) -> Prepared:
        """Describe this interpreter; its identity covers the installed packages and the caller's GPU variables."""
        settings = processes.passed_on(OF_THE_USER)
        return Prepared(
            image=image,
            identity=digest([sys.executable, sys.path, sorted(installed().items()), sorted(settings.items())]),
            reference=f"Python {platform.python_version()} of this machine",
            python=sys.executable,
        )

    peek = prepare

    def launch(self, launch: Launch) -> AbstractContextManager[Launched]:
        """Start the probe host as a process of this machine."""
        return processes.launched(launch.prepared.python, launch.order, launch.overlays, **self._settings(launch))

    def interact(self, launch: Launch, command: Command) -> int:
        """Run a user's command as `launch` starts the probe host."""
        settings = self._settings(launch)
        return processes.interact(launch.prepared.python, launch.order, launch.overlays, command, **settings)

    def _settings(self, launch: Launch) -> dict[str, Any]:
        """How the process starts."""
        variables = {**base.environment_of(launch.prepared.image), **_user_site()}
        return {"home": self.home, "gpu": launch.gpu, "keep": KEPT, "variables": variables}

    def room(self, images: Sequence[Image]) -> Finding:
        """The free disk space; overlays of some MB are all that it takes."""
        return base.room(self.home, 1e8)

    def doctor(self) -> Sequence[Finding]:
        """Whether this interpreter holds torch, which is not imported."""
        version = installed().get("torch")
        detail = f"torch {version}" if version else f"{sys.executable} has no torch"
        works = find_spec("torch") is not None
        return [Finding(what="torch here", works=works, detail=detail, remedy="" if works else REMEDY)]
