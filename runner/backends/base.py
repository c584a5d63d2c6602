"""The protocol of a backend; each backend is a module that satisfies it."""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass, field
from importlib import import_module
from pathlib import Path
from typing import IO, Any, Protocol, runtime_checkable

from torch_compat_matrix.runner.errors import INSTALL, BackendUnusable, Trouble
from torch_compat_matrix.runner.model import Image, Limits
from torch_compat_matrix.runner.storage import Kept

BACKENDS = {name: f"{__package__}.{name}" for name in ("local", "docker", "here", "slurm", "kubernetes")}
"""Name -> module with a `connect(home: Path) -> Backend`."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Prepared:
    """An image that is ready to be launched."""

    image: Image
    identity: str
    """The key of its cached facts: an image id (`sha256:...`), or a hash of the stand-in's exact packages."""
    reference: str
    """The image for a reader: `repository@sha256:...`, or the stand-in's description without paths."""
    digest: str = ""
    """The registry's digest, where the image came from one."""
    stand_in: bool = False
    misfits: Mapping[str, str] = field(default_factory=dict, hash=False)
    """The packages of a stand-in that are built for another torch than its own -> why."""
    python: str = "python3"
    """The interpreter to start: inside the container, or on this host."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Gpu:
    """A GPU of the host that runs the containers."""

    uuid: str
    """Empty: a scheduler chooses it once the launch begins."""
    index: int
    name: str
    memory: int
    driver: str
    capability: str = ""
    """Compute capability, `9.0`; empty where it is not known."""
    mig: bool = False
    """Whether it is in MIG mode: then its instances can be leased, but not the GPU itself."""
    parent: str = ""
    """The UUID of the GPU that this MIG instance is a part of; empty where it is a whole GPU."""
    beside: tuple[Gpu, ...] = ()
    """The further GPUs of the same lease."""

    @property
    def all(self) -> tuple[Gpu, ...]:
        """The GPUs of the lease, this one first."""
        return (self, *self.beside)

    @property
    def bare_uuids(self) -> frozenset[str]:
        """The UUIDs that a process on it may see, without prefixes: for a MIG instance its own or its parent's."""
        own = self.uuid.removeprefix("GPU-").removeprefix("MIG-")
        return frozenset({own, self.parent.removeprefix("GPU-") or own})


@dataclass(frozen=True, kw_only=True, slots=True)
class Launch:
    """What is started in an image: the probe host on a work order, or a user's command in its place."""

    prepared: Prepared
    order: Mapping[str, Any]
    limits: Limits
    overlays: Mapping[str, Path] = field(default_factory=dict)
    """Key -> folder on this machine."""
    labels: Mapping[str, str] = field(default_factory=dict)
    gpu: Gpu | None = None
    """The leased GPU; None where it may see none."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Exit:
    """How a launched probe host ended."""

    status: int
    """Exit status; negative is the signal that ended it."""
    oom_killed: bool = False
    unprovoked: bool = False
    """Neither the runner nor the kernel's OOM killer ended it, and what runs in it can."""
    stderr: str = ""
    """Both ends of its standard error, and how much was left out between them."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Finding:
    """One line of `compat doctor`."""

    what: str
    works: bool
    detail: str
    code: str = ""
    """The reason code of what does not work; its remedy in the registry holds where `remedy` is empty."""
    remedy: str = ""
    needed: bool = True
    """Nothing runs on the backend without it."""


def environment_of(image: Image) -> dict[str, str]:
    """The variables of `env:`, those without a value from this process's environment; Trouble where one is not set."""
    unset = [name for name, value in image.env.items() if value is None and name not in os.environ]
    if unset:
        raise Trouble("variable-not-set", f"{image.name} takes {', '.join(unset)} from the environment")
    return {name: os.environ[name] if value is None else value for name, value in image.env.items()}


def room(folder: Path, needed: float) -> Finding:
    """Free disk space in a folder that needs so many bytes more."""
    existing = next(place for place in (folder, *folder.parents) if place.exists())
    disk = shutil.disk_usage(existing)
    free, enough = disk.free, disk.free >= needed or not disk.total  # nothing can be made in /proc and /sys: said later
    return Finding(
        what="disk",
        works=enough,
        detail=f"{free / 1e9:.1f} GB free in {folder}, and {needed / 1e9:.1f} GB needed",
        code="" if enough else "disk-full",
    )


class Launched(Protocol):
    """A running probe host."""

    name: str
    """Container name or process id, for messages."""
    notes: tuple[str, ...]
    """Unusual steps of its start, noted at each of its outcomes."""

    def lines(self) -> Iterator[bytes]:
        """The lines of its result stream as they come, until the probe host has ended."""

    def kill(self) -> None:
        """End the probe host now, from any thread; `lines` then ends."""

    def exit(self) -> Exit:
        """How the probe host ended; only after `lines` has ended."""


