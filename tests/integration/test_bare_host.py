"""A borrowed host: torch, a plain copy of the checkout, and nothing of what the tool is installed with; no network.

The commands are those of docs/gpu.md, taken from the page.
"""

from __future__ import annotations

import json
import os
import re
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from tests.support import ROOT, scripted_environment, tinywheels
from tests.support.environments import environment
from torch_compat_matrix.runner.packages import uv

SECTION = (ROOT / "docs" / "gpu.md").read_text(encoding="utf-8").partition("## The hour on a borrowed host\n")[2]
_, ON_THE_HOST, FACTS, EVERYTHING, RESUME, FRESH, SEEDS, AT_HOME = re.findall(
    r"```sh\n(.*?)```", SECTION.partition("\n## ")[0], re.DOTALL
)
SETTINGS = next(line for line in ON_THE_HOST.splitlines() if line.startswith("export "))
NO_NETWORK = {"HTTP_PROXY": "http://127.0.0.1:9", "HTTPS_PROXY": "http://127.0.0.1:9"}


@dataclass
class Host:
    """The borrowed host: `folder` holds what was brought."""

    folder: Path
    python: Path

    def run(self, commands: str, status: int = 0) -> str:
        """What the commands say in the copy of the checkout, in a shell that has only the host's own programs."""
        environment = {"PATH": f"{self.python.parent}:/usr/bin:/bin", "HOME": str(self.folder), **NO_NETWORK}
        environment["PYTHONDONTWRITEBYTECODE"] = "1"  # the interpreter is that of a sealed environment
        done = subprocess.run(
            ["bash", "-c", f"{SETTINGS}\n{commands}"],
            cwd=self.folder / "checkout",
            env=environment,
            capture_output=True,
            text=True,
            timeout=500,
            check=False,
        )
        said = done.stdout + done.stderr
        assert done.returncode == status, said
        assert "Traceback" not in said
        return said

    def outcomes(self, name: str) -> dict[str, dict[str, Any]]:
        """Check -> outcome of the report in that folder of `carried`."""
        report = json.loads((self.folder / "checkout" / "carried" / name / "report.json").read_text())
        return {outcome["check"]: outcome for outcome in report["outcomes"]}


def bring(folder: Path, python: str) -> Host:
    """The host with the copy unpacked, and without pydantic, tabulate, docker and pytest."""
    for room in ("compat", "runner", "reports", "probes", "tests"):
        shutil.copytree(ROOT / room, folder / "checkout" / room, ignore=shutil.ignore_patterns("__pycache__"))
    (folder / "checkout" / "carried").mkdir()
    (folder / "wheels").mkdir()
    return Host(folder, Path(python))


def plain(folder: Path) -> Host:
    """A host whose torch computes nothing and takes no time, and neither does the probe of its only library."""
    host = bring(folder, scripted_environment.environment(folder / "environment", ("torchbnn",)))
    probes = host.folder / "checkout" / "probes" / "libraries" / "torchbnn.py"
    probes.write_text('DISTRIBUTION = MODULE = "torchbnn"\nNEEDS = ()\n\n\ndef sample(probe):\n    pass\n')
    return host


def real(folder: Path) -> Host:
    """A host with the real ones."""
    return bring(folder, environment("torch==2.13.0", "numpy", "torchbnn==1.2"))


@pytest.fixture
def host(tmp_path: Path) -> Host:
    """A plain one."""
    return plain(tmp_path)


