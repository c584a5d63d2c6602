"""The usable GPUs of a host, and the lease that keeps two batches, of any processes, off the same GPU."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, ExitStack, contextmanager
from dataclasses import replace
from functools import cache
from pathlib import Path
from typing import Protocol

from torch_compat_matrix.runner.backends.base import Backend, Gpu
from torch_compat_matrix.runner.errors import Trouble
from torch_compat_matrix.runner.files import holding, try_lock

FIELDS: tuple[str, ...] = ("uuid", "index", "name", "memory.total", "driver_version", "compute_cap", "mig.mode.current")
NEEDED = 5
"""The number of fields, from the first, that every driver knows."""

LIST_INSTANCES = ("-L",)
VISIBLE, ORDER = "CUDA_VISIBLE_DEVICES", "CUDA_DEVICE_ORDER"
NONE = ("", "-1", "NoDevFiles")
"""First entries of CUDA_VISIBLE_DEVICES that hide all GPUs."""

PLACE = Path("/tmp/torch-compat-matrix-gpus")
"""The folder of the leases, the same for every process of the machine, whatever its TMPDIR."""

PATIENCE_S = 120.0
"""How long nvidia-smi may take: without persistence mode it starts every GPU, which takes seconds each."""

RECENT_PATIENCE_S = 20.0
"""The same while a launch is read, on a GPU that is started."""

Ask = Callable[[tuple[str, ...]], tuple[int, str]]
"""Arguments of nvidia-smi -> its exit status and its output."""


def visible(patience_s: float = PATIENCE_S) -> tuple[Gpu, ...]:
    """The usable GPUs of this host: those that nvidia-smi lists, limited by the caller's CUDA_VISIBLE_DEVICES.

    None where there is no nvidia-smi.  Raises Trouble where nvidia-smi fails, and where the variable is ambiguous.
    """
    program = shutil.which("nvidia-smi")
    if program is None or os.environ.get(VISIBLE, "all").partition(",")[0].strip() in NONE:
        return ()

    def ask(arguments: tuple[str, ...]) -> tuple[int, str]:
        return _kept_answer(program, arguments, patience_s)

    return chosen(listed(ask), os.environ, ask)


def _answer(program: str, arguments: tuple[str, ...], patience_s: float) -> tuple[int, str]:
    """The answer of nvidia-smi."""
    try:
        done = subprocess.run(
            [program, *arguments], capture_output=True, text=True, timeout=patience_s, check=False, errors="replace"
        )
    except subprocess.TimeoutExpired:
        return 1, f"no answer within {patience_s:g} s"
    except OSError as error:
        return 1, str(error)
    return done.returncode, done.stdout if done.returncode == 0 else done.stdout + done.stderr


_kept_answer = cache(_answer)
"""As `_answer`, asked once a process."""


def recent_use(gpu: Gpu) -> float | None:
    """The percentage of the last seconds (some 15) in which a kernel ran on the GPU, or on the busiest of its lease.

    None where nvidia-smi does not tell it: on another machine, for a MIG instance, with some drivers.
    """
    program = shutil.which("nvidia-smi")
    if program is None or not gpu.uuid:
        return None
    asked = ("-q", "-d", "UTILIZATION", "-i", ",".join(card.uuid for card in gpu.all))
    status, answer = _answer(program, asked, RECENT_PATIENCE_S)
    found = re.findall(r"GPU Utilization Samples\n(?:.*: .*\n){1,4} *Avg *: (\d+) %", answer) if status == 0 else []
    return max(map(float, found), default=None)


def listed(ask: Ask) -> tuple[Gpu, ...]:
    """All GPUs that nvidia-smi lists, at least one; Trouble with its message where it fails.

    A driver that is too old for a field (470 does not know `compute_cap`) is queried again without it.
    """
    fields = FIELDS
    while True:
        status, answer = ask((f"--query-gpu={','.join(fields)}", "--format=csv,noheader,nounits"))
        unknown = re.search(r'Field "(\S+)" is not a valid field', answer)
        if status == 0 or unknown is None or unknown[1] not in fields[NEEDED:]:
            break
        fields = tuple(field for field in fields if field != unknown[1])
    gpus = parse(answer, fields) if status == 0 else ()
    if not gpus:
        raise _failed(status, answer)
    return gpus


def _failed(status: int, answer: str) -> Trouble:
    words = " ".join(answer.split())[:400] or "no output"
    return Trouble("nvidia-smi-failed", f"nvidia-smi lists no GPU (status {status}): {words}", "", answer)


def parse(listing: str, fields: Sequence[str] = FIELDS) -> tuple[Gpu, ...]:
    """GPUs from nvidia-smi's CSV lines (memory in MiB there, in bytes here)."""
    gpus = []
    for line in listing.splitlines():
        values = [value.strip() for value in line.split(",")]
        row = dict(zip(fields, values, strict=False))
        if len(values) == len(fields) and row["uuid"].startswith("GPU-"):
            memory = row["memory.total"]
            gpus.append(
                Gpu(
                    uuid=row["uuid"],
                    index=int(row["index"]),
                    name=row["name"],
                    memory=int(float(memory)) << 20 if memory.replace(".", "").isdigit() else 0,
                    driver=row["driver_version"],
                    capability=row.get("compute_cap", ""),
                    mig=row.get("mig.mode.current") == "Enabled",
                )
            )
    return tuple(gpus)


