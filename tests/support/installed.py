"""The product as its users have it: the wheel, in an environment of its own."""

from __future__ import annotations

from pathlib import Path

from tests.support import ROOT
from torch_compat_matrix.runner.packages import uv
from torch_compat_matrix.runner.packages.pip_config import Index


def installed(folder: Path) -> Path:
    """The programs of a new environment below the folder, which holds the wheel with what it asks for."""
    index = Index.from_pip()
    for arguments in (
        ("build", "--wheel", "--out-dir", str(folder / "dist"), str(ROOT)),
        ("venv", "--no-project", str(folder / "venv")),
    ):
        ran = uv.run((*arguments, *(index.uv_flags() if arguments[0] == "build" else ())), index.uv_environment())
        assert ran.status == 0, ran.err
    (wheel,) = (folder / "dist").glob("*.whl")
    install = ("pip", "install", "--python", str(folder / "venv" / "bin" / "python"), *index.uv_flags(), str(wheel))
    ran = uv.run(install, index.uv_environment())
    assert ran.status == 0, ran.err
    return folder / "venv" / "bin"
