"""Runs in the environment under test: each mutation in a child of its own, one line of JSON a result."""

from __future__ import annotations

import importlib
import json
import os
import signal
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

from torch_compat_matrix.probes.child import answer, enter, import_member, probe_module
from torch_compat_matrix.probes.compiling import prepare

TIMEOUT_S = 240
"""Of processor time, and five times that of the clock: what a loaded machine keeps waiting is no hang."""
PROBES = ("import", "sample", "autograd", "compile")
DEVICE = os.environ.get("SABOTAGE_DEVICE", "cpu")
RESULTS = os.fdopen(os.dup(1), "w")
"""Where the lines go: what libraries print goes elsewhere."""


def main(library: str, mode: str, only: str) -> None:
    """Break `library` in every known way and ask the probe.

    `sound:N:S`: ask the sound library under N seeds, from S or 0 on; `subtle`: sound, then in ways that only the
    fingerprint shows.
    """
    os.dup2(2, 1)
    module = probe_module(library)
    probes = only.split(",") if only else PROBES
    asked = set(probes) - {"import", *getattr(module, "NOT_APPLICABLE", {})}
    seeds, first = [*map(int, mode.split(":")[1:]), 0, 0][:2]
    if "import" in probes:
        imports(library, sound=seeds > 0)
    importlib.import_module("torch")
    if "compile" in asked:
        prepare(DEVICE)
    importlib.import_module(module.MODULE)  # once, as in the probe host: each question is then a fork
    mutations = importlib.import_module(f"tests.sabotage.mutations.{library.replace('-', '_')}")
    getattr(mutations, "MEND", lambda: None)()
    if seeds:
        for seed in range(first, first + seeds):
            for probe in PROBES:
                if probe in asked:
                    report(library, probe, "", f"seed {seed}", lambda p=probe, s=seed: ask(library, p, s, None))
        return
    if mode == "subtle":
        subtle = mutations.SUBTLE
        for probe, what, sabotage in ((PROBES[2], "", None), *((*names, breaks) for names, breaks in subtle.items())):
            report(library, probe, "", what, lambda p=probe, s=sabotage: ask(library, p, 0, s))
        return
    for (probe, code, what), sabotage in mutations.MUTATIONS.items():
        if probe in probes:
            report(library, probe, code, what, lambda p=probe, s=sabotage: ask(library, p, 0, s))


def imports(library: str, sound: bool) -> None:
    """The import probe of the library: sound, or broken in every known way."""
    from tests.sabotage.mutations._import import IMPORTS, OF_OTHERS, Cell, installed

    def nothing(cell: Cell) -> None:
        """Nothing is broken."""

    of_others = {} if library == "torch" else OF_OTHERS
    if library != "torch":  # whose own import is what is tested
        importlib.import_module("torch")
    for (code, what), sabotage in ({("", "as installed"): nothing} if sound else IMPORTS | of_others).items():
        with installed(library) as cell:
            report(library, "import", code, what, lambda c=cell, s=sabotage: imported(c, s))


def imported(cell: Any, sabotage: Any) -> dict[str, Any]:
    """What the import probe says of a cell that is broken first."""
    sabotage(cell)
    enter(cell)
    return import_member(cell["members"][0], cell)


def ask(library: str, probe: str, seed: int, sabotage: Any) -> dict[str, Any]:
    """What the probe says of the library, broken first where there is a sabotage."""
    if sabotage is not None:
        sabotage()
    return answer(probe, library, {"device": DEVICE, "seed": seed})


def report(library: str, probe: str, code: str, what: str, work: Any) -> None:
    """Do the work in a child and print what came of it."""
    started = time.perf_counter()
    with tempfile.NamedTemporaryFile("r", suffix=".json") as file:
        pid = os.fork()
        if pid == 0:
            signal.setitimer(signal.ITIMER_PROF, TIMEOUT_S)
            signal.alarm(5 * TIMEOUT_S)
            os.dup2(os.open(os.devnull, os.O_WRONLY), 1)
            os.dup2(os.open(os.devnull, os.O_WRONLY), 2)
            text = json.dumps(work(), default=str)
            Path(file.name).write_text(text)
            os._exit(0)
        _, ended = os.waitpid(pid, 0)
        text = file.read()
    died = {"status": "died", "message": f"no answer, wait status {ended}"}
    seen: dict[str, Any] = json.loads(text) if text else died
    found = seen.get("code") or (seen["exception"][0] if seen.get("exception") else "")
    row: dict[str, Any] = {"library": library, "probe": probe, "what": what, "wanted": code}
    row.update(status=seen["status"], found=found, message=str(seen.get("message", ""))[:300])
    row.update(seconds=round(time.perf_counter() - started, 2), parts=[part["name"] for part in seen.get("parts", ())])
    row.update(numerics=seen.get("numerics", {}))
    print(json.dumps(row), file=RESULTS, flush=True)


if __name__ == "__main__":
    main(*sys.argv[1:4])
