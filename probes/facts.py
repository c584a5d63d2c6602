"""The facts of the environment: Python, platform, packages with their requirements, torch, CUDA, GPUs, tools."""

from __future__ import annotations

import os
import platform
import pwd
import re
import shutil
import socket
import sys
import sysconfig
import warnings
from importlib import metadata
from typing import Any, Dict, List, Optional, cast

from .contract import Facts, GpuFacts, ImageFacts, LaunchFacts, Requirements, TorchFacts

TOOLS = (
    *("gcc", "g++", "cc", "c++", "clang", "nvcc", "ninja", "cmake", "git"),
    *("jupyter", "sshd", "pip", "conda", "nvidia-smi"),
)


def canonical(name: str) -> str:
    """The normalised name of a distribution (PEP 503)."""
    return re.sub(r"[-_.]+", "-", name).lower()


def gather(hidden: bool) -> Facts:
    """All facts that need no import of torch, within a second; `hidden` is one that the host knows."""
    return cast(Facts, {**_image(), **_launch(hidden), **_network(), "services": {}})


def _launch(hidden: bool) -> LaunchFacts:
    """The facts of this launch; torch names the GPUs later."""
    cpus = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    return {"user": _user(), "uid": os.getuid(), "cpus": cpus, "driver": _driver(), "hidden": hidden, "gpus": []}


def _network() -> Dict[str, bool]:
    """Whether a pod can connect to the API of its cluster, which a policy may forbid; empty elsewhere."""
    host, port = os.environ.get("KUBERNETES_SERVICE_HOST"), os.environ.get("KUBERNETES_SERVICE_PORT", "443")
    if not host:
        return {}
    try:
        socket.create_connection((host, int(port)), timeout=1).close()
    except (OSError, ValueError):
        return {"network": False}
    return {"network": True}


def _image() -> ImageFacts:
    """The facts of the image; torch tells later how it was built."""
    packages: Dict[str, str] = {}
    requirements: Dict[str, Requirements] = {}
    for distribution in metadata.distributions():
        name = distribution.metadata["Name"]
        if not name or canonical(name) in packages:  # the first on sys.path is imported
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


def gather_torch() -> TorchFacts:
    """How the image's torch was built; the calls may touch the driver, so they belong in a child of their own."""
    import torch

    return {
        "version": torch.__version__,
        "cuda": torch.version.cuda,
        "cudnn": torch.backends.cudnn.version() if torch.version.cuda else None,
        "arch_list": _architectures(torch) if torch.version.cuda else [],
        "cxx11_abi": bool(torch.compiled_with_cxx11_abi()),
        "location": os.path.dirname(torch.__file__),
    }


def _architectures(torch: Any) -> List[str]:
    """The architectures that torch has code for; older versions of `get_arch_list` name none without a GPU."""
    flags = getattr(getattr(torch, "_C", None), "_cuda_getArchFlags", None)
    return str(flags() or "").split() if flags else list(torch.cuda.get_arch_list())


def start_cuda() -> List[GpuFacts]:
    """The GPUs, once CUDA has started on them; raises what keeps CUDA from starting, even a warning."""
    import torch

    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        if not torch.cuda.is_available():
            reasons = [warning.message for warning in caught if "CUDA" in str(warning.message)]
            if reasons and isinstance(reasons[-1], Warning):
                raise reasons[-1]
            return []
    torch.cuda.init()
    torch.cuda.synchronize()  # makes the context, for which the device must be free and have memory
    return [_gpu(torch.cuda.get_device_properties(index)) for index in range(torch.cuda.device_count())]


def _gpu(properties: Any) -> GpuFacts:
    return {
        "name": properties.name,
        "uuid": str(getattr(properties, "uuid", "")),
        "capability": f"{properties.major}.{properties.minor}",
        "memory": int(properties.total_memory),
    }


OOM_COUNTS = ("/sys/fs/cgroup/memory.events", "/sys/fs/cgroup/memory/memory.oom_control", "/proc/vmstat")
"""The files that count processes killed for memory: of this control group (version 2 or 1), and of the machine."""


def oom_counts() -> List[Optional[int]]:
    """The counts of those files so far; None where one does not tell."""
    counts: List[Optional[int]] = []
    for path in OOM_COUNTS:
        try:
            with open(path) as stream:
                count = re.search(r"^oom_kill (\d+)", stream.read(), re.M)
        except OSError:
            count = None
        counts.append(int(count.group(1)) if count else None)
    return counts


def oom_kills(before: List[Optional[int]]) -> Optional[int]:
    """The processes of this control group that the kernel has killed for memory since those counts.

    None where nobody can tell: the kernel killed another's for memory, or counts none.
    """
    *groups, machine = [None if now is None or was is None else now - was for was, now in zip(before, oom_counts())]
    own = sum(count for count in groups if count)
    return own if own or machine == 0 else None


def _user() -> str:
    """The user's name; empty where the image has no entry for the user that the engine starts."""
    try:
        return pwd.getpwuid(os.getuid()).pw_name
    except KeyError:
        return ""


def _driver() -> str:
    """The NVIDIA driver's version, from its kernel module or NVML; empty where there is none."""
    try:
        with open("/proc/driver/nvidia/version") as stream:
            version = re.search(r"\s(\d+\.\d+(?:\.\d+)?)\s", stream.readline())
            if version:
                return version.group(1)
    except OSError:
        pass
    return _driver_by_nvml() or ""


def _driver_by_nvml() -> Optional[str]:
    """The version from NVML, which containers have where /proc/driver is hidden; this neither forks nor starts CUDA."""
    import ctypes

    try:
        nvml = ctypes.CDLL("libnvidia-ml.so.1")
    except OSError:
        return None
    if nvml.nvmlInit_v2() != 0:
        return None
    buffer = ctypes.create_string_buffer(96)
    succeeded = nvml.nvmlSystemGetDriverVersion(buffer, 96) == 0
    nvml.nvmlShutdown()
    return buffer.value.decode() if succeeded else None


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
