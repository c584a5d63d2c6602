"""The wheel in an environment of its own, used outside the checkout, also in other people's projects."""

from __future__ import annotations

import os
import subprocess
import tarfile
import zipfile
from pathlib import Path

import pytest

from tests.support import ROOT
from tests.support.environments import HOME
from tests.support.installed import installed
from torch_compat_matrix.runner.packages import uv
from torch_compat_matrix.runner.packages.pip_config import Index

MATRIX = """
images:
  small: { local: { python: "3.11", requires: ["torch==2.13.0", numpy] } }
libraries:
  torchbnn: { versions: ["1.2"], probes: [import, sample] }
"""

FOREIGN = {
    "runner/__init__.py": "WHOSE = 'the user'",
    "reports/__init__.py": "WHOSE = 'the user'",
    "probes/__init__.py": "WHOSE = 'the user'",
    "compat.py": "WHOSE = 'the user'",
    "tests/test_own.py": "import compat, probes, reports, runner\n\n"
    "def test_own():\n"
    "    assert {m.WHOSE for m in (compat, probes, reports, runner)} == {'the user'}\n",
    "conftest.py": "import compat, runner\n",
    "pyproject.toml": "[tool.pytest.ini_options]\naddopts = '--strict-markers --strict-config'\n"
    "filterwarnings = 'error'\npythonpath = '.'\ntestpaths = ['tests']\n",
}
"""A repository whose names are those of this project's own folders."""


def run(place: Path, *command: str, status: int = 0, **variables: str) -> str:
    """What a command prints in a folder, its exit status made sure of."""
    clean = {name: value for name, value in os.environ.items() if name not in ("PYTHONPATH", "COMPAT_HOME")}
    done = subprocess.run(
        command, cwd=place, env={**clean, **variables}, capture_output=True, text=True, timeout=280, check=False
    )
    assert done.returncode == status, done.stdout + done.stderr
    return done.stdout + done.stderr


@pytest.fixture(scope="session")
def bin_of_wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The programs of an environment that holds the wheel, with what it asks for, and nothing else."""
    return installed(tmp_path_factory.mktemp("wheel"))


@pytest.fixture
def place(tmp_path: Path) -> Path:
    """A folder that holds a matrix and, in its home, the stand-ins that were built already."""
    (tmp_path / "matrix.yaml").write_text(MATRIX)
    (tmp_path / ".compat").mkdir()
    (tmp_path / ".compat" / "standins").symlink_to(HOME.absolute() / "standins")
    return tmp_path


def test_the_command_works(bin_of_wheel: Path, place: Path, torch_python: str) -> None:
    """Plan, doctor, a run of one cell, and pytest, in a folder with nothing but a matrix."""
    assert torch_python
    compat = str(bin_of_wheel / "compat")
    assert "2 checks" in run(place, compat, "plan")
    assert "ok  uv: uv" in run(place, compat, "doctor", "--backend", "local")
    assert "pass        small/torchbnn-1.2/sample cpu" in run(place, compat, "run")
    assert list(place.glob(".compat/runs/*/report.html"))  # its templates are in the wheel, too
    assert "2 passed" in run(place, str(bin_of_wheel / "pytest"), "-m", "matrix", "-p", "no:cacheprovider")


def test_a_foreign_repository_is_left_alone(bin_of_wheel: Path, place: Path, torch_python: str) -> None:
    """A user's own runner/, reports/, probes/ and compat.py answer to their names, whatever of ours is started."""
    assert torch_python
    for name, text in FOREIGN.items():
        (place / name).parent.mkdir(parents=True, exist_ok=True)
        (place / name).write_text(text + "\n")
    for command in (["pytest"], ["python", "-m", "pytest"]):
        assert "1 passed" in run(place, str(bin_of_wheel / command[0]), *command[1:])
    said = run(place, str(bin_of_wheel / "pytest"), "-m", "matrix", "-W", "error", "--junitxml=junit.xml")
    assert "2 passed" in said
    assert "test_own" not in said
    assert "Everything is as expected" in run(place, str(bin_of_wheel / "compat"), "run")


def test_nothing_is_loaded_until_the_matrix_is_asked_for(bin_of_wheel: Path, place: Path) -> None:
    """Of the plugin itself, and nothing of what it would need."""
    (place / "test_own.py").write_text(
        "import sys\n\ndef test_own():\n"
        "    ours = {name for name in sys.modules if name.startswith('torch_compat_matrix.')}\n"
        "    assert ours == {'torch_compat_matrix.compat', 'torch_compat_matrix.compat.pytest_plugin'}\n"
    )
    assert "1 passed" in run(place, str(bin_of_wheel / "pytest"), "-p", "no:cacheprovider")


@pytest.fixture(scope="session")
def clone(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """What a git URL of this repository gives: the last commit, without what a checkout gathers."""
    folder = tmp_path_factory.mktemp("clone") / "torch-compat-matrix"
    run(ROOT, "git", "clone", "-q", str(ROOT), str(folder))
    return folder


@pytest.mark.share
def test_a_clean_clone_gives_whole_distributions(clone: Path, tmp_path: Path) -> None:
    """Every module and data file of the product is in the wheel, and in the sdist that it is made of."""
    index = Index.from_pip()
    ran = uv.run(("build", "--out-dir", str(tmp_path), str(clone), *index.uv_flags()), index.uv_environment())
    assert ran.status == 0, ran.err
    rooms = ("compat", "reports", "runner", "probes")
    tracked = run(clone, "git", "ls-files", *rooms).splitlines()
    product = {f"torch_compat_matrix/{name}" for name in tracked if not name.startswith("reports/examples/")}
    (wheel,), (sdist,) = tmp_path.glob("*.whl"), tmp_path.glob("*.tar.gz")
    with zipfile.ZipFile(wheel) as archive:
        assert product - set(archive.namelist()) == set()
    with tarfile.open(sdist) as archive:
        assert {f"{sdist.name.removesuffix('.tar.gz')}/src/{name}" for name in product} - set(
            archive.getnames()
        ) == set()


@pytest.mark.share
def test_a_git_url_gives_a_tool(clone: Path, tmp_path: Path) -> None:
    """Installed by `uv tool install`, it writes a matrix in an empty folder and shows the plan of a run."""
    index, place = Index.from_pip(), tmp_path / "empty"
    place.mkdir()
    folders = {"UV_TOOL_DIR": str(tmp_path / "tools"), "UV_TOOL_BIN_DIR": str(tmp_path / "bin")}
    installed = uv.run(
        ("tool", "install", *index.uv_flags(), f"git+{clone.as_uri()}"), {**index.uv_environment(), **folders}
    )
    assert installed.status == 0, installed.err
    compat = str(tmp_path / "bin" / "compat")
    assert "written: matrix.yaml" in run(place, compat, "init", "--lib", "torchbnn")
    said = run(place, compat, "plan")
    assert "backend: local" in said
    assert "torch-2.13/torchbnn-latest" in said
