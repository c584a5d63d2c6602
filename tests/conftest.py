"""Fixtures of the project's own tests, and the time that each of them has."""

import os
from pathlib import Path

import pytest

from tests.support.environments import torch_python

os.environ["PYTHONDONTWRITEBYTECODE"] = "1"  # the tests' environments are sealed, and some tests run their interpreters

__all__ = ["torch_python"]

LIMIT_S = 900
"""The longest test, with the images and stand-ins that it makes, takes a third of it on two cores."""


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """A test that waits for ever fails and shows where, instead of stopping the whole run; `slow` suites take hours."""
    for item in items:
        if item.path.is_relative_to(Path(__file__).parent) and not item.get_closest_marker("slow"):
            item.add_marker(pytest.mark.timeout(LIMIT_S))
