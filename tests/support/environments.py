"""Environments with the real torch for the tests, built once by the same code as stand-ins are."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from tests.support import ROOT
from torch_compat_matrix.runner.model import Local
from torch_compat_matrix.runner.packages import standin
from torch_compat_matrix.runner.packages.pip_config import Index

HOME = Path(os.environ.get("COMPAT_HOME") or ROOT / ".compat")


def environment(*requires: str) -> str:
    """The interpreter of an environment that holds these, CPU builds where there are any."""
    local = Local(python="3.11", requires=requires)
    return str(standin.build(local, HOME, Index.from_pip(), gpu=False).python)


@pytest.fixture(scope="session")
def torch_python() -> str:
    """An interpreter with torch 2.13.0 and NumPy."""
    return environment("torch==2.13.0", "numpy")
