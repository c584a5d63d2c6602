"""Each folder is a case: the real command runs in an empty folder with its matrix.yaml, and case.yaml has the answers.

says      what is right, in a sentence
modules   probe modules of tests/cases/modules/ that the product gets beside its own
setup     a shell script, run first in the folder of the case, with $TORCH_PYTHON, $HOST_PYTHON and $CASES
only_if   a shell command; the case is skipped where it fails
python    the interpreter that runs `compat` (default: the one that runs the tests)
variables, files   environment variables; texts by file name.  {folder} stands for the folder of the case, and
          {torch_python} and {PATH} for what they say, also in `python`
arguments what follows `compat run`
mark      `share` (more than 5 s: CI runs it apart) or `slow` (only its own command runs it)
status    the exit status of `compat run`, or a list of those that are right
output, report, plan   words that the output, report.md as it is read, and `compat plan` after the run hold (or lack)
checks    pattern of check ids -> verdict, reason, blame (a list: each is right; verdict `absent`: no such check), and
          words that WORDS of the outcome hold (or lack)
"""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
import sys
from collections.abc import Callable, Mapping
from fnmatch import fnmatchcase
from pathlib import Path
from typing import Any

import pytest
from ruamel.yaml import YAML

from tests.support import ROOT
from tests.support.environments import HOME

FOLDER = Path(__file__).parent
WORDS = ("detail", "evidence", "remedy", "notes", "drift", "resolved")
Run = Callable[..., "subprocess.CompletedProcess[str]"]


def read_cases() -> list[Any]:
    """The folders' case.yaml, as pytest's parameters."""
    cases = {path.parent.name: YAML(typ="safe").load(path.read_text()) for path in sorted(FOLDER.glob("*/case.yaml"))}
    return [
        pytest.param(name, case, id=name, marks=[getattr(pytest.mark, case["mark"])] if "mark" in case else [])
        for name, case in cases.items()
    ]


@pytest.fixture(scope="session")
def product(tmp_path_factory: pytest.TempPathFactory) -> Callable[..., Path]:
    """A function that copies the product with more probe modules, and gives the folder for PYTHONPATH."""

    def copied(modules: tuple[str, ...]) -> Path:
        if not modules:
            return ROOT / "src"
        folder = tmp_path_factory.getbasetemp() / "-".join(["product", *modules])
        if not folder.exists():
            package = folder / "torch_compat_matrix"
            shutil.copytree(ROOT / "src" / "torch_compat_matrix", package)  # with its bytecode
            for module in modules:
                shutil.copy(FOLDER / "modules" / module, package / "probes" / "libraries" / module.removesuffix(".txt"))
        return folder

    return copied


@pytest.fixture
def run(tmp_path: Path, torch_python: str) -> Run:
    """A function that runs a command in the case's folder, whose home has the tests' environments and nothing else."""
    (tmp_path / ".compat").mkdir()
    (tmp_path / ".compat" / "standins").symlink_to(HOME.absolute() / "standins")
    named = {"TORCH_PYTHON": torch_python, "HOST_PYTHON": sys.executable, "CASES": str(FOLDER)}

    def called(*command: str, **variables: str) -> subprocess.CompletedProcess[str]:
        environ = {**os.environ, **named, "COMPAT_HOME": "", **variables}
        return subprocess.run(
            command, cwd=tmp_path, env=environ, capture_output=True, text=True, timeout=280, check=False
        )

    return called


@pytest.mark.parametrize(("name", "case"), read_cases())
def test_case(
    name: str, case: Mapping[str, Any], product: Callable[..., Path], run: Run, tmp_path: Path, torch_python: str
) -> None:
    """Exit status, output and outcomes are those of case.yaml."""
    if "only_if" in case and run("sh", "-c", case["only_if"]).returncode:
        pytest.skip(f"this machine lacks: {case['only_if']}")
    known = {"{folder}": str(tmp_path), "{torch_python}": torch_python, "{PATH}": os.environ["PATH"]}

    def fill(text: str) -> str:
        for place, meaning in known.items():
            text = text.replace(place, meaning)
        return text

    shutil.copy(FOLDER / name / "matrix.yaml", tmp_path)
    for file, text in case.get("files", {}).items():
        (tmp_path / file).write_text(fill(text))
    setup = run("sh", "-ec", case.get("setup", ""))
    assert setup.returncode == 0, setup.stdout + setup.stderr

    variables = {variable: fill(text) for variable, text in case.get("variables", {}).items()}
    variables["PYTHONPATH"] = str(product(tuple(case.get("modules", ()))))
    compat = [fill(case.get("python", sys.executable)), "-m", "torch_compat_matrix"]
    arguments = case.get("arguments", [])
    done = run(*compat, "run", *arguments, **variables)
    said = done.stdout + done.stderr
    check_words(said, {"lacks": "Traceback (most recent call last)", **case.get("output", {})})
    reports = sorted(tmp_path.glob(".compat/runs/*/report.json"))
    outcomes = json.loads(reports[-1].read_text())["outcomes"] if reports else []
    for pattern, right in case.get("checks", {}).items():
        found = [outcome for outcome in outcomes if fnmatchcase(outcome["check"], pattern)]
        assert found or "absent" in listed(right["verdict"]), f"no check {pattern}: {said}"
        for outcome in found:
            check_outcome(outcome, right)
    if "report" in case:
        page = reports[-1].with_name("report.md").read_text()
        check_words(re.sub(r"\\([^\w\s])", r"\1", page), case["report"])
    if "plan" in case:
        planned = run(*compat, "plan", *arguments, **variables)
        check_words(planned.stdout + planned.stderr, case["plan"])
    assert done.returncode in listed(case["status"]), said


def check_outcome(outcome: Mapping[str, Any], right: Mapping[str, Any]) -> None:
    """Verdict, reason and blame are right, and so are the words."""
    for name in ("verdict", "reason", "blame"):
        if name in right:
            assert outcome.get(name) in listed(right[name]), json.dumps(outcome, indent=1)
    check_words(json.dumps([outcome.get(name) for name in WORDS]), right)


def check_words(text: str, right: Mapping[str, Any]) -> None:
    """The text holds what it should, and lacks what it should not hold; case does not count."""
    lower = text.lower()
    assert [word for word in listed(right.get("holds", [])) if word.lower() not in lower] == [], text
    assert [word for word in listed(right.get("lacks", [])) if word.lower() in lower] == [], text


def listed(value: Any) -> list[Any]:
    """The value, or the values of a list."""
    return value if isinstance(value, list) else [value]
