"""`python -m benchmarks.reports`: report and site over 30 runs of 5,000 checks and of 2,500, read in a browser too."""

from __future__ import annotations

import random
import sys
import tempfile
from pathlib import Path
from statistics import median

from tabulate import tabulate

from benchmarks.scale import alone, measured, outcome, parser, record, step
from tests.support.browser import chromium
from torch_compat_matrix.reports.site import write_site
from torch_compat_matrix.reports.write import compile_report
from torch_compat_matrix.runner.model import PROBES, Cell, Image, Plan
from torch_compat_matrix.runner.records import history as records
from torch_compat_matrix.runner.records.runs import Run

IMAGES = 10


def night(home: Path, number: int, checks: int) -> Run:
    """A recorded run in which one check in ten fails, each with a traceback of a usual length, and some differ."""
    plan = Plan(
        images=tuple(Image(name=f"image-{place}") for place in range(IMAGES)),
        cells=tuple(
            Cell(
                image=f"image-{cell % IMAGES}",
                subject=f"library-{cell // IMAGES % 25}",
                version=f"1.{cell // IMAGES // 25}",
                requires=(),
                members=(f"library-{cell // IMAGES % 25}",),
            )
            for cell in range(checks // len(PROBES))
        ),
    )
    noise, found = random.Random(number), []
    for place, check in enumerate(plan.checks):
        told = outcome(check.id, place % 10 == 0 or noise.random() < 0.002)
        told |= {"subject": check.cell.subject, "version": check.cell.version}
        if told["verdict"] != "pass":
            said = f"ValueError: {check.id}"
            frames = "".join(f'  File "site-packages/{check.cell.subject}/{each}.py", line 1\n' for each in range(25))
            told |= {"traceback": f"Traceback\n{frames}{said}", "evidence": said}
        name = "import" if check.probe == "import" else "step: compiled/eager time"
        told["metrics"] = {
            "peak host memory": {"value": 3e8 * noise.uniform(1, 1.02), "unit": "bytes"},
            name: {"value": noise.uniform(0.9, 1), "unit": "s"},
        }
        found.append(told)
    packages = {f"package-{each}": "1.0" for each in range(80)}
    return record(home, f"203001{number + 1:02}T000000000-0000", plan, found, packages)


@step
def history(home: Path, checks: int) -> None:
    """Bring all runs into the history."""
    records.sync(home)


@step
def page(home: Path, checks: int) -> None:
    """The report of the last run, with the trails of all."""
    *_, before, last = Run.all(home)
    compile_report(last.journal, home / "page", before.journal)


@step
def site(home: Path, checks: int) -> None:
    """The site of all runs."""
    write_site(home, Run.all(home), home / "site")


@step
def browser(home: Path, checks: int) -> None:
    """Print the milliseconds to the first paint, and of each search until it is painted and all rows are there."""
    paints: list[float] = []
    spent: dict[str, list[list[float]]] = {"library-3": [], "wrong-value": [], "nowhere": [], "": []}
    with chromium() as program:
        for _ in range(REPEATS):
            opened = program.new_page(viewport={"width": 1280, "height": 900})
            opened.goto((home / "page" / "report.html").as_uri())
            opened.wait_for_function("performance.getEntriesByType('paint').length")
            paints.append(opened.evaluate("performance.getEntriesByType('paint')[0].startTime"))
        for words in [*spent] * REPEATS:
            spent[words].append(opened.evaluate(SEARCH, words))
    said = (
        f"{words or 'none'} {' '.join(f'{median(each):.0f}' for each in zip(*found))}" for words, found in spent.items()
    )
    print(
        f"{checks} checks, medians of {REPEATS}, ms: first paint {median(paints):.0f}; "
        f"searches until painted and until all rows are there: {', '.join(said)}",
        file=sys.stderr,
    )


REPEATS = 9
SEARCH = """async words => {
  const search = document.getElementById("search"), started = performance.now();
  const frame = () => new Promise(done => requestAnimationFrame(() => setTimeout(done)));
  search.value = words;
  search.dispatchEvent(new Event("input"));
  await frame();
  const painted = performance.now() - started;
  document.body.offsetHeight;  // the layout of the rows below the screen, too
  await frame();
  return [painted, performance.now() - started];
}"""


def main() -> int:
    """Measure each step over all of the checks and over half of them."""
    options = parser("benchmarks.reports", __doc__, 5_000)
    options.add_argument("--runs", type=int, default=30, help="(%(default)s)")
    options.add_argument("--steps", nargs="+", default=["history", "page", "site", "browser"], help="(%(default)s)")
    asked = options.parse_args()
    if asked.step:
        return alone(asked)
    rows = []
    for checks in (asked.checks // 2, asked.checks):
        with tempfile.TemporaryDirectory(prefix="compat-reports-") as name:
            home = Path(name)
            for number in range(asked.runs):
                night(home, number, checks)
            for name_of_step in asked.steps:
                seconds, memory, cpu = measured("benchmarks.reports", name_of_step, home, checks)
                size = sum(path.stat().st_size for path in (home / name_of_step).rglob("*") if path.is_file())
                rows.append((checks, name_of_step, seconds, cpu, memory / 1e6, size / 1e6))
    headers = ("checks", "step", "seconds", "CPU seconds", "peak MB", "written MB")
    print(tabulate(rows, headers=headers, tablefmt="pipe", floatfmt=".1f"))
    return 0


if __name__ == "__main__":
    sys.exit(main())
