"""Fixtures of the project's own tests."""

from tests.support.environments import torch_python

__all__ = ["torch_python"]
