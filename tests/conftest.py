"""Fixtures of the project's own tests."""

import os

from tests.support.environments import torch_python

os.environ["PYTHONDONTWRITEBYTECODE"] = "1"  # the tests' environments are sealed, and some tests run their interpreters

__all__ = ["torch_python"]
