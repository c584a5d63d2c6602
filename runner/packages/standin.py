"""The stand-in of an image: a uv virtual environment built from its `local:` entry."""

from __future__ import annotations

import json
import os
import platform
import re
import sys
from collections.abc import Iterable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from torch_compat_matrix.runner.errors import Trouble
from torch_compat_matrix.runner.files import locked, read_cache, remove_tree, scratch, stamps, to_json, write_whole
from torch_compat_matrix.runner.model import HOST, Local, digest
from torch_compat_matrix.runner.packages import buildline, interpreters, manifest, uv
from torch_compat_matrix.runner.packages.pip_config import Index
from torch_compat_matrix.runner.packages.releases import pins_in
from torch_compat_matrix.runner.packages.resolution import PASSING
from torch_compat_matrix.runner.pins import canonical, name_of
from torch_compat_matrix.runner.watch import phase

WARM_UP_S = 300
"""How long the first import of torch may take on a busy host."""

CORRECT = "Correct `requires` of `local:` of the image."
"""The remedy where the stand-in's own packages cannot be had: no library has a part in it."""
CHOOSE = (
    "Choose a Python that the version manager has (`pyenv shell 3.10.13`), or write its path into `local: python:`."
)
"""The remedy where a version manager's shim refuses: its words name the Pythons that are there."""


@dataclass(frozen=True, kw_only=True, slots=True)
class StandIn:
    """A built stand-in."""

    python: Path
    identity: str
    """A hash of its Python and exact packages."""
    description: str
    """Its description, without a path: `Python 3.11.7 with torch 2.13.0+cpu (CPU build from find-links)`."""
    misfits: Mapping[str, str] = field(default_factory=dict, hash=False)
    """Its packages that are built for another torch -> why."""


@dataclass(frozen=True, kw_only=True, slots=True)
class _Source:
    """A source of torch, and how uv is told to use it."""

    name: str
    constraints: str = ""
    own_line: bool = False
    """Whether it is tried only for the sake of one build line."""
    pin: str = ""
    """The torch that the find-links offer, where the requirements name torch."""
    flags: tuple[str, ...] = ()
    variables: Mapping[str, str] = field(default_factory=dict)


_PLAIN = _Source(name="as pip would choose it")
# A CUDA build is gigabytes of libraries that a host without a GPU never loads.
_CPU_INDEX = _Source(
    name="CPU build from PyTorch's index", flags=buildline.CPU_INDEX, variables=buildline.CPU_INDEX_VARIABLES
)


def build(local: Local, home: Path, index: Index, gpu: bool) -> StandIn:
    """The environment that `local` describes, built on first use; without a GPU it gets a CPU build of torch.

    An environment that differs from its manifest is built again.
    Raises `Trouble` with uv's own explanation.
    """
    folder = _folder(local, home, index, gpu)
    python, complete = folder / "bin" / "python", folder / "complete.json"
    with locked(folder.with_suffix(".lock")):
        # A virtual environment cannot be moved into place: it is whole when its marker is there.
        built = find(local, home, index, gpu)
        if built is not None and not manifest.is_sealed(folder):  # by an earlier version
            manifest.seal(folder)
        if built is None or manifest.damage(folder):
            with locked(users_of(python)):  # a damaged stand-in goes once no launch runs in it
                remove_tree(folder, ignore_errors=True)
                try:
                    record = _build(local, folder, python, index, gpu)
                    write_whole(complete, [to_json(record)])
                    manifest.seal(folder)
                except BaseException:
                    remove_tree(folder, ignore_errors=True)
                    raise
            built = StandIn(python=python, **record)
        elif _lacks_bytecode(python):  # built by an earlier version
            with locked(users_of(python)):
                _write_bytecode(python)
                manifest.seal(folder)
        os.utime(folder)  # its last use, by which `compat clean` chooses
        return built


def find(local: Local, home: Path, index: Index, gpu: bool) -> StandIn | None:
    """The environment that `local` describes, if it is built."""
    folder = _folder(local, home, index, gpu)
    python = folder / "bin" / "python"

    def parse(record: Any) -> StandIn:
        known = {name: str(record[name]) for name in ("identity", "description")}
        return StandIn(python=python, **known, misfits=dict(record["misfits"]))

    return read_cache(folder / "complete.json", parse) if python.exists() else None


def users_of(python: Path) -> Path:
    """The lock file that each launch in a stand-in shares."""
    return python.parent.parent.with_suffix(".users")


