"""Run the controls through `compat run --backend here`, and print what was expected and what was seen.

The folder keeps `controls.md`, `controls.json`, and the runs themselves with their journals; where the command is cut
off, too.  Exit status 0: all is as expected; 1: something is not.
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

from tests.gpu import second
from tests.gpu.controls import BREAKS, CONTROLS, NO_DEVICE, PROBES, SOUND, Control

ROOT = Path(__file__).resolve().parent.parent.parent
HEADERS = ("as expected", "control", "planted", "expected", "seen", "next probe", "seconds")


def main(arguments: Sequence[str] | None = None) -> int:
    """Run, print, write."""
    parser = argparse.ArgumentParser(prog="python3 -m tests.gpu", description=__doc__)
    parser.add_argument("folder", type=Path, help="where the table and the runs go")
    parser.add_argument("--patience", type=float, default=20, help="seconds until a hang is one (%(default)s)")
    parser.add_argument("--second", action="store_true", help="plant the second list instead of the first")
    parser.add_argument("--only", nargs="*", metavar="NAME", help="plant these alone")
    options = parser.parse_args(arguments)
    folder: Path = options.folder.absolute()
    folder.mkdir(parents=True, exist_ok=True)
    planted = second.CONTROLS if options.second else CONTROLS
    breaking: tuple[Control, ...] = () if options.second else (NO_DEVICE,)
    if options.only:
        planted, breaking = (
            tuple(control for control in controls if control.name in options.only) for controls in (planted, breaking)
        )
    with tempfile.TemporaryDirectory(prefix="compat-controls-") as scratch:
        checkout, packages = lay_out(Path(scratch), (*planted, *breaking))
        (Path(scratch) / "broken").mkdir()
        (Path(scratch) / "broken" / "sitecustomize.py").write_text(BREAKS)
        broken = run(breaking, folder / "no-device", checkout, [Path(scratch) / "broken", packages], 60)
        whole = run(planted, folder / "planted", checkout, [packages], options.patience)
    rows = [*(row(control, whole) for control in planted), *(row(control, broken) for control in breaking)]
    text = f"{place(whole)}\n\n{table(rows)}"
    print(text)
    (folder / "controls.md").write_text(text + "\n")
    (folder / "controls.json").write_text(
        json.dumps([dict(zip(HEADERS, each, strict=True)) for each in rows], indent=1)
    )
    return int(any(each[0] != "yes" for each in rows))


def lay_out(scratch: Path, controls: Iterable[Control]) -> tuple[Path, Path]:
    """A copy of the checkout whose probes are those of the controls, and a folder with their libraries."""
    checkout, packages = scratch / "checkout", scratch / "packages"
    for room in ("compat", "runner", "reports", "probes"):
        shutil.copytree(ROOT / room, checkout / room, ignore=shutil.ignore_patterns("__pycache__"))
    packages.mkdir()
    for control in controls:
        name = control.name
        (checkout / "probes" / "libraries" / f"{name}.py").write_text(PROBES.format(name=name))
        (packages / f"{name}.py").write_text(f"import torch\n{SOUND}\n{control.library}")
        info = packages / f"{name}-1.0.dist-info"
        info.mkdir()
        (info / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {name}\nVersion: 1.0\n")
    return checkout, packages


def run(
    controls: Sequence[Control], out: Path, checkout: Path, path: Sequence[Path], patience: float
) -> dict[str, Any]:
    """The JSON report of one run of the controls, in the order given; empty where the command wrote none."""
    shutil.rmtree(out, ignore_errors=True)
    out.mkdir()
    (out / "plan.json").write_text(json.dumps(plan(controls, patience)))
    environment = {
        **os.environ,
        "COMPAT_HOME": str(out),
        "PYTHONPATH": os.pathsep.join([*map(str, path), *filter(None, [os.environ.get("PYTHONPATH")])]),
    }
    command = [sys.executable, str(checkout / "compat"), "run", "--backend", "here", "--plan", "plan.json"]
    command += ["--jobs", "1", "--rerun", "--out", "."]
    if controls:
        running = subprocess.Popen(command, cwd=out, env=environment, stdout=sys.stderr)
        try:
            running.wait()
        except KeyboardInterrupt:  # it reaches the run as well, which writes its report
            running.wait()
    report = out / "report.json"
    return dict(json.loads(report.read_text())) if report.exists() else {"outcomes": [], "environments": {}}


def plan(controls: Iterable[Control], patience: float) -> dict[str, Any]:
    """A plan as `compat plan --json` writes it: one image for what hangs, one for the rest, on a GPU or not at all."""
    images = {"control": 60.0, "hanging": patience}
    return {
        "images": [
            {"name": name, "local": None, "limits": {"gpus": "required", "timeout_s": timeout_s}}
            for name, timeout_s in images.items()
        ],
        "cells": [
            {
                "image": "hanging" if control.hangs else "control",
                "subject": control.name,
                "version": "installed",
                "requires": [],
                "members": [control.name],
                "probes": ["import", "sample", "autograd"],
            }
            for control in controls
        ],
        "known": [],
        "source": "tests/gpu",
    }


def row(control: Control, report: dict[str, Any]) -> tuple[str, ...]:
    """What was expected of a control, and what was seen."""
    seen = {one["probe"]: one for one in report["outcomes"] if one["subject"] == control.name}
    said = {probe: f"{one['verdict']} {one.get('reason', '')}".strip() for probe, one in seen.items()}
    sample, following = (said.get(probe, "nothing") for probe in ("sample", "autograd"))
    noted = control.note in " ".join(seen.get("sample", {}).get("notes", ()))
    right = noted and sample in control.right and (said.get("import"), following) == (control.others, control.others)
    seconds = sum(one.get("seconds", 0.0) for one in seen.values())
    expected = ", or ".join(control.right) + (f", noted: {control.note}" if control.note else "")
    return ("yes" if right else "NO", control.name, control.plants, expected, sample, following, f"{seconds:.0f}")


def place(report: dict[str, Any]) -> str:
    """Where it was seen: GPU, driver, torch, CUDA, Python, day."""
    for record in report["environments"].values():
        facts = record["facts"]
        torch = facts.get("torch") or {}
        gpus = ", ".join(gpu["name"] for gpu in facts.get("gpus", ())) or "no GPU"
        return (
            f"{gpus}, driver {facts.get('driver') or 'unknown'}, torch {torch.get('version', 'unknown')}, "
            f"CUDA {torch.get('cuda')}, Python {facts['python']}, {report['run']['started'][:10]}"
        )
    return "Nothing was launched."


def table(rows: Sequence[Sequence[str]]) -> str:
    """Rows as a table of Markdown that can be read as it is."""
    lines = [HEADERS, *rows]
    widths = [max(len(line[column]) for line in lines) for column in range(len(HEADERS))]
    padded = ["| " + " | ".join(map(str.ljust, line, widths)) + " |" for line in lines]
    return "\n".join([padded[0], "|" + "|".join("-" * (width + 2) for width in widths) + "|", *padded[1:]])


if __name__ == "__main__":
    sys.exit(main())
