"""A child of the probe host: imports the library, answers a probe, and sends the answer over a private descriptor.

A child is forked from the warm host, or a fresh process (`main`).  Either imports, then forks again for each probe, or
answers itself (`serve`).
"""

from __future__ import annotations

import faulthandler
import gc
import importlib
import os
import re
import resource
import secrets
import signal
import site
import socket
import sys
import tempfile
import time
from contextlib import suppress
from importlib import metadata
from types import ModuleType
from typing import Any, Callable, Dict, List, Optional, TypedDict

from . import evidence, facts, own, shared, suite, walls
from .channel import Channel, receive
from .contract import CellOrder, MemberOrder
from .exceptions import describe
from .probe import Probe

CACHES = ("MPLCONFIGDIR", "CUDA_CACHE_PATH", "TORCHINDUCTOR_CACHE_DIR", "TRITON_CACHE_DIR", "TORCH_EXTENSIONS_DIR")
"""The variables that name folders for caches; each cell has folders of its own in their place.

torch keeps precompiled headers in the folder that TMPDIR named when it was imported: all cells of a launch share those.
"""

LIMITS = {name: resource.getrlimit(getattr(resource, name))[0] for name in dir(resource) if name.startswith("RLIMIT_")}
"""The limits of this process before any library ran."""


class _CellTask(CellOrder):
    image_packages: Dict[str, str]


class CellTask(_CellTask, total=False):
    """A cell for its children: with the folder of its overlay, the image's own packages and the cell's own places."""

    places: Dict[str, str]
    seeded: bool
    """Whether its caches get what was compiled ahead."""


class Settings(TypedDict, total=False):
    """The settings of a probe."""

    device: str
    seed: int
    full: bool
    modules: Dict[str, str]


def probe_module(distribution: str) -> ModuleType:
    """The probes of a distribution, `<name with _>.py`: of the user, or of `libraries`."""
    name = stem(distribution)
    module = importlib.import_module(f"{__package__}.{'own' if own.has(name) else 'libraries'}.{name}")
    if hasattr(module, "EXAMPLE"):
        importlib.import_module(f"{__package__}.libraries._generic").complete(module)
    return module


def stem(distribution: str) -> str:
    """The name of the module with the probes of a distribution."""
    return facts.canonical(distribution).replace("-", "_")


def defines(distribution: str, name: str) -> bool:
    """Whether the probes of a distribution define the name; nothing of the user runs for the answer."""
    module = stem(distribution)
    return own.mentions(module, name) if own.has(module) else bool(getattr(probe_module(distribution), name, ""))


def import_member(member: MemberOrder, cell: CellTask) -> Dict[str, Any]:
    """The import probe: the library imports at the requested version, from its install, and changes nothing else."""
    started = time.perf_counter()
    seen: Dict[str, Any] = {"kind": "imported", "status": "passed"}
    try:
        probes = probe_module(member["distribution"])
        module = importlib.import_module(probes.MODULE)
        for name in getattr(probes, "IMPORTS", ()):
            importlib.import_module(name)
        seconds = time.perf_counter() - started
        seen["metrics"] = {"import": {"value": seconds, "unit": "s"}}
        seen["installed"] = metadata.version(probes.DISTRIBUTION)
        _same_version(module, seen["installed"], member.get("version") or "")
        _right_place(module, probes.DISTRIBUTION, cell)
        _same_environment(cell)
    except BaseException as error:  # SystemExit at import is a failed import too
        show_lowered_limits()
        seen.update(describe(error))
    seen["spoils_forks"] = _spoils_forks()
    seen["seconds"] = time.perf_counter() - started
    return seen


def _same_version(module: ModuleType, installed: str, asked: str) -> None:
    evidence.require(
        not asked or _release(installed) == _release(asked),
        "wrong-version",
        f"{module.__name__} is {installed}, not {asked} as requested",
    )
    stated = getattr(module, "__version__", None)
    if isinstance(stated, str) and re.match(r"\d+\.\d", stated):
        evidence.require(
            _release(stated) == _release(installed),
            "wrong-version",
            f"{module.__name__}.__version__ says {stated}, its distribution is {installed}",
        )


def _release(version: str) -> List[str]:
    """A version without its local part, leading `v` and trailing zeros, for comparison."""
    parts = re.split(r"[.\-_]", str(version).partition("+")[0].lower().lstrip("v"))
    while parts and parts[-1] == "0":
        parts.pop()
    return parts


