"""The runner decides the device: the leased GPU, if any; a GPU that cannot be used is trouble with a reason."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from torch_compat_matrix.runner.backends.base import Gpu
from torch_compat_matrix.runner.errors import Trouble
from torch_compat_matrix.runner.model import Image
from torch_compat_matrix.runner.verdicts.classify import classify
from torch_compat_matrix.runner.verdicts.reasons import REASONS

if TYPE_CHECKING:
    from torch_compat_matrix.probes.contract import Facts, ImageFacts

UNNAMED = ("unclassified", "unclassified-death", "cuda-error")
"""Reasons that name no cause."""

BESIDE_A_GPU = "the image's torch is built without CUDA, so that this ran on the CPU although the host has a GPU"


def wants_gpu(image: Image, gpus: Sequence[Gpu]) -> bool:
    """Whether the image's checks are to run on one of these GPUs, as far as the matrix says."""
    return bool(gpus) and image.limits.gpus != "none"


def uses_gpu(image: Image, gpus: Sequence[Gpu], facts: ImageFacts) -> bool:
    """Whether its checks run on a GPU: not where its torch is built without CUDA; Trouble where it must be a GPU."""
    if not wants_gpu(image, gpus):
        return False
    torch = facts["torch"]
    if "torch" in facts["packages"] and (torch is None or torch["cuda"]):
        return True
    if image.limits.gpus_demanded:
        cause = f"torch {torch['version']} is built without CUDA" if torch else "the image holds no torch"
        raise Trouble("cpu-only-torch", f"{image.name} demands a GPU, and {cause}")
    return False


def check_lease(image: Image, gpu: Gpu | None, facts: Facts) -> None:
    """Raise the trouble that keeps the leased GPU from being used: its own, or `gpu-mismatch` for another GPU."""
    if gpu is None:
        return
    error = facts.get("cuda_error") or facts.get("torch_error")
    if error is not None:
        observation = {"status": "raised" if "exception" in error else "died", "member": "torch", **error}
        classified = classify(observation, facts, image.limits)
        unnamed = "cuda-not-started" if "cuda_error" in facts else "no-torch"
        code = unnamed if classified.reason in UNNAMED else classified.reason
        detail = REASONS[code].text("cause") if code == unnamed else classified.detail
        words = classified.evidence or str(error["message"])
        raise Trouble(code, f"{gpu.name} was leased for {image.name}: {detail}", classified.remedy, words)
    seen = [card["uuid"].removeprefix("GPU-") for card in facts["gpus"]]
    leased = {uuid for one in gpu.all for uuid in one.bare_uuids}
    if len(seen) != len(gpu.all) or not (gpu.uuid == "" or {*seen} <= {*leased, ""}):  # old torch does not tell it
        uuids = ", ".join(one.uuid for one in gpu.all)
        raise Trouble("gpu-mismatch", f"{uuids} was leased, {image.name} sees {', '.join(seen) or 'no GPU'}")
