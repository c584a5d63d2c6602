"""The runner decides the device: a leased GPU on which CUDA does not start is never replaced by a CPU.

A scripted torch and a scripted nvidia-smi stand for a host with a GPU; the command, the backend, the probe host and its
children are the real ones.
"""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.support import nvidia_smi, scripted_torch, tinywheels
from torch_compat_matrix.compat.cli import main
from torch_compat_matrix.runner import bundle
from torch_compat_matrix.runner.backends import base, process
from torch_compat_matrix.runner.backends.base import room
from torch_compat_matrix.runner.execution.launch import Running
from torch_compat_matrix.runner.packages import manifest
from torch_compat_matrix.runner.records.runs import Run

CAUSES = {
    "The NVIDIA driver on your system is too old (found version 11040). Please update your GPU driver": (
        "driver-too-old"
    ),
    "Unexpected error from cudaGetDeviceCount(). Error 802: system not yet initialized": "gpu-fabric-not-ready",
    "Unexpected error from cudaGetDeviceCount(). Error 803: system has unsupported display driver / cuda driver "
    "combination": "driver-mismatch",
    "CUDA error: all CUDA-capable devices are busy or unavailable": "gpu-busy",
    "CUDA error: out of memory": "cuda-out-of-memory",
    "CUDA unknown error - this may be due to an incorrectly set up environment": "cuda-not-started",
    "something that nobody has seen yet": "cuda-not-started",
}
"""What torch says where CUDA does not start -> the reason that each check must end with."""

IN_KIND = ("driver-too-old", "gpu-fabric-not-ready", "cuda-out-of-memory", "unheard-of")
"""Unsupported, host trouble with words of its own and without any, and a verdict that is else a library's.

tests/unit/test_classify.py has the words of all of them.
"""

Host = Callable[..., list[dict[str, Any]]]


