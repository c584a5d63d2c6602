"""Probes of a team's own, for a private library that exists as a wheel alone."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from tests.support import ROOT
from tests.support.environments import HOME
from tests.support.tinywheels import wheel
from torch_compat_matrix.runner.matrix.expand import expand
from torch_compat_matrix.runner.matrix.load import load
from torch_compat_matrix.runner.records.runs import NoRun, Run
from torch_compat_matrix.runner.workflow import plan_from

LIBRARY = """
import torch

class Layer(torch.nn.Module):
    def __init__(self, inputs, outputs):
        super().__init__()
        self.weight = torch.nn.Parameter(torch.randn(inputs, outputs))

    def forward(self, x):
        return x @ self.weight

class Gate(torch.nn.Module):
    def __init__(self):
        super().__init__()
        self.scale = torch.nn.Parameter(torch.ones(1))

    def forward(self, x):
        return torch.sigmoid(self.scale * x) * x
"""

OWN = """
import acme  # at the head, where the probe host must not run it

from ..evidence import close, sound
from ._shared import WIDTH

DISTRIBUTION = "acme-layers"
MODULE = "acme"


def sample(probe):
    layer = acme.Layer(WIDTH, 4).to(probe.device)
    x = probe.randn(8, WIDTH)
    with probe.part("values"):
        sound(layer(x), x, "Layer")
        close(layer(x), x @ layer.weight, "Layer")
"""


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder with a wheel, probes for it and a matrix; a home with the environments of the tests."""
    monkeypatch.chdir(tmp_path)
    path = wheel(tmp_path / "links", "acme-layers", "1.0", files={"acme/__init__.py": LIBRARY, "acme_more.py": ""})
    (tmp_path / "probes").mkdir()
    (tmp_path / "probes" / "acme_layers.py").write_text(OWN)
    (tmp_path / "probes" / "_shared.py").write_text("WIDTH = 16\n")
    (tmp_path / "matrix.yaml").write_text(
        "probes: [import, sample, ./probes]\n"
        'images: { small: { tag: "x:1", local: { python: "3.11", requires: ["torch==2.13.0", numpy] } } }\n'
        f'stacks: {{ acme: {{ requires: ["acme-layers @ {path.as_uri()}"] }} }}\n'
    )
    (tmp_path / ".compat").mkdir()
    (tmp_path / ".compat" / "standins").symlink_to(HOME.absolute() / "standins")
    return tmp_path


def compat(folder: Path, *arguments: str, status: int = 0) -> str:
    """What `compat` says, its exit status made sure of."""
    environment = {**os.environ, "PYTHONPATH": str(ROOT / "src"), "COMPAT_HOME": ""}
    command = [sys.executable, "-m", "torch_compat_matrix", *arguments]
    done = subprocess.run(
        command, cwd=folder, env=environment, capture_output=True, text=True, timeout=280, check=False
    )
    assert done.returncode == status, done.stdout + done.stderr
    return done.stdout + done.stderr


def outcomes(folder: Path) -> dict[str, dict[str, object]]:
    """The outcomes of the latest run, by probe."""
    report = sorted((folder / ".compat" / "runs").glob("*/report.json"))[-1]
    return {outcome["probe"]: outcome for outcome in json.loads(report.read_text())["outcomes"]}


def test_own_probes_run_beside_ours(folder: Path, torch_python: str) -> None:
    """A module with its helper, in a fork and in a fresh process; a changed helper makes it run again."""
    compat(folder, "run")
    assert {probe: outcome["verdict"] for probe, outcome in outcomes(folder).items()} == dict.fromkeys(
        ("import", "sample"), "pass"
    )
    (folder / "probes" / "_shared.py").write_text("WIDTH = 16.5\n")
    compat(folder, "run", status=1)
    failed = outcomes(folder)["sample"]
    assert (failed["verdict"], failed["isolation"]) == ("fail", "fresh")
    assert "own/acme_layers.py" in str(failed["traceback"]), "its source line is told, though no file holds it"
    assert "layer = acme.Layer(WIDTH, 4)" in str(failed["traceback"])


def test_a_run_and_a_plan_file_keep_the_modules(folder: Path) -> None:
    """As they were, whatever became of the folder; a file of the run that was changed is refused."""
    found = expand(load(Path("matrix.yaml")), "docker")
    run = Run.create(folder / "home", found, "docker", ["compat"], {})
    Path("plan.json").write_text(json.dumps(found.to_json()))
    (folder / "probes" / "acme_layers.py").write_text("MODULE =\n")
    assert run.plan().modules == found.modules
    assert "def sample" not in run.journal.read_text()
    assert plan_from(Path("matrix.yaml"), backend="here", plan_file=Path("plan.json")).modules == found.modules
    kept = next((run.folder / "probes").rglob("acme_layers.py"))
    kept.write_text(kept.read_text() + "# changed\n")
    with pytest.raises(NoRun, match="has changed"):
        run.plan()
