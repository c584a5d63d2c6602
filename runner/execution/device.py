"""Which image gets a GPU, what its probes work on, and whether a launch sees the GPU that was leased for it."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Literal

from torch_compat_matrix.runner.backends.base import Gpu
from torch_compat_matrix.runner.errors import Trouble
from torch_compat_matrix.runner.model import Image

if TYPE_CHECKING:
    from torch_compat_matrix.probes.contract import Facts


def wants_gpu(image: Image, gpus: Sequence[Gpu]) -> bool:
    """Whether the image's checks are to run on one of these GPUs."""
    return bool(gpus) and image.limits.gpus != "none"


def device_of(image: Image) -> Literal["cpu", "auto"]:
    """The device under test, as the work order names it; with `auto` the probe host takes a GPU where it sees one."""
    return "cpu" if image.limits.gpus == "none" else "auto"


def check_lease(image: Image, gpu: Gpu | None, facts: Facts) -> None:
    """Raise `gpu-mismatch` where a torch that was built for CUDA does not see exactly the GPU leased for it."""
    torch = facts["torch"]
    if gpu is None or torch is None or not torch["cuda"]:
        return
    seen = [card["uuid"].removeprefix("GPU-") for card in facts["gpus"]]
    if len(seen) != 1 or seen[0] not in {*gpu.bare_uuids, ""}:  # old torch does not tell the UUID
        raise Trouble("gpu-mismatch", f"{gpu.uuid} was leased, {image.name} sees {', '.join(seen) or 'no GPU'}")