def write_plan(host: Host, *selectors: str) -> None:
    """The plan that is written at home, of the checkout's own matrix with its claims."""
    command = [sys.executable, "-m", "torch_compat_matrix", "plan", "--backend", "here", "--json"]
    arguments = [str(host.folder / "plan.json"), *selectors, "--probe", "import", "--probe", "sample"]
    done = subprocess.run([*command, *arguments], cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr


@pytest.mark.parametrize("kind", [plain, pytest.param(real, marks=pytest.mark.slow)])
def test_the_hour(tmp_path: Path, kind: Callable[[Path], Host]) -> None:
    """Each command of the page works in its turn, and what they leave is compiled at home."""
    host = kind(tmp_path)
    write_plan(host, "here/torchbnn-installed", "here/torch-installed/import")
    said = host.run(FACTS, status=1)
    assert "ok  torch here: torch 2.13.0" in said
    assert said.count("skip gpu-required") == 16
    assert len(re.findall(r"^\| NO ", said, re.M)) == 8
    assert "here/torchbnn-installed/sample" in host.run(EVERYTHING)
    assert "0 checks on here" in host.run(RESUME)
    host.run(FRESH)
    host.run(SEEDS)
    for name, isolation, count in (("everything", "fork", 3), ("fresh", "fresh", 3), ("seed-1", "fork", 1)):
        found = host.outcomes(name).values()
        assert [(one["verdict"], one["isolation"]) for one in found] == [("pass", isolation)] * count
    shutil.copytree(host.folder / "checkout" / "carried", host.folder / "home" / "carried")
    runs = sorted(path.name for path in (host.folder / "home" / "carried" / "runs").iterdir())
    assert len(runs) == 4
    home = AT_HOME.replace("RUN", runs[0]).replace("FRESH", runs[1]).replace("tar xf carried.tar.gz\n", "")
    path = f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"
    done = subprocess.run(
        ["bash", "-ec", home],
        cwd=host.folder / "home",
        env={**os.environ, "PATH": path},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    assert "torchbnn" in (host.folder / "home" / "report" / "report.md").read_text()
    assert "not tested" in (host.folder / "home" / "report" / "claims.md").read_text()


def test_what_is_cut_off_goes_on(host: Host) -> None:
    """The time that a command may take is over in its middle: what was recorded stays, and the rest is run later.

    It is over when the first outcome is there: `timeout` takes SIGALRM for its own.
    """
    write_plan(host, "here/torchbnn-installed")
    held = host.folder / "held"
    held.touch()
    probes = host.folder / "checkout" / "probes" / "libraries" / "torchbnn.py"
    waits = f"    import os, time\n    while os.path.exists({str(held)!r}):\n        time.sleep(0.1)\n"
    probes.write_text(re.sub(r"(def sample\(.*\n)", lambda found: found[1] + waits, probes.read_text()))
    with ThreadPoolExecutor(1) as pool:
        ends = pool.submit(host.run, f"echo $$ > ../pid\nexec {EVERYTHING.strip()}", 124)
        journals = host.folder / "checkout" / "carried" / "runs"
        while not any('"kind":"outcome"' in path.read_text() for path in journals.glob("*/journal.jsonl")):
            assert not ends.done(), ends.result()
            time.sleep(0.1)
        os.kill(int((host.folder / "pid").read_text()), signal.SIGALRM)
        ends.result()
    cut = {one["probe"]: one["verdict"] for one in host.outcomes("everything").values()}
    assert cut == {"import": "pass", "sample": "not-run"}
    held.unlink()
    assert "1 checks on here" in host.run(RESUME)
    assert {one["verdict"] for one in host.outcomes("everything").values()} == {"pass"}


def test_plain_names_and_probes_select(host: Host) -> None:
    """Of what is installed, where there is no plan; a name that is not there is one message."""
    run = "python3 compat run --backend here --out carried/plain"
    assert "taking the selected installed libraries" in host.run(f"{run} torchbnn --probe import")
    assert host.outcomes("plain").keys() == {"here/torchbnn-installed/import"}
    host.run(f"{run} torch torchbnn --probe import")
    assert len(host.outcomes("plain")) == 2
    assert "'torchbn' selects nothing; did you mean 'torchbnn" in host.run(f"{run} torchbn", status=3)


def test_nothing_runs_that_was_not_asked_for(host: Host) -> None:
    """A matrix that cannot be read is told in one message, with the package that is missing."""
    run = "python3 compat run --backend here"
    said = host.run(f"{run} 'torch-2.13/einops-*'", status=3)
    assert said.startswith("compat: matrix.yaml not read: pydantic is not installed, so that only installed libraries")
    assert said.count("\n") == 1
    assert "write a plan where it is installed" in host.run(f"{run} --matrix my.yaml", status=2)
    for verb in ("triage", "bisect here/torch-installed/import", "advise torch"):
        assert "is not installed here\ninstall the tool" in host.run(f"python3 compat {verb}", status=2)


def test_a_plan_is_cut_by_selectors(host: Host) -> None:
    """And by probes."""
    write_plan(host, "here/torchbnn-installed", "here/torch-installed")
    host.run("python3 compat run --backend here --plan ../plan.json torchbnn --probe import --out carried/cut")
    assert host.outcomes("cut").keys() == {"here/torchbnn-installed/import"}


def test_wheels_are_brought_in_a_folder(host: Host) -> None:
    """A version that the host lacks is taken from there, by a uv that was brought too; without it, that is said."""
    write_plan(host, "here/torchbnn-1.1")
    tinywheels.wheel(host.folder / "wheels", "torchbnn", "1.1")
    run = "python3 compat run --backend here --plan ../plan.json --probe import --out carried/wheels"
    assert "no-installer" in host.run(run, status=5)
    tools = host.folder / "checkout" / "tools" / "bin"
    tools.mkdir(parents=True)
    (tools / "uv").symlink_to(uv.binary())
    host.run(run)
    (outcome,) = host.outcomes("wheels").values()
    assert (outcome["verdict"], outcome["installed"]) == ("pass", "1.1")
