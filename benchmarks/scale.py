"""`python -m benchmarks.scale`: plan, journal, resume, report and diff of 100,000 checks, with time and peak memory."""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path

from tabulate import tabulate

from torch_compat_matrix.reports.changes import compare
from torch_compat_matrix.reports.table import load
from torch_compat_matrix.reports.write import compile_report
from torch_compat_matrix.runner.matrix import load as matrix
from torch_compat_matrix.runner.matrix.expand import expand
from torch_compat_matrix.runner.model import Cell, Image, Plan, Verdict
from torch_compat_matrix.runner.outcome import Outcome
from torch_compat_matrix.runner.records import history
from torch_compat_matrix.runner.records.journal import append
from torch_compat_matrix.runner.records.runs import Run

DAY = "2030-01-01T00:00:00+00:00"
STEPS: dict[str, Callable[[Path, int], None]] = {}


def step(function: Callable[[Path, int], None]) -> Callable[[Path, int], None]:
    """Register a step under its function's name."""
    STEPS[function.__name__] = function
    return function


def cells(checks: int) -> tuple[Cell, ...]:
    """Cells of ten images, four checks each."""
    return tuple(
        Cell(
            image=f"image-{number % 10}",
            subject="captum",
            version=f"0.{number // 10}",
            requires=("captum",),
            members=("captum",),
        )
        for number in range(checks // 4)
    )


def recorded(home: Path, name: str, checks: int, broken: int) -> Run:
    """A recorded run of `checks` checks; each check whose number `broken` divides fails."""
    plan = Plan(images=tuple(Image(name=f"image-{number}") for number in range(10)), cells=cells(checks))
    outcomes = (outcome(check.id, number % broken == 0) for number, check in enumerate(plan.checks))
    return record(home, name, plan, outcomes, {})


def record(
    home: Path, name: str, plan: Plan, outcomes: Iterable[Mapping[str, object]], packages: Mapping[str, str]
) -> Run:
    """Write the journal of a complete run, whose images hold these packages."""
    run = Run(home / "runs" / name)
    run.folder.mkdir(parents=True)
    facts = {"python": "3.11", "packages": packages, "gpus": []}
    append(
        run.journal,
        {"kind": "run", "run": name, "backend": "local", "started": DAY, "plan": plan.to_json()},
        *(
            {"kind": "environment", "facts": facts, "reference": "x", "key": image.name, "image": image.name}
            for image in plan.images
        ),
        *({"kind": "outcome", **each} for each in outcomes),
        {"kind": "end", "state": "complete", "finished": DAY},
    )
    return run


def outcome(check: str, broken: bool) -> dict[str, object]:
    """The record of a check, of a usual size."""
    image, cell, probe = check.split("/")
    return Outcome(
        check=check,
        image=image,
        subject="captum",
        version=cell.removeprefix("captum-"),
        probe=probe,
        verdict=Verdict.FAIL if broken else Verdict.PASS,
        reason="wrong-value" if broken else "",
        detail="attributions differ from their reference by more than the stated tolerance" if broken else "",
        device="cpu",
        device_name="CPU",
        environment=image,
        resolved=("captum==0.8.0", "tqdm==4.67.1"),
        installed="0.8.0",
        isolation="fork",
        metrics={"peak host memory": {"value": 3e8, "unit": "bytes"}},
        seconds=1.0,
        started=DAY,
        key=check,
    ).to_json()


@step
def plan(home: Path, checks: int) -> None:
    """Read and expand a matrix.yaml."""
    versions = ", ".join(f'"0.{number}"' for number in range(checks // 40))
    images = "".join(f"  image-{number}: {{ tag: example/{number} }}\n" for number in range(10))
    known = "known:\n" + "".join(
        f'  - {{ cells: "image-{number}/captum-0.{number}", expect: fail, reason: broken }}\n' for number in range(10)
    )
    path = home / "matrix.yaml"
    path.write_text(f"images:\n{images}libraries:\n  captum: {{ versions: [{versions}] }}\n{known}")
    assert len(expand(matrix.load(path), "docker").checks) == checks // 4 * 4


@step
def journal(home: Path, checks: int) -> None:
    """Append a tenth of the records, a hundred at a time, each hundred synced to the disk."""
    path = home / "journal.jsonl"
    record = {"kind": "outcome", **outcome("image-0/captum-0.1/sample", False)}
    for _ in range(checks // 1000):
        append(path, *[record] * 100)


@step
def resume(home: Path, checks: int) -> None:
    """Read back the run's plan and outcomes, and find the checks that are left."""
    run = Run.open(home, "first")
    done = {check for check, outcome in run.outcomes().items() if outcome.verdict.final}
    assert [check for check in run.plan().checks if check.id not in done] == []


@step
def report(home: Path, checks: int) -> None:
    """Write the report: Markdown, HTML, JSON and JUnit XML."""
    compile_report(Run.open(home, "first").journal, home / "report")


@step
def diff(home: Path, checks: int) -> None:
    """Compare two runs."""
    runs = [load(Run.open(home, name).journal) for name in ("first", "second")]
    assert compare(*runs).failing


@step
def reuse(home: Path, checks: int) -> None:
    """Bring both runs into the history, and find every check there by its key."""
    history.sync(home)
    assert history.settled(home, (check.id for cell in cells(checks) for check in cell.checks))


def parser(module: str, description: str | None, checks: int) -> argparse.ArgumentParser:
    """The options of a benchmark whose steps run in processes of their own."""
    found = argparse.ArgumentParser(prog=f"python -m {module}", description=description)
    found.add_argument("--checks", type=int, default=checks, help="(%(default)s)")
    found.add_argument("--step", choices=sorted(STEPS), help=argparse.SUPPRESS)
    found.add_argument("--home", type=Path, help=argparse.SUPPRESS)
    return found


def alone(options: argparse.Namespace) -> int:
    """Take the step in this process, and print its seconds, its peak memory in bytes and its CPU seconds."""
    started = time.perf_counter()
    STEPS[options.step](options.home, options.checks)
    seconds = time.perf_counter() - started
    status = Path("/proc/self/status").read_text()  # getrusage counts what the parent had before the fork
    print(json.dumps([seconds, 1024 * int(status.partition("VmHWM:")[2].split()[0]), time.process_time()]))
    return 0


def measured(module: str, name: str, home: Path, checks: int) -> tuple[float, float, float]:
    """The seconds, the peak memory in bytes and the CPU seconds of a step in a process of its own."""
    command = [sys.executable, "-m", module, "--step", name, "--home", str(home), "--checks", str(checks)]
    done = subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True)
    seconds, memory, cpu = json.loads(done.stdout.splitlines()[-1])
    return seconds, memory, cpu


def main() -> int:
    """Run each step in a process of its own, which has its own time and peak memory."""
    options = parser("benchmarks.scale", __doc__, 100_000).parse_args()
    if options.step:
        return alone(options)
    rows = []
    with tempfile.TemporaryDirectory(prefix="compat-scale-") as name:
        recorded(Path(name), "first", options.checks, 10)
        recorded(Path(name), "second", options.checks, 9)
        for name_of_step, function in STEPS.items():
            seconds, memory, _ = measured("benchmarks.scale", name_of_step, Path(name), options.checks)
            rate = f"{options.checks / 10 / seconds:.0f} records/s" if name_of_step == "journal" else ""
            rows.append((name_of_step, str(function.__doc__), seconds, memory / 1e6, rate))
    print(f"{options.checks} checks, {len(os.sched_getaffinity(0))} cores\n")
    print(tabulate(rows, headers=("step", "description", "seconds", "peak MB", ""), tablefmt="pipe", floatfmt=".2f"))
    return 0


if __name__ == "__main__":
    sys.exit(main())
