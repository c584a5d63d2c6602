"""Versions that move with an index, wheels and git references, from the command line to the journal."""

from __future__ import annotations

import os
import subprocess
import sys
import tarfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.support import ROOT, scripted_environment
from tests.support.indexes import Index, json_index
from tests.support.tinywheels import sdist, wheel
from torch_compat_matrix.runner.records.runs import Run


@pytest.fixture
def index(tmp_path: Path) -> Iterator[Index]:
    """An index of three versions."""
    with json_index() as index:
        for number in range(3):
            index.add(wheel(tmp_path / "wheels", "torchbnn", f"1.{number}"), f"2026-0{number + 1}-15")
        yield index


def compat(
    place: Path,
    index: str,
    *arguments: str,
    status: int = 0,
    python: str = sys.executable,
    module: str = "torch_compat_matrix",
) -> str:
    """What `compat`, or another module, says on an interpreter, with that index."""
    clean = {name: value for name, value in os.environ.items() if not name.startswith(("PIP_", "UV_", "COMPAT_"))}
    own = {"PYTHONPATH": str(ROOT / "src"), "PIP_INDEX_URL": index, "NO_PROXY": "127.0.0.1"}
    own["PATH"] = f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"
    command = [python, "-m", module, *arguments]
    variables = {**clean, **own, "UV_CACHE_DIR": str(place / "uv")}
    done = subprocess.run(command, cwd=place, env=variables, capture_output=True, text=True, check=False)
    assert done.returncode == status, done.stdout + done.stderr
    return done.stdout + done.stderr


def repository(place: Path) -> str:
    """The URL of a git repository that holds torchbnn 3.0, at a tag."""
    with tarfile.open(sdist(place / "sources", "torchbnn", "3.0")) as archive:
        archive.extractall(place / "sources", filter="data")
    folder = place / "sources" / "torchbnn-3.0"
    git = ["git", "-C", str(folder), "-c", "user.name=me", "-c", "user.email=me@x.org"]
    for words in (("init", "-q"), ("add", "."), ("commit", "-qm", "one"), ("tag", "v3.0")):
        subprocess.run([*git, *words], check=True)
    return f"git+{folder.as_uri()}@v3.0"


def test_what_moves_is_exact_for_a_run(tmp_path: Path, index: Index) -> None:
    """Asked once, shown by `plan`, kept in a plan and a journal; a wheel and a git reference are probed as they are."""
    wheel(tmp_path / "dist", "torchbnn", "2.0")
    versions = f"[latest-2, {{ since: 2026-02-01 }}, dist/torchbnn-2.0-py3-none-any.whl, {repository(tmp_path)}]"
    matrix = f"images: {{ here: {{}} }}\nprobes: [import]\nlibraries: {{ torchbnn: {{ versions: {versions} }} }}\n"
    (tmp_path / "matrix.yaml").write_text(matrix)
    planned = compat(tmp_path, index.url, "plan", "--backend", "here")
    assert "torchbnn latest-2: 1.1, 1.2\ntorchbnn every release, since 2026-02-01: 1.1, 1.2\n" in planned
    compat(tmp_path, index.url, "plan", "--backend", "here", "--json", "plan.json")
    index.add(wheel(tmp_path / "wheels", "torchbnn", "1.3"), "2026-04-15")
    python = scripted_environment.environment(tmp_path / "environment")
    said = compat(tmp_path, index.url, "run", "--backend", "here", "--plan", "plan.json", python=python)
    run = Run.open(tmp_path / ".compat")
    assert run.header()["plan"]["taken"]["torchbnn latest-2"] == ["1.1", "1.2"]
    installed = {outcome.cell: (outcome.verdict.value, outcome.installed) for outcome in run.outcomes().values()}
    assert installed == {
        "here/torchbnn-1.1": ("pass", "1.1"),
        "here/torchbnn-1.2": ("pass", "1.2"),
        "here/torchbnn-wheel-2.0": ("pass", "2.0"),
        "here/torchbnn-git-v3.0": ("pass", "3.0"),
    }, said


def test_an_index_that_is_away_is_host_trouble(tmp_path: Path, index: Index) -> None:
    """Status 5, by name; an exact version needs no index for its plan."""
    matrix = "images: { here: {} }\nprobes: [import]\nlibraries: { torchbnn: { versions: [latest-2] } }\n"
    (tmp_path / "matrix.yaml").write_text(matrix)
    said = compat(tmp_path, "http://127.0.0.1:9/simple", "plan", "--backend", "here", status=5)
    assert said.startswith("compat: http://127.0.0.1:9/simple/torchbnn/: ")
    assert "Connection refused" in said
    (tmp_path / "matrix.yaml").write_text(matrix.replace("latest-2", '"1.0"'))
    assert "here/torchbnn-1.0" in compat(tmp_path, "http://127.0.0.1:9/simple", "plan", "--backend", "here")