def foresee(local: Local, index: Index) -> None:
    """Raise the Trouble that `build` would end in, as far as the index shows it; nothing is built."""
    if not _is_version(local):
        return  # an interpreter by its path or name, which only a build asks for its version
    flags = ("--python-version", _version(local), *index.uv_flags())
    ran = uv.pins(local.requires, index.uv_environment(), *flags)
    if ran.status and ran.reason not in PASSING:
        raise _cannot_be_built(ran)


def freeze(local: Local, index: Index) -> tuple[str, ...]:
    """The exact packages that `local` comes to today, with the hashes of their files; Trouble as in `build`.

    torch and its companions have none, and what a CUDA build alone needs is left out: which build is taken depends on
    the host.
    """
    python = ("--python-version", _version(local)) if _is_version(local) else ("--python", local.python)
    ran = uv.pins(local.requires, index.uv_environment(), "--generate-hashes", *python, *index.uv_flags())
    if ran.status:
        raise _cannot_be_built(ran)
    own = {name_of(text): text for text in local.requires}
    pins = [pin for pin in pins_in(ran.out, index) if name_of(pin) in own or not buildline.is_of_cuda(name_of(pin))]
    return tuple(buildline.of_any_line(pin) if "+" not in own.get(name_of(pin), "") else pin for pin in pins)


def fetch(local: Local, cells: Iterable[Sequence[str]], home: Path, index: Index) -> None:
    """Bring what the cells' requirements add to the stand-in into uv's cache, before the stand-in is there to be asked.

    This decides nothing: what goes wrong here is told by the resolution, which finds most answers in the cache.
    """
    if not _is_version(local):
        return
    flags, variables = ("--python-version", _version(local), *index.uv_flags()), index.uv_environment()

    def pins(*more: str) -> list[str]:
        return uv.pins((*local.requires, *more), variables, *flags).out.splitlines()

    fetched = set(pins())
    for requirements in cells if fetched else ():
        added = [line for line in pins(*requirements) if line not in fetched]
        with scratch(home / "resolutions") as folder:
            install = ("pip", "install", "--no-deps", "--only-binary", ":all:", "--target", folder, *flags, "-r", "-")
            ran = uv.run(install, {**variables, "UV_LINK_MODE": "symlink"}, stdin="\n".join(added))
        fetched |= set() if ran.status else set(added)


def _folder(local: Local, home: Path, index: Index, gpu: bool) -> Path:
    key = digest([_version(local), sorted(local.requires), index.key, gpu, *stamps(local.requires)])
    return (home / "standins" / key).absolute()


def _is_version(local: Local) -> bool:
    return re.fullmatch(r"[\d.]+", _version(local)) is not None


def _version(local: Local) -> str:
    return platform.python_version() if local.python == HOST else local.python


def _build(local: Local, folder: Path, python: Path, index: Index, gpu: bool) -> dict[str, Any]:
    """Build the stand-in in place; return its identity, description and misfits."""
    phase("build")
    folder.parent.mkdir(parents=True, exist_ok=True)
    for interpreter in (sys.executable if local.python == HOST else local.python, *interpreters.managed(local.python)):
        ran = uv.run(("venv", "--no-project", "--python", interpreter, str(folder)), index.uv_environment())
        if ran.reason != "python-not-found":
            break
    if ran.status:
        trouble = ran.trouble(f"there is no Python {_version(local)} for the stand-in")
        trouble.remedy = CHOOSE if "/shims/" in ran.err else ""
        raise trouble
    source, misfits = _install(local, python, index, gpu) if local.requires else (_PLAIN, {})
    _write_bytecode(python)
    listed = uv.run(("pip", "list", "--format", "json", *_into(python)), {})
    packages = {canonical(package["name"]): package["version"] for package in json.loads(listed.out)}
    number = re.search(r"^version\w* = (\S+)", (folder / "pyvenv.cfg").read_text(), re.MULTILINE)
    name = f"Python {number[1] if number else _version(local)}"
    if "torch" in packages:
        name += f" with torch {packages['torch']} ({source.name})"
    if misfits:
        cuda = buildline.cuda_of(_packages(python)) or ""
        misfits = {name: buildline.explain({name: misfits[name]}, packages["torch"], cuda) for name in misfits}
    return {"identity": digest([name, packages]), "description": name, "misfits": misfits}


def _lacks_bytecode(python: Path) -> bool:
    """Whether torch's bytecode is missing, and could be written."""
    torch = _packages(python) / "torch"
    missing = (torch / "__init__.py").exists() and not any((torch / "__pycache__").glob("__init__.*"))
    return missing and os.access(torch, os.W_OK)


