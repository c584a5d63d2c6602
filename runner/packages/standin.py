"""The stand-in of an image: a uv virtual environment built from its `local:` entry."""

from __future__ import annotations

import json
import platform
import re
import shutil
import sys
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path

from torch_compat_matrix.runner.files import locked, write_whole
from torch_compat_matrix.runner.model import HOST, Local, digest
from torch_compat_matrix.runner.packages import uv
from torch_compat_matrix.runner.packages.pip_config import Index
from torch_compat_matrix.runner.pins import canonical, name_of

CPU_INDEX_TIMEOUT_S = 10
"""How long PyTorch's own index may be silent before the plain index is used."""


@dataclass(frozen=True, kw_only=True, slots=True)
class StandIn:
    """A built stand-in."""

    python: Path
    identity: str
    """A hash of its Python and exact packages."""
    description: str
    """Its description, without a path: `Python 3.11.7 with torch 2.13.0+cpu (CPU build from find-links)`."""


@dataclass(frozen=True, kw_only=True, slots=True)
class _Source:
    """A source of torch, and how uv is told to use it."""

    name: str
    constraints: str = ""
    flags: tuple[str, ...] = ()
    variables: Mapping[str, str] = field(default_factory=dict)


_PLAIN = _Source(name="as pip would choose it")
# A CUDA build is gigabytes of libraries that a host without a GPU never loads.
_CPU_INDEX = _Source(
    name="CPU build from PyTorch's index",
    flags=("--torch-backend", "cpu"),
    variables={"UV_HTTP_TIMEOUT": str(CPU_INDEX_TIMEOUT_S), "UV_HTTP_RETRIES": "0"},
)


def build(local: Local, home: Path, index: Index, gpu: bool) -> StandIn:
    """The environment that `local` describes, built on first use; without a GPU it gets a CPU build of torch.

    Raises `Trouble` with uv's own explanation.
    """
    folder = _folder(local, home, index, gpu)
    python, complete = folder / "bin" / "python", folder / "complete.json"
    with locked(folder.with_suffix(".lock")):
        # A virtual environment cannot be moved into place: it is whole when its marker is there.
        if not (complete.exists() and python.exists()):
            shutil.rmtree(folder, ignore_errors=True)
            try:
                record = _build(local, folder, python, index, gpu)
            except BaseException:
                shutil.rmtree(folder, ignore_errors=True)
                raise
            write_whole(complete, [json.dumps(record)])
        return StandIn(python=python, **json.loads(complete.read_text()))


def find(local: Local, home: Path, index: Index, gpu: bool) -> StandIn | None:
    """The environment that `local` describes, if it is built."""
    folder = _folder(local, home, index, gpu)
    try:
        return StandIn(python=folder / "bin" / "python", **json.loads((folder / "complete.json").read_text()))
    except FileNotFoundError:
        return None


def _folder(local: Local, home: Path, index: Index, gpu: bool) -> Path:
    return (home / "standins" / digest([_version(local), sorted(local.requires), index.key, gpu])).absolute()


def _version(local: Local) -> str:
    return platform.python_version() if local.python == HOST else local.python


def _build(local: Local, folder: Path, python: Path, index: Index, gpu: bool) -> dict[str, str]:
    """Build the stand-in in place; return its identity and description."""
    folder.parent.mkdir(parents=True, exist_ok=True)
    ran = uv.run(
        ("venv", "--no-project", "--python", sys.executable if local.python == HOST else local.python, str(folder)),
        index.uv_environment(),
    )
    if ran.status:
        raise ran.trouble(f"there is no Python {_version(local)} for the stand-in")
    source = _install(local, python, index, gpu) if local.requires else _PLAIN
    listed = uv.run(("pip", "list", "--format", "json", *_into(python)), {})
    packages = {canonical(package["name"]): package["version"] for package in json.loads(listed.out)}
    number = re.search(r"^version\w* = (\S+)", (folder / "pyvenv.cfg").read_text(), re.MULTILINE)
    name = f"Python {number[1] if number else _version(local)}"
    if "torch" in packages:
        name += f" with torch {packages['torch']} ({source.name})"
    return {"identity": digest([name, packages]), "description": name}


def _install(local: Local, python: Path, index: Index, gpu: bool) -> _Source:
    """Install from the best source that can be reached and has the requirements; return that source."""
    constraints = python.parent.parent / "constraints.txt"
    for source in _sources(local, python, index, gpu):
        constraints.write_text(source.constraints)
        ran = uv.run(
            ("pip", "install", *_into(python), "-c", str(constraints), *source.flags, *index.uv_flags(), "-r", "-"),
            {**index.uv_environment(), **source.variables},
            stdin="\n".join(local.requires),
        )
        if not ran.status:
            return source
        if ran.reason == "disk-full":
            break
    raise ran.trouble("the stand-in cannot be built")


def _into(python: Path) -> tuple[str, ...]:
    return ("--python", str(python))


def _sources(local: Local, python: Path, index: Index, gpu: bool) -> Iterator[_Source]:
    """The sources of torch, the best first."""
    wanted = next((text for text in local.requires if name_of(text) == "torch"), "torch")
    if not gpu and "+" not in wanted:
        offered = _offered(wanted, python, index)
        if offered:
            yield _Source(name="CPU build from find-links", constraints=f"torch=={offered}\n")
        if "UV_TORCH_BACKEND" not in index.uv:
            yield _CPU_INDEX
    yield _PLAIN


def _offered(torch: str, python: Path, index: Index) -> str:
    """The CPU build of this requirement in the find-links alone; empty where they have none."""
    if not index.find_links():
        return ""
    flags = ("--no-index", "--no-deps", "--no-header", "--no-annotate", *_into(python))
    ran = uv.run(("pip", "compile", *flags, "-"), index.uv_environment(), stdin=torch)
    pin = re.search(r"^torch==(\S+\+cpu)$", ran.out, re.MULTILINE)
    return pin[1] if pin and not ran.status else ""
