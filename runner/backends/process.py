"""The launch of the probe host as a process on this machine, for `local` and `here`."""

from __future__ import annotations

import json
import os
import platform
import shutil
import signal
import socket
import subprocess
import tempfile
import time
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import Future
from contextlib import ExitStack, contextmanager, suppress
from fnmatch import fnmatchcase
from functools import partial
from pathlib import Path
from typing import Any

from torch_compat_matrix.runner.backends import gpus
from torch_compat_matrix.runner.backends.base import Backend, Command, Exit, Gpu, attend
from torch_compat_matrix.runner.backends.owner import alive, owner
from torch_compat_matrix.runner.bundle import BUNDLE, NAME
from torch_compat_matrix.runner.errors import Trouble, reason_of
from torch_compat_matrix.runner.files import read_whole, remove_tree, temporary
from torch_compat_matrix.runner.packages.manifest import Sealed
from torch_compat_matrix.runner.streams import Kept, pieces, whole_lines

PASSED_ON = (
    *("LANG", "LC_ALL", "TZ", "LD_LIBRARY_PATH", "CUDA_HOME", "CUDA_PATH"),
    *("CC", "CXX", "CPATH", "C_INCLUDE_PATH", "CPLUS_INCLUDE_PATH", "LIBRARY_PATH"),
    *("CUDA_MPS_PIPE_DIRECTORY", "CUDA_MPS_LOG_DIRECTORY"),
)
"""The environment variables that a launched probe host inherits, by which it finds the machine's driver, compilers and
MPS daemon."""

PLACES = {"HOME": "home", "TMPDIR": "tmp", "MPLCONFIGDIR": "home/matplotlib"}
"""Variable -> what it names in a folder that ends with the launch."""
COMPILED = {
    "TORCHINDUCTOR_CACHE_DIR": "inductor",
    "TRITON_CACHE_DIR": "triton",
    "TORCH_EXTENSIONS_DIR": "torch_extensions",
    "CUDA_CACHE_PATH": "nv",
}
"""Variable -> what it names in the folder of compiled code, which may stay."""

PREFIX = "compat-"
"""The beginning of a launch's folder name; the pid behind it is for readers, the file `owner` in it decides."""

LONGEST = 32
"""Characters of a launch's folder at most: a cell adds 17 to them (`/tmp/01234567/tmp`), multiprocessing 32, and
the kernel takes 107 for a socket."""
SHORT_PLACES = ("/tmp", "/var/tmp")
"""The folders for a link to a launch's folder whose own name is longer."""


class ProcessLaunch:
    """A probe host that runs as a process of this machine, in a session of its own."""

    def __init__(self, popen: subprocess.Popen[bytes], answers: socket.socket) -> None:
        assert popen.stderr is not None
        self.popen = popen
        self.stdout, self.stderr = answers.makefile("rb", buffering=0), popen.stderr
        self.said = Kept()
        """Its standard error."""
        self.name = f"process {popen.pid}"
        self.killed = False
        self.oom_kills = _oom_kills()
        self.notes: tuple[str, ...] = ()

    def lines(self) -> Iterator[bytes]:
        """Its standard output, line by line; its standard error is taken meanwhile."""
        with suppress(ConnectionResetError):
            yield from whole_lines(self._printed())

    def _printed(self) -> Iterator[bytes]:
        while True:
            with suppress(TimeoutError):
                for stream, data in pieces(self.stdout, self.stderr, until=time.monotonic() + 1):
                    if stream is self.stderr:
                        self.said.add(data)
                    elif data:
                        yield data
                    else:  # a process that it left behind may hold its standard error for ever
                        return
            self.popen.send_signal(signal.SIGCONT)  # a library may have stopped it, and with it every time limit

    def kill(self) -> None:
        """End the probe host, which ends its children; the rest of its session is killed."""
        self.killed = True
        with suppress(ProcessLookupError):
            self.popen.send_signal(signal.SIGTERM)
        with suppress(subprocess.TimeoutExpired):
            self.popen.wait(2)
        with suppress(ProcessLookupError):
            os.killpg(self.popen.pid, signal.SIGKILL)

    def exit(self) -> Exit:
        """Its exit status and both ends of its standard error."""
        status = self.popen.wait()
        with suppress(TimeoutError):
            for _, data in pieces(self.stderr, until=time.monotonic() + 0.2):
                self.said.add(data)
        unprovoked = not self.killed and self.oom_kills and self.oom_kills == _oom_kills()
        return Exit(status=status, unprovoked=bool(unprovoked), stderr=self.said.text())