def has_inductor(python: Path) -> bool:
    """Whether the stand-in's torch can compile."""
    return (_packages(python) / "torch" / "_inductor" / "codecache.py").exists()


def _write_bytecode(python: Path) -> None:
    """Import once all that each launch will import, since a launch writes no bytecode into the sealed folder.

    In two processes, what needs no torch beside the rest; whatever this process's environment says of bytecode (`-I`).
    """
    first = "torch", "torch._dynamo", "torch._inductor.compile_fx", "torch.distributions"
    codes = [
        "\n".join(f"try: import {module}\nexcept Exception: pass" for module in modules)
        for modules in (first, ("sympy", "networkx"))
    ]
    with ThreadPoolExecutor(len(codes)) as pool:
        list(pool.map(lambda code: uv.finish([str(python), "-I", "-c", code], os.environ, timeout_s=WARM_UP_S), codes))


def _install(local: Local, python: Path, index: Index, gpu: bool) -> tuple[_Source, dict[str, str]]:
    """Install from the best source that has the requirements, and has them in one build line if any source does.

    Returns the source, and the packages that do not fit its torch.
    """
    constraints = python.parent.parent / "constraints.txt"
    taken: _Source | None = None
    misfits: dict[str, str] = {}
    for source in _sources(local, python, index, gpu):
        if source.own_line and not misfits:
            break
        constraints.write_text(source.constraints)
        if source.pin and index.local_links() and not uv.silence(index.uv_environment()):
            _take_from_disk(source.pin, python, index)
        ran = uv.run(
            ("pip", "install", *_into(python), "-c", str(constraints), *source.flags, *index.uv_flags(), "-r", "-"),
            {**index.uv_environment(), **source.variables},
            stdin="\n".join(local.requires),
        )
        if not ran.status:
            uv.redact_sources(_packages(python))
            taken, misfits = source, buildline.misfits_in(_packages(python))
            if not misfits:
                break
        elif ran.reason in ("disk-full", "build-timeout", "out-of-memory"):
            break
    if taken is None:
        raise _cannot_be_built(ran)
    return taken, misfits


def _take_from_disk(pin: str, python: Path, index: Index) -> None:
    """Install torch alone, past uv's own cache: that would keep 800 MB of a wheel that is here, and copy them.

    Whether or not it succeeds, the install that follows decides.
    """
    with scratch(python.parents[3] / "resolutions") as cache:  # on the same disk, so that a link is enough
        links = ",".join(map(str, index.local_links()))
        variables = {"UV_FIND_LINKS": links, "UV_CACHE_DIR": cache, "UV_LINK_MODE": "hardlink"}
        words = ("pip", "install", *_into(python), "--no-deps", "--no-index", pin)
        uv.run(words, {**index.uv_environment(), **variables})


def _cannot_be_built(ran: uv.Ran) -> Trouble:
    """The trouble of a stand-in: the matrix's fault, but for trouble of this host, and files that the lock refuses."""
    trouble = ran.trouble("the stand-in cannot be built")
    if ran.reason in (*PASSING, "hash-mismatch"):
        return trouble
    return Trouble(trouble.code, str(trouble), CORRECT, trouble.evidence, blame="matrix")


def _packages(python: Path) -> Path:
    """The folder of an environment's packages."""
    return next(python.parent.parent.glob("lib/python*/site-packages"))


def _into(python: Path) -> tuple[str, ...]:
    return ("--python", str(python))


def _sources(local: Local, python: Path, index: Index, gpu: bool) -> Iterator[_Source]:
    """The sources of torch, the best first; the last only where packages of the others do not fit together."""
    wanted = next((text for text in local.requires if name_of(text) == "torch"), "torch")
    offered = ""
    if not gpu and "+" not in wanted:
        offered = _offered(wanted, python, index)
        if offered:
            pin = f"torch=={offered}"
            named = any(name_of(text) == "torch" for text in local.requires)
            yield _Source(name="CPU build from find-links", constraints=f"{pin}\n", pin=pin if named else "")
        if buildline.has_cpu_index(index):
            yield _CPU_INDEX
    yield _PLAIN
    if offered:
        yield _Source(name="as the index has it", constraints=f"torch!={offered}\n", own_line=True)


def _offered(torch: str, python: Path, index: Index) -> str:
    """The CPU build of this requirement in the find-links alone; empty where they have none."""
    if not index.find_links():
        return ""
    ran = uv.pins([torch], index.uv_environment(), "--no-index", "--no-deps", *_into(python))
    pin = re.search(r"^torch==(\S+\+cpu)$", ran.out, re.MULTILINE)
    return pin[1] if pin and not ran.status else ""