@pytest.fixture
def host(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Iterator[Host]:
    """A host with a scripted GPU; called with a script, it runs the matrix `here` and returns the outcomes."""
    probes, packages = tmp_path / "probes", tmp_path / "packages"
    shutil.copytree(bundle.BUNDLE, probes, ignore=shutil.ignore_patterns("__pycache__"))
    for name in ("idle", "toucher", "starter"):
        (probes / "libraries" / f"{name}.py").write_text(
            f"DISTRIBUTION = {name!r}\nMODULE = {name!r}\nNEEDS = ()\n"
            "ELSEWHERE = 'nothing to compute'\ndef sample(probe):\n    pass\n"
        )
    for module in (bundle, process):
        monkeypatch.setattr(module, "BUNDLE", probes)
    bundle.catalogue.cache_clear()
    scripted_torch.write(packages)
    scripted_torch.distribution(packages, "idle")
    scripted_torch.distribution(packages, "toucher", "import torch; torch.cuda.get_arch_list()")
    scripted_torch.distribution(packages, "starter", "import torch; torch.cuda.init()")
    nvidia_smi.put(tmp_path, monkeypatch, nvidia_smi.lists("GPU-a, 0, NVIDIA A100, 40960, 550.54.14, 8.0, Disabled"))
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("PYTHONPATH", str(packages))
    monkeypatch.setenv("COMPAT_HOME", str(tmp_path / "home"))
    monkeypatch.syspath_prepend(str(packages))
    monkeypatch.setattr(Running.__init__, "__defaults__", ((0.0,),))  # one more try, at once: nothing recovers here

    def run(
        *, status: int, gpus: str = "auto", library: str = "idle", start: str = "", timeout: int = 30, **script: Any
    ) -> list[dict[str, Any]]:
        shutil.rmtree(packages / "torch")
        shutil.rmtree(next(packages.glob("torch-*.dist-info")))
        if "gpus_seen" in script:
            script["gpus"] = script.pop("gpus_seen")
        scripted_torch.write(packages.parent / "new", start=start, **script)
        for entry in (packages.parent / "new").iterdir():
            shutil.move(entry, packages / entry.name)
        (packages.parent / "new").rmdir()
        Path("matrix.yaml").write_text(
            f"limits: {{ gpus: {gpus}, timeout: {timeout} }}\n"
            "probes: [import, sample]\nimages: { a: { tag: 'x:1' } }\n"
            f"libraries: {{ {library}: {{ versions: [installed] }} }}\n"
        )
        ended = main(["run", "--backend", "here", "--jobs", "1", f"a/{library}"])
        said = capsys.readouterr()
        assert ended == status, said.out + said.err
        report = json.loads((Run.all(tmp_path / "home")[-1].folder / "report.json").read_text())
        found: list[dict[str, Any]] = report["outcomes"]
        return found

    yield run
    bundle.catalogue.cache_clear()


@pytest.mark.parametrize(
    ("words", "reason"),
    [
        pytest.param(words, reason, id=name, marks=() if name in IN_KIND else pytest.mark.slow)
        for (words, reason), name in zip(CAUSES.items(), [*list(CAUSES.values())[:-1], "unheard-of"], strict=True)
    ],
)
@pytest.mark.parametrize("gpus", ["auto", pytest.param("required", marks=pytest.mark.slow)])
def test_no_check_passes_where_cuda_does_not_start(host: Host, words: str, reason: str, gpus: str) -> None:
    """Each check ends with the cause's own reason; after the repair each is asked again, and passes on the GPU."""
    verdicts = {"driver-too-old": 1, "cuda-out-of-memory": 1}
    broken = host(status=verdicts.get(reason, 5), gpus=gpus, start=words)
    assert {outcome["reason"] for outcome in broken} == {reason}
    assert not {outcome["verdict"] for outcome in broken} & {"pass", "skip"}
    assert {outcome.get("blame") for outcome in broken} == {"host"}
    assert not any(outcome.get("key") for outcome in broken)
    repaired = host(status=0, gpus=gpus)
    assert {outcome["verdict"] for outcome in repaired} == {"pass"}
    assert not any(outcome.get("reused") for outcome in repaired)
    assert {outcome["device"] for outcome in repaired if outcome["probe"] == "sample"} == {"cuda"}


def test_a_warning_alone_is_a_cause_too(host: Host) -> None:
    """`is_available()` answers False and only warns."""
    said = "CUDA initialization: Unexpected error from cudaGetDeviceCount(). Error 802: system not yet initialized"
    broken = host(status=5, warning=said)
    assert {(outcome["verdict"], outcome["reason"]) for outcome in broken} == {("infra", "gpu-fabric-not-ready")}
    assert "Error 802" in broken[0]["evidence"]


def test_a_gpu_that_is_not_seen_is_a_mismatch(host: Host) -> None:
    """Where nothing says why."""
    broken = host(status=5, gpus_seen=[])
    assert {outcome["reason"] for outcome in broken} == {"gpu-mismatch"}


@pytest.mark.parametrize("gpus", ["auto", "required"])
def test_a_cpu_build_is_no_gpu_result(host: Host, gpus: str) -> None:
    """Where a GPU is demanded it is unsupported; else it runs on the CPU, says so, and is not reused."""
    for _ in range(2):
        found = host(status=int(gpus == "required"), gpus=gpus, cuda=None)
        if gpus == "required":
            assert {(outcome["verdict"], outcome["reason"]) for outcome in found} == {("unsupported", "cpu-only-torch")}
            continue
        assert {outcome["verdict"] for outcome in found} == {"pass"}
        assert {outcome["device"] for outcome in found if outcome["probe"] == "sample"} == {"cpu"}
        assert not any(outcome.get("reused") for outcome in found)
        assert all("ran on the CPU although the host has a GPU" in str(outcome["notes"]) for outcome in found)


@pytest.mark.parametrize("library", ["toucher", "starter"])
def test_an_import_that_spoils_forks_gets_processes_of_its_own(host: Host, library: str) -> None:
    """Whether it initialises CUDA or only touches the driver: both pass, with a note."""
    found = host(status=0, library=library)
    sample = next(outcome for outcome in found if outcome["probe"] == "sample")
    assert (sample["verdict"], sample["isolation"]) == ("pass", "fresh")
    assert any("spoils forks" in note for note in sample["notes"])


@pytest.mark.usefixtures("host")
def test_a_stand_in_is_no_exception(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The same through `local`: the driver that is too old for its torch is mended between two runs."""
    monkeypatch.delenv("PYTHONPATH")
    wheels = tmp_path / "wheels"
    tinywheels.wheel(wheels, "idle", "1.0")
    scripted_torch.wheel(wheels, start=next(iter(CAUSES)))
    monkeypatch.setenv("PIP_FIND_LINKS", str(wheels))
    monkeypatch.setenv("PIP_NO_INDEX", "1")
    # a stand-in on a host with a GPU wants 5 GB, for a CUDA build of torch: this one takes some megabytes
    monkeypatch.setattr(base, "room", lambda folder, needed: room(folder, 1e8))
    version = scripted_torch.DEFAULT["version"]
    Path("matrix.yaml").write_text(
        "probes: [import, sample]\nlibraries: { idle: { versions: [installed] } }\n"
        f"images: {{ a: {{ local: {{ python: host, requires: [torch=={version}, idle==1.0] }} }} }}\n"
    )
    assert main(["run", "--jobs", "1"]) == 1
    (script,) = (tmp_path / "home" / "standins").glob("*/lib/python*/site-packages/torch/script.json")
    broken = Run.all(tmp_path / "home")[-1].outcomes().values()
    assert {(outcome.verdict.value, outcome.reason) for outcome in broken} == {("unsupported", "driver-too-old")}
    script.write_text(json.dumps({**json.loads(script.read_text()), "start": ""}))
    manifest.seal(script.parents[4])  # the script stands for the driver, which is none of the stand-in's files
    assert main(["run", "--jobs", "1"]) == 0
    mended = Run.all(tmp_path / "home")[-1].outcomes()
    assert {(outcome.verdict.value, outcome.reused) for outcome in mended.values()} == {("pass", "")}
    assert mended["a/idle-installed/sample"].device == "cuda"


@pytest.mark.parametrize(("average", "reason"), [("96 %", "timeout"), ("0 %", "hang")], ids=["works", "waits"])
def test_a_gpu_that_works_is_no_hang(
    host: Host, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, average: str, reason: str
) -> None:
    """Though the process only waits for it: the runner asks nvidia-smi, and keeps the answer."""
    listed = tmp_path / "bin" / "nvidia-smi"
    samples = ("GPU Utilization Samples", *(f" {name} : {average}" for name in ("Duration", "Max", "Avg")))
    body = listed.read_text().partition("\n")[2]
    listed.write_text(f"#!/bin/sh\ncase $1 in -q) {nvidia_smi.lists(*samples)};; *) {body};; esac\n")
    sampled = tmp_path / "probes" / "libraries" / "idle.py"
    sampled.write_text(sampled.read_text().replace("pass", "import time; time.sleep(60)"))
    sample = host(status=1, timeout=2)[-1]
    assert (sample["verdict"], sample["reason"]) == ("timeout", reason)
    assert sample["metrics"]["GPU in use at the limit"]["unit"] == "%"
