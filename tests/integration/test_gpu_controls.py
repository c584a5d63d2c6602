"""The controls of tests/gpu on a scripted GPU: on a real one, only the hardware is then new."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from tests.support import ROOT, nvidia_smi, scripted_torch

LISTED = "GPU-a, 0, NVIDIA A100, 40960, 550.54.14, 8.0, Disabled"


def controls(folder: Path, *arguments: str, status: int) -> list[dict[str, Any]]:
    """The rows of the table, with PATH and PYTHONPATH as the test has set them."""
    command = [sys.executable, "-m", "tests.gpu", str(folder / "out"), "--patience", "3", *arguments]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=280, check=False)
    assert done.returncode == status, done.stdout + done.stderr
    rows: list[dict[str, Any]] = json.loads((folder / "out" / "controls.json").read_text())
    assert (folder / "out" / "controls.md").read_text() == done.stdout
    assert all(row["planted"] in done.stdout for row in rows)
    return rows


@pytest.fixture
def packages(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A host whose nvidia-smi lists a GPU, and the folder that its packages are imported from."""
    nvidia_smi.put(tmp_path, monkeypatch, nvidia_smi.lists(LISTED))
    monkeypatch.setenv("PYTHONPATH", str(tmp_path / "packages"))
    return tmp_path / "packages"


def test_on_a_gpu_that_works_all_are_as_expected(tmp_path: Path, packages: Path) -> None:
    """Each fault has its own reason, what is asked after it passes, and no control takes a minute."""
    scripted_torch.write(packages, tensors=True)
    rows = controls(tmp_path, status=0)
    assert {row["as expected"] for row in rows} == {"yes"}
    assert len(rows) == 8
    assert max(float(row["seconds"]) for row in rows) < 60


@pytest.mark.slow
def test_a_control_can_be_other_than_expected(tmp_path: Path, packages: Path) -> None:
    """Where nothing takes memory, no probe passes after a fault either."""
    scripted_torch.write(packages, tensors=True, allocations=[0])
    rows = controls(tmp_path, status=1)
    assert {row["control"] for row in rows if row["as expected"] == "yes"} == {"unseen"}
    assert {row["next probe"] for row in rows if row["control"] == "asserts"} == {"fail wrong-device"}


@pytest.mark.slow
def test_without_a_gpu_no_control_is_as_expected(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Nothing is launched, and that is said; test_bare_host.py has the same table, of another interpreter."""
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "")
    rows = controls(tmp_path, status=1)
    assert {row["seen"] for row in rows} == {"skip gpu-required"}
    assert {row["as expected"] for row in rows} == {"NO"}


@pytest.mark.slow
def test_the_second_list_reaches_the_probes(tmp_path: Path, packages: Path) -> None:
    """Each library is found, imported and asked, whatever the scripted GPU makes of its fault."""
    scripted_torch.write(packages, tensors=True)
    rows = controls(tmp_path, "--second", status=1)
    assert len(rows) == 20
    assert not {row["seen"] for row in rows} & {"nothing", "unsupported not-installed"}
    assert {row["next probe"] for row in rows if row["control"] == "nantail"} == {"pass"}
