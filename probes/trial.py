"""`python -m probes --trial`: one probe module against this interpreter, for whoever writes it.

The task comes on standard input, or stands in a file.  Each probe is asked in a forked child, whose output stays on the
terminal.  With `prove`, each is asked again of a library that is broken in one way: a probe that still passes would
miss that.
"""

from __future__ import annotations

import contextlib
import functools
import importlib
import json
import os
import signal
import sys
import tempfile
from types import FunctionType, ModuleType
from typing import Any, Callable, Dict, Iterator, List, Set, Tuple, TypedDict

from . import child, facts, own
from .compiling import prepare

LIMIT_S = 300
"""Seconds for one probe."""

MOST = {"sample": 8, "autograd": 8, "compile": 2}
"""Functions of the library that are broken, one after the other, for a probe."""

Places = Dict[str, List[Tuple[Any, str]]]
"""A function's name -> where it stands: module or class, and attribute."""


class Task(TypedDict):
    """What to try."""

    distribution: str
    modules: Dict[str, str]
    probes: List[str]
    device: str
    seed: int
    prove: bool


def main(file: str = "/dev/stdin", device: str = "") -> int:
    """Try the probes, on this device where it is given; 1 where the sound library fails one, or a broken one passes."""
    with open(file) as stream:
        task: Task = json.load(stream)
    task["device"] = device or task["device"]
    own.install(task["modules"])
    try:
        importlib.import_module("torch")
    except ImportError as error:
        print(f"{sys.executable} has no torch: {error}")
        return 1
    if not _sound(task, "import", set()):
        return 1
    module = child.probe_module(task["distribution"])
    importlib.import_module(module.MODULE)
    if "compile" in task["probes"]:
        with contextlib.suppress(Exception):  # the probe's own child shows what keeps the compiler from working
            prepare(task["device"])
    missed = failed = 0
    for name in task["probes"]:
        if name == "import":
            continue
        used: Set[str] = set()
        if not _sound(task, name, used):
            failed += 1
        elif task["prove"] and used:
            missed += sum(
                not _killed(task, name, what, breaks) for what, breaks in _mutations(task, module, name, used)
            )
    if task["prove"]:
        print(f"\n{missed} mutations would be missed" if missed else "\nevery mutation is noticed")
    return 1 if failed or missed else 0


def _sound(task: Task, name: str, used: Set[str]) -> bool:
    """Ask the library as it is, show the answer, and add the functions that the probe used; whether it passes."""

    def work() -> Dict[str, Any]:
        called = _record(task) if task["prove"] and name != "import" else set()
        return dict(_ask(task, name), used=sorted(called))

    seen = _in_a_child(work)
    print(f"{name}: {seen['status']} {seen.get('code', '')}".rstrip(), f"in {seen.get('seconds', 0):.1f} s")
    for part in seen.get("parts", ()):
        print(f"  {part['status']:<8}{part['seconds']:>8.2f} s  {part['name']}  {part.get('message', '')}".rstrip())
    for metric, number in seen.get("metrics", {}).items():
        print(f"  {metric}: {number['value']:.4g} {number['unit']}")
    for note in seen.get("notes", ()):
        print(f"  {note}")
    if seen["status"] != "passed":
        raised = "" if seen["status"] == "skipped" else seen.get("traceback", "")
        print(raised or f"  {seen.get('message', '')}")
    used.update(seen.get("used", ()) if seen["status"] == "passed" else ())
    return seen["status"] in ("passed", "skipped")


def _killed(task: Task, name: str, what: str, breaks: Callable[[], None]) -> bool:
    """Whether the probe fails on the library that is broken so."""

    def work() -> Dict[str, Any]:
        quiet = os.open(os.devnull, os.O_WRONLY)
        os.dup2(quiet, 1)
        os.dup2(quiet, 2)
        breaks()
        return _ask(task, name)

    seen = _in_a_child(work)
    killed = seen["status"] not in ("passed", "skipped")
    why = seen.get("code") or seen.get("exception", [""])[0]
    print(f"  {'noticed' if killed else 'MISSED '}  {what}{f'  ({why})' if killed and why else ''}", flush=True)
    return killed


def _ask(task: Task, name: str) -> Dict[str, Any]:
    if name != "import":
        return child.answer(name, task["distribution"], {"device": task["device"], "seed": task["seed"]})
    member: Any = {"distribution": task["distribution"], "version": ""}
    cell: Any = {"members": [member], "overlay": None, "added": [], "replaces": {}}
    return child.import_member(member, dict(cell, image_packages=facts.gather(False)["packages"]))  # type: ignore[arg-type]


