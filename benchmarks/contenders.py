"""The alternatives, on the same cells with the same probe bodies: a loop over docker run, nox, tox."""

from __future__ import annotations

import os
import resource
import shlex
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from torch_compat_matrix.runner.model import Cell, Image, Plan
from torch_compat_matrix.runner.packages.pip_config import Index

ROOT = Path(__file__).resolve().parent.parent


def spent(*whose: int) -> float:
    """CPU seconds, user and system, of this process's ended children, or of those that RUSAGE_... names."""
    usages = map(resource.getrusage, whose or (resource.RUSAGE_CHILDREN,))
    return sum(usage.ru_utime + usage.ru_stime for usage in usages)


@dataclass(frozen=True, slots=True)
class Contender:
    """A command to time, with its environment variables."""

    name: str
    command: Sequence[str]
    variables: dict[str, str]


def shell_loop(plan: Plan, folder: Path) -> Contender:
    """A container for each cell: pip installs the library from a mounted cache, and each probe is a Python process."""
    index = Index.from_pip()
    options = ["--rm", "--network", "host", "-v", f"{ROOT}:/src:ro", "-v", "compat-benchmark-pip:/root/.cache/pip"]
    options += ["-eTORCHINDUCTOR_COMPILE_THREADS=1"]
    options += [f"-v{path}:{path}:ro" for path in index.paths()]
    options += [
        f"-e{name}={value}" for name, value in {**index.pip_environment(), "PYTHONPATH": "/src/src:/src"}.items()
    ]
    lines = ["set -eu"]
    for image in plan.images:
        for cell in plan.cells_of(image):
            install = f"pip install -q --root-user-action=ignore --break-system-packages {' '.join(cell.requires)} && "
            inside = (install if cell.requires else "") + " && ".join(_asks("python3", cell))
            lines.append(shlex.join(["docker", "run", *options, str(image.tag), "sh", "-c", inside]))
    path = folder / "loop.sh"
    path.write_text("\n".join(lines) + "\n")
    return Contender("shell loop: docker run, pip install, python", ["bash", str(path)], {})


def nox(plan: Plan, folder: Path) -> Contender:
    """A nox session for each cell, its environment made by uv."""
    text = ["import nox", "nox.options.default_venv_backend = 'uv'"]
    for image, cell in _pairs(plan):
        text += ["", f"@nox.session(name={_name(cell)!r}, python={_python(image)!r})", "def _(session):"]
        text.append(f"    session.install({', '.join(map(repr, _requires(image, cell)))})")
        text += [f"    session.run({', '.join(map(repr, shlex.split(ask)))})" for ask in _asks("python", cell)]
    path = folder / "noxfile.py"
    path.write_text("\n".join(text) + "\n")
    return Contender("nox with uv, an environment a cell", ["nox", "-f", str(path)], _uv_variables())


def in_parallel(plan: Plan, folder: Path, jobs: int, docker: bool) -> list[Contender]:
    """The same, so many at a time, by each tool's own means or xargs."""
    one_by_one, loop = nox(plan, folder), shell_loop(plan, folder)
    names = [name for image in plan.images for name in sessions(plan, image)]
    (folder / "sessions").write_text("\n".join(names) + "\n")
    many = ["xargs", "-P", str(jobs), "-d", "\\n"]
    tox_parallel = ["tox", "run-parallel", "-r", "-q", "-p", str(jobs), "-c", str(folder / "tox.ini")]
    nox_parallel = [*many, "-a", str(folder / "sessions"), "-n", "1", *one_by_one.command, "--sessions"]
    found = [
        Contender("tox run-parallel", tox_parallel, tox(plan, folder).variables),
        Contender("nox under xargs -P", nox_parallel, one_by_one.variables),
    ]
    if docker:
        lines = Path(loop.command[-1]).read_text().splitlines()[1:]
        (folder / "containers").write_text("\n".join(lines) + "\n")
        run = [*many, "-a", str(folder / "containers"), "-I", "{}", "sh", "-euc", "{}"]
        found.append(Contender("docker run under xargs -P", run, {}))
    return found


def sessions(plan: Plan, image: Image) -> list[str]:
    """The names that nox has for the cells of an image."""
    return [_name(cell) for cell in plan.cells_of(image)]


def tox(plan: Plan, folder: Path) -> Contender:
    """An environment for each cell, made by tox-uv and, as with nox, made anew in each run."""
    text = ["[tox]", "no_package = true", f"env_list = {','.join(_name(cell) for _, cell in _pairs(plan))}"]
    for image, cell in _pairs(plan):
        text += ["", f"[testenv:{_name(cell)}]", f"base_python = python{_python(image)}", "pass_env = *", "deps ="]
        text += [f"    {requirement}" for requirement in _requires(image, cell)]
        text += ["commands =", *(f"    {ask}" for ask in _asks("python", cell))]
    path = folder / "tox.ini"
    path.write_text("\n".join(text) + "\n")
    return Contender("tox with uv, an environment a cell", ["tox", "run", "-r", "-q", "-c", str(path)], _uv_variables())


def _asks(python: str, cell: Cell) -> list[str]:
    return [f"{python} -m benchmarks.probe {cell.subject} {probe}" for probe in cell.probes]


def _pairs(plan: Plan) -> list[tuple[Image, Cell]]:
    return [(image, cell) for image in plan.images for cell in plan.cells_of(image)]


def _name(cell: Cell) -> str:
    return cell.id.replace("/", "-").replace(".", "_")


def _python(image: Image) -> str:
    assert image.local is not None
    return image.local.python


def _requires(image: Image, cell: Cell) -> list[str]:
    assert image.local is not None
    return [*image.local.requires, *cell.requires]


def _uv_variables() -> dict[str, str]:
    return {
        **Index.from_pip().uv_environment(),
        "PYTHONPATH": os.pathsep.join([str(ROOT / "src"), str(ROOT)]),
    }
