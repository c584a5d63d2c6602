"""`compat report`: compile a recorded run again."""

from __future__ import annotations

import argparse

from torch_compat_matrix.compat.verbs.common import compiled, opened
from torch_compat_matrix.runner.errors import Status


def main(options: argparse.Namespace) -> Status:
    """Compile a recorded run's report again."""
    return compiled(opened(options.run), options)