@contextmanager
def launched(
    python: str,
    order: Mapping[str, Any],
    overlays: Mapping[str, Path],
    *,
    home: Path,
    gpu: Gpu | None,
    keep: Sequence[str] = (),
    variables: Mapping[str, str] | None = None,
    ahead: Future[Sealed] | None = None,
) -> Iterator[ProcessLaunch]:
    """Start the probe host under that interpreter; its home, caches and temporary files end with it.

    `home` keeps compile caches; `keep` names further environment variables to pass on, `NCCL_*` all that begin so, and
    `variables` sets some.  `ahead` comes to what is compiled ahead for a stand-in, which the probe host is told then.
    Without a GPU it sees none.  Its standard input and output are sockets, which unlike pipes nobody can open
    through /proc.  The first brings the order, and stays open as long as this process lives: the probe host ends when
    it closes, however this process ended.
    """
    with _surroundings(python, order, home, gpu, keep, variables or {}) as (folder, environment):
        (orders, its_input), (answers, its_output) = socket.socketpair(), socket.socketpair()
        popen = launch = None
        try:
            with _locks(gpu) as locks:
                popen = subprocess.Popen(
                    [python, "-m", NAME, "-", "--overlays", _root(overlays), "--watch-stdin"]
                    + ["--compiled-ahead"] * (ahead is not None),
                    cwd=folder / "bundle",
                    env=environment,
                    stdin=its_input.fileno(),
                    stdout=its_output.fileno(),
                    stderr=subprocess.PIPE,
                    bufsize=0,
                    start_new_session=True,
                    pass_fds=locks,
                )
            its_input.close()
            its_output.close()
            with suppress(ConnectionError):  # it has died; how, is asked later
                orders.sendall(json.dumps(order).encode() + b"\n")
            if ahead is not None:
                ahead.add_done_callback(partial(_tell, answers))
            launch = ProcessLaunch(popen, answers)
            yield launch
        except OSError as error:
            if popen is None:
                raise Trouble(reason_of(error), f"the probe host cannot be started: {error}") from error
            raise
        finally:
            if launch is not None:
                launch.stdout.close()
            for end in (orders, its_input, answers, its_output):
                end.close()
            if popen is not None:
                if popen.stderr is not None:
                    popen.stderr.close()
                with suppress(ProcessLookupError):
                    os.killpg(popen.pid, signal.SIGKILL)
                popen.wait()


def _tell(answers: socket.socket, ahead: Future[Sealed]) -> None:
    """Tell the probe host what was compiled ahead; nothing where that failed."""
    failed = ahead.cancelled() or ahead.exception() is not None
    message = {"kind": "ahead", "sealed": None if failed else ahead.result()}
    with suppress(OSError):  # the launch has ended meanwhile
        answers.sendall(json.dumps(message).encode() + b"\n")


@contextmanager
def _surroundings(
    python: str,
    order: Mapping[str, Any],
    home: Path,
    gpu: Gpu | None,
    keep: Sequence[str],
    variables: Mapping[str, str],
) -> Iterator[tuple[Path, dict[str, str]]]:
    """A folder with the bundle, which ends with the block, and the environment of a process on this machine."""
    kept = order.get("compile_cache")
    with launch_folder() as folder:
        try:
            shutil.copytree(BUNDLE, folder / "bundle" / NAME, ignore=shutil.ignore_patterns("__pycache__"))
            for module in (folder / "bundle").rglob("*.py"):
                module.chmod(0o444)  # against accidents; the probe host notices what root changes all the same
            places = _places(folder, home / "compiled" / kept if kept else folder / "home")
        except OSError as error:
            raise Trouble(reason_of(error), f"the probe host cannot be started: {error}") from error
        environment = {**passed_on((*PASSED_ON, *keep)), **variables, **places}
        environment["PATH"] = os.pathsep.join([str(Path(python).parent), os.environ.get("PATH", os.defpath)])
        environment["PYTHONDONTWRITEBYTECODE"] = "1"  # the folders of packages are sealed
        environment.update(_visible(gpu))
        yield folder, environment


def _visible(gpu: Gpu | None) -> dict[str, str]:
    """The variables that show a process the GPUs of its lease, or none.

    By index, in the order in which nvidia-smi counts: libraries read the variable themselves (DeepSpeed 0.19's
    `list(map(int, ...))`) and break on the UUID of a whole GPU; an instance of MIG has no index.
    """
    cards = gpu.all if gpu is not None else ()
    names = [card.uuid for card in cards] if any(card.parent for card in cards) else [str(card.index) for card in cards]
    return {"CUDA_VISIBLE_DEVICES": ",".join(names), "CUDA_DEVICE_ORDER": "PCI_BUS_ID"}


def refuse_long_names() -> None:
    """Raise Trouble where no launch could have a folder, before anything runs."""
    with launch_folder():
        pass


@contextmanager
def launch_folder() -> Iterator[Path]:
    """A new folder in TMPDIR that ends with the block, by a name that leaves room for the names of sockets below it.

    Raises Trouble where it cannot be made, or neither it nor a link to it has such a name.
    """
    try:
        folder = Path(tempfile.mkdtemp(prefix=f"{PREFIX}{os.getpid()}-", dir=temporary()))
    except OSError as error:
        full = "there is no room for temporary files: the disk is full, or the folders are read-only"
        raise Trouble("host-error", f"{full} ({error})", "Let TMPDIR name a folder with room.") from error
    name = folder
    try:
        (folder / "owner").write_text(owner())
        name = _short(folder)
        yield name
    finally:
        if name != folder:
            name.unlink(missing_ok=True)
        remove_tree(folder, ignore_errors=True)


