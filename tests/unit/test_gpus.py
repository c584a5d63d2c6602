"""GPUs are read from nvidia-smi's own listing, and one is never leased twice."""

from __future__ import annotations

import multiprocessing
import time
from pathlib import Path

from torch_compat_matrix.runner.backends.base import Gpu
from torch_compat_matrix.runner.backends.gpus import lease, parse

LISTING = """\
GPU-5d3f9f6e-0b1c-2f0e-8d7a-000000000001, 0, NVIDIA H200, 143771, 580.159.03, 9.0
GPU-5d3f9f6e-0b1c-2f0e-8d7a-000000000002, 1, NVIDIA A100-SXM4-80GB, [N/A], 580.159.03, 8.0
No devices were found
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


def hold(folder: Path, log: Path, seconds: float) -> None:
    """Lease, say so, hold."""
    with lease([gpu(0), gpu(1)], folder) as leased, log.open("a") as stream:
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


def test_a_dead_owner_frees_its_lease(tmp_path: Path) -> None:
    """The kernel does, however it died."""
    log = tmp_path / "log"
    holder = multiprocessing.get_context("spawn").Process(target=hold, args=(tmp_path / "locks", log, 1000))
    holder.start()
    with lease([gpu(1)], tmp_path / "locks"):
        pass
    while not log.exists():
        time.sleep(0.01)
    holder.kill()
    holder.join()
    with lease([gpu(0)], tmp_path / "locks") as leased:
        assert leased.uuid == "GPU-0"