def chosen(gpus: Sequence[Gpu], variables: Mapping[str, str], ask: Ask) -> tuple[Gpu, ...]:
    """The GPUs that CUDA_VISIBLE_DEVICES allows, all where it is not set; MIG instances only where it names them.

    Raises Trouble (`gpu-not-chosen`) where it names a GPU ambiguously, or a GPU that cannot be leased.
    """
    wanted = variables.get(VISIBLE)
    named = list(gpus) if wanted is None else _named(wanted, gpus, variables.get(ORDER, ""), ask)
    for gpu in named:
        if gpu.mig:
            raise Trouble(
                "gpu-not-chosen",
                f"GPU {gpu.index} ({gpu.name}, {gpu.uuid}) is in MIG mode, and none of its instances is named",
                f"Name the instance to test on (`nvidia-smi -L`), or the other GPUs, by UUID in {VISIBLE}.",
            )
    return tuple(named)


def _named(wanted: str, gpus: Sequence[Gpu], order: str, ask: Ask) -> list[Gpu]:
    """The GPUs of the variable's entries, up to the first entry that names no GPU, as CUDA reads it."""
    entries = [entry.strip() for entry in wanted.split(",")]
    if order != "PCI_BUS_ID" and len({gpu.name for gpu in gpus}) > 1 and any(entry.isdigit() for entry in entries):
        raise Trouble(
            "gpu-not-chosen",
            f"{VISIBLE}={wanted} counts in CUDA's order, fastest first, and this host has GPUs of several models",
            f"Set {ORDER}=PCI_BUS_ID to number them in PCI order, or name the GPUs by UUID (`nvidia-smi -L`).",
        )
    known = [*gpus, *(_instances(gpus, ask) if "MIG-" in wanted else ())]
    named: list[Gpu] = []
    for entry in entries:
        matching = [gpu for gpu in known if _is_named(gpu, entry)]
        if len(matching) != 1:
            break
        named += matching
    if not named:
        raise Trouble("gpu-not-chosen", f"{VISIBLE}={wanted} begins with no GPU that nvidia-smi lists")
    return named if len(set(named)) == len(named) else []  # CUDA sees no GPU where one is named twice


def _is_named(gpu: Gpu, entry: str) -> bool:
    """Whether the entry is the GPU's index, its UUID or the beginning of its UUID."""
    if entry.isdigit():
        return not gpu.parent and gpu.index == int(entry)
    return entry.startswith(("GPU-", "MIG-")) and gpu.uuid.startswith(entry)