class Backend(Protocol):
    """Launches images; the only part that knows an engine."""

    name: str
    pulls: bool
    """Whether it runs the image of the tag, which it may have to pull."""
    heeds: Sequence[str]
    """The keys of an image that it heeds, of those that are about containers: `platform`, `user`, `mounts`."""
    machine: str
    """Processor architecture of the machine that launches: `x86_64`, `aarch64`."""

    def prepare(self, image: Image) -> Prepared:
        """Pull or build the image, or raise `Trouble`."""

    def peek(self, image: Image) -> Prepared | None:
        """The image if it is already here; nothing is pulled or built."""

    def launch(self, launch: Launch) -> AbstractContextManager[Launched]:
        """Start the probe host.

        The launched host reads the order unchanged; its command line names the folder of the overlays.
        Where the order names a `compile_cache`, the code that torch.compile writes stays, under that name, for the next
        launch.  Nothing else stays behind, whatever happens inside the `with`.
        """

    def gpus(self) -> Sequence[Gpu]:
        """The GPUs that it can give to a launch."""

    def reap(self) -> Sequence[str]:
        """Remove the leftovers of launches whose owner died, and name them; where there are none, nothing."""
        return ()

    def room(self, images: Sequence[Image]) -> Finding:
        """The free disk space, and what those of the images need at least that are not yet here."""

    def kept(self) -> Sequence[Kept]:
        """What the engine keeps for later runs, outside the home; where all of it is in the home, nothing."""
        return ()

    def doctor(self) -> Sequence[Finding]:
        """The findings of `compat doctor`, with remedies."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Job:
    """A launch that a scheduler has been given, and that nobody has collected."""

    name: str
    """The batch of its launch's labels."""
    id: str
    state: str
    reason: str
    """The scheduler's own word for why it waits, or for its end."""
    waits_s: float
    """How long it has been waiting; 0 where it does not wait."""
    order: Mapping[str, Any]


@runtime_checkable
class Places(Protocol):
    """A backend whose scheduler places each launch, which outlives the process that submitted it.

    The engine then leases nothing.  A launch is known by the labels `run` and `batch`: the same one a second time is
    not submitted again, but found, with all that it has printed.
    """

    max_jobs: int
    """Launches that are submitted at a time."""

    def aimed(self, target: Mapping[str, Any]) -> Backend:
        """The backend for a target of the matrix; empty: as the scheduler has it by default."""

    def submit(self, launch: Launch) -> None:
        """Submit the launch, and leave it to itself."""

    def jobs(self, run: str) -> Sequence[Job]:
        """The jobs of the run that nobody has collected."""

    def cancel(self, run: str) -> Sequence[str]:
        """End the jobs of the run, and name them."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Command:
    """A user's command, in the place of the probe host."""

    words: Sequence[str] = ()
    """Empty: a prompt."""
    files: Mapping[str, bytes] = field(default_factory=dict)
    """Name -> content of the files in the folder in which it starts."""
    output: IO[bytes] | None = None
    """Takes its output and its errors, and it gets no input; None: it has those of this process."""
    timeout_s: float | None = None
    """Seconds after which it is ended, with the status TIMED_OUT."""


@runtime_checkable
class WorksAhead(Protocol):
    """A backend that works ahead of the launches that will need it."""

    def ahead(self, prepared: Prepared) -> None:
        """Begin what launches of the image with a `compile` probe will need, unless it is begun."""

    def close(self) -> None:
        """End that work at the end of a run, which no launch waits for any more; another run may follow."""


TIMED_OUT = 124
"""The exit status that `timeout` gives too."""


@runtime_checkable
class Shells(Protocol):
    """A backend that can also run a user's command in the place of the probe host."""

    def interact(self, launch: Launch, command: Command) -> int:
        """Run the command as `launch` runs the probe host of an order with one cell, and return its exit status.

        Nothing stays behind, however it ends.
        """


def attend(popen: subprocess.Popen[bytes], command: Command) -> int:
    """Wait for the process that is the command, or its client; return its exit status as a shell shows it.

    A command that has the terminal gets its Ctrl-C too, and decides what becomes of it.
    """
    if command.output is None:
        before = signal.signal(signal.SIGINT, lambda number, frame: None)
    try:
        status = popen.wait(command.timeout_s)
    except subprocess.TimeoutExpired:
        return TIMED_OUT
    finally:
        if command.output is None:
            signal.signal(signal.SIGINT, before)
    return 128 - status if status < 0 else status


def require(name: str) -> None:
    """Raise BackendUnusable unless there is a backend of that name."""
    if name not in BACKENDS:
        raise BackendUnusable(f"no backend {name!r}; there are: {', '.join(BACKENDS)}")


def connect(name: str, home: Path, target: Mapping[str, Any] | None = None) -> Backend:
    """The backend of that name, its module imported only now; `home` is the folder for what it keeps.

    `target`: the entry of `targets:` in the matrix, for a backend with a scheduler.

    Raises BackendUnusable for an unknown name, and where the engine cannot be reached.
    """
    require(name)
    try:
        backend: Backend = import_module(BACKENDS[name]).connect(home)
    except Trouble as trouble:
        raise BackendUnusable(str(trouble), trouble.remedy, f"--backend {name}", trouble.code) from trouble
    except ModuleNotFoundError as error:
        remedy = f"pip install 'torch-compat-matrix[{name}]'" if error.name == name else INSTALL
        raise BackendUnusable(f"{error.name} is not installed", remedy, f"--backend {name}") from error
    return backend.aimed(target) if target and isinstance(backend, Places) else backend


def tags(backend: Backend, repository: str) -> Sequence[str]:
    """Every tag that the repository's registry has, for a backend that pulls; Trouble where it does not tell."""
    listed: Sequence[str] = import_module(f"{__package__}.registry").tags(backend, repository)
    return listed


def digest_of(backend: Backend, reference: str) -> str:
    """The digest that a registry has for a tag today, for a backend that pulls; Trouble where it does not tell."""
    told: str = import_module(f"{__package__}.registry").digest_of(backend, reference)
    return told


def reap(backend: Backend, say: Callable[[str], None]) -> None:
    """Remove the leftovers of dead runs and name them; whatever keeps that from being done is no concern of a run."""
    try:
        for leftover in backend.reap():
            say(f"removed a leftover of a dead run: {leftover}")
    except Exception as error:  # the backend's own trouble is met, and named, by the launch that follows
        kind = "" if isinstance(error, Trouble) else f"{type(error).__name__}: "
        say(f"leftovers of dead runs were not looked for: {kind}{error}")
