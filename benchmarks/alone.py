"""The unavoidable: torch imported once an environment, each library once a cell, each probe body once.

`python -m benchmarks.alone ORDER` runs under an environment's interpreter; ORDER is JSON: [[library, folder], ...].
"""

from __future__ import annotations

import json
import os
import sys
from importlib import import_module

from benchmarks.probe import main as ask
from torch_compat_matrix.probes.compiling import prepare


def forked(work: list[tuple[str, str]], folder: str) -> None:
    """Do the first piece of work in a child and each later piece in a child of that: bodies share imports alone."""
    pid = os.fork()
    if pid == 0:
        if folder:
            sys.path.insert(0, folder)
        status = 0
        for library, probe in work:
            if probe == "import":
                status |= ask(library, probe)
                continue
            child = os.fork()
            if child == 0:
                os._exit(ask(library, probe))
            status |= os.waitpid(child, 0)[1]
        os._exit(1 if status else 0)
    if os.waitpid(pid, 0)[1]:
        raise SystemExit(f"a probe of {work[0][0]} did not pass")


if __name__ == "__main__":
    import_module("torch")
    prepare("cpu")
    for name, overlay in json.loads(sys.argv[1]):
        forked([(name, probe) for probe in ("import", "sample", "autograd", "compile")], overlay)
