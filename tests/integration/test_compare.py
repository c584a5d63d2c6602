"""`compat compare`, `dependents` and `bounds` on the interpreter at hand."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from xml.etree import ElementTree

import pytest

from tests.support import ROOT
from tests.support.tinywheels import simple_index, wheel
from torch_compat_matrix.compat import cli
from torch_compat_matrix.runner.records.runs import Run

MATRIX = """\
images:
  any: { local: { python: "3.11", requires: [] } }
libraries:
  torchbnn: { versions: ["1.5"], probes: [import] }
  captum: { versions: ["0.1"], probes: [import] }
"""


@pytest.fixture
def place(tmp_path: Path) -> Path:
    """A folder with a matrix, and an index where one library breaks with an older helper that the other lacks."""
    wheels = tmp_path / "wheels"
    built = [
        wheel(wheels, "compathelper", "1.0"),
        wheel(wheels, "compathelper", "2.0", files={"compathelper_new.py": ""}),
        wheel(wheels, "torchbnn", "1.5", "compathelper", code="import compathelper_new\n"),
        wheel(wheels, "captum", "0.1", "compathelper<2"),
    ]
    simple_index(tmp_path, *built)
    (tmp_path / "matrix.yaml").write_text(MATRIX)
    return tmp_path


def compat(place: Path, *arguments: str, status: int) -> str:
    """What the command prints there."""
    clean = {name: value for name, value in os.environ.items() if not name.startswith(("PIP_", "UV_", "COMPAT_"))}
    own = {
        "PYTHONPATH": str(ROOT / "src"),
        "PIP_INDEX_URL": (place / "simple").as_uri(),
        "UV_CACHE_DIR": str(place / "uv"),
    }
    command = [sys.executable, "-m", "torch_compat_matrix", *arguments]
    done = subprocess.run(command, cwd=place, env={**clean, **own}, capture_output=True, text=True, check=False)
    assert done.returncode == status, done.stdout + done.stderr
    return done.stdout


def test_change_that_breaks_a_library_is_told(place: Path) -> None:
    """On a page, as JSON and JUnit; of all cells those that need the package; the base is not run a second time."""
    compare = ("compare", "--backend", "here", "--base", "any", "--with", "compathelper<2")
    answer = json.loads(compat(place, *compare, "--json", status=1))
    (check,) = answer["checks"]
    assert (check["check"], check["verdict"]) == ("any/torchbnn-1.5/import", "regressed")
    assert check["changed"] == ["compathelper 2.0 -> 1.0"]
    assert (check["confirmation"], check["unconfirmed"]) == ("bracketed", "")
    assert answer["unaffected"] == ["any/captum-0.1"]
    (run,) = Run.all(place / ".compat")
    page = (run.folder / "compare.md").read_text()
    assert page.splitlines()[2] == "**1 regressed**"
    assert "No module named 'compathelper\\_new'" in page or "No module named 'compathelper_new'" in page
    assert f"compat reproduce 'any/torchbnn-1.5@compathelper-2/import' --run {run.id}" in page
    listed = json.loads(compat(place, "dependents", "compathelper", "any", "--backend", "here", "--json", status=0))
    assert [(row["cell"], row["version"], row["added"]) for row in listed["cells"]] == [
        ("any/torchbnn-1.5", "2.0", True),
        ("any/captum-0.1", "1.0", True),
    ]
    (case,) = ElementTree.parse(run.folder / "compare.xml").iter("testcase")
    assert case.find("failure") is not None
    own = [*compare[:-1], "wheels/compathelper-1.0-py3-none-any.whl"]
    again = json.loads(compat(place, *own, "--pilot", "--confirm", "0", "--json", status=1))
    rows = [(row["candidate"], row["verdict"], row["reused"]) for row in again["checks"]]
    assert rows == [
        ("any/torchbnn-1.5@compathelper-1.0-py3-none-any/import", "regressed", run.id),
        ("any/captum-0.1@compathelper-1.0-py3-none-any/import", "same", ""),
    ]
    bounds = json.loads(compat(place, "bounds", "captum", "--in", "any", "--backend", "here", "--json", status=0))
    (library,) = bounds["libraries"]
    assert "compathelper: declares <2; passes with 1.0, 2.0 (outside)" in library["found"]
    assert library["requires"] == ["compathelper"]
    assert "1 check of the base from the store" in (Run.all(place / ".compat")[-1].folder / "compare.md").read_text()


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["--base", "any", "--candidate", "any"], "any and any are the same"),
        (["--base", "any"], "there are no two sides"),
        (["--base", "any", "--with", "torch<2"], "torch makes an image what it is"),
        (["any/torchbnn", "--base", "any", "--with", "compathelper>1"], "changes no package"),
        (["--base", "other", "--with", "compathelper>1"], "there is no image 'other'"),
    ],
)
def test_what_cannot_be_compared_is_said(
    place: Path, arguments: list[str], said: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """Equal sides, and a change that changes nothing: status 2, and nothing runs."""
    monkeypatch.chdir(place)
    monkeypatch.setenv("COMPAT_HOME", str(place / ".compat"))
    monkeypatch.setenv("PIP_INDEX_URL", (place / "simple").as_uri())
    status = cli.main(["compare", "--backend", "here", *arguments])
    assert status == (3 if "no image" in said else 2)
    assert said in capsys.readouterr().err
    assert not Run.all(place / ".compat")
