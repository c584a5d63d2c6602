"""`compat shell`: a prompt, or a command, in the environment of a cell."""

from __future__ import annotations

import argparse

from torch_compat_matrix.compat.progress import say
from torch_compat_matrix.runner.backends.base import Command, connect
from torch_compat_matrix.runner.errors import UsageError, reading
from torch_compat_matrix.runner.planning import plan_from
from torch_compat_matrix.runner.records.runs import home
from torch_compat_matrix.runner.workflow import run_command


def main(options: argparse.Namespace) -> int:
    """Run the command, or give a prompt, and return its exit status."""
    files = {}
    for path in options.copy:
        with reading(path, "name another file with --copy"):
            files[path.name] = path.read_bytes()
    return run_in(options, Command(words=options.command, files=files))


def run_in(options: argparse.Namespace, command: Command) -> int:
    """Run the command in the environment of the cell that the options name, and return its exit status."""
    given = dict(options.set)
    plan = plan_from(options.matrix, backend=options.backend, selectors=[options.cell], given=given, say=say)
    if len(plan.cells) > 1:
        some = ", ".join(cell.id for cell in plan.cells[:6])
        raise UsageError(f"{options.cell!r} is {len(plan.cells)} cells", f"name one of them: {some}", options.verb)
    return run_command(plan, connect(plan.backend, home()), command, say)
