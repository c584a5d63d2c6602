"""Run one probe module against an interpreter at hand, or in a cell's environment, with everything that it prints. For
whoever writes one.

(matrix)
(backend)
name LIBRARY  a library; the generic probes run where it has none
--probes DIR  the folder of its module (default: as matrix.yaml says)
--probe {PROBES} ...  only this probe (repeatable)
--prove  break the library in several ways, and say which the module would miss
--cell CELL  run it in this cell's environment: image/library-version
--python PYTHON  an interpreter that holds torch and the library
--seed N = 0  the seed of the probes (%(default)s)

compat probe acme-layers --cell train/acme-layers-latest
compat probe acme-layers --probes ./probes --probe sample --prove
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys

from torch_compat_matrix.compat.progress import say
from torch_compat_matrix.compat.verbs.shell import run_in
from torch_compat_matrix.runner.backends import gpus
from torch_compat_matrix.runner.backends.base import Command
from torch_compat_matrix.runner.bundle import BUNDLE, Catalogue, extended
from torch_compat_matrix.runner.errors import NothingSelected, Status, UsageError
from torch_compat_matrix.runner.matrix.load import load
from torch_compat_matrix.runner.model import PROBES
from torch_compat_matrix.runner.pins import canonical

START = "import sys; sys.path[0] = sys.argv.pop(1); from {}.__main__ import main; sys.exit(main())"
"""Starts the bundle whatever the folder at hand holds: a folder `probes` of the user, say."""


def main(options: argparse.Namespace) -> int:
    name = canonical(options.name)
    probed = _catalogue(options).with_generic([name])
    entry = probed.entries[name]
    if entry.problem:
        raise UsageError(entry.problem, "mend the file")
    probes = probed.answered(options.probe or PROBES, [name])
    if not probes:
        raise NothingSelected(f"{entry.place} has none of the probes asked for, but {', '.join(sorted(entry.probes))}")
    device = "cuda" if gpus.visible() else "cpu"
    python = options.python or sys.executable
    say(f"{entry.place}, in {options.cell}" if options.cell else f"{entry.place}, on the {device} of {python}")
    task = {
        "distribution": name,
        "modules": {module.name: module.text for module in (*probed.helpers, entry.module) if module},
        "probes": probes,
        "device": device,
        "seed": options.seed,
        "prove": options.prove,
    }
    if options.cell:
        return run_in(options, Command(words=("--trial", "task.json"), files={"task.json": json.dumps(task).encode()}))
    command = [python, "-c", START.format(BUNDLE.name), str(BUNDLE.parent), "--trial"]
    done = subprocess.run(command, input=json.dumps(task).encode(), check=False)
    return Status.SURPRISES if done.returncode else Status.AS_EXPECTED


def _catalogue(options: argparse.Namespace) -> Catalogue:
    """The libraries of the folder that is named, or of the matrix where there is one."""
    if options.probes is None:
        return load(options.matrix).catalogue if options.matrix.exists() else extended({})
    if not options.probes.is_dir():
        raise UsageError("there is no such folder", "name the folder of the probe module", str(options.probes))
    return extended({str(options.probes): options.probes})
