"""The Pythons of this host, those included that version managers keep."""

from __future__ import annotations

import os
import re
from functools import cache
from pathlib import Path

from torch_compat_matrix.runner.packages import uv


@cache
def find(minor: str) -> str:
    """An interpreter of this minor version; empty where this host has none."""
    for request in (minor, *managed(minor)):
        ran = uv.run(("python", "find", "--no-project", "--system", request), {})
        if not ran.status:
            return ran.out.strip()
    return ""


def managed(version: str) -> list[str]:
    """The interpreters of this version, the newest first, that version managers keep and their shims may hide."""
    at = Path.home()
    data = Path(os.environ.get("XDG_DATA_HOME") or at / ".local" / "share")
    folders = [
        Path(os.environ.get("PYENV_ROOT") or at / ".pyenv") / "versions",
        Path(os.environ.get("ASDF_DATA_DIR") or at / ".asdf") / "installs" / "python",
        Path(os.environ.get("MISE_DATA_DIR") or data / "mise") / "installs" / "python",
        Path(os.environ.get("RYE_HOME") or at / ".rye") / "py",
    ]
    found = [
        (tuple(map(int, numbers[1].split("."))), str(python))
        for folder in folders
        for python in folder.glob("*/bin/python3")
        if (numbers := re.fullmatch(r"(?:cpython@)?(\d+(?:\.\d+)+)", python.parent.parent.name))
        and f"{numbers[1]}.".startswith(f"{version}.")
    ]
    return [python for _, python in sorted(found, reverse=True)]
