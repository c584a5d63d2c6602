"""The `slurm` backend: each launch is a job, whose frames come by a file that the nodes and this host share."""

from __future__ import annotations

import math
import os
import shlex
import shutil
import threading
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import suppress
from functools import cache
from pathlib import Path
from typing import Any

from torch_compat_matrix.runner.backends import base
from torch_compat_matrix.runner.backends.base import Exit, Finding, Launch, Prepared
from torch_compat_matrix.runner.backends.local import described
from torch_compat_matrix.runner.backends.owner import owner
from torch_compat_matrix.runner.backends.placed import LAST, Placed, Waiting, id_of
from torch_compat_matrix.runner.backends.slurm_queue import FAILED, NEVER, PENDING, Queue, refusal, slurm
from torch_compat_matrix.runner.backends.slurm_script import RESTARTED, container_of, script
from torch_compat_matrix.runner.bundle import BUNDLE, NAME
from torch_compat_matrix.runner.errors import Trouble
from torch_compat_matrix.runner.files import build_once, read_whole, write_whole
from torch_compat_matrix.runner.model import Image, digest
from torch_compat_matrix.runner.packages import manifest, standin
from torch_compat_matrix.runner.packages.pip_config import Index
from torch_compat_matrix.runner.streams import Kept as Said
from torch_compat_matrix.runner.streams import whole_lines

MOST_WORDS = 500
"""Jobs that are cancelled by one command."""
LOOK_S = 0.3
"""Seconds between two looks at the file of a running job."""
LAG_S = 10.0
"""How long a network file system may hide the last lines of a job that completed."""
SUBMITTERS = 4
"""Submissions at a time: each is a process, and the controller takes one after the other."""


def connect(home: Path) -> SlurmBackend:
    """The backend that submits with sbatch; Trouble where this host has no such command."""
    if shutil.which("sbatch") is None:
        raise Trouble("no-scheduler", "sbatch is not on the PATH of this host")
    return SlurmBackend(home, {})


class SlurmBackend(Placed):
    """Submits jobs, and follows their files."""

    name = "slurm"
    counts = "gres"

    def __init__(self, home: Path, target: Mapping[str, Any]) -> None:
        super().__init__(home, target)
        self.contains = container_of(self.target) != "none"
        self.queue = Queue()
        self.submitting = threading.Semaphore(SUBMITTERS)

    def prepare(self, image: Image) -> Prepared:
        """The image's reference where containers take it, else its stand-in, else `python:` of a node."""
        if image.local is not None and not self.contains:
            built = standin.build(image.local, self.home, Index.from_pip(), gpu=bool(self.gpus()))
            return described(image, built)
        if self.contains and image.reference is None:
            raise Trouble("image-not-found", f"{image.name} has no `tag:`")
        reference = str(image.reference) if self.contains else f"{image.python} of a node"
        where = "" if self.contains else [self.target.get("module"), self.target.get("partition")]
        identity = (self.contains and image.digest) or digest([reference, where])
        return Prepared(
            image=image, identity=identity, reference=reference, digest=image.digest or "", python=image.python
        )

    def peek(self, image: Image) -> Prepared | None:
        """The image, where nothing need be built."""
        if image.local is None or self.contains:
            return self.prepare(image)
        built = standin.find(image.local, self.home, Index.from_pip(), gpu=bool(self.gpus()))
        return None if built is None else described(image, built)

    def room(self, images: Sequence[Image]) -> Finding:
        """Whether Slurm would take a job of the target; then the free disk space for missing stand-ins."""
        memory = max((image.limits.memory for image in images), default=0)
        asked = slurm("sbatch", "--test-only", *self._asks(len(self.gpus()[:1]), memory), "--wrap", "true")
        if asked.returncode:
            trouble = refusal(asked.stderr)
            return Finding(what="a job", works=False, detail=str(trouble), code=trouble.code)
        missing = [image for image in images if self.peek(image) is None]
        return base.room(self.home, len(missing) * (5e9 if self.gpus() else 1e9))

    def doctor(self) -> Sequence[Finding]:
        """The controller, accounting, and the folder that the nodes have to share."""
        ping, counted = slurm("scontrol", "ping"), slurm("sacct", "-X", "-n", "-S", "now-1minute")
        existing = next(place for place in (self.home, *self.home.parents) if place.exists())
        return [
            Finding(
                what="controller",
                works=" is UP" in ping.stdout,
                detail=(ping.stdout or ping.stderr).strip(),
                code="" if " is UP" in ping.stdout else "scheduler-unreachable",
            ),
            Finding(
                what="accounting",
                works=not counted.returncode,
                detail=counted.stderr.strip() or "sacct answers",
                needed=False,
                remedy="without it resume soon: squeue forgets how a job ended (MinJobAge)"
                if counted.returncode
                else "",
            ),
            Finding(
                what="shared folder",
                works=os.access(existing, os.W_OK),
                detail=f"{self.home} can be written here; `srun ls -d {shlex.quote(str(existing))}` asks a node",
                remedy="" if os.access(existing, os.W_OK) else "let COMPAT_HOME name a folder that the nodes share",
            ),
        ]

    def _asks(self, gpus: int, memory: int) -> list[str]:
        """The words by which sbatch finds the target."""
        target = self.target
        plain = {"partition": "partition", "constraint": "constraint", "qos": "qos", "account": "account"}
        words = [
            f"--{option}={target[key]}" for key, option in (plain | {"cpus": "cpus-per-task"}).items() if key in target
        ]
        words.append(f"--gres={target['gres']}:{gpus}" if gpus else "--gres=none")
        return [*words, f"--mem={math.ceil((target.get('mem') or memory) / (1 << 20))}M", *target.get("lines", ())]

    def _follow(self, folder: Path) -> SlurmLaunch:
        return SlurmLaunch(folder, self.queue)

    def _states(self, folders: Sequence[Path]) -> Mapping[Path, tuple[str, str, bool]]:
        numbers = {folder: id_of(folder) for folder in folders}
        self.queue.expect(*filter(None, numbers.values()))
        states = {
            folder: self.queue.state(number) if number else ("NOT SUBMITTED", "") for folder, number in numbers.items()
        }
        return {folder: (*told, told[0] in PENDING) for folder, told in states.items()}

    def _end(self, run: str, ids: Sequence[str]) -> None:
        for start in range(0, len(ids), MOST_WORDS):
            slurm("scancel", *ids[start : start + MOST_WORDS])

    def _submit(self, launch: Launch, folder: Path, begun: bool) -> str:
        name = f"compat-{launch.labels['batch']}"
        listed = slurm("squeue", "--me", "-h", "-t", "all", "-n", name, "-o", "%A").stdout.split() if begun else []
        if listed:
            return max(listed, key=int)
        write_whole(folder / "job.sh", [script(launch, self.target, folder, self._bundle(), self.home)])
        (folder / "frames").touch()  # so that no cache of a network file system says that it is not there
        return self._sbatch(launch, folder, name)

    def _sbatch(self, launch: Launch, folder: Path, name: str) -> str:
        limit = self.target.get("time") or math.ceil(launch.order["deadline_s"] / 60)
        words = [f"--job-name={name}", f"--comment=run={launch.labels['run']} owner={owner()}", "--export=NIL"]
        words += [f"--output={folder}/frames", f"--error={folder}/stderr", "--open-mode=append", "--no-requeue"]
        words += [f"--time={limit}", *self._asks(len(launch.gpu.all) if launch.gpu else 0, launch.limits.memory)]
        with self.submitting:
            submitted = slurm("sbatch", "--parsable", *words, str(folder / "job.sh"))
        if submitted.returncode:
            raise refusal(submitted.stderr)
        number = submitted.stdout.strip().partition(";")[0]
        self.queue.expect(number)
        return number

    def _bundle(self) -> Path:
        """The folder that holds the bundle under its name, by the hash of its content."""

        def fill(partial: Path) -> None:
            shutil.copytree(BUNDLE, partial / NAME, ignore=shutil.ignore_patterns("__pycache__"))
            manifest.seal(partial, folder)

        folder = self.home / "bundles" / _bundle_hash()
        return build_once(folder, fill)


