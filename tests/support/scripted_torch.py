"""A package called torch that computes nothing and does what its script says: a GPU host without a GPU.

The script is JSON: the one that `write` puts beside the package, and over it the one in the variable SCRIPTED_TORCH of
the process that imports it.  Keys, with their defaults in DEFAULT:

- `version`, `cuda`: `torch.__version__` and `torch.version.cuda` (None: a build without CUDA);
- `gpus`: what NVML sees, each with name, uuid, major, minor and total_memory; CUDA_VISIBLE_DEVICES limits it, by UUID
  or index;
- `warning`: `is_available()` warns so and answers False;
- `start`: the message with which CUDA does not start, at the first call that needs it;
- `at_import`: what the import itself calls: `init`, `device_count`, `get_arch_list`;
- `poisoning`: which calls spoil forks without initialising, as the driver's own do;
- `allocations`: how many allocations there were, call by call of `memory_stats` (the last one for good);
- `peak`: `max_memory_allocated()`;
- `synchronize`: what is raised, call by call of `synchronize` (null, and after the last one: nothing);
- `numbers`: whether there are lists of numbers, which are drawn, multiplied, summed and derived;
- `tensors`: whether there are tensors, of one number each, whose operators a dispatch mode sees; a fault on the GPU
  shows, in torch's words, where the device is waited for.
"""

from __future__ import annotations

import json
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any
from zipfile import ZipFile

DEFAULT: dict[str, Any] = {
    "version": "2.9.0+cu128",
    "cuda": "12.8",
    "gpus": [
        {"name": "NVIDIA A100", "uuid": "GPU-a", "major": 8, "minor": 0, "total_memory": 40 << 30},
    ],
    "warning": "",
    "start": "",
    "at_import": [],
    "poisoning": ["get_arch_list"],
    "allocations": [0, 1],
    "peak": 1 << 20,
    "synchronize": [],
    "numbers": False,
    "tensors": False,
}


def write(folder: Path, **script: Any) -> Path:
    """Put the package into the folder, which then belongs on `sys.path`; returns the folder."""
    unknown = set(script) - set(DEFAULT)
    if unknown:
        raise KeyError(f"no such key of a script: {sorted(unknown)}")
    whole = {**DEFAULT, **script}
    package = folder / "torch"
    package.mkdir(parents=True)
    (package / "script.json").write_text(json.dumps(whole))
    (package / "__init__.py").write_text(_PACKAGE)
    (package / "cuda.py").write_text(_CUDA)
    if whole["numbers"]:
        (package / "numbers.py").write_text(_NUMBERS)
    if whole["tensors"]:
        (package / "tensors.py").write_text(_TENSORS)
        (package / "utils").mkdir()
        (package / "utils" / "__init__.py").write_text("")
        (package / "utils" / "_python_dispatch.py").write_text(_DISPATCH)
    info = folder / f"torch-{whole['version']}.dist-info"
    info.mkdir()
    (info / "METADATA").write_text(f"Metadata-Version: 2.1\nName: torch\nVersion: {whole['version']}\n")
    (info / "RECORD").write_text("")
    return folder


def wheel(folder: Path, **script: Any) -> Path:
    """The package as a wheel, for an environment that installs it."""
    version = script.get("version", DEFAULT["version"])
    path = folder / f"torch-{version}-py3-none-any.whl"
    with TemporaryDirectory() as unpacked, ZipFile(path, "w") as archive:
        for file in write(Path(unpacked, "package"), **script).rglob("*"):
            archive.write(file, file.relative_to(Path(unpacked, "package")))
        tags = "Wheel-Version: 1.0\nRoot-Is-Purelib: true\nTag: py3-none-any\n"
        archive.writestr(f"torch-{version}.dist-info/WHEEL", tags)
    return path


