"""The runner decides the device: a GPU where one is leased, and what follows where that GPU cannot be used."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from torch_compat_matrix.runner.backends.base import Gpu
from torch_compat_matrix.runner.errors import Trouble
from torch_compat_matrix.runner.model import Image
from torch_compat_matrix.runner.verdicts.classify import classify
from torch_compat_matrix.runner.verdicts.rules import REASONS

if TYPE_CHECKING:
    from torch_compat_matrix.probes.contract import Facts, ImageFacts

UNNAMED = ("unclassified", "unclassified-death", "cuda-error")
"""Reasons that say no more than that something went wrong."""

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
    if image.limits.gpus == "required":
        what = f"torch {torch['version']} is built without CUDA" if torch else "the image holds no torch"
        raise Trouble("cpu-only-torch", f"{image.name} demands a GPU, and {what}")
    return False


def check_lease(image: Image, gpu: Gpu | None, facts: Facts) -> None:
    """Raise what keeps the leased GPU from being used: by its own reason, or `gpu-mismatch` where it is not seen."""
    if gpu is None:
        return
    error = facts.get("cuda_error") or facts.get("torch_error")
    if error is not None:
        observation = {"status": "raised" if "exception" in error else "died", "member": "torch", **error}
        found = classify(observation, facts, image.limits)
        unnamed = "cuda-not-started" if "cuda_error" in facts else "no-torch"
        code = unnamed if found.reason in UNNAMED else found.reason
        detail = REASONS[code].cause if code == unnamed else found.detail
        words = found.evidence or str(error["message"])
        raise Trouble(code, f"{gpu.name} was leased for {image.name}: {detail}", found.remedy, words)
    seen = [card["uuid"].removeprefix("GPU-") for card in facts["gpus"]]
    if len(seen) != 1 or seen[0] not in {*gpu.bare_uuids, ""}:  # old torch does not tell the UUID
        raise Trouble("gpu-mismatch", f"{gpu.uuid} was leased, {image.name} sees {', '.join(seen) or 'no GPU'}")
