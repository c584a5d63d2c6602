"""Build lines: torch and the packages compiled against it are built for the CPU, or for one CUDA."""

from __future__ import annotations

import re
from collections.abc import Mapping
from pathlib import Path

from torch_compat_matrix.runner.packages.pip_config import Index
from torch_compat_matrix.runner.pins import HASH, canonical, name_of, version_of

CPU_INDEX = ("--torch-backend", "cpu")
"""uv's flags for the CPU line of torch and its companions, from PyTorch's own index."""
CPU_INDEX_VARIABLES = {"UV_HTTP_TIMEOUT": "10", "UV_HTTP_RETRIES": "0"}
"""Keep uv from waiting long for that index: the plain one is used then."""

_LINKED = re.compile(rb"\blib(?:(torch_cuda|c10_cuda)|torch|torch_cpu|c10)\.so|\blibcudart[.\w-]*?\.so\.(\d+)")
"""The names of shared libraries in a compiled file: torch's CUDA libraries, its others, and CUDA's runtime."""


_COMPANIONS = re.compile(r"torch(?:vision|audio|ao|codec|data|text)?")
_OF_CUDA = re.compile(r"(?:nvidia|cuda)-.+|triton|pytorch-triton")


def is_of_cuda(name: str) -> bool:
    """Whether a distribution comes with a CUDA build of torch alone."""
    return _OF_CUDA.fullmatch(name) is not None


def of_any_line(pin: str) -> str:
    """The pin of torch or a companion without what only one build line has: hashes, and the end `+cpu`."""
    bare, version = pin.split(HASH)[0], version_of(pin)
    return bare.partition("+")[0] if _COMPANIONS.fullmatch(name_of(pin)) or "+" in version else pin


def has_cpu_index(index: Index) -> bool:
    """Whether PyTorch's own index may be asked: not where the user has chosen a line."""
    return "UV_TORCH_BACKEND" not in index.uv


def cuda_of(folder: Path) -> str | None:
    """The CUDA version that the torch in this folder of packages is built for, empty for the CPU; None without torch.

    It stands in a file of torch, so that torch need not be imported.
    """
    try:
        text = (folder / "torch" / "version.py").read_text(encoding="utf-8")
    except OSError:
        return None
    found = re.search(r"^cuda\b[^=\n]*=\s*(?:'([\d.]+)'|None)", text, re.MULTILINE)
    return None if found is None else found[1] or ""


def misfits(needed: Mapping[str, str], cuda: str) -> dict[str, str]:
    """The distributions that need another line's torch than the one for `cuda`, and the CUDA that they need."""
    major = cuda.partition(".")[0]
    return {name: wants for name, wants in needed.items() if not major or wants not in ("", major)}


def misfits_in(folder: Path) -> dict[str, str]:
    """The misfits in a folder that holds torch itself; none where it holds no torch."""
    cuda = cuda_of(folder)
    return {} if cuda is None else misfits(cuda_needed(folder), cuda)


def explain(misfit: Mapping[str, str], torch: str, cuda: str) -> str:
    """Why the packages cannot be loaded beside this torch, for a person."""
    built = f"for CUDA {cuda}" if cuda else "for the CPU"
    needed = [f"{name} for CUDA{f' {major}' if major else ''}" for name, major in sorted(misfit.items())]
    return f"torch {torch} is built {built}, {', '.join(needed)}: there is no common build line on the indexes at hand"


def cuda_needed(folder: Path) -> dict[str, str]:
    """Distribution -> major version of CUDA (empty where unnamed), where all that is linked to torch needs CUDA."""
    needed = {}
    for record in folder.glob("*.dist-info/RECORD"):
        if record.parent.name.startswith("torch-"):
            continue
        paths = (line.rsplit(",", 2)[0] for line in record.read_text(encoding="utf-8").splitlines())
        codes = ((folder / path).read_bytes() for path in paths if path.endswith(".so"))
        # searched only where torch is named at all: scipy's hold 100 MB without it
        linked = [_LINKED.findall(code) for code in codes if b"libtorch" in code or b"libc10" in code]
        torched = [names for names in linked if any(not runtime for _, runtime in names)]
        if torched and all(any(cuda for cuda, _ in names) for names in torched):
            versions = [runtime.decode() for names in torched for _, runtime in names if runtime]
            needed[canonical(record.parent.name.partition("-")[0])] = max(versions, default="")
    return needed
