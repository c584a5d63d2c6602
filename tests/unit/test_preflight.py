"""Before a pull: what fits a driver, a GPU and a processor, and what is not known is not judged."""

from __future__ import annotations

from typing import Any

import pytest

from torch_compat_matrix.runner.model import Image, Verdict
from torch_compat_matrix.runner.outcome import Outcome
from torch_compat_matrix.runner.verdicts.preflight import (
    TABLES,
    Build,
    Prediction,
    build_of,
    disagreement,
    predict,
    runs_on,
)
from torch_compat_matrix.runner.verdicts.reasons import REASONS


def tagged(tag: str, facts: dict[str, Any] | None = None, **expects: str) -> Build:
    """The build of an image with that tag."""
    return build_of(Image(name="a", tag=tag, expects=expects), facts)


TORCH_2_6 = tagged("pytorch/pytorch:2.6.0-cuda12.4-cudnn9-runtime")
TORCH_2_9 = tagged("pytorch/pytorch:2.9.0-cuda13.0-cudnn9-runtime")


def code(build: Build, machine: str = "x86_64", **host: str) -> str:
    """The predicted reason, empty where nothing speaks against."""
    found = predict(build, machine=machine, **host)
    return found.code if found else ""


@pytest.mark.parametrize(
    ("tag", "torch", "cuda", "machine"),
    [
        ("pytorch/pytorch:2.6.0-cuda12.4-cudnn9-runtime", "2.6.0", "12.4", ""),
        ("ghcr.io/pytorch/pytorch-nightly:2.10.0-cuda12.8-cudnn9-devel", "2.10.0", "12.8", ""),
        ("localhost:5000/pytorch-cuda:v2.6", "2.6", "", ""),
        ("example/pytorch:2.9.0-cuda12.8-arm64", "2.9.0", "12.8", "aarch64"),
        ("nvidia/cuda:12.4.1-devel-ubuntu22.04", "", "", ""),
        ("nvcr.io/nvidia/pytorch:25.10-py3", "", "", ""),  # a month
        ("localhost:5000/stand-in:latest", "", "", ""),
    ],
)
def test_a_tag_is_read_for_what_it_says(tag: str, torch: str, cuda: str, machine: str) -> None:
    """And for nothing that it does not say."""
    build = build_of(Image(name="a", tag=tag))
    assert (build.torch, build.cuda, build.machine) == (torch, cuda, machine)


def test_expectations_speak_where_the_tag_is_silent() -> None:
    """The tag goes first: it is what will be pulled."""
    for tag in ("team/image:7", "nvcr.io/nvidia/pytorch:25.10-py3"):
        silent = tagged(tag, torch="2.6", cuda="12.4")
        assert (silent.torch, silent.cuda) == ("2.6", "12.4")
    assert tagged("pytorch/pytorch:2.9.0-cuda13.0-cudnn9-runtime", cuda="11.8").cuda == "13.0"


@pytest.mark.parametrize(
    ("tag", "expected"),
    [
        ("pytorch/pytorch:2.6.0-cuda12.4-cudnn9-runtime", "no-kernel-image"),
        ("docker.io/pytorch/pytorch:2.6.0-cuda12.4-cudnn9-devel", "no-kernel-image"),
        ("acme/pytorch:2.6.0-cuda12.4-devel", ""),
        ("localhost:5000/pytorch/pytorch:2.6.0-cuda12.4-cudnn9-runtime", ""),
        ("ghcr.io/pytorch/pytorch-nightly:2.6.0-cuda12.4-cudnn9-devel", ""),
        ("nvcr.io/nvidia/pytorch:25.01-py3", ""),
        ("team/image:7", ""),
    ],
)
def test_only_releases_of_torch_hold_what_the_tables_say(tag: str, expected: str) -> None:
    """Whoever builds torch chooses its architectures, whatever the version."""
    assert code(tagged(tag, torch="2.6.0", cuda="12.4"), capability="12.0") == expected


def test_the_tables_are_those_of_the_processor() -> None:
    """A tag serves several, and which one is pulled is the host's; one that is unknown is not judged."""
    assert code(TORCH_2_9, capability="11.0") == "no-kernel-image"
    build = tagged("pytorch/pytorch:2.13.0-cuda13.0-cudnn9-runtime")
    assert code(build, "aarch64", capability="11.0") == code(build, "arm64", capability="11.0") == ""
    assert code(build, "aarch64", capability="8.6") == ""  # code for 8.0 serves it
    assert code(build, "aarch64", capability="7.5") == "no-kernel-image"
    assert code(build, "", capability="7.0") == code(build, "ppc64le", capability="7.0") == ""


def test_an_image_without_a_tag_is_not_judged() -> None:
    """A stand-in is built for the host at hand."""
    assert predict(build_of(Image(name="a")), driver="390.10", capability="3.5", machine="x86_64") is None


