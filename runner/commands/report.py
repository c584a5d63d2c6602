"""`compat report`: compile a recorded run again."""

from __future__ import annotations

import argparse

from runner.cli import Status
from runner.commands.common import compiled, opened


def main(options: argparse.Namespace) -> Status:
    """Compile a recorded run's report again."""
    return compiled(opened(options.run), options)
