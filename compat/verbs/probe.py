"""`compat probe`: runs one probe module in an interpreter at hand or in a cell, with everything that it prints."""

from __future__ import annotations

import argparse
import json
import subprocess

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
    """Ask the library's probes; with `--prove`, also those of the library broken in several ways."""
    name = canonical(options.name)
    probed = _catalogue(options).with_generic([name])
    entry = probed.entries[name]
    if entry.problem:
        raise UsageError(entry.problem, "mend the file")
    probes = probed.answered(options.probe or PROBES, [name])
    if not probes:
        raise NothingSelected(f"{entry.place} has none of the probes asked for, but {', '.join(sorted(entry.probes))}")
    device = "cuda" if gpus.visible() else "cpu"
    say(f"{entry.place}, in {options.cell}" if options.cell else f"{entry.place}, on the {device} of {options.python}")
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
    command = [options.python, "-c", START.format(BUNDLE.name), str(BUNDLE.parent), "--trial"]
    done = subprocess.run(command, input=json.dumps(task).encode(), check=False)
    return Status.SURPRISES if done.returncode else Status.AS_EXPECTED


def _catalogue(options: argparse.Namespace) -> Catalogue:
    """The libraries of the folder that is named, or of the matrix where there is one."""
    if options.probes is None:
        return load(options.matrix).catalogue if options.matrix.exists() else extended({})
    if not options.probes.is_dir():
        raise UsageError("there is no such folder", "name the folder of the probe module", str(options.probes))
    return extended({str(options.probes): options.probes})
