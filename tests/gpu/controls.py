"""The faults: each is a library that doubles a tensor in `plant`, and goes wrong there in one way.

Only torch is used, by what is the same from 2.6 to 2.13, and nothing is compiled: images without a compiler count too.
"""

from __future__ import annotations

from dataclasses import dataclass

SOUND = """
def double(x):
    return x * 2
"""
"""In every library: what the next probe asks for, which must pass after whatever the fault has left."""


@dataclass(frozen=True)
class Control:
    """One planted fault."""

    name: str
    """Of its module and of its distribution: letters alone, which both spell alike."""
    plants: str
    """What is planted, for the table."""
    library: str
    """Source of the library, SOUND aside; torch is imported."""
    expected: str | tuple[str, ...]
    """Verdict, and reason if there is one, of the probe that meets the fault; several where several are right."""
    note: str = ""
    """Words that must stand in its notes."""
    others: str = "pass"
    """What its import and the probe after the fault must come to."""
    hangs: bool = False
    """Whether the probe ends by its time limit alone, which is then a short one."""
    why: str = ""
    """Where it was met."""

    @property
    def right(self) -> tuple[str, ...]:
        """The expected ends of its sample probe."""
        return (self.expected,) if isinstance(self.expected, str) else self.expected


CONTROLS: tuple[Control, ...] = (
    # A view may claim more than its allocation holds: torch takes the protocol's word.  The one byte that is written
    # lies 64 TiB further, where no process has memory.  Reading the protocol needs NumPy.
    Control(
        "overruns",
        "a kernel writes past its allocation",
        """
def plant(x):
    class Claims:
        __cuda_array_interface__ = {
            "shape": (1 << 47,), "typestr": "|u1", "data": (x.data_ptr(), False), "strides": None, "version": 3,
        }
    torch.as_tensor(Claims(), device=x.device)[1 << 46 :][:1].fill_(1)
    return double(x)
""",
        "crash illegal-memory-access",
    ),
    # The index lies on the GPU, so that only the kernel can find it out of range.
    Control(
        "asserts",
        "a kernel asserts: an index is out of range",
        """
def plant(x):
    x[torch.tensor([x.numel() + 1], device=x.device)]
    return double(x)
""",
        "crash device-side-assert",
    ),
    Control(
        "oversized",
        "an allocation is twice as large as the card",
        """
def plant(x):
    torch.empty(2 * torch.cuda.get_device_properties(x.device).total_memory, dtype=torch.uint8, device=x.device)
    return double(x)
""",
        "oom cuda-out-of-memory",
    ),
    # The result is right and lies on the GPU; only the library's operators show where it was computed.
    Control(
        "disguised",
        "a library computes on the CPU and moves its result",
        """
def plant(x):
    return double(x.cpu()).to(x.device)
""",
        "fail wrong-device",
    ),
    # torch marks its forks as bad when it is asked for architectures, and CUDA is not initialised by that.
    Control(
        "poisoned",
        "an import touches the driver without initialising it",
        """
torch.cuda.get_arch_list()
plant = double
""",
        "pass",
        note="spoils forks",
    ),
    Control(
        "inexact",
        "a product is wrong by 1 %",
        """
def plant(x):
    return double(x) * 1.01
""",
        "fail wrong-value",
    ),
    # A kernel of torch's own that waits for so many cycles, some hours; it is private, and there in all these versions.
    Control(
        "hangs",
        "a kernel does not end",
        """
def plant(x):
    torch.cuda._sleep(1 << 44)
    return double(x)
""",
        ("timeout timeout", "timeout hang"),  # CUDA spins while it waits for a kernel, or sleeps
        hangs=True,
    ),
)

NO_DEVICE = Control(
    "unseen",
    "CUDA_VISIBLE_DEVICES names no GPU inside the launch",
    "plant = double",
    "infra gpu-mismatch",
    others="infra gpu-mismatch",
)
"""Run apart: the launch as a whole is broken, by BREAKS."""

BREAKS = """
import os, sys
if "compat_probes" in sys.orig_argv:
    os.environ["CUDA_VISIBLE_DEVICES"] = "GPU-00000000-0000-0000-0000-000000000000"
"""
"""A `sitecustomize.py`: what a probe host's interpreter does first, after the runner has set the variable."""

PROBES = """
from ..evidence import close

DISTRIBUTION = {name!r}
MODULE = {name!r}
NEEDS = ("torch",)


def ask(probe, function):
    import torch

    with probe.part(function.__name__):
        close(function(torch.ones(1000, device=probe.device)), 2 * torch.ones(1000), "what it doubles")


def sample(probe):
    import {name}

    ask(probe, {name}.plant)


def autograd(probe):
    import {name}

    ask(probe, {name}.double)
"""
"""The probes of each: `sample` meets the fault, and what is asked next must not meet it any more."""