def _instances(gpus: Sequence[Gpu], ask: Ask) -> Iterator[Gpu]:
    """The MIG instances of the GPUs; nvidia-smi does not tell their memory."""
    status, answer = ask(LIST_INSTANCES)
    if status:
        raise _failed(status, answer)
    parent = None
    for line in answer.splitlines():
        uuid = re.search(r"\(UUID: (\S+)\)", line)
        if uuid and uuid[1].startswith("GPU-"):
            parent = next((gpu for gpu in gpus if gpu.uuid == uuid[1]), None)
        elif uuid and parent is not None:
            profile = " ".join(line.split()[:2])  # `MIG 1g.5gb`
            yield Gpu(
                uuid=uuid[1],
                index=parent.index,
                name=f"{parent.name} {profile}",
                memory=0,
                driver=parent.driver,
                capability=parent.capability,
                parent=parent.uuid,
            )


def offered(backend: Backend) -> tuple[tuple[Gpu, ...], Trouble | None]:
    """The GPUs that a backend can give to a launch; or none, and the Trouble that keeps it from listing them.

    Only an image with `gpus: none` may then run, since a pass of another image on the CPU would be no answer.
    """
    try:
        return tuple(backend.gpus()), None
    except Trouble as trouble:
        return (), trouble


class Stops(Protocol):
    """A run that may be stopped."""

    @property
    def stopped(self) -> bool:
        """Whether it was."""


@contextmanager
def lease(gpus: Sequence[Gpu], run: Stops | None = None, number: int = 1) -> Iterator[Gpu]:
    """Exclusive hold of so many GPUs, once as many are free and no process of an earlier launch is left on them.

    All at once or none, so that two launches never wait for each other; the first has the others `beside` it.

    GPUs that a scheduler chooses need no lease.

    Raises Trouble where no lease can be had on this machine, and where the run is stopped while it waits.
    """
    if not any(gpu.uuid for gpu in gpus):
        yield replace(gpus[0], beside=tuple(gpus[1:number]))
        return
    _make_place()
    while run is None or not run.stopped:
        with ExitStack() as stack:
            taken: list[Gpu] = []
            for place, gpu in enumerate(gpus):
                with ExitStack() as own:
                    if _is_taken(gpu, own):
                        stack.enter_context(own.pop_all())
                        taken.append(gpu)
                if len(taken) == number:
                    yield replace(taken[0], beside=tuple(taken[1:]))
                    return
                if len(taken) + len(gpus) - place - 1 < number:
                    break
        time.sleep(0.2)
    raise Trouble("host-error", "the run was stopped while it waited for a GPU")


def _is_taken(gpu: Gpu, stack: ExitStack) -> bool:
    """Whether the GPU is leased to this process now, until the stack closes."""
    try:
        if not stack.enter_context(try_lock(PLACE / f"{gpu.uuid}.lock")):
            return False
        with try_lock(_launch(gpu)) as over:
            return over
    except OSError as error:
        raise _no_leases(error) from error


def launch_lock(gpu: Gpu) -> AbstractContextManager[int | None]:
    """A descriptor for the process launched on a leased GPU: until it has ended, the GPU cannot be leased again.

    The kernel frees a lease with its owner, and the launched process may outlive that by moments.
    """
    _make_place()
    return holding(_launch(gpu))


def _launch(gpu: Gpu) -> Path:
    return PLACE / f"{gpu.uuid}.launch"


def _make_place() -> None:
    """Make the folder of the leases, which every user may write to, and in which none may remove another's file."""
    try:
        if not PLACE.is_dir():
            new = Path(tempfile.mkdtemp(dir=PLACE.parent))
            new.chmod(0o1777)
            try:
                new.rename(PLACE)
            except OSError:  # another process was faster
                new.rmdir()
    except OSError as error:
        raise _no_leases(error) from error


def _no_leases(error: OSError) -> Trouble:
    return Trouble(
        "host-error",
        f"GPUs cannot be leased: {error.filename or PLACE}: {error.strerror}",
        f"Every user of this machine needs to write to {PLACE}: `chmod 1777` it as its owner, or remove it.",
    )
