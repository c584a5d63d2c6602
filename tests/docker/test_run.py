"""The main job on a real engine: `compat run --backend docker` on an image in which the real torch is installed."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from tests.support import ROOT
from torch_compat_matrix.runner.backends.docker import DockerBackend

MATRIX = """
images:
  torch-2.13: {{ tag: "{tag}", limits: {{ memory: 4g, shm: 256m, timeout: 100 }} }}
  without-python: {{ tag: "{tag}", python: python9 }}
  absent: {{ tag: "127.0.0.1:9/none/none:1" }}
libraries:
  torch: {{ versions: [installed] }}
  torchbnn: {{ versions: ["1.2"] }}
exclude:
  - {{ cells: "without-python/torchbnn-1.2", reason: one is enough }}
  - {{ cells: "absent/torchbnn-1.2", reason: one is enough }}
"""


SUITE = """
images:
  reference: {{ tag: "{tag}" }}
  torch-2.13: {{ tag: "{tag}" }}
libraries:
  torchbnn: {{ versions: ["1.2"], probes: [import], suite: {{ source: ./upstream, reference: reference }} }}
"""

UPSTREAM = """
import torch, torchbnn
def test_shape(): assert torchbnn.BayesLinear(0, 0.1, 3, 2)(torch.zeros(1, 3)).shape == (1, 2)
def test_of_yore(): assert torchbnn.BayesGRU
"""


def ran(place: Path, matrix: str) -> dict[str, Any]:
    """The report of a run of the matrix, which has surprises."""
    (place / "matrix.yaml").write_text(matrix)
    environment = {**os.environ, "PYTHONPATH": str(ROOT / "src"), "COMPAT_HOME": str(place / "home")}
    command = [sys.executable, "-m", "torch_compat_matrix", "run", "--backend", "docker", "--out", "out"]
    done = subprocess.run(command, cwd=place, env=environment, capture_output=True, text=True, timeout=400, check=False)
    assert done.returncode == 1, done.stdout + done.stderr
    return dict(json.loads((place / "out" / "report.json").read_text()))


@pytest.fixture
def outcomes(backend: DockerBackend, tag: str, tmp_path: Path) -> dict[str, Any]:
    """What a run of the small matrix records, by check."""
    assert backend.reap() == []
    data = ran(tmp_path, MATRIX.format(tag=tag))
    assert "stand-in" not in (tmp_path / "out" / "report.md").read_text()
    assert {record["reference"] for record in data["environments"].values()} == {tag}
    return {outcome["check"]: outcome for outcome in data["outcomes"]}


def test_run(outcomes: dict[str, Any], backend: DockerBackend) -> None:
    """Verdicts from inside the container; what cannot start is named, and the others go on."""
    on = "cuda" if backend.gpus() else "cpu"
    for cell in ("torch-2.13/torch-installed", "torch-2.13/torchbnn-1.2"):
        for probe in ("import", "sample", "autograd"):
            assert outcomes[f"{cell}/{probe}"]["verdict"] == "pass", outcomes[f"{cell}/{probe}"]
        assert outcomes[f"{cell}/sample"]["device"] == on
        # the image holds no compiler, as the official runtime images
        compiled = outcomes[f"{cell}/compile"]
        assert (compiled["verdict"], compiled["reason"], compiled["blame"]) == ("unsupported", "no-compiler", "image")
    assert outcomes["torch-2.13/torchbnn-1.2/sample"]["resolved"] == ["torchbnn==1.2"]
    assert outcomes["without-python/torch-installed/import"]["reason"] == "no-python"
    absent = outcomes["absent/torch-installed/import"]
    assert (absent["verdict"], absent["reason"]) == ("infra", "registry-unreachable")


def test_upstreams_tests_run_in_the_container(tag: str, tmp_path: Path) -> None:
    """Under pytest, read back by their names; what fails in the reference image too is upstream's own."""
    (tmp_path / "upstream" / "tests").mkdir(parents=True)
    (tmp_path / "upstream" / "tests" / "test_layers.py").write_text(UPSTREAM)
    outcomes = {outcome["check"]: outcome for outcome in ran(tmp_path, SUITE.format(tag=tag))["outcomes"]}
    at_reference, here = (outcomes[f"{image}/torchbnn-1.2/suite"] for image in ("reference", "torch-2.13"))
    assert (at_reference["verdict"], at_reference["reason"]) == ("fail", "suite-failed")
    assert at_reference["detail"].endswith("tests.test_layers.test_of_yore")
    assert here["verdict"] == "pass"
    counts = {name: metric["value"] for name, metric in here["metrics"].items() if name.startswith("tests")}
    assert counts == {"tests passed": 1, "tests failed": 1, "tests skipped": 0, "tests failed at the reference too": 1}