def _short(folder: Path) -> Path:
    """The folder, or a link to it where its own name is too long; Trouble where no place takes one."""
    if len(str(folder)) <= LONGEST:
        return folder
    for place in SHORT_PLACES:
        with suppress(OSError):
            link = Path(place, folder.name)
            link.symlink_to(folder)
            return link
    raise Trouble(
        "host-error",
        f"{folder.parent} is too long for the names of sockets below it, and {' and '.join(SHORT_PLACES)} take no link",
        f"Set TMPDIR to a folder whose name has {LONGEST - len(folder.name) - 1} characters at most.",
    )


@contextmanager
def _locks(gpu: Gpu | None) -> Iterator[list[int]]:
    """The descriptors that keep the leased GPUs from being leased again while the process lives."""
    with ExitStack() as stack:
        locks = [stack.enter_context(gpus.launch_lock(card)) for card in (gpu.all if gpu is not None else ())]
        yield [lock for lock in locks if lock is not None]


def interact(
    python: str,
    order: Mapping[str, Any],
    overlays: Mapping[str, Path],
    command: Command,
    *,
    home: Path,
    gpu: Gpu | None,
    keep: Sequence[str] = (),
    variables: Mapping[str, str] | None = None,
) -> int:
    """Run a user's command in the surroundings of `launched`, and return its exit status."""
    with _surroundings(python, order, home, gpu, (*keep, "TERM"), variables or {}) as (folder, environment):
        (folder / "order.json").write_text(json.dumps(order))
        (folder / "work").mkdir()
        for name, content in command.files.items():
            (folder / "work" / name).write_bytes(content)
        with _locks(gpu) as locks:
            host = [python, "-m", NAME, "--shell", f"{folder}/order.json", _root(overlays), f"{folder}/work"]
            popen = subprocess.Popen(
                [*host, *command.words],
                cwd=folder / "bundle",
                env=environment,
                stdin=None if command.output is None else subprocess.DEVNULL,
                stdout=command.output,
                stderr=command.output,
                start_new_session=command.output is not None,  # else it has the terminal, and its signals
                pass_fds=locks,
            )
        try:
            return attend(popen, command)
        finally:
            with suppress(ProcessLookupError):
                popen.kill() if command.output is None else os.killpg(popen.pid, signal.SIGKILL)
            popen.wait()


def _root(overlays: Mapping[str, Path]) -> str:
    """The folder of the overlays."""
    return str(next(iter(overlays.values())).parent) if overlays else ""


def _oom_kills() -> str:
    """The line in which the kernel counts the processes that it killed for memory; empty where it does not tell."""
    with suppress(OSError):
        lines = Path("/proc/vmstat").read_text().splitlines()
        return next((line for line in lines if line.startswith("oom_kill ")), "")
    return ""


def passed_on(names: Sequence[str]) -> dict[str, str]:
    """The variables of this process's environment that match the names or globs."""
    return {name: value for name, value in os.environ.items() if any(fnmatchcase(name, pattern) for pattern in names)}


def _places(folder: Path, compiled: Path) -> dict[str, str]:
    """The folders that a library writes to: a home that ends with the launch, and the folder of compiled code."""
    for name in ("home", "tmp"):
        (folder / name).mkdir()
    (compiled / "nv").mkdir(parents=True, exist_ok=True)
    return {
        **{name: str(folder / place) for name, place in PLACES.items()},
        **{name: str(compiled / place) for name, place in COMPILED.items()},
    }


class ThisMachine(Backend):
    """What the backends have in common whose launches are processes of this machine."""

    pulls = False
    heeds: Sequence[str] = ()
    machine = platform.machine()

    def __init__(self, home: Path) -> None:
        self.home = home

    def gpus(self) -> Sequence[Gpu]:
        """The GPUs that nvidia-smi lists and CUDA_VISIBLE_DEVICES allows."""
        return gpus.visible()

    def reap(self) -> Sequence[str]:
        """Remove the folders of launches whose owner died."""
        return reap()


def reap() -> list[str]:
    """Remove the folders of launches whose owner died, and the links to them; their probe hosts ended with it."""
    removed = set()
    for place in dict.fromkeys((*SHORT_PLACES, tempfile.gettempdir())):  # a link tells its owner while the folder lives
        for folder in Path(place).glob(f"{PREFIX}*"):
            with suppress(OSError, ValueError):  # gone meanwhile, another user's, or none of ours
                if not alive(read_whole(folder / "owner", 1 << 10).decode()):
                    folder.unlink() if folder.is_symlink() else remove_tree(folder, ignore_errors=True)
                    removed.add(folder.name)
    return sorted(removed)
