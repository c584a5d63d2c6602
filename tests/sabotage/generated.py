"""Runs in the environment under test: mutants made by machine, in forks of one warm process, a line of JSON each."""

from __future__ import annotations

import ast
import functools
import gc
import importlib
import inspect
import itertools
import json
import os
import random
import resource
import signal
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from types import CodeType, FrameType, FunctionType
from typing import Any

from tests.sabotage import rates
from tests.sabotage.inside import RESULTS, ask
from tests.sabotage.mutants import Mutant, functions, mutants
from torch_compat_matrix.probes.child import probe_module

PROBES = ("autograd", "sample")
PATIENCE = 10
"""A mutant may take so many times the processor time of the sound library, and at least as many seconds."""

UNFIT = "unfit"
"""The status of a mutant that cannot take the function's place."""

Lines = dict[str, set[int]]
"""File -> its lines that ran."""


class Source:
    """A module that defines covered entry points: its text, its mutants, and its functions in this process."""

    def __init__(self, file: str) -> None:
        self.file = file
        self.tree = ast.parse(Path(file).read_text())
        self.mutants = mutants(self.tree)
        self.functions = [it for it in gc.get_objects() if type(it) is FunctionType and it.__code__.co_filename == file]

    def break_(self, mutant: Mutant) -> None:
        """Give every function of the module that differs the mutant's code, wherever a reference to it is held."""
        code = {_place(each): each for each in functions(mutant.code(self.tree, self.file))}
        for function in self.functions:
            new = code.get(_place(function.__code__))
            if new is not None and new != function.__code__:
                function.__code__ = new


def _place(code: CodeType) -> tuple[str, int]:
    return code.co_qualname, code.co_firstlineno


def main(library: str, count: int, seed: int, only: str) -> None:
    """Report so many mutants of the library, evenly over its covered entry points, chosen by the seed.

    With a count of 0, those that have survived before and stand in `survivors.tsv`.
    """
    os.dup2(2, 1)
    module = probe_module(library)
    importlib.import_module("torch")
    importlib.import_module(module.MODULE)
    entries = dict(_defined(name for name, part in module.COVERS.items() if part))
    sources = {file: Source(file) for file, _ in entries.values()}
    ran: dict[str, Lines] = {}
    sound: dict[str, dict[str, Any]] = {}
    for probe in only.split(",") if only else PROBES:
        if hasattr(module, probe) and probe not in getattr(module, "NOT_APPLICABLE", {}):
            traced = _in_fork(functools.partial(_trace, library, probe, set(sources)))
            sound[probe] = _in_fork(functools.partial(_asked, library, probe))
            ran[probe] = {file: set(lines) for file, lines in traced["lines"].items()}
    chosen, skipped = _chosen(entries, sources, ran, seed)
    print(
        json.dumps({"library": library, "run": sum(map(len, chosen.values())), "not_run": skipped}),
        file=RESULTS,
        flush=True,
    )
    turns = itertools.chain.from_iterable(itertools.zip_longest(*chosen.values()))
    read = rates.readings()
    wanted = (
        turn for turn in turns if turn and (count or (library, turn[2].function, turn[2].before, turn[2].after) in read)
    )
    for entry, file, mutant, probes in itertools.islice(wanted, count or None):
        started = time.perf_counter()
        killed: str | None = ""
        for probe in sorted(probes, key=lambda name: sound[name]["cpu"]):
            broken = functools.partial(sources[file].break_, mutant)
            limit = int(PATIENCE * max(1.0, sound[probe]["cpu"]))
            seen = _in_fork(functools.partial(_asked, library, probe, broken), limit)
            if seen["status"] == UNFIT:
                killed = None
            elif _signs(seen) != _signs(sound[probe]):
                new = [sign for sign in _signs(seen) if sign not in _signs(sound[probe])]
                killed = f"{probe}: {' '.join(map(str, filter(None, new[-1]))) if new else 'a part is gone'}"
            if killed != "":
                break
        row = {name: getattr(mutant, name) for name in ("function", "line", "kind", "before", "after")}
        row.update(library=library, entry=entry, module=_module(file), killed=killed, probes=sorted(probes))
        print(json.dumps({**row, "seconds": round(time.perf_counter() - started, 1)}), file=RESULTS, flush=True)


