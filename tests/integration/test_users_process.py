"""Whose process it is: the user's own packages, a home that is missing or cannot be written, a chatty interpreter."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest

from tests.support import ROOT, scripted_torch, tinywheels
from torch_compat_matrix.runner.packages import uv

BASE = Path(sys.base_prefix, "bin", f"python{sys.version_info[0]}.{sys.version_info[1]}")
"""An interpreter with a user site, which a virtual environment lacks."""

NOWHERE = "/proc/nobody"
"""A folder that not even root can make."""


def here(folder: Path, *arguments: str, variables: Mapping[str, str], status: int = 0) -> str:
    """The words of `compat` of a bare interpreter, in a folder."""
    ended = subprocess.run(
        [BASE, ROOT / "compat", *arguments],
        cwd=folder,
        env={"PATH": os.environ["PATH"], **variables},
        capture_output=True,
        text=True,
        timeout=100,
        check=False,
    )
    said = ended.stdout + ended.stderr
    assert ended.returncode == status, said
    assert "Traceback" not in said
    return said


def report(folder: Path) -> dict[str, Any]:
    """The report of the only run in that folder's home."""
    (path,) = (folder / ".compat" / "runs").glob("*/report.json")
    compiled: dict[str, Any] = json.loads(path.read_text())
    return compiled


@pytest.mark.parametrize("named", [True, False])
def test_the_user_site_stays_importable(tmp_path: Path, named: bool) -> None:
    """Where PYTHONUSERBASE names it, or HOME; the facts tell who the user is."""
    base = tmp_path / "home" / ".local"
    site = base / "lib" / BASE.name / "site-packages"
    scripted_torch.write(site, cuda=None, gpus=[])
    scripted_torch.distribution(site, "torchbnn")
    variables = {"PYTHONUSERBASE": str(base)} if named else {"HOME": str(base.parent)}
    here(tmp_path, "run", "--backend", "here", "torchbnn", "--probe", "import", variables=variables)
    compiled = report(tmp_path)
    assert [outcome["verdict"] for outcome in compiled["outcomes"]] == ["pass"]
    (environment,) = compiled["environments"].values()
    assert environment["facts"]["uid"] == os.getuid()


def test_a_user_site_that_is_switched_off_stays_off(tmp_path: Path) -> None:
    """The probes do not find what the caller cannot import."""
    site = tmp_path / ".local" / "lib" / BASE.name / "site-packages"
    site.mkdir(parents=True)
    scripted_torch.distribution(site, "stray")
    packages = scripted_torch.write(tmp_path / "packages", cuda=None, gpus=[])
    scripted_torch.distribution(packages, "torchbnn")
    variables = {"PYTHONUSERBASE": str(tmp_path / ".local"), "PYTHONPATH": str(packages), "PYTHONNOUSERSITE": "1"}
    here(tmp_path, "run", "--backend", "here", "torchbnn", "--probe", "import", variables=variables)
    (environment,) = report(tmp_path)["environments"].values()
    assert "torchbnn" in environment["facts"]["packages"]
    assert "stray" not in environment["facts"]["packages"]


@pytest.mark.parametrize("home", [NOWHERE, "/proc"])
def test_a_home_that_cannot_be_written_costs_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, home: str
) -> None:
    """Be it missing or read-only: uv's cache, and those of the builds that it starts, are then ours."""
    monkeypatch.setenv("HOME", home)
    monkeypatch.setenv("COMPAT_HOME", str(tmp_path / "ours"))
    for name in ("UV_CACHE_DIR", "XDG_CACHE_HOME"):
        monkeypatch.delenv(name, raising=False)
    links = tmp_path / "links"
    tinywheels.sdist(links, "built", "1.0", at_build="import os; open(os.path.expanduser('~/mark'), 'w')")
    tinywheels.wheel(links, "plain", "1.0")
    names = ["plain"] if home == "/proc" else ["plain", "built"]
    install = ("pip", "install", "--no-index", "--target", str(tmp_path / "to"), *names)
    ran = uv.run(install, {"UV_FIND_LINKS": str(links)})
    assert not ran.status, ran.err
    assert (tmp_path / "ours" / "cache" / "uv").is_dir()


def test_a_home_that_can_be_written_is_used(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Its cache is what makes the next run quick."""
    monkeypatch.setenv("HOME", str(tmp_path))
    for name in ("UV_CACHE_DIR", "XDG_CACHE_HOME"):
        monkeypatch.delenv(name, raising=False)
    assert uv.run(("cache", "dir"), {}).out.strip() == str(tmp_path / ".cache" / "uv")


@pytest.mark.parametrize(
    "startup",
    [
        "print('::group::banner'); print('{')",
        "import sys; sys.stdout.write('no end of line')",
        "import atexit; atexit.register(print, 'bye {}')",
    ],
)
def test_an_interpreter_that_prints_at_its_start(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, startup: str) -> None:
    """Is asked all the same: by its path, and where it is the first on the search path."""
    assert not uv.run(("venv", "--no-project", "--python", sys.executable, str(tmp_path / "chatty")), {}).status
    python = tmp_path / "chatty" / "bin" / "python"
    (site,) = (tmp_path / "chatty" / "lib").glob("*/site-packages")
    (site / "sitecustomize.py").write_text(startup)
    tinywheels.wheel(tmp_path / "links", "plain", "1.0")
    links = {"UV_FIND_LINKS": str(tmp_path / "links")}
    install = ("pip", "install", "--no-index", "--target", str(tmp_path / "to"))
    ran = uv.run((*install, "--python", str(python), "plain"), links)
    assert not ran.status, ran.err
    assert (tmp_path / "to" / "plain").exists() or (tmp_path / "to" / "plain.py").exists()
    monkeypatch.setenv("PATH", f"{python.parent}{os.pathsep}/usr/bin{os.pathsep}/bin")
    monkeypatch.setenv("VIRTUAL_ENV", str(tmp_path / "chatty"))
    ran = uv.run(("pip", "compile", "--no-index", "--no-header", "-"), links, stdin="plain\n")
    assert (ran.status, "plain==1.0" in ran.out) == (0, True), ran.err


@pytest.mark.parametrize("arguments", ["plan --backend here", "run --backend here", "history", "history x", "report"])
def test_a_folder_that_cannot_be_written(arguments: str, tmp_path: Path) -> None:
    """Costs no traceback, and is told with its remedy by whatever writes there."""
    scripted_torch.write(tmp_path, cuda=None, gpus=[])
    variables = {"HOME": str(tmp_path), "PYTHONPATH": str(tmp_path)}
    status = {"plan --backend here": 2, "report": 3}.get(arguments, 5)
    said = here(Path("/proc"), *arguments.split(), status=status, variables=variables)
    if status == 5:
        assert "compat: /proc/.compat" in said
        assert said.endswith("set COMPAT_HOME to a folder that can be written\n")
