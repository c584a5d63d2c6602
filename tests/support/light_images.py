"""Stand-ins whose torch computes nothing and whose libraries are tiny: for runs that are about the runner, not torch.

`put` writes packages and probes into the folder of a matrix that holds LOCAL and names `./probes`; `variables` are
those of the environment in which pip sees these packages and no other.
"""

from __future__ import annotations

import os
from pathlib import Path

from tests.support import scripted_torch, tinywheels
from torch_compat_matrix.runner.model import Local
from torch_compat_matrix.runner.packages import standin
from torch_compat_matrix.runner.packages.pip_config import Index

LOCAL = 'local: { python: "3.11", requires: ["torch==2.13.0"] }'
"""What the matrix says of an image."""

WANTS_TORCH_1 = "import torch\nassert torch.__version__.startswith('1.'), torch.__version__\n"

_PROBES = """
import time

DISTRIBUTION = {name!r}
MODULE = {module!r}
NEEDS = ("torch",)


def sample(probe):
    import torch

    time.sleep({seconds})


def autograd(probe):
    import torch

    time.sleep({seconds})
"""


def put(folder: Path, *, seconds: float = 0) -> None:
    """torch 2.13.0, torchbnn 1.2, pyro-ppl 1.8.0 (which asserts torch 1) and 1.9.1; each probe but import sleeps."""
    links = folder / "links"
    tinywheels.wheel(links, "torchbnn", "1.2", "torch")
    for version, code in (("1.8.0", WANTS_TORCH_1), ("1.9.1", "")):
        tinywheels.wheel(
            links, "pyro-ppl", version, "torch", files={"pyro/__init__.py": f"{code}__version__ = {version!r}\n"}
        )
    scripted_torch.wheel(links, version="2.13.0+cpu", cuda=None, gpus=[])
    (folder / "probes").mkdir()
    for name, module in {"torchbnn": "torchbnn", "pyro-ppl": "pyro"}.items():
        text = _PROBES.format(name=name, module=module, seconds=seconds)
        (folder / "probes" / f"{name.replace('-', '_')}.py").write_text(text)


def variables(folder: Path) -> dict[str, str]:
    """The variables of a process, with an index that has the packages of the folder alone."""
    clean = {name: value for name, value in os.environ.items() if not name.startswith(("PIP_", "UV_"))}
    offered = {"PIP_FIND_LINKS": str(folder / "links"), "PIP_NO_INDEX": "1", "PIP_CONFIG_FILE": os.devnull}
    return {**clean, **offered, "UV_CACHE_DIR": str(folder / "uv")}


def python(folder: Path) -> str:
    """An interpreter of such a stand-in, built in the folder."""
    put(folder)
    local = Local(python="3.11", requires=("torch==2.13.0",))
    return str(standin.build(local, folder / "home", Index.from_pip(variables(folder)), gpu=False).python)