@cache
def _bundle_hash() -> str:
    return digest({str(path.relative_to(BUNDLE)): path.read_text() for path in BUNDLE.rglob("*.py")})


class SlurmLaunch:
    """A probe host in a job."""

    def __init__(self, folder: Path, queue: Queue) -> None:
        self.folder = folder
        self.queue = queue
        self.number = id_of(folder)
        self.name = f"job {self.number}"
        self.notes: tuple[str, ...] = ()
        self.killed = self.over = False
        self.state = self.reason = ""

    def lines(self) -> Iterator[bytes]:
        """The lines of the file as they come, until the job has ended and the file is read to its end."""
        yield from whole_lines(self._printed())

    def _printed(self) -> Iterator[bytes]:
        offset, tail, began, until = 0, b"", False, float("inf")
        waiting = Waiting(self.folder)
        while True:
            self.state, self.reason = self.queue.state(self.number)
            if self.state in PENDING:
                if began or self.reason in NEVER:  # put back in the queue, by a site's own lines; or waiting for ever
                    self.state = "REQUEUED" if began else "NEVER"
                    return
                waiting.tell(self.reason)
            else:
                began = True
                self.over = self.queue.is_over(self.state)
                with (self.folder / "frames").open("rb") as stream:  # anew: a network file system then looks again
                    stream.seek(offset)
                    data = stream.read(1 << 20)
                if data:
                    offset, tail = offset + len(data), (tail + data)[-len(LAST) - 32 :]
                    yield data
                    continue
                if self.over:
                    until = min(until, time.monotonic() + LAG_S)
                    if LAST in tail or self.state != "COMPLETED" or time.monotonic() > until:
                        return
            if self.killed:
                return
            time.sleep(LOOK_S)

    def kill(self) -> None:
        """Cancel the job."""
        if not self.killed:
            self.killed = True
            slurm("scancel", self.number)

    def exit(self) -> Exit:
        """How the job ended; Trouble where that is the cluster's own doing."""
        said = Said()
        with suppress(OSError):
            said.add(read_whole(self.folder / "stderr", 64 << 20))
        words, status = said.text(), self.queue.status(self.number)
        state = "REQUEUED" if status == RESTARTED else self.state
        if not self.killed and state in FAILED:
            told = f"{self.name} ended: {state} {self.reason}".strip()
            raise Trouble(FAILED[state], told, evidence=words.strip()[-400:])
        oom_killed = self.state == "OUT_OF_MEMORY" or "oom_kill event" in words  # a container's step may tell it alone
        return Exit(status=-9 if self.killed or oom_killed else status, oom_killed=oom_killed, stderr=words)
