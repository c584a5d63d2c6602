"""The cost of a comparison against that of a run of the cells of its base, with and without the base in the store.

`python -m benchmarks.comparison [SELECTOR ...]` in CPU seconds of all processes, which other work on the machine hardly
changes.  Packages are cached: a first comparison warms everything.
"""

from __future__ import annotations

import argparse
import os
import subprocess
import sys
from collections.abc import Sequence

from tabulate import tabulate

from benchmarks.contenders import ROOT, spent


def main() -> None:
    """Time the run and both comparisons, and print the ratios."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.comparison", description=__doc__)
    parser.add_argument("selectors", nargs="*", default=["pyro-ppl-1.9.1", "captum-0.9.0"])
    parser.add_argument("--base", default="torch-2.13")
    parser.add_argument("--side", nargs=2, default=["--with", "tqdm<4.67"], help="the candidate's option")
    parser.add_argument("--probe", nargs="*", default=["import", "sample", "autograd"])
    options = parser.parse_args()
    probes = [word for probe in options.probe for word in ("--probe", probe)]
    cells = [f"{options.base}/{selector}" for selector in options.selectors]
    compare = ["compare", "--base", options.base, *options.side, *probes, "--backend", "local", *options.selectors]
    seconds(compare)
    run = seconds(["run", "--rerun", *probes, "--backend", "local", *cells])
    rows = [
        (what, taken, taken / run)
        for what, taken in (
            ("a run of the base's cells", run),
            ("a comparison, nothing stored", seconds([*compare, "--base-age", "0"])),
            ("a comparison, the base stored", seconds(compare)),
        )
    ]
    print(tabulate(rows, headers=("what", "CPU seconds", "ratio"), tablefmt="pipe", floatfmt=".2f"))


def seconds(words: Sequence[str]) -> float:
    """CPU seconds of a command and all its children; regressions are no error here."""
    before = spent()
    command = [sys.executable, "-m", "torch_compat_matrix", *words]
    done = subprocess.run(command, cwd=ROOT, env=os.environ, capture_output=True, text=True, check=False)
    if done.returncode not in (0, 1):
        raise SystemExit(f"{' '.join(words)} ended with status {done.returncode}:\n{done.stderr[-4000:]}")
    return spent() - before


if __name__ == "__main__":
    main()
