"""GPUs are read from nvidia-smi's own listing, and one is never leased twice."""

from __future__ import annotations

import multiprocessing
import time
from dataclasses import replace
from pathlib import Path

import pytest

from torch_compat_matrix.runner.backends import gpus
from torch_compat_matrix.runner.backends.base import Gpu
from torch_compat_matrix.runner.backends.gpus import chosen, lease, parse
from torch_compat_matrix.runner.errors import Trouble

LISTING = """\
GPU-5d3f9f6e-0b1c-2f0e-8d7a-000000000001, 0, NVIDIA H200, 143771, 580.159.03, 9.0, Disabled
GPU-5d3f9f6e-0b1c-2f0e-8d7a-000000000002, 1, NVIDIA A100-SXM4-80GB, [N/A], 580.159.03, 8.0, Enabled
No devices were found
"""

INSTANCES = """\
GPU 0: NVIDIA H200 (UUID: GPU-5d3f9f6e-0b1c-2f0e-8d7a-000000000001)
GPU 1: NVIDIA A100-SXM4-80GB (UUID: GPU-5d3f9f6e-0b1c-2f0e-8d7a-000000000002)
  MIG 3g.40gb     Device  0: (UUID: MIG-c6d4f1ef-42e4-5de3-91c7-45d71c87eb3f)
  MIG 1g.10gb     Device  1: (UUID: MIG-aaaaaaaa-0000-1111-2222-333333333333)
"""


def gpu(number: int) -> Gpu:
    """A GPU of that number."""
    return Gpu(uuid=f"GPU-{number}", index=number, name="a GPU", memory=0, driver="1.0")


def test_listing_is_read() -> None:
    """Memory in bytes; what is not a GPU is passed over."""
    first, second = parse(LISTING)
    assert (first.index, first.name, first.memory, first.driver) == (0, "NVIDIA H200", 143771 << 20, "580.159.03")
    assert (first.capability, second.capability) == ("9.0", "8.0")
    assert (second.uuid[-1], second.memory) == ("2", 0)
    assert (first.mig, second.mig) == (False, True)


def ask(arguments: tuple[str, ...]) -> tuple[int, str]:
    """An nvidia-smi that is asked for instances alone."""
    assert arguments == ("-L",)
    return 0, INSTANCES


@pytest.mark.parametrize(
    ("wanted", "taken"),
    [
        (None, [0, 1, 2]),
        ("1", [1]),
        ("2, 0", [2, 0]),
        ("GPU-1", [1]),
        ("GPU-0,GPU-2", [0, 2]),
        ("0,-1,1", [0]),
        ("0,7,1", [0]),
        ("GPU-1,GPU-,GPU-2", [1]),
        ("1,1", []),
    ],
)
def test_the_callers_limit_is_followed(wanted: str | None, taken: list[int]) -> None:
    """By index or by the beginning of a UUID, up to the first entry that is none, in the order given; as CUDA does."""
    variables = {} if wanted is None else {"CUDA_VISIBLE_DEVICES": wanted}
    assert [found.index for found in chosen([gpu(0), gpu(1), gpu(2)], variables, ask)] == taken


@pytest.mark.parametrize("wanted", ["7", "GPU-9", "GPU-", "MIG-0", "some"])
def test_a_limit_that_names_no_gpu_is_told(wanted: str) -> None:
    """It is not the same as a limit to none, and never a reason for the CPU."""
    with pytest.raises(Trouble, match="begins with no GPU") as raised:
        chosen([gpu(0), gpu(1)], {"CUDA_VISIBLE_DEVICES": wanted}, ask)
    assert raised.value.code == "gpu-not-chosen"


def test_indices_of_different_gpus_need_an_order() -> None:
    """CUDA counts the fastest first, nvidia-smi by PCI bus; between equal GPUs the order is taken to be the same."""
    different = [gpu(0), replace(gpu(1), name="another")]
    with pytest.raises(Trouble, match="fastest first") as raised:
        chosen(different, {"CUDA_VISIBLE_DEVICES": "1"}, ask)
    assert "CUDA_DEVICE_ORDER=PCI_BUS_ID" in raised.value.remedy
    ordered = {"CUDA_VISIBLE_DEVICES": "1", "CUDA_DEVICE_ORDER": "PCI_BUS_ID"}
    assert chosen(different, ordered, ask) == (different[1],)
    assert chosen(different, {"CUDA_VISIBLE_DEVICES": "GPU-1"}, ask) == (different[1],)


def test_a_gpu_in_mig_mode_is_leased_by_instance() -> None:
    """Only by one that is named; the GPU itself, and an unnamed instance of it, are refused by name."""
    both = parse(LISTING)
    for variables in ({}, {"CUDA_VISIBLE_DEVICES": both[1].uuid}):
        with pytest.raises(Trouble, match=r"A100.* is in MIG mode") as raised:
            chosen(both, variables, ask)
        assert "nvidia-smi -L" in raised.value.remedy
    (instance,) = chosen(both, {"CUDA_VISIBLE_DEVICES": "MIG-aaaaaaaa-0000-1111-2222-333333333333"}, ask)
    assert (instance.name, instance.parent) == ("NVIDIA A100-SXM4-80GB MIG 1g.10gb", both[1].uuid)
    assert (instance.driver, instance.capability, instance.mig) == ("580.159.03", "8.0", False)
    assert chosen(both, {"CUDA_VISIBLE_DEVICES": both[0].uuid}, ask) == both[:1]


def test_what_torch_may_call_a_gpu() -> None:
    """Prefixes off; an instance may be called by its own UUID or by its GPU's."""
    assert gpu(1).bare_uuids == {"1"}
    assert replace(gpu(1), uuid="MIG-5", parent="GPU-1").bare_uuids == {"5", "1"}


def hold(folder: Path, log: Path, seconds: float) -> None:
    """Lease, say so, hold."""
    gpus.PLACE = folder
    with lease([gpu(0), gpu(1)]) as leased, log.open("a") as stream:
        stream.write(f"{leased.uuid} {time.monotonic()} ")
        time.sleep(seconds)
        stream.write(f"{time.monotonic()}\n")


def test_a_gpu_is_leased_once(tmp_path: Path) -> None:
    """Four processes on two GPUs: holds of the same GPU never overlap."""
    context = multiprocessing.get_context("spawn")
    logs = [tmp_path / f"log-{number}" for number in range(4)]
    holders = [context.Process(target=hold, args=(tmp_path / "locks", log, 0.2)) for log in logs]
    for holder in holders:
        holder.start()
    for holder in holders:
        holder.join(30)
    holds = sorted(log.read_text().split() for log in logs)
    assert {uuid for uuid, _, _ in holds} <= {"GPU-0", "GPU-1"}
    for before, after in zip(holds, holds[1:], strict=False):
        assert before[0] != after[0] or float(before[2]) <= float(after[1])


def test_a_dead_owner_frees_its_lease(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The kernel does, however it died."""
    monkeypatch.setattr(gpus, "PLACE", tmp_path / "locks")
    log = tmp_path / "log"
    holder = multiprocessing.get_context("spawn").Process(target=hold, args=(tmp_path / "locks", log, 1000))
    holder.start()
    with lease([gpu(1)]):
        pass
    while not log.exists():
        time.sleep(0.01)
    holder.kill()
    holder.join()
    with lease([gpu(0)]) as leased:
        assert leased.uuid == "GPU-0"