def _right_place(module: ModuleType, distribution: str, cell: CellTask) -> None:
    evidence.require(
        getattr(module, "__file__", None),
        "wrong-location",
        f"{module.__name__} has no code: {list(getattr(module, '__path__', []))} without an __init__.py",
    )
    place = os.path.realpath(str(module.__file__))
    inside = _inside(place, cell["overlay"])
    # A release may bring nothing: functorch 2.0.0 only names the package that is a part of torch by then.
    files = metadata.files(distribution)
    brings = files is None or any(not file.parts[0].endswith(".dist-info") for file in files)
    wanted = brings and facts.canonical(distribution) in [facts.canonical(name) for name in cell["added"]]
    evidence.require(
        inside == wanted,
        "wrong-location",
        f"{module.__name__} comes from {place}, {'' if inside else 'not '}from what this cell added to the image",
    )


def _inside(place: str, overlay: Optional[str]) -> bool:
    return bool(overlay) and os.path.realpath(place).startswith(os.path.realpath(str(overlay)) + os.sep)


def _same_environment(cell: CellTask) -> None:
    """Require that the overlay shadows no package of the image, except those under test and those to be replaced."""
    overlay = cell["overlay"]
    tested = [facts.canonical(member["distribution"]) for member in cell["members"]]
    free = {*tested, *cell["replaces"]}
    held = {name: version for name, version in cell["image_packages"].items() if name not in free}
    if overlay:
        for distribution in metadata.distributions(path=[str(overlay)]):
            name = facts.canonical(distribution.metadata["Name"] or "")
            evidence.require(
                name not in held,
                "environment-changed",
                f"{name} {distribution.version} of the overlay shadows the image's {held.get(name)}",
            )
    for name, version in cell["replaces"].items():
        loaded = getattr(sys.modules.get(name.replace("-", "_")), "__file__", None)
        evidence.require(
            loaded is None or _inside(loaded, overlay),
            "environment-changed",
            f"{name} comes from {loaded}, and is not the {version} that replaces the image's for this cell",
        )
    torch = sys.modules.get("torch")
    evidence.require(
        torch is None or getattr(torch, "__spec__", None) is not None,
        "environment-changed",
        "another module stands in torch's place, which was not imported",
    )
    expected = cell["replaces"].get("torch") or held.get("torch")
    if torch is not None and expected:
        evidence.require(
            _release(torch.__version__) == _release(expected),
            "environment-changed",
            f"torch is {torch.__version__}, {'the image' if 'torch' in held else 'pip'}'s is {expected}",
        )


def _spoils_forks() -> bool:
    """Whether a fork of this process cannot use CUDA, as torch tells in such a fork, since only there it knows.

    A library may spoil its forks without initialising CUDA: it counts devices past NVML, or calls the driver itself.
    """
    is_spoiled = getattr(getattr(sys.modules.get("torch"), "cuda", None), "_is_in_bad_fork", None)
    if is_spoiled is None:
        return False
    pid = os.fork()
    if pid == 0:
        os._exit(int(is_spoiled()))
    return os.waitpid(pid, 0)[1] != 0


def answer(name: str, member: str, settings: Settings) -> Dict[str, Any]:
    """Run a probe other than import and describe its result."""
    started = time.perf_counter()
    seen: Dict[str, Any] = {"kind": "result", "status": "passed"}
    probe = None
    try:
        module = probe_module(member)
        reason = getattr(module, "NOT_APPLICABLE", {}).get(name)
        if name != "import" and not hasattr(module, name):  # a member of a stack: the others have it
            reason = reason or f"the probes of {member} have no `{name}`"
        if reason:
            raise evidence.NotApplicable(reason)
        probe = Probe(settings["device"], settings.get("seed", 0), settings.get("full", False))
        probe.begin(module.MODULE, getattr(module, "ELSEWHERE", ""))
        function: Callable[[Any], None] = getattr(module, "imported" if name == "import" else name)
        function(probe)
        probe.synchronize()
        probe.finish()
    except BaseException as error:
        show_lowered_limits()
        seen.update(describe(error))
    if probe is not None:
        seen.update(metrics=probe.metrics, notes=probe.notes, parts=probe.parts, device=probe.device.type)
        if probe.numerics:
            seen["numerics"] = probe.numerics
    seen["seconds"] = time.perf_counter() - started
    return seen


def die_with_parent() -> None:
    """End when the parent ends, however it ends: a killed probe host cannot clean up."""
    walls.prctl(walls.DIE_WITH_PARENT, signal.SIGKILL)


def show_stacks() -> None:
    """Write every thread's stack to standard error where a limit strikes (SIGUSR1) or the process crashes.

    From Python 3.14 on, the stack of C code comes with that of Python at a crash.
    """
    faulthandler.enable(file=2)
    faulthandler.register(signal.SIGUSR1, file=2, all_threads=True)


