"""Give a prompt in a cell's environment: its image, packages, user, walls and GPU. After `--`: a command that is run
there instead; the exit status is then that of the command. Either starts in an empty folder, which ends with it.

(matrix)
(backend)
cell CELL  a cell: image/library-version
--copy FILE ...  a file to have there; may be repeated

compat shell torch-2.13/captum-0.6.0
compat shell torch-2.6/pyro-ppl-1.9.1 --backend docker -- python -c 'import pyro; print(pyro.__file__)'
compat shell torch-2.13/captum-0.6.0 --copy train.py -- python train.py
"""

from __future__ import annotations

import argparse

from torch_compat_matrix.compat.progress import say
from torch_compat_matrix.compat.verbs.plan import plan_asked
from torch_compat_matrix.runner.backends.base import Command, connect
from torch_compat_matrix.runner.errors import UsageError, reading
from torch_compat_matrix.runner.records.runs import home
from torch_compat_matrix.runner.workflow import run_command


def main(options: argparse.Namespace) -> int:
    files = {}
    for path in options.copy:
        with reading(path, "name another file with --copy"):
            files[path.name] = path.read_bytes()
    return run_in(options, Command(words=options.command, files=files))


def run_in(options: argparse.Namespace, command: Command) -> int:
    """Run the command in the environment of the cell that the options name, and return its exit status."""
    plan = plan_asked(options, [options.cell])
    if len(plan.cells) > 1:
        some = ", ".join(cell.id for cell in plan.cells[:6])
        raise UsageError(f"{options.cell!r} is {len(plan.cells)} cells", f"name one of them: {some}", options.verb)
    return run_command(plan, connect(plan.backend, home(), plan.target), command, say)
