"""Fixtures of the project's own tests."""

from environments import torch_python

__all__ = ["torch_python"]
