"""A shell script in nvidia-smi's place."""

from __future__ import annotations

import os
import shlex
from pathlib import Path

import pytest

H200 = "GPU-aaaaaaaa-0000-0000-0000-000000000000, 0, NVIDIA H200, 143771, 580.159.03, 9.0, Disabled"
SECOND = "GPU-bbbbbbbb-0000-0000-0000-000000000000, 1, NVIDIA H200, 143771, 580.159.03, 9.0, Disabled"


def put(folder: Path, monkeypatch: pytest.MonkeyPatch, body: str) -> None:
    """Let the script be found first, and no limit of the caller's hold."""
    program = folder / "bin" / "nvidia-smi"
    program.parent.mkdir()
    program.write_text(f"#!/bin/sh\n{body}\n")
    program.chmod(0o755)
    monkeypatch.setenv("PATH", f"{program.parent}{os.pathsep}{os.environ['PATH']}")
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
    monkeypatch.delenv("CUDA_DEVICE_ORDER", raising=False)


def lists(*lines: str) -> str:
    """A script that says these lines, whatever it is asked."""
    return "\n".join(f"echo {shlex.quote(line)}" for line in lines)
