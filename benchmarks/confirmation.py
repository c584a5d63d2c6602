"""The cost of confirming failures: one launch with and without, for several shares of failing cells.

`python -m benchmarks.confirmation PYTHON [--cells 12]` under an interpreter PYTHON that holds torch.  Each cell is a
library that does nothing but import torch, with two probes; in a failing cell one of them raises.  Real probes take
longer, so that these ratios are the highest.
"""

from __future__ import annotations

import argparse
import shutil
import tempfile
from pathlib import Path

from tabulate import tabulate

from benchmarks.contenders import spent
from torch_compat_matrix.runner.backends import process
from torch_compat_matrix.runner.bundle import BUNDLE
from torch_compat_matrix.runner.execution.protocol import Work, frames, order
from torch_compat_matrix.runner.model import Cell, Image

PROBES = """
DISTRIBUTION = MODULE = "{name}"
NEEDS = ()

def sample(probe):
    probe.randn(4, 4).sum()

def autograd(probe):
    sample(probe)
    assert {sound}
"""


def main() -> None:
    """Time the launches, and print the table."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.confirmation", description=__doc__)
    parser.add_argument("python", help="an interpreter that holds torch")
    parser.add_argument("--cells", type=int, default=12)
    options = parser.parse_args()
    rows = []
    for failing in (0, options.cells // 6, options.cells):
        with_it, without = (launch(options.python, options.cells, failing, confirms) for confirms in (True, False))
        rows.append((f"{failing} of {options.cells}", without, with_it, with_it / without))
    headers = ("failing cells", "CPU seconds without confirmation", "with", "ratio")
    print(tabulate(rows, headers=headers, tablefmt="pipe", floatfmt=".2f"))


def launch(python: str, cells: int, failing: int, confirms: bool) -> float:
    """CPU seconds of a launch in which so many cells fail; its bundle doubts nothing where it must not confirm."""
    with tempfile.TemporaryDirectory(prefix="compat-benchmark-") as name:
        folder = Path(name)
        shutil.copytree(BUNDLE, folder / "probes")
        if not confirms:
            path = folder / "probes" / "cell.py"
            path.write_text(path.read_text() + "\n\ndef doubtful(seen):\n    return False\n")
        work = []
        for number in range(cells):
            library = f"idle{number}"
            (folder / "overlays" / "key" / library).mkdir(parents=True)
            (folder / "overlays" / "key" / library / "__init__.py").write_text("import torch\n")
            metadata = folder / "overlays" / "key" / f"{library}-1.0.dist-info"
            metadata.mkdir()
            (metadata / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {library}\nVersion: 1.0\n")
            text = PROBES.format(name=library, sound=number >= failing)
            (folder / "probes" / "libraries" / f"{library}.py").write_text(text)
            probes = ("import", "sample", "autograd")
            cell = Cell(image="x", subject=library, version="1.0", requires=(), members=(library,), probes=probes)
            work.append(Work(cell=cell, overlay=Path("key"), added={library: "1.0"}, versions={library: "1.0"}))
        vars(process)["BUNDLE"] = folder / "probes"
        ordered = order(Image(name="x"), work, device="cpu")
        before = spent()
        overlays = {"key": folder / "overlays" / "key"}
        with process.launched(python, ordered, overlays, home=folder, gpu=None) as launched:
            seen = [frame for frame in frames(launched.lines()) if frame["kind"] == "observation"]
        assert sum(frame["status"] == "raised" for frame in seen) == failing
        return spent() - before


if __name__ == "__main__":
    main()