@pytest.mark.parametrize(
    ("cuda", "driver", "expected"),
    [
        ("11.8", "450.80.02", ""),  # not 520, which is only the driver that CUDA 11.8 was released with
        ("11.8", "450.51.06", "driver-too-old"),
        ("12.4", "525.60.13", ""),
        ("12.4", "525.60.11", "driver-too-old"),
        ("12.4", "470.199.02", "driver-too-old"),
        ("12.8", "580.65.06", ""),
        ("13.0", "575.57.08", "driver-too-old"),
        ("13.0", "580.65.06", ""),
        ("13.2", "580.65.06", ""),
        ("14.0", "580.65.06", ""),
        ("12.4", "", ""),
        ("", "390.10", ""),
    ],
)
def test_a_driver_runs_what_minor_version_compatibility_lets_it(cuda: str, driver: str, expected: str) -> None:
    """The least driver belongs to the major version; a version that no table has is not judged."""
    assert code(Build(cuda=cuda, may_carry_compat=False), driver=driver) == expected


@pytest.mark.parametrize(
    ("gpu", "expected"),
    [
        ("NVIDIA A10", ""),
        ("NVIDIA A10G", ""),
        ("NVIDIA A30X", ""),
        ("NVIDIA A100-SXM4-80GB", ""),
        ("NVIDIA A100X", ""),
        ("NVIDIA B200", ""),
        ("NVIDIA B300 SXM6 AC", ""),
        ("NVIDIA GB300", ""),
        ("NVIDIA GH200 480GB", ""),
        ("NVIDIA H100 80GB HBM3", ""),
        ("NVIDIA H20", ""),
        ("NVIDIA L20", ""),
        ("NVIDIA L40S", ""),
        ("NVIDIA RTX 6000 Ada Generation", ""),
        ("NVIDIA RTX PRO 6000 Blackwell Server Edition", ""),
        ("Quadro RTX 8000", ""),
        ("Tesla T4", ""),
        ("NVIDIA GeForce RTX 3090", "driver-too-old"),
        ("NVIDIA GeForce GTX 1080 Ti", "driver-too-old"),
        ("NVIDIA TITAN V", "driver-too-old"),
        ("", ""),
    ],
)
@pytest.mark.parametrize(
    ("tag", "carries"),
    [
        ("pytorch/pytorch:2.6.0-cuda12.4-cudnn9-devel", True),
        ("acme/pytorch:2.6.0-cuda12.4-runtime", True),
        ("nvcr.io/nvidia/pytorch:25.01-py3", True),
        ("team/image:7", True),
        ("pytorch/pytorch:2.6.0-cuda12.4-cudnn9-runtime", False),
    ],
)
def test_an_old_driver_may_run_an_image_that_may_carry_the_compatibility_package(
    tag: str, carries: bool, gpu: str, expected: str
) -> None:
    """On any GPU but consumer ones; before and after the launch, since the image does not say what it carries."""
    facts = {"machine": "x86_64", "torch": {"version": "2.6.0+cu124", "cuda": "12.4", "arch_list": []}}
    for build in (tagged(tag, cuda="12.4"), tagged(tag, facts)):
        assert code(build, driver="470.199.02", gpu=gpu) == (expected if carries else "driver-too-old")


@pytest.mark.parametrize(
    ("capability", "expected"),
    [
        ("8.0", ""),
        ("8.6", ""),
        ("8.9", ""),
        ("9.0", ""),
        ("6.1", ""),
        ("10.0", "no-kernel-image"),
        ("12.0", "no-kernel-image"),
    ],
)
def test_code_runs_within_its_generation(capability: str, expected: str) -> None:
    """sm_86 serves 8.9, though 8.9 is in no list; nothing in torch 2.6 serves Blackwell."""
    assert code(TORCH_2_6, capability=capability) == expected


def test_a_dropped_generation_is_told_apart_from_a_new_one() -> None:
    """Volta is served by CUDA 12.8 builds of 2.9 and no more by those of 2.11."""
    tag = "pytorch/pytorch:{}-cuda12.8-cudnn9-runtime"
    assert code(tagged(tag.format("2.9.0")), capability="7.0") == ""
    assert code(tagged(tag.format("2.11.0")), capability="7.0") == "no-kernel-image"


def test_ptx_serves_newer_gpus_if_the_driver_can_compile_it() -> None:
    """Which takes the driver that its CUDA was released with."""
    assert code(TORCH_2_9, capability="12.1", driver="580.82.07") == ""
    assert code(TORCH_2_9, capability="13.0", driver="580.82.07") == ""
    assert code(TORCH_2_9, capability="13.0", driver="580.20") == "driver-too-old"
    assert code(TORCH_2_9, capability="9.0", driver="580.20") == ""


@pytest.mark.parametrize(
    ("architectures", "capability", "entry"),
    [
        (("sm_80", "sm_86"), "8.9", "sm_80"),
        (("sm_86",), "8.0", ""),
        (("sm_90",), "10.0", ""),
        (("sm_90a",), "9.0", "sm_90a"),
        (("sm_100a",), "10.3", ""),
        (("sm_100f",), "10.3", "sm_100f"),
        (("sm_100",), "12.0", ""),
        (("compute_80", "sm_90"), "9.0", "sm_90"),
        (("compute_80", "sm_75"), "9.0", "compute_80"),
        (("compute_90",), "8.9", ""),
        (("gfx90a",), "9.0", ""),
    ],
)
def test_what_a_gpu_can_run(architectures: tuple[str, ...], capability: str, entry: str) -> None:
    """The same generation and an equal or later revision; the very one for sm_XYa; PTX from there on."""
    assert runs_on(architectures, capability) == entry