def _in_a_child(work: Callable[[], Dict[str, Any]]) -> Dict[str, Any]:
    """The answer of a fork, whose death is one too."""
    sys.stdout.flush()
    with tempfile.TemporaryFile("w+") as file:
        pid = os.fork()
        if pid == 0:
            signal.alarm(LIMIT_S)
            json.dump(work(), file, default=str)
            file.flush()
            sys.stdout.flush()
            os._exit(0)
        _, status = os.waitpid(pid, 0)
        file.seek(0)
        text = file.read()
    return json.loads(text) if text else {"status": "died", "message": f"it ended with wait status {status}"}


def _functions(module: ModuleType) -> Places:
    """Every public function and method of the library, with each place from which it may be called."""
    tops = (module.MODULE, *getattr(module, "IMPORTS", ()))

    def of_library(name: str) -> bool:
        return any(f"{name}.".startswith(f"{top}.") for top in tops)

    found: Places = {}
    for holder in [each for name, each in list(sys.modules.items()) if of_library(name) or each is module]:
        for name, value in list(vars(holder).items()):
            if name.startswith("_") or not of_library(str(getattr(value, "__module__", ""))):
                continue
            if isinstance(value, FunctionType):
                found.setdefault(f"{value.__module__}.{value.__qualname__}", []).append((holder, name))
            elif isinstance(value, type):
                for method, function in vars(value).items():
                    if isinstance(function, FunctionType) and (method[0] != "_" or method == "__call__"):
                        found[f"{value.__module__}.{value.__qualname__}.{method}"] = [(value, method)]
    return found


def _put(places: List[Tuple[Any, str]], make: Callable[[Any], Any]) -> None:
    """Put `make(function)` in the place of a function, wherever it stands."""
    for holder, name in places:
        original = vars(holder)[name]
        setattr(holder, name, functools.wraps(original)(make(original)))


def _record(task: Task) -> Set[str]:
    """Watch from here on: the set fills with the functions that the probe calls itself and that give a tensor.

    `NAME?` tells that the function drew random numbers.
    """
    import torch

    used: Set[str] = set()
    depth = [0]

    def state() -> List[int]:
        states = [torch.get_rng_state()] + ([torch.cuda.get_rng_state()] if task["device"] == "cuda" else [])
        return [hash(each.numpy().tobytes()) for each in states]

    def watched(name: str, original: Any) -> Any:
        def call(*arguments: Any, **options: Any) -> Any:
            if torch.compiler.is_compiling() or depth[0]:
                return original(*arguments, **options)
            before = state()
            depth[0] += 1
            try:
                out = original(*arguments, **options)
            finally:
                depth[0] -= 1
            if _changed(out, lambda tensor: tensor) is not None:
                used.add(name)
                used.update([f"{name}?"] if state() != before else [])
            return out

        return call

    for name, places in _functions(child.probe_module(task["distribution"])).items():
        _put(places, functools.partial(watched, name))
    return used


def _changed(out: Any, change: Callable[[Any], Any]) -> Any:
    """A result with its first tensor of floats changed; None where it has none."""
    import torch

    if isinstance(out, torch.Tensor):
        return change(out) if out.is_floating_point() else None
    if type(out) in (tuple, list) and out:
        first = _changed(out[0], change)
        return None if first is None else type(out)([first, *out[1:]])
    return None


def _mutations(task: Task, module: ModuleType, probe: str, used: Set[str]) -> Iterator[Tuple[str, Callable[[], None]]]:
    """(what is broken, a function that breaks it in this process) for a probe that used these functions."""
    import torch

    elsewhere = "cpu" if task["device"] == "cuda" else "meta"
    ways: Dict[str, Dict[str, Callable[[Any], Any]]] = {
        "sample": {"scaled by 1.1": lambda out: out * 1.1, "on another device": lambda out: out.to(elsewhere)},
        "autograd": {
            "detached": lambda out: out.detach(),
            "off in its gradient": lambda out: out.lerp(out.detach(), -0.1),
        },
        "compile": {"scaled by 1.1 in compiled code": lambda out: out * 1.1},
    }
    if probe == "compile":

        def eager() -> None:
            torch.compile = lambda function, *_, **__: torch._dynamo.disable(function)

        yield "torch.compile runs eagerly, and does not say so", eager
    functions = _functions(module)
    for name in [each for each in sorted(used) if each in functions][: MOST[probe]]:
        for what, change in ways[probe].items():

            def broken(original: Any, change: Callable[[Any], Any] = change) -> Any:
                def call(*arguments: Any, **options: Any) -> Any:
                    out = original(*arguments, **options)
                    if probe == "compile" and not torch.compiler.is_compiling():
                        return out
                    wrong = _changed(out, change)
                    return out if wrong is None else wrong

                return call

            yield f"{name} is {what}", functools.partial(_put, functions[name], broken)
        if probe == "sample" and f"{name}?" in used:

            def unseeded(original: Any) -> Any:
                def call(*arguments: Any, **options: Any) -> Any:
                    torch.seed()
                    return original(*arguments, **options)

                return call

            yield f"{name} ignores the seed", functools.partial(_put, functions[name], unseeded)
