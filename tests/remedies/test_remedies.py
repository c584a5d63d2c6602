"""What a remedy names first is done to the matrix, mechanically, and the check passes then; the misses are listed.

Nothing here decides what to change: the run's own records do (`changes` of an outcome).  An image that would have to be
made anew is counted apart, since it takes gigabytes of torch.
"""

from __future__ import annotations

import copy
import json
import os
import re
import subprocess
import sys
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import pytest
from ruamel.yaml import YAML

from tests.support import ROOT
from tests.support.environments import HOME
from torch_compat_matrix.runner.pins import name_of

MATRIX = YAML(typ="safe").load(Path(__file__).with_name("matrix.yaml").read_text())
LEAST = 0.9
"""The share of remedies that must end in a pass."""


def run(place: Path, matrix: Mapping[str, Any]) -> dict[str, dict[str, Any]]:
    """Check id -> the recorded outcome of a run of that matrix in an empty home, which has the tests' stand-ins."""
    (place / ".compat").mkdir(parents=True)
    (place / ".compat" / "standins").symlink_to(HOME.absolute() / "standins")
    with (place / "matrix.yaml").open("w") as file:
        YAML().dump(copy.deepcopy(matrix), file)
    environ = {**os.environ, "COMPAT_HOME": "", "PYTHONPATH": str(ROOT / "src")}
    command = [sys.executable, "-m", "torch_compat_matrix", "run", "--backend", "local"]
    done = subprocess.run(command, cwd=place, env=environ, capture_output=True, text=True, check=False)
    reports = [*place.glob(".compat/runs/*/report.json")]
    assert reports, done.stdout + done.stderr
    return {outcome["check"]: outcome for outcome in json.loads(reports[0].read_text())["outcomes"]}


def first_failures(outcomes: Mapping[str, Mapping[str, Any]]) -> Iterator[Mapping[str, Any]]:
    """The first failure of each cell: the others follow from it."""
    cells = set()
    for outcome in outcomes.values():
        cell = outcome["check"].rpartition("/")[0]
        if outcome["verdict"] not in ("pass", "skip") and cell not in cells:
            cells.add(cell)
            yield outcome


def applied(outcome: Mapping[str, Any]) -> dict[str, Any] | None:
    """The entry of the library with the first change made; None where that is no change of the entry."""
    entry = copy.deepcopy(MATRIX["libraries"][outcome["subject"]])
    beside = entry.pop("with", [])
    for kind, what in re.findall(r"\b(use|with|without|build|image) (\S+)", outcome["changes"][0]):
        name, _, version = what.partition("==")
        if kind == "use" and name == outcome["subject"]:
            entry["versions"] = [version]
        elif kind == "with":
            beside = [*(text for text in beside if name_of(text) != name_of(what)), what]
        elif kind == "without":
            beside = [text for text in beside if name_of(text) != what]
        else:
            return None
    return {**entry, "with": beside} if beside else entry


@pytest.mark.slow
def test_remedies_help(tmp_path: Path) -> None:
    """At least nine of ten checks pass with what their remedy names first."""
    failures = list(first_failures(run(tmp_path / "before", MATRIX)))
    told = [outcome for outcome in failures if outcome.get("changes")]
    lines, helped, tried = [], 0, 0
    of = {outcome["subject"]: outcome for outcome in told}
    entries = {name: entry for name, outcome in of.items() if (entry := applied(outcome)) is not None}
    after = run(tmp_path / "after", {**MATRIX, "libraries": entries}).values()
    for name in entries:
        outcome = of[name]
        (new,) = [each for each in after if (each["subject"], each["probe"]) == (name, outcome["probe"])]
        if new.get("reason") == "no-stand-in":
            continue  # nothing that runs here could show it
        passed = new["verdict"] == "pass"
        helped, tried = helped + passed, tried + 1
        end = "passes" if passed else f"{new['verdict']} ({new.get('reason')}): {new.get('evidence', '')}"
        lines.append(f"{outcome['check']} {outcome['reason']}: {outcome['changes'][0]}: {end}")
    untried = [outcome for outcome in failures if outcome["check"] not in "\n".join(lines)]
    lines += [f"{each['check']} {each['reason']}: not tried: {each.get('changes', [])}" for each in untried]
    print(f"{helped} of {tried} remedies help, for {len({each['reason'] for each in told})} reasons", *lines, sep="\n")
    assert tried >= 25
    assert helped >= LEAST * tried, "\n".join(lines)