def show_lowered_limits() -> None:
    """Write to standard error which limits a library has lowered: what then fails is no trouble of the host."""
    for name, before in LIMITS.items():
        now = resource.getrlimit(getattr(resource, name))[0]
        if now % 2**64 < before % 2**64:  # -1 is no limit
            with suppress(OSError):
                os.write(2, f"compat: {name} was lowered to {now}\n".encode())


def places_of(cell: str, keep_caches: bool = False) -> Dict[str, str]:
    """The variables that name a cell's home, temporary folder and caches -> new names, which no other cell can guess.

    Caches that are kept for the next launch are called after the cell.
    """
    own = os.path.join(tempfile.gettempdir(), secrets.token_hex(4))  # a socket's whole name has 107 characters at most
    places = {name: os.path.join(own, name.lower()) for name in CACHES if name in os.environ}
    if keep_caches:
        places = {name: os.path.join(os.environ[name], "cells", cell) for name in places}
    return dict(places, HOME=os.path.join(own, "home"), TMPDIR=os.path.join(own, "tmp"))


def enter(cell: CellTask) -> None:
    """Put the overlay before the image's own packages, and take the cell's own home, temporary folder and caches."""
    places = cell.get("places") or places_of(cell["id"])
    for folder in places.values():
        os.makedirs(folder, exist_ok=True)
    os.environ.update(places)
    tempfile.tempdir = None  # the folder that was found before
    if cell.get("seeded"):
        shared.seed()
    if cell["overlay"]:
        put_first(str(cell["overlay"]))


def put_first(overlay: str) -> None:
    """Make the overlay's packages, `.pth` files and commands count before the image's own, in child processes too."""
    before = set(sys.path)
    site.addsitedir(overlay)
    added = [place for place in sys.path if place not in before]
    sys.path[:] = [*added, *(place for place in sys.path if place not in added)]
    importlib.invalidate_caches()
    for name, place in (("PYTHONPATH", overlay), ("PATH", os.path.join(overlay, "bin"))):
        os.environ[name] = os.pathsep.join(filter(None, [place, os.environ.get(name)]))


def serve(cell: CellTask, settings: Settings, channel: Channel, commands: socket.socket) -> None:
    """Import the cell's members, then answer the probes that the host asks for, until it closes the connection.

    A child is forked for a probe, unless the command says that this process itself is to answer.  Each answer has a
    channel of its own, which comes with the command.
    """
    show_stacks()
    enter(cell)
    for member in cell["members"]:
        seen = import_member(member, cell)
        if member == cell["members"][-1] and "torch" in cell["image_packages"]:
            with suppress(Exception):  # no time of a probe's own; a probe that needs it shows what is wrong
                importlib.import_module("torch")
        gc.freeze()  # as the host does
        channel.say(seen)
    while True:
        command, descriptor = receive(commands)
        if command is None:
            return
        own = Channel(descriptor)
        if command["fork"]:
            pid = os.fork()
            if pid == 0:
                die_with_parent()
                os.setsid()
                os.close(channel.descriptor)
                commands.close()
                own.say({"kind": "started", "pid": os.getpid()})
                leave(own, _answer(command, cell, settings))
            _, status, usage = os.wait4(pid, 0)
        else:
            say_last(own, _answer(command, cell, settings))
            status, usage = 0, resource.getrusage(resource.RUSAGE_SELF)
        os.close(descriptor)
        channel.say({"kind": "ended", "status": status, "maxrss": usage.ru_maxrss * 1024})


def _answer(command: Dict[str, Any], cell: CellTask, settings: Settings) -> Dict[str, Any]:
    if command["probe"] == suite.SUITE and cell["suite"]:
        return suite.answer(cell["suite"], probe_module(command["member"]).MODULE)
    return answer(command["probe"], command["member"], settings)


def leave(channel: Channel, message: Dict[str, Any]) -> None:
    """Send the last message and end without the clean-up, which belongs to the parent."""
    say_last(channel, message)
    os._exit(0)


def say_last(channel: Channel, message: Dict[str, Any]) -> None:
    """Send a message after everything that was printed before it."""
    for stream in (sys.stdout, sys.stderr):
        with suppress(Exception):  # a library may have put something else there
            stream.flush()
    channel.say(message)


def main(descriptor: int) -> int:
    """A fresh process: standard input is the connection to the host, which sends the task and then commands."""
    die_with_parent()
    signal.signal(signal.SIGINT, signal.default_int_handler)  # the probe host ignores it
    walls.confine()
    os.set_inheritable(descriptor, False)
    commands = socket.socket(fileno=os.dup(0))
    os.dup2(os.open(os.devnull, os.O_RDONLY), 0)
    task, _ = receive(commands)
    own.install(task["settings"]["modules"])
    serve(task["cell"], task["settings"], Channel(descriptor), commands)
    return 0
