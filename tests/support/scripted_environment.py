"""Environments with the scripted torch: for tests of launches, where the import of a real one would take most time."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from tests.support import scripted_torch


def environment(folder: Path, distributions: Iterable[str] = (), **script: Any) -> str:
    """The interpreter of an environment with a torch for the CPU that follows this script, and empty distributions."""
    subprocess.run([sys.executable, "-m", "venv", "--without-pip", folder], check=True)
    (packages,) = folder.glob("lib/python*/site-packages")
    scripted_torch.write(packages, **{"version": "2.13.0+cpu", "cuda": None, "gpus": [], **script})
    for name in distributions:
        scripted_torch.distribution(packages, name)
    return str(folder / "bin" / "python")
