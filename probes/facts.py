"""What the environment is: Python, platform, packages with their requirements, torch, CUDA, GPUs, tools."""

from __future__ import annotations

import os
import platform
import re
import shutil
import sys
import sysconfig
from importlib import metadata
from typing import Any, Dict, List, Optional, cast

from .contract import Facts, GpuFacts, ImageFacts, LaunchFacts, Requirements, TorchFacts

TOOLS = (
    "gcc",
    "g++",
    "cc",
    "c++",
    "clang",
    "nvcc",
    "ninja",
    "cmake",
    "git",
    "jupyter",
    "sshd",
    "pip",
    "conda",
    "nvidia-smi",
)


def canonical(name: str) -> str:
    """The normalised name of a distribution (PEP 503)."""
    return re.sub(r"[-_.]+", "-", name).lower()


def gather() -> Facts:
    """Everything that can be told without importing torch, within a second."""
    return cast(Facts, {**_image(), **_launch(), "services": {}})


def _launch() -> LaunchFacts:
    """What this launch gives the image; torch names the GPUs later."""
    cpus = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    return {"cpus": cpus, "driver": _driver(), "gpus": []}


def _image() -> ImageFacts:
    """What the image holds; torch tells how it was built later."""
    packages: Dict[str, str] = {}
    requirements: Dict[str, Requirements] = {}
    for distribution in metadata.distributions():
        name = distribution.metadata["Name"]
        if not name or canonical(name) in packages:  # the first on sys.path is the one that imports
            continue
        name = canonical(name)
        packages[name] = distribution.version or ""
        requirements[name] = {
            "requires": list(distribution.requires or ()),
            "extras": distribution.metadata.get_all("Provides-Extra") or [],
        }
    return {
        "python": platform.python_version(),
        "implementation": sys.implementation.name,
        "abi": f"cp{sys.version_info[0]}{sys.version_info[1]}",
        "platform": sys.platform,
        "machine": platform.machine(),
        "glibc": platform.libc_ver()[1],
        "os": _os_name(),
        "packages": packages,
        "metadata": requirements,
        "tools": {tool: path for tool in TOOLS for path in [shutil.which(tool)] if path},
        "externally_managed": os.path.exists(os.path.join(sysconfig.get_path("stdlib"), "EXTERNALLY-MANAGED")),
        "torch": None,
    }


def gather_torch() -> Dict[str, Any]:
    """What torch says of itself and of the GPUs; initialises CUDA, so it belongs in a child of its own."""
    return {"torch": _torch(), "gpus": _gpus()}


def _torch() -> TorchFacts:
    import torch

    return {
        "version": torch.__version__,
        "cuda": torch.version.cuda,
        "cudnn": torch.backends.cudnn.version() if torch.version.cuda else None,
        "arch_list": list(torch.cuda.get_arch_list()) if torch.version.cuda else [],
        "cxx11_abi": bool(torch.compiled_with_cxx11_abi()),
        "location": os.path.dirname(torch.__file__),
    }


def _gpus() -> List[GpuFacts]:
    import torch

    if not torch.cuda.is_available():
        return []
    return [_gpu(torch.cuda.get_device_properties(index)) for index in range(torch.cuda.device_count())]


def _gpu(properties: Any) -> GpuFacts:
    return {
        "name": properties.name,
        "uuid": str(getattr(properties, "uuid", "")),
        "capability": f"{properties.major}.{properties.minor}",
        "memory": int(properties.total_memory),
    }


def oom_kills() -> int:
    """How many processes of this control group the kernel has killed for memory; 0 where it does not say."""
    for path in ("/sys/fs/cgroup/memory.events", "/sys/fs/cgroup/memory/memory.oom_control"):
        try:
            with open(path) as stream:
                found = re.search(r"^oom_kill (\d+)", stream.read(), re.M)
        except OSError:
            continue
        if found:
            return int(found.group(1))
    return 0


def _driver() -> str:
    """The NVIDIA driver's version, as its kernel module or nvidia-smi says; empty where there is none."""
    try:
        with open("/proc/driver/nvidia/version") as stream:
            found = re.search(r"\s(\d+\.\d+(?:\.\d+)?)\s", stream.readline())
            if found:
                return found.group(1)
    except OSError:
        pass
    return _driver_by_nvml() or ""


def _driver_by_nvml() -> Optional[str]:
    """Ask NVML, which containers have where /proc/driver is hidden; no process is started and CUDA stays untouched."""
    import ctypes

    try:
        nvml = ctypes.CDLL("libnvidia-ml.so.1")
    except OSError:
        return None
    if nvml.nvmlInit_v2() != 0:
        return None
    buffer = ctypes.create_string_buffer(96)
    found = nvml.nvmlSystemGetDriverVersion(buffer, 96) == 0
    nvml.nvmlShutdown()
    return buffer.value.decode() if found else None


def _os_name() -> str:
    lines: List[str] = []
    try:
        with open("/etc/os-release") as stream:
            lines = stream.read().splitlines()
    except OSError:
        pass
    for line in lines:
        if line.startswith("PRETTY_NAME="):
            return line.partition("=")[2].strip().strip('"')
    return platform.platform()
