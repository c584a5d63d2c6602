"""nvidia-smi as it answers on real hosts, by a script in its place: what is seen, taken, and handed to a launch."""

from __future__ import annotations

import json
import sys
from collections.abc import Callable
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import pytest

from tests.support.nvidia_smi import H200, SECOND, lists, put
from torch_compat_matrix.compat import cli
from torch_compat_matrix.runner.backends import gpus, here, process
from torch_compat_matrix.runner.backends.base import Gpu, Launch
from torch_compat_matrix.runner.errors import Status, Trouble
from torch_compat_matrix.runner.model import Image, Limits

T4 = "GPU-aaaaaaaa-0000-0000-0000-000000000000, 0, Tesla T4, 15360, 470.182.03, [N/A]"

Script = Callable[[str], None]


@pytest.fixture
def smi(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Script:
    """Puts a shell script in nvidia-smi's place; the caller's limit is lifted."""
    return partial(put, tmp_path, monkeypatch)


def test_an_old_driver_is_asked_without_the_field(smi: Script) -> None:
    """470 refuses `compute_cap`: its GPU is a GPU."""
    smi(
        'case "$1" in *compute_cap*) echo \'Field "compute_cap" is not a valid field to query.\'; exit 2;; esac\n'
        + lists(T4)
    )
    (found,) = gpus.visible()
    assert (found.name, found.driver, found.capability, found.mig) == ("Tesla T4", "470.182.03", "", False)


@pytest.mark.parametrize(
    ("body", "words"),
    [
        (
            "echo NVIDIA-SMI has failed because it could not communicate with the driver; exit 9",
            "could not communicate",
        ),
        ("echo 'Failed to initialize NVML: Driver/library version mismatch' >&2; exit 18", "version mismatch"),
        ("echo No devices were found; exit 6", "No devices were found"),
        ("echo No devices were found", "No devices were found"),
        ("echo 'Field \"uuid\" is not a valid field to query.'; exit 2", "not a valid field"),
        ("exec sleep 60", "no answer within 0.2 s"),
        ("exit 4", "no output"),
    ],
)
def test_a_failing_nvidia_smi_is_no_absent_one(smi: Script, body: str, words: str) -> None:
    """It is told with its words."""
    smi(body)
    with pytest.raises(Trouble, match=words) as raised:
        gpus.visible(patience_s=0.2 if "sleep" in body else 30)
    assert raised.value.code == "nvidia-smi-failed"


@pytest.mark.parametrize("wanted", ["", "-1", "NoDevFiles"])
def test_whoever_wants_no_gpu_need_not_be_told(smi: Script, monkeypatch: pytest.MonkeyPatch, wanted: str) -> None:
    """nvidia-smi is not even asked."""
    smi("exit 9")
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", wanted)
    assert gpus.visible() == ()


def test_no_nvidia_smi_is_no_gpu(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """And no trouble."""
    monkeypatch.setenv("PATH", str(tmp_path))
    assert gpus.visible() == ()


@pytest.mark.parametrize("name", ["here", "local"])
def test_doctor_tells_the_gpus_that_may_be_taken(
    smi: Script, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], name: str
) -> None:
    """On a shared host the one that the scheduler gave."""
    smi(lists(H200, SECOND))
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "1")
    cli.main(["doctor", "--backend", name])
    said = capsys.readouterr().out
    assert "GPU: NVIDIA H200 (GPU-bbbbbbbb-" in said
    assert "GPU-aaaaaaaa-" not in said
    assert "CUDA_VISIBLE_DEVICES=1" in said


def test_doctor_tells_a_failing_nvidia_smi(smi: Script, capsys: pytest.CaptureFixture[str]) -> None:
    """Beside what works."""
    smi("echo driver gone; exit 9")
    assert cli.main(["doctor", "--backend", "here"]) == Status.NO_BACKEND  # no torch here
    said = capsys.readouterr().out
    assert "no  GPU: nvidia-smi lists no GPU (status 9): driver gone" in said
    assert "torch here" in said


def environment_of(launch: Any) -> dict[str, str]:
    """The environment that the probe host's stand-in sees."""
    with launch as launched:
        seen: dict[str, str] = json.loads(b"".join(launched.lines()))
        return seen


@pytest.fixture
def echo(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A probe host that says its environment and no more."""
    bundle = tmp_path / "bundle"
    bundle.mkdir()
    (bundle / "__init__.py").touch()
    (bundle / "__main__.py").write_text("import json, os; print(json.dumps(dict(os.environ)))")
    monkeypatch.setattr(process, "BUNDLE", bundle)


@pytest.mark.usefixtures("echo")
def test_a_launch_sees_the_gpu_leased_or_none(tmp_path: Path, smi: Script) -> None:
    """Without a lease, as when an image is only looked at, every GPU is hidden, whatever device is asked for."""
    smi(lists(H200))
    (gpu,) = gpus.visible()
    instance = replace(gpu, uuid="MIG-1", parent=gpu.uuid)
    for leased, visible in ((None, ""), (gpu, "0"), (instance, "MIG-1")):
        launch = process.launched(sys.executable, {"device": "auto"}, {}, home=tmp_path, gpu=leased)
        seen = environment_of(launch)
        assert (seen["CUDA_VISIBLE_DEVICES"], seen["CUDA_DEVICE_ORDER"]) == (visible, "PCI_BUS_ID")


@pytest.mark.usefixtures("echo")
def test_here_passes_the_users_environment_on(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """GPU and compiler variables, by family; secrets stay out, and another setting is another environment."""
    given = {
        "CUDA_MPS_PIPE_DIRECTORY": "/mps",
        "NVIDIA_TF32_OVERRIDE": "0",
        "NCCL_SOCKET_IFNAME": "ib0",
        "NCCL_DEBUG": "WARN",
        "CPATH": "/include",
    }
    backend = here.connect(tmp_path)
    image = Image(name="x")
    before = backend.prepare(image)
    for name, value in {**given, "A_TOKEN": "secret"}.items():
        monkeypatch.setenv(name, value)
    seen = environment_of(backend.launch(Launch(prepared=before, order={"device": "auto"}, limits=Limits())))
    assert given.items() <= seen.items()
    assert "A_TOKEN" not in seen
    assert backend.prepare(image).identity != before.identity


UTILIZATION = """
GPU 00000000:01:00.0
    Utilization
        GPU                               : 12 %
        Memory                            : 3 %
    GPU Utilization Samples
        Duration                          : 14.21 sec
        Number of Samples                 : 71
        Max                               : 100 %
        Min                               : 0 %
        Avg                               : 87 %
    Memory Utilization Samples
        Duration                          : 14.21 sec
        Number of Samples                 : 71
        Max                               : 40 %
        Min                               : 0 %
        Avg                               : 31 %"""


@pytest.mark.parametrize(
    ("body", "use"),
    [
        (lists(*UTILIZATION.splitlines()), 87.0),
        (lists(*UTILIZATION.replace("87 %", "N/A").splitlines()), None),
        ("echo 'No devices were found'; exit 6", None),
    ],
)
def test_the_use_of_the_last_seconds_is_read(smi: Script, body: str, use: float | None) -> None:
    """Anew each time, and nothing where it is not told."""
    smi(f'test "$*" = "-q -d UTILIZATION -i GPU-a" || exit 2\n{body}')
    assert gpus.recent_use(Gpu(uuid="GPU-a", index=0, name="a", memory=0, driver="1")) == use
