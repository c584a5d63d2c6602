"""What a backend is: four verbs that the engine calls; each backend is one module that satisfies them."""

from __future__ import annotations

import shutil
from collections.abc import Iterator, Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass
from importlib import import_module
from pathlib import Path
from typing import TYPE_CHECKING, Protocol

from torch_compat_matrix.runner.errors import BackendUnusable, Trouble
from torch_compat_matrix.runner.model import Image, Limits

if TYPE_CHECKING:
    from torch_compat_matrix.probes.contract import WorkOrder

BACKENDS = {name: f"{__package__}.{name}" for name in ("local", "docker", "here")}
"""Name -> module with a `connect(home: Path) -> Backend`."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Prepared:
    """An image that is ready to be launched."""

    image: Image
    identity: str
    """What its facts are cached under: an image id (`sha256:...`), or a hash of the stand-in's exact packages."""
    reference: str
    """What a person would type: `repository@sha256:...`, or the path-free description of the stand-in."""
    digest: str = ""
    """The registry's digest, where the image came from one."""
    stand_in: bool = False
    python: str = "python3"
    """The interpreter to start: inside the container, or on this host."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Gpu:
    """One GPU of the host that runs the containers."""

    uuid: str
    index: int
    name: str
    memory: int
    driver: str
    capability: str = ""
    """Compute capability, `9.0`; empty where it is not known."""
    mig: bool = False
    """Whether it is in MIG mode: then its instances can be leased, itself it cannot."""
    parent: str = ""
    """The UUID of the GPU that this MIG instance is a part of; empty where it is a whole GPU."""

    @property
    def bare_uuids(self) -> frozenset[str]:
        """What a process on it may be told as its UUID, prefixes off: for a MIG instance its own or its parent's."""
        own = self.uuid.removeprefix("GPU-").removeprefix("MIG-")
        return frozenset({own, self.parent.removeprefix("GPU-") or own})


@dataclass(frozen=True, kw_only=True, slots=True)
class Exit:
    """How a launched probe host ended."""

    status: int
    """Exit status; negative is the signal that ended it."""
    oom_killed: bool = False
    stderr: str = ""
    """The last 16 KiB of what it wrote to standard error."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Finding:
    """One line of `compat doctor`."""

    what: str
    works: bool
    detail: str
    code: str = ""
    """The reason of what does not work; its remedy in the registry holds where no other one is given."""
    remedy: str = ""


def room(home: Path) -> Finding:
    """Free disk space where environments and overlays are kept; a CUDA build of torch takes 5 GB."""
    existing = next(folder for folder in (home, *home.parents) if folder.exists())
    free = shutil.disk_usage(existing).free
    return Finding(
        what="disk",
        works=free > 6e9,
        detail=f"{free / 1e9:.0f} GB free for {home}",
        remedy=""
        if free > 6e9
        else "a stand-in with a CUDA build of torch takes 5 GB: set COMPAT_HOME to a larger disk",
    )


class Launched(Protocol):
    """A running probe host."""

    name: str
    """Container name or process id, for messages."""
    notes: tuple[str, ...]
    """What was done otherwise than usual to start it: noted at each of its outcomes."""

    def lines(self) -> Iterator[bytes]:
        """The lines of its result stream as they come; ends when the probe host has ended."""

    def kill(self) -> None:
        """End it now, from any thread; `lines` then ends."""

    def exit(self) -> Exit:
        """How it ended; only after `lines` has ended."""


class Backend(Protocol):
    """Launches images; the only part that knows an engine."""

    name: str
    pulls: bool
    """Whether an image is what its tag names, which may have to be pulled first."""
    machine: str
    """Processor architecture of the machine that launches: `x86_64`, `aarch64`."""

    def prepare(self, image: Image) -> Prepared:
        """Pull or build the image, or raise `Trouble`."""

    def peek(self, image: Image) -> Prepared | None:
        """The image as it is here already; nothing is pulled or built."""

    def launch(
        self,
        prepared: Prepared,
        order: WorkOrder,
        overlays: Mapping[str, Path],
        *,
        limits: Limits,
        labels: Mapping[str, str],
        gpu: Gpu | None = None,
    ) -> AbstractContextManager[Launched]:
        """Start the probe host on a work order with these overlays (key -> folder on this machine).

        The launched host reads the order as it is; its command line names the folder in which it finds the overlays.
        Where the order names a `compile_cache`, what torch.compile writes stays, under that name, for the next launch.
        Whatever happens inside the `with`, nothing stays behind.
        """

    def gpus(self) -> Sequence[Gpu]:
        """The GPUs that it can hand to a launch."""

    def reap(self) -> Sequence[str]:
        """Remove what launches of dead owners left behind, and name it."""

    def doctor(self) -> Sequence[Finding]:
        """What works and what to do about what does not."""


def require(name: str) -> None:
    """Raise BackendUnusable unless there is a backend of that name."""
    if name not in BACKENDS:
        raise BackendUnusable(f"no backend {name!r}; there are: {', '.join(BACKENDS)}")


def connect(name: str, home: Path) -> Backend:
    """The backend of that name, its module imported only now; `home` is the folder for what it keeps.

    Raises BackendUnusable for an unknown name, and where the engine cannot be reached.
    """
    require(name)
    try:
        backend: Backend = import_module(BACKENDS[name]).connect(home)
    except Trouble as trouble:
        raise BackendUnusable(str(trouble), trouble.remedy, f"--backend {name}", trouble.code) from trouble
    except ModuleNotFoundError as error:
        raise BackendUnusable(f"{error.name} is not installed", "pip install .", f"--backend {name}") from error
    return backend