def test_an_image_for_another_processor_is_named() -> None:
    """Whatever the two sides call it."""
    assert code(Build(machine="aarch64"), machine="x86_64") == "wrong-architecture"
    assert code(Build(machine="aarch64"), machine="arm64") == ""
    assert code(Build(machine="x86_64"), machine="amd64") == ""
    assert code(Build(machine="x86_64"), machine="") == ""


def test_what_the_image_itself_says_is_judged_alike() -> None:
    """With the architectures of its very build, official or not."""
    facts = {"machine": "x86_64", "torch": {"version": "2.7.0", "cuda": "12.8", "arch_list": ["sm_90", "compute_90"]}}
    assert code(tagged("acme/pytorch:2.7", facts), capability="12.0", driver="570.124.06") == ""
    assert code(tagged("acme/pytorch:2.7", facts), capability="8.0") == "no-kernel-image"
    assert predict(tagged("acme/pytorch:2.7", {"torch": None}), capability="8.0", driver="390.10") is None


@pytest.mark.parametrize(
    ("version", "expected"), [("2.6.0+cu124", "no-kernel-image"), ("2.6.0a0+ecf3bae40a.nv25.01", ""), ("2.6.0", "")]
)
def test_a_release_that_was_launched_without_a_gpu_is_still_known(version: str, expected: str) -> None:
    """An older torch says its architectures only where a GPU is; a build of somebody's own stays unknown."""
    facts = {"machine": "x86_64", "torch": {"version": version, "cuda": "12.4", "arch_list": []}}
    assert code(tagged("acme/pytorch:2.6", facts), capability="12.0") == expected


def test_predictions_are_reasons_that_blame_no_library() -> None:
    """Each with a sentence and the rule it follows from."""
    for build, host in [
        (TORCH_2_6, {"driver": "470.199.02"}),
        (TORCH_2_6, {"capability": "12.0", "gpu": "NVIDIA GeForce RTX 5090"}),
        (Build(machine="aarch64"), {"machine": "x86_64"}),
    ]:
        found = predict(build, **{"machine": "x86_64", **host})
        assert found is not None
        assert found.detail.endswith(".") and found.evidence
        assert REASONS[found.code].verdict.value == "unsupported"
        assert REASONS[found.code].blame != "library"


def test_the_tables_agree_with_each_other() -> None:
    """A CUDA of the build tables has a least driver, and no driver of its own is below that."""
    least = {major: tuple(map(int, text.split("."))) for major, text in TABLES["least-driver"].items()}
    for cuda, text in TABLES["own-driver"].items():
        assert tuple(map(int, text.split("."))) >= least[cuda.partition(".")[0]]
    for section in ("torch x86_64", "torch aarch64"):
        for build, architectures in TABLES[section].items():
            cuda = build.split()[1]
            assert cuda.partition(".")[0] in least
            assert "+PTX" not in architectures or cuda in TABLES["own-driver"]


def test_plan_says_what_cannot_run() -> None:
    """`compat plan` predicts it from the tag and the host's GPU, before anything is pulled."""
    from torch_compat_matrix.compat.preview import _warnings
    from torch_compat_matrix.runner.backends.base import Gpu

    class Host:
        """A host with a GPU that the image's build has no code for."""

        name = "docker"
        machine = "x86_64"

        def gpus(self) -> tuple[Gpu, ...]:
            """One Blackwell card."""
            return (Gpu(uuid="GPU-1", index=0, name="NVIDIA B200", memory=0, driver="580.95.05", capability="10.0"),)

    image = Image(name="x", tag="pytorch/pytorch:2.6.0-cuda12.4-cudnn9-runtime")
    (said,) = _warnings(image, None, Host())  # type: ignore[arg-type]
    assert said.startswith("  will not run on NVIDIA B200: no-kernel-image: ")


@pytest.mark.parametrize(
    ("foreseen", "verdict", "reason", "said"),
    [
        (True, "pass", "", "predicted driver-too-old"),
        (True, "unsupported", "driver-too-old", ""),
        (False, "unsupported", "no-kernel-image", "predicted nothing"),
        (False, "pass", "", ""),
        (False, "fail", "wrong-value", ""),
    ],
)
def test_disagreement_with_the_probe_is_said(foreseen: bool, verdict: str, reason: str, said: str) -> None:
    """The tables may be wrong, and so may the probe; where they agree nothing is said."""
    prediction = Prediction(code="driver-too-old", detail="d", evidence="e") if foreseen else None
    outcome = Outcome(
        check="i/l-1/sample",
        image="i",
        subject="l",
        version="1",
        probe="sample",
        verdict=Verdict(verdict),
        reason=reason,
        device="cuda",
    )
    found = disagreement(prediction, outcome)
    assert (said in found) if said else found == ""
