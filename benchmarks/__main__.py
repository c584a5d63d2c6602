"""`python -m benchmarks`: time the same cells by `compat run` and by its alternatives, and print the ratios."""

from __future__ import annotations

import argparse
import json
import os
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path

from tabulate import tabulate

from benchmarks import contenders
from benchmarks.contenders import ROOT, Contender
from torch_compat_matrix.runner.backends.base import connect
from torch_compat_matrix.runner.execution.prepare import known_facts
from torch_compat_matrix.runner.matrix import load as matrix
from torch_compat_matrix.runner.matrix.expand import expand
from torch_compat_matrix.runner.model import Plan
from torch_compat_matrix.runner.packages import overlay, resolve
from torch_compat_matrix.runner.packages.pip_config import Index

MATRIX = Path(__file__).with_name("matrix.yaml")


def main() -> int:
    """Warm every cache, time each contender once, and print the table."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks", description=__doc__)
    parser.add_argument("selectors", nargs="*", help="cells to take (default: all 12, with 4 probes each)")
    parser.add_argument("--no-docker", action="store_true", help="leave the container engine out")
    parser.add_argument(
        "--parallel", action="store_true", help="the contenders a core each, torch.compile warm and cold"
    )
    parser.add_argument("--probe", action="append", default=[], help="only this probe (repeatable), with --parallel")
    options = parser.parse_args()
    plan = expand(matrix.load(MATRIX), "local", options.selectors, options.probe)
    with tempfile.TemporaryDirectory(prefix="compat-benchmark-") as name:
        folder = Path(name)
        if options.parallel:
            rows = parallel(plan, options, folder)
        else:
            rows = local(plan, options.selectors, folder)
            rows += [] if options.no_docker else docker(plan, options.selectors, folder)
    print(
        f"{len(plan.cells)} cells, {len(plan.checks)} checks, {len(plan.images)} environments; packages cached; "
        f"{len(os.sched_getaffinity(0))} cores\n"
    )
    print(tabulate(rows, headers=("what", "seconds", "compared with", "ratio"), tablefmt="pipe", floatfmt=".2f"))
    return 0


Row = tuple[str, float, str, float]


def local(plan: Plan, selectors: Sequence[str], folder: Path) -> list[Row]:
    """Compare with the unavoidable, with fresh processes, nox and tox; no engine is needed."""
    home = folder / "home"
    compat("warming", selectors, home)
    ours = compat("compat run", selectors, home, "--rerun")
    alone = unavoidable(plan, home)
    one_job = (selectors, home, "--rerun", "--jobs", "1")
    compat("warming --jobs 1, for which the code of as many threads as cores is compiled", *one_job)
    serial = compat("compat run --jobs 1", *one_job)
    fresh = compat("compat run --isolation fresh", selectors, home, "--rerun", "--isolation", "fresh")
    forget_overlays(home)
    first, second = (clocked("resolutions and overlays", lambda: overlays(plan, home)) for _ in range(2))
    forget_overlays(home)
    anew = compat("compat run, resolved and linked anew", selectors, home, "--rerun")
    again = compat("compat run, nothing changed", selectors, home)
    rows: list[Row] = [
        ("compat run", ours, "", 1.0),
        ("unavoidable: imports and probe bodies, one after the other", alone, "", 1.0),
        ("compat run --jobs 1", serial, "the unavoidable", serial / alone),
        ("compat run --isolation fresh", fresh, "compat run", fresh / ours),
        ("resolutions and overlays alone, first use", first, "", 1.0),
        ("resolutions and overlays alone, second use", second, "first use", second / first),
        ("compat run, resolved and linked anew", anew, "compat run", anew / ours),
        ("compat run, nothing changed", again, "compat run", again / ours),
    ]
    environments = contenders.nox(plan, folder), contenders.tox(plan, folder)
    warming = [*environments[0].command, "--sessions", *contenders.sessions(plan, plan.images[0])]
    timed(replace(environments[0], name="warming torch.compile's cache for nox and tox", command=warming))
    for contender in environments:
        seconds = timed(contender)
        rows.append((contender.name, seconds, "compat run", seconds / ours))
    return rows


def parallel(plan: Plan, options: argparse.Namespace, folder: Path) -> list[Row]:
    """Compare with tox, nox and containers that run as many cells at a time as there are cores."""
    jobs, home = len(os.sched_getaffinity(0)), folder / "home"
    probes = [argument for probe in options.probe for argument in ("--probe", probe)]
    if not options.no_docker:
        build_images(plan)
    compat("warming", options.selectors, home, *probes)
    everyone = contenders.in_parallel(plan, folder, jobs, not options.no_docker)
    for contender in everyone:
        timed(replace(contender, name=f"warming, {contender.name}"))
    rows: list[Row] = []
    anew = ("--seed", "1")  # every check runs, and as little is asked of the index as the contenders ask
    for warmth in ("warm", "cold") if "compile" in {check.probe for check in plan.checks} else ("warm",):
        more = ("--compile-cache",) if warmth == "warm" else ()
        ours = compat(f"compat run, {warmth}", options.selectors, home, *anew, *probes, caches=more)
        anew = ("--seed", "2")
        rows.append((f"compat run, {warmth}", ours, "", 1.0))
        for contender in everyone:
            if warmth == "warm" and contender.name.startswith("docker"):
                continue  # a new container has no compiled code
            empty = Path(tempfile.mkdtemp(dir=folder))
            variables = contender.variables if warmth == "warm" else {**contender.variables, "TMPDIR": str(empty)}
            seconds = timed(replace(contender, variables=variables))
            rows.append((f"{contender.name}, {warmth}", seconds, f"compat run, {warmth}", seconds / ours))
    return rows


def build_images(plan: Plan) -> None:
    """Build the images of the plan here: no registry is needed."""
    import docker as sdk

    from tests.support.baseimage import build

    for image in plan.images:
        assert image.local is not None and image.tag is not None
        build(sdk.from_env(), image.tag, image.local.requires, ("python3-pip", "python3-dev", "g++"))


def docker(plan: Plan, selectors: Sequence[str], folder: Path) -> list[Row]:
    """Compare with a shell loop in the same images."""
    build_images(plan)
    home = folder / "home-docker"
    options = ("--backend", "docker", "--compile-cache")
    compat("warming", selectors, home, *options)
    ours = compat("compat run --backend docker", selectors, home, *options, "--rerun")
    loop = timed(contenders.shell_loop(plan, folder))
    return [
        ("compat run --backend docker", ours, "", 1.0),
        (contenders.shell_loop(plan, folder).name, loop, "compat run --backend docker", loop / ours),
    ]


def compat(
    name: str, selectors: Sequence[str], home: Path, *options: str, caches: Sequence[str] = ("--compile-cache",)
) -> float:
    """Time one `compat run`, from the start of its process to its end, in seconds."""
    more = (*caches, *options) if "--compile-cache" not in options else options
    more = more if "--backend" in more else ("--backend", "local", *more)
    command = [sys.executable, "-m", "torch_compat_matrix", "run", "--matrix", str(MATRIX), *more, *selectors]
    return timed(Contender(name, command, {"COMPAT_HOME": str(home)}))


def overlays(plan: Plan, home: Path) -> dict[str, list[tuple[str, str]]]:
    """Resolve and link the overlays that are not there yet; each image's libraries with their overlays."""
    backend, index = connect("local", home), Index.from_pip()
    work: dict[str, list[tuple[str, str]]] = {}
    for image in plan.images:
        facts = known_facts(image, backend, home)
        assert facts is not None
        for cell in plan.cells_of(image):
            folder = ""
            if cell.requires:
                added = resolve.resolve(cell.requires, facts, index, home / "resolutions").add
                folder = str(overlay.build(added, facts, index, home))
            work.setdefault(image.name, []).append((cell.subject, folder))
    return work


