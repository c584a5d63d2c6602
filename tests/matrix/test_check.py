"""The compatibility matrix: one item a check, parametrized by the root conftest.py from matrix.yaml."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from torch_compat_matrix.runner.model import Check


@pytest.mark.matrix
def test_check(check: Check, verdict: Callable[[], None]) -> None:
    """The library does in the image what the probe asks for."""
    verdict()
