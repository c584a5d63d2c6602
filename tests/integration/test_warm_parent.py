"""The warm process forks its children, so nothing that it imports may call the CUDA driver.

`is_available` and `device_count` may be asked: with PYTORCH_NVML_BASED_CUDA_CHECK, which the probe host sets, NVML
counts (torch 2.9's inductor asks the first when it is imported).
"""

from __future__ import annotations

import json
import subprocess

import pytest

from tests.support import ROOT
from tests.support.environments import environment

WATCH = """
import json, sys
asked = []
NAMES = ("init", "_lazy_init", "get_device_properties", "get_device_capability", "get_device_name", "get_arch_list",
         "current_device", "mem_get_info", "synchronize")

def watch(frame, event, argument):
    code = frame.f_code
    if event == "call" and code.co_name in NAMES and "torch/cuda" in code.co_filename:
        asked.append(f"{code.co_name} by {frame.f_back.f_code.co_filename}:{frame.f_back.f_lineno}")

sys.settrace(watch)  # of calls alone, and of no C function: a profile takes several times as long
import torch
from torch_compat_matrix.probes.compiling import prepare
prepare("cuda")
sys.settrace(None)
print(json.dumps(asked))
"""

TORCH = {
    "2.13": ("torch==2.13.0", "numpy"),
    "2.9": ("torch==2.9.0", "torchvision==0.24.0", "torchaudio==2.9.0", "numpy", "setuptools"),
    "2.6": ("torch==2.6.0", "torchvision==0.21.0", "torchaudio==2.6.0", "numpy<2.3", "setuptools"),
}
"""The stand-ins of matrix.yaml."""


@pytest.mark.parametrize(
    "release", ["2.13", pytest.param("2.9", marks=pytest.mark.slow), pytest.param("2.6", marks=pytest.mark.slow)]
)
def test_nothing_asks_cuda_before_the_fork(release: str) -> None:
    """Neither torch nor what torch.compile needs asks for a device's properties, or initialises CUDA."""
    python = environment(*TORCH[release])
    done = subprocess.run(
        [python, "-c", WATCH],
        env={"PYTHONPATH": str(ROOT / "src"), "PATH": "/usr/bin:/bin", "PYTORCH_NVML_BASED_CUDA_CHECK": "1"},
        capture_output=True,
        text=True,
        check=True,
        timeout=280,
    )
    assert json.loads(done.stdout.splitlines()[-1]) == []
