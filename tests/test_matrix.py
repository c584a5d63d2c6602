"""The compatibility matrix: one item a check, parametrized by the root conftest.py from matrix.yaml."""

from __future__ import annotations

import pytest

from conftest import judge
from runner.model import Check, Outcome, Plan


@pytest.mark.matrix
def test_check(check: Check, outcome: Outcome, plan: Plan) -> None:
    """The library does in the image what the probe asks for."""
    judge(check, outcome, plan.known)