def distribution(folder: Path, name: str, body: str = "") -> None:
    """A library that does nothing, with the metadata of a distribution."""
    (folder / f"{name}-1.0.dist-info").mkdir()
    (folder / f"{name}-1.0.dist-info" / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {name}\nVersion: 1.0\n")
    (folder / f"{name}.py").write_text(f"__version__ = '1.0'\n{body}\n")


_PACKAGE = """
import json, os
from types import SimpleNamespace

with open(os.path.join(os.path.dirname(__file__), "script.json")) as stream:
    script = json.load(stream)
script.update(json.loads(os.environ.get("SCRIPTED_TORCH") or "{}"))
__version__ = script["version"]
version = SimpleNamespace(cuda=script["cuda"], hip=None)
matmul = SimpleNamespace(allow_tf32=False)
cudnn = SimpleNamespace(allow_tf32=True, version=lambda: 91002)
backends = SimpleNamespace(cuda=SimpleNamespace(matmul=matmul), cudnn=cudnn)


class device:
    def __init__(self, name):
        self.type = str(name).partition(":")[0]

    def __str__(self):
        return self.type


def compiled_with_cxx11_abi():
    return True


def set_float32_matmul_precision(name):
    matmul.allow_tf32 = name != "highest"


from . import cuda

if script["numbers"]:
    from .numbers import *
if script["tensors"]:
    from .tensors import *

for name in script["at_import"]:
    getattr(cuda, name)()
"""

_NUMBERS = """
import random, statistics

manual_seed = random.seed


class Tensor:
    def __init__(self, values, requires_grad=False):
        self.values, self.requires_grad, self.grad, self.inputs = list(values), requires_grad, None, ()

    def mean(self):
        return statistics.fmean(self.values)

    def std(self):
        return statistics.stdev(self.values)

    def __mul__(self, other):
        product = Tensor(one * two for one, two in zip(self.values, other.values))
        product.inputs = ((self, other), (other, self))
        return product

    def sum(self):
        total = Tensor([sum(self.values)])
        total.inputs = self.inputs
        return total

    def backward(self):
        for tensor, factor in self.inputs:
            if tensor.requires_grad:
                tensor.grad = factor


def randn(count):
    return Tensor(random.gauss(0, 1) for _ in range(count))


def ones(count, requires_grad=False):
    return Tensor([1.0] * count, requires_grad)


def tensor(values):
    return Tensor(values)


def equal(one, two):
    return one.values == two.values
"""

_CUDA = """
import os, time, warnings
from types import SimpleNamespace

from . import script, version

state = SimpleNamespace(initialised=False, poisoned=False, bad_fork=False, fault="", busy_s=0.0)
calls = {"memory_stats": 0, "synchronize": 0}


def after_fork():
    state.bad_fork = state.initialised or state.poisoned
    state.initialised = False


os.register_at_fork(after_in_child=after_fork)


def asks(name):
    state.poisoned = state.poisoned or name in script["poisoning"]


def seen():
    visible = os.environ.get("CUDA_VISIBLE_DEVICES")
    named = None if visible is None else visible.split(",")
    return [gpu for index, gpu in enumerate(script["gpus"]) if named is None or {str(index), gpu["uuid"]} & {*named}]


def init():
    if state.initialised:
        return
    if version.cuda is None:
        raise AssertionError("Torch not compiled with CUDA enabled")
    if state.bad_fork:
        raise RuntimeError(
            "Cannot re-initialize CUDA in forked subprocess. To use CUDA with multiprocessing, "
            "you must use the 'spawn' start method"
        )
    if script["start"]:
        raise RuntimeError(script["start"])
    if not seen():
        raise RuntimeError("No CUDA GPUs are available")
    state.initialised = True


def is_initialized():
    return state.initialised and not state.bad_fork


def _is_in_bad_fork():
    return state.bad_fork


def device_count():
    asks("device_count")
    return len(seen()) if version.cuda else 0


def is_available():
    if script["warning"]:
        warnings.warn(script["warning"])
        return False
    return device_count() > 0


def get_arch_list():
    asks("get_arch_list")
    return ["sm_80", "sm_90"] if version.cuda else []


def get_device_properties(device=None):
    init()
    index = device if isinstance(device, int) else 0
    return SimpleNamespace(multi_processor_count=108, **seen()[index])


def current_device():
    init()
    return 0


def step(name):
    planned = script["allocations" if name == "memory_stats" else name] or [None]
    index, calls[name] = calls[name], calls[name] + 1
    last = planned[-1] if name == "memory_stats" else None
    return planned[index] if index < len(planned) else last


def memory_stats(device=None):
    return {"allocation.all.allocated": step("memory_stats")} if state.initialised else {}


def max_memory_allocated(device=None):
    return script["peak"]


def reset_peak_memory_stats(device=None):
    init()


def memory_allocated(device=None):
    return 0


def synchronize(device=None):
    init()
    time.sleep(state.busy_s)
    said = state.fault or step("synchronize")  # a fault stays: the context is lost with it
    if said:
        raise RuntimeError(said)


def _sleep(cycles):
    state.busy_s += cycles / 1e9
"""

_DISPATCH = """
from types import SimpleNamespace

modes = []


class TorchDispatchMode:
    def __enter__(self):
        modes.append(self)

    def __exit__(self, *error):
        modes.remove(self)


def show(name, out):
    def operator():
        return out

    operator._schema = SimpleNamespace(name="aten::" + name, returns=[SimpleNamespace(alias_info=None)])
    return modes[-1].__torch_dispatch__(operator, ()) if modes else out
"""

_TENSORS = """
import math

from . import cuda, device
from .utils._python_dispatch import show

uint8 = "torch.uint8"
ASSERTED = "CUDA error: device-side assert triggered"
ILLEGAL = "CUDA error: an illegal memory access was encountered"


class OutOfMemoryError(RuntimeError):
    pass


class Tensor:
    shape, dtype = (), "torch.float32"

    def __init__(self, value, where):
        self.value, self.device = value, device(where)
        if self.device.type == "cuda":
            cuda.init()

    def detach(self):
        return self

    double = sum = max = detach

    def numel(self):
        return 1

    def data_ptr(self):
        return 4096

    def to(self, where):
        if self.device.type == "cuda":
            cuda.synchronize()
        return Tensor(self.value, where)

    def cpu(self):
        return self.to("cpu")

    def abs(self):
        return show("abs", Tensor(abs(self.value), self.device))

    def __mul__(self, other):
        return show("mul", Tensor(self.value * float(other), self.device))

    __rmul__ = __mul__

    def __sub__(self, other):
        return show("sub", Tensor(self.value - float(other), self.device))

    def __invert__(self):
        return Tensor(not self.value, self.device)

    def __float__(self):
        return float(self.value)

    def __int__(self):
        return int(self.value)

    def __getitem__(self, key):
        if isinstance(key, Tensor) and key.value >= self.numel():
            cuda.state.fault = ASSERTED
        return self


class Claimed(Tensor):
    def fill_(self, value):
        cuda.state.fault = ILLEGAL


def as_tensor(data, device="cpu"):
    return Claimed(0, device) if hasattr(data, "__cuda_array_interface__") else data


def tensor(data, device="cpu"):
    return Tensor(data[0], device)


def ones(count, device="cpu"):
    return Tensor(1.0, device)


def isfinite(tensor):
    return Tensor(math.isfinite(tensor.value), tensor.device)


def empty(count, dtype, device):
    total = cuda.get_device_properties(device).total_memory
    if count > total:
        raise OutOfMemoryError(
            f"CUDA out of memory. Tried to allocate {count / 2**30:.2f} GiB. GPU 0 has a total capacity of "
            f"{total / 2**30:.2f} GiB of which {total / 2**30:.2f} GiB is free."
        )
"""
