"""What the backends with a scheduler share: a launch is a job, kept in a folder of the home until it is collected."""

from __future__ import annotations

import json
import platform
import shutil
import time
from abc import ABC, abstractmethod
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

from torch_compat_matrix.runner.backends.base import Backend, Gpu, Job, Launch, Launched
from torch_compat_matrix.runner.errors import Trouble
from torch_compat_matrix.runner.files import write_whole
from torch_compat_matrix.runner.watch import phase

if TYPE_CHECKING:
    from typing_extensions import Self

MAX_JOBS = 64
LAST = b'"kind": "end"'
"""What the last frame of a probe host holds."""


class Followed(Launched, Protocol):
    """A probe host in a job."""

    over: bool
    """Whether nothing is left to be ended."""


class Placed(Backend, ABC):
    """Submits jobs, and finds them again; they are meant to outlive whoever submitted them."""

    pulls = False
    heeds: Sequence[str] = ()
    counts: str
    """The key of a target that names its GPUs."""

    def __init__(self, home: Path, target: Mapping[str, Any]) -> None:
        self.home = home.resolve()
        self.target: Mapping[str, Any] = target.get(self.name) or {}
        self.gpu = Gpu(
            uuid="",
            index=0,
            name=str(target.get("gpu") or target.get("name")),
            memory=0,
            driver="",
            capability=str(target.get("arch") or ""),
        )
        self.machine = str(target.get("machine") or platform.machine())
        self.max_jobs = int(self.target.get("max_jobs") or MAX_JOBS)

    def aimed(self, target: Mapping[str, Any]) -> Self:
        """The backend for a target of the matrix."""
        return type(self)(self.home, target)

    @contextmanager
    def launch(self, launch: Launch) -> Iterator[Launched]:
        """Submit the launch as a job, or find the job that it is already; the job and its folder end with the block.

        They outlive this process where that is killed.
        """
        folder = self._submitted(launch)
        job = self._follow(folder)
        try:
            yield job
        finally:
            if not job.over:
                job.kill()
            forget(folder)

    def submit(self, launch: Launch) -> None:
        """Submit the launch as a job, unless it is one already."""
        self._submitted(launch)

    def jobs(self, run: str) -> Sequence[Job]:
        """The jobs of the run that nobody has collected."""
        found = []
        for folder, (state, reason, is_waiting) in self._states(self._folders(run)).items():
            waits_s = time.time() - (folder / "id").stat().st_mtime if is_waiting else 0.0
            order = json.loads((folder / "order.json").read_text())
            found.append(
                Job(name=folder.name, id=id_of(folder), state=state, reason=reason, waits_s=waits_s, order=order)
            )
        return found

    def cancel(self, run: str) -> Sequence[str]:
        """End the jobs of the run, forget their files, and name the jobs."""
        folders = self._folders(run)
        ids = [name for name in map(id_of, folders) if name]
        self._end(run, ids)
        for folder in folders:
            forget(folder)
        return ids

    def gpus(self) -> Sequence[Gpu]:
        """The GPUs that a job may ask for at once, which the scheduler chooses."""
        number = int(self.target.get("gpus") or 1) if self.target.get(self.counts) else 0
        return [replace(self.gpu, index=index) for index in range(number)]

    @abstractmethod
    def _submit(self, launch: Launch, folder: Path, begun: bool) -> str:
        """Submit the job of the folder, and return its id; `begun`: a killed process may have submitted it."""

    @abstractmethod
    def _follow(self, folder: Path) -> Followed:
        """The job of the folder."""

    @abstractmethod
    def _states(self, folders: Sequence[Path]) -> Mapping[Path, tuple[str, str, bool]]:
        """Folder -> state and reason of its job, and whether it waits for its turn."""

    @abstractmethod
    def _end(self, run: str, ids: Sequence[str]) -> None:
        """End these jobs, which are those of the run."""

    def _folders(self, run: str) -> list[Path]:
        """The folders of the run's jobs."""
        return [path.parent for path in sorted((self.home / "jobs" / run).glob("*/order.json"))]

    def _submitted(self, launch: Launch) -> Path:
        """The folder of the launch's job, which is submitted unless it was."""
        folder = self.home / "jobs" / launch.labels["run"] / launch.labels["batch"]
        if id_of(folder):
            return folder
        begun = folder.exists()  # and a submitter was killed before it wrote the job's id down
        try:
            folder.mkdir(parents=True, exist_ok=True, mode=0o700)
            write_whole(folder / "order.json", [json.dumps(launch.order)])
            write_whole(folder / "id", [self._submit(launch, folder, begun)])
        except OSError as error:
            raise Trouble("host-error", f"{folder} cannot be written: {error}") from error
        except Trouble:
            forget(folder)
            raise
        return folder


def id_of(folder: Path) -> str:
    """The id of the folder's job; empty where it is not known to be submitted."""
    with suppress(OSError):
        return (folder / "id").read_text().strip()
    return ""


def forget(folder: Path) -> None:
    """Remove what was kept of a job."""
    shutil.rmtree(folder, ignore_errors=True)
    with suppress(OSError):
        folder.parent.rmdir()


class Waiting:
    """Tells once a minute, and where the reason changes, why a job waits."""

    def __init__(self, folder: Path) -> None:
        self.since = (folder / "id").stat().st_mtime
        self.told = ""

    def tell(self, reason: str) -> None:
        """Show the reason."""
        told = f"waiting {(time.time() - self.since) / 60:.0f} min: {reason}"
        if told != self.told:
            phase(told)
        self.told = told