def forget_overlays(home: Path) -> None:
    """Remove what was resolved and linked; uv still has the wheels in its cache."""
    for name in ("resolutions", "overlays"):
        shutil.rmtree(home / name)


def unavoidable(plan: Plan, home: Path) -> float:
    """Time the bare work under the same interpreters, with the same libraries and a warm compile cache, in seconds."""
    backend, order, total = connect("local", home), overlays(plan, home), 0.0
    for image in plan.images:
        prepared = backend.peek(image)
        assert prepared is not None
        variables = {
            "PYTHONPATH": os.pathsep.join([str(ROOT / "src"), str(ROOT)]),
            "TORCHINDUCTOR_CACHE_DIR": str(home / "alone"),
        }
        command = [prepared.python, "-m", "benchmarks.alone", json.dumps(order[image.name])]
        timed(Contender(f"warming, {image.name}", command, variables))
        total += timed(Contender(f"unavoidable, {image.name}", command, variables))
    return total


def timed(contender: Contender) -> float:
    """Time a contender, in seconds; its output is shown only where it fails."""
    started = time.perf_counter()
    environment = {**os.environ, "TORCHINDUCTOR_COMPILE_THREADS": "1", **contender.variables}
    done = subprocess.run(
        list(contender.command),
        cwd=ROOT,
        env=environment,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        check=False,
    )
    seconds = since(started, contender.name)
    if done.returncode:
        raise SystemExit(f"{contender.name} ended with status {done.returncode}:\n{done.stdout[-4000:]}")
    return seconds


def clocked(name: str, work: Callable[[], object]) -> float:
    """Time work in this process, in seconds."""
    started = time.perf_counter()
    work()
    return since(started, name)


def since(started: float, name: str) -> float:
    """The seconds since then, printed at once, since all of it takes long."""
    seconds = time.perf_counter() - started
    print(f"{seconds:8.2f} s  {name}", file=sys.stderr, flush=True)
    return seconds


if __name__ == "__main__":
    sys.exit(main())
