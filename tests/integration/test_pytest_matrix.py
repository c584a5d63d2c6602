"""`pytest -m matrix` as it is used: under pytest-xdist, with known failures, host trouble and a report at the end."""

from __future__ import annotations

import json
import subprocess
import sys
from collections import Counter
from pathlib import Path
from xml.etree import ElementTree

import pytest

from tests.support import ROOT, light_images

MATRIX = """
images:
  one:
    LOCAL
  two:
    LOCAL
  broken:
    local: { python: "3.99", requires: [torch] }
  demanding:
    LOCAL
    limits: { gpus: required }
probes: [import, sample, autograd, ./probes]
libraries:
  torchbnn: { versions: ["1.2"] }
  pyro-ppl: { versions: ["1.8.0"], probes: [import] }
known:
  - { cells: "*/pyro-ppl-1.8.0/import", expect: unsupported, code: version-assert, target: cpu, reason: wants torch 1 }
  - { cells: "two/torchbnn-1.2/sample", expect: fail, reason: is said to be broken }
  - { cells: "one/torchbnn-1.2/import", expect: fail, reason: was broken long ago, expires: 2020-01-31 }
""".replace("LOCAL", light_images.LOCAL)


def matrix(tmp_path: Path, *arguments: str) -> tuple[str, dict[str, str]]:
    """What pytest prints, and each item's outcome by JUnit's names."""
    light_images.put(tmp_path)
    (tmp_path / "matrix.yaml").write_text(MATRIX)
    command = [sys.executable, "-m", "pytest", "-m", "matrix", f"--matrix={tmp_path / 'matrix.yaml'}", *arguments]
    command += [f"--junitxml={tmp_path / 'junit.xml'}", "-p", "no:cacheprovider", "-p", "no:hypothesispytest"]
    environment = {**light_images.variables(tmp_path), "COMPAT_HOME": str(tmp_path / "home")}
    done = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True, timeout=280, check=False)
    found = {}
    for case in ElementTree.parse(tmp_path / "junit.xml").iter("testcase"):
        name = str(case.get("name"))
        kinds = [child.tag for child in case if child.tag in ("failure", "error", "skipped")]
        found[name] = kinds[0] if kinds else "passed"
    return done.stdout + done.stderr, found


@pytest.mark.parametrize(
    "dist", [pytest.param("load", marks=pytest.mark.share), pytest.param("worksteal", marks=pytest.mark.slow)]
)
def test_workers_share_one_run(tmp_path: Path, dist: str) -> None:
    """Each check is an item with its own kind of end; nothing is launched twice; the report is compiled once."""
    said, found = matrix(tmp_path, "-n", "2", "--dist", dist)
    assert found == {
        "one/torchbnn-1.2/import": "failure",
        "one/torchbnn-1.2/sample": "passed",
        "one/torchbnn-1.2/autograd": "passed",
        "one/pyro-ppl-1.8.0/import": "skipped",
        "two/torchbnn-1.2/import": "passed",
        "two/torchbnn-1.2/sample": "failure",
        "two/torchbnn-1.2/autograd": "passed",
        "two/pyro-ppl-1.8.0/import": "skipped",
        "broken/torchbnn-1.2/import": "error",
        "broken/torchbnn-1.2/sample": "error",
        "broken/torchbnn-1.2/autograd": "error",
        "broken/pyro-ppl-1.8.0/import": "error",
        "demanding/torchbnn-1.2/import": "skipped",
        "demanding/torchbnn-1.2/sample": "skipped",
        "demanding/torchbnn-1.2/autograd": "skipped",
        "demanding/pyro-ppl-1.8.0/import": "skipped",
    }, said
    assert "XPASS(strict)" in said
    assert "matrix.yaml:19:5: this `known:` entry expired on 2020-01-31" in said
    (journal,) = (tmp_path / "home" / "runs").glob("*/journal.jsonl")
    records = [json.loads(line) for line in journal.read_text().splitlines()]
    answers = {(record["check"], record["started"]) for record in records if record["kind"] == "outcome"}
    assert max(Counter(check for check, _ in answers).values()) == 1  # second thoughts repeat an answer, with its time
    assert sum(record["kind"] == "end" for record in records) == 1
    assert said.count("report: ") == 1
    assert (journal.parent / "report.md").exists()


def test_items_are_selected_as_always(tmp_path: Path) -> None:
    """`-k` launches only what it selects; without workers the same engine runs."""
    said, found = matrix(tmp_path, "-k", "one and torchbnn and sample")
    assert found == {"one/torchbnn-1.2/sample": "passed"}, said
    (journal,) = (tmp_path / "home" / "runs").glob("*/journal.jsonl")
    assert [json.loads(line)["check"] for line in journal.read_text().splitlines() if '"outcome"' in line] == list(
        found
    )


def test_an_item_is_named_by_its_id(tmp_path: Path) -> None:
    """As pytest prints it, so that a failure can be run again."""
    light_images.put(tmp_path)
    (tmp_path / "matrix.yaml").write_text(MATRIX)
    item = "matrix.yaml::one/torchbnn-1.2/sample"
    command = [sys.executable, "-m", "pytest", "-m", "matrix", "--collect-only", "-q", item]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, timeout=100, check=False)
    assert done.stdout.splitlines()[0] == item, done.stdout + done.stderr
    assert "1 test collected" in done.stdout


def test_plain_pytest_leaves_the_matrix_alone(tmp_path: Path) -> None:
    """It does not even read matrix.yaml."""
    command = [sys.executable, "-m", "pytest", "--collect-only", "-q", f"--matrix={tmp_path / 'absent.yaml'}"]
    command += ["-o", "testpaths=tests/pip"]  # not all that there is
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=100, check=False)
    assert done.returncode == 0, done.stdout
    assert "test_matrix.py::test_check" not in done.stdout


def test_mistakes_are_usage_errors(tmp_path: Path) -> None:
    """Said before anything is collected, with what would be right."""
    light_images.put(tmp_path)
    (tmp_path / "matrix.yaml").write_text(MATRIX)
    for option, said in (
        ("--backend=dokcer", "no backend 'dokcer'; there are: "),
        ("--select=tow", "'tow' selects nothing; did you mean 'two'"),
    ):
        command = [sys.executable, "-m", "pytest", "-m", "matrix", f"--matrix={tmp_path / 'matrix.yaml'}", option]
        done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=100, check=False)
        assert done.returncode == 4
        assert said in done.stderr