def _signs(seen: dict[str, Any]) -> list[tuple[Any, ...]]:
    """How a probe ended, as a whole and in each part: a sound library may have a part that fails for a known reason."""
    parts = [(part["name"], part["status"], part.get("code")) for part in seen.get("parts", ())]
    return [(seen["status"], seen.get("code"), *seen.get("exception", ())[:1]), *parts]


def _asked(library: str, probe: str, sabotage: Callable[[], None] | None = None) -> dict[str, Any]:
    """The probe's answer, and the processor time that it took."""
    started = time.process_time()
    return {**ask(library, probe, 0, sabotage), "cpu": time.process_time() - started}


def _defined(names: Iterator[str]) -> Iterator[tuple[str, tuple[str, str]]]:
    """Entry point -> the file that defines it and its qualified name there; none that is not written in Python."""
    for name in names:
        parts = name.split(".")
        for length in range(len(parts) - 1, 0, -1):
            try:
                found: Any = importlib.import_module(".".join(parts[:length]))
                for part in parts[length:]:
                    found = getattr(found, part)
                found = inspect.unwrap(found)
                yield name, (str(inspect.getsourcefile(found)), found.__qualname__)
            except (ImportError, AttributeError, TypeError):
                continue
            break


def _chosen(
    entries: dict[str, tuple[str, str]], sources: dict[str, Source], ran: dict[str, Lines], seed: int
) -> tuple[dict[str, list[tuple[str, str, Mutant, set[str]]]], int]:
    """The mutants of each entry point that a probe runs, shuffled; and the number of those that none runs.

    Code of a module outside its entry points is counted under the module.
    """
    chosen: dict[str, list[tuple[str, str, Mutant, set[str]]]] = {}
    skipped = 0
    for file, source in sources.items():
        owners = sorted(
            ((qualified, name) for name, (where, qualified) in entries.items() if where == file), reverse=True
        )
        for mutant in source.mutants:
            probes = {probe for probe, lines in ran.items() if lines.get(file, set()).intersection(mutant.lines)}
            inside = (name for owner, name in owners if f"{mutant.function}.".startswith(f"{owner}."))
            entry = next(inside, f"{_module(file)} (helpers)")
            if probes:
                chosen.setdefault(entry, []).append((entry, file, mutant, probes))
            else:
                skipped += 1
    for entry in sorted(chosen):
        random.Random(f"{seed} {entry}").shuffle(chosen[entry])
    return chosen, skipped


def _module(file: str) -> str:
    return next(name for name, module in sys.modules.items() if getattr(module, "__file__", "") == file)


def _trace(library: str, probe: str, files: set[str]) -> dict[str, Any]:
    """The lines of the files that the probe runs, in all threads."""
    lines: dict[str, set[int]] = {}

    def local(frame: FrameType, event: str, argument: object) -> Any:
        lines.setdefault(frame.f_code.co_filename, set()).add(frame.f_lineno)
        return local

    def on_call(frame: FrameType, event: str, argument: object) -> Any:
        return local if frame.f_code.co_filename in files else None

    threading.settrace(on_call)
    sys.settrace(on_call)
    ask(library, probe, 0, None)
    sys.settrace(None)
    return {"lines": {file: sorted(numbers) for file, numbers in lines.items()}}


def _in_fork(work: Callable[[], dict[str, Any]], cpu_s: int = 0) -> dict[str, Any]:
    """The answer of a child that does the work; `died` where it gives none, or takes more processor time."""
    with tempfile.NamedTemporaryFile("r", suffix=".json") as file:
        pid = os.fork()
        if pid == 0:
            if cpu_s:
                resource.setrlimit(resource.RLIMIT_CPU, (cpu_s, cpu_s))
                signal.alarm(20 * cpu_s)  # a mutant may wait for ever
            for descriptor in (1, 2):
                os.dup2(os.open(os.devnull, os.O_WRONLY), descriptor)
            try:
                answer = work()
            except BaseException as error:  # the probe answers for itself: the code did not fit its function
                answer = {"status": UNFIT, "message": str(error)}
            Path(file.name).write_text(json.dumps(answer, default=str))
            os._exit(0)
        _, status = os.waitpid(pid, 0)
        text = file.read()
    if text:
        return dict(json.loads(text))
    return {"status": f"killed by {signal.Signals(status).name}" if os.WIFSIGNALED(status) else "died"}


if __name__ == "__main__":
    main(sys.argv[1], int(sys.argv[2]), int(sys.argv[3]), sys.argv[4])
