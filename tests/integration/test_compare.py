"""`compat compare`, `dependents` and `bounds` on the interpreter at hand."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import tarfile
import time
from pathlib import Path
from xml.etree import ElementTree

import pytest

from tests.support import ROOT
from tests.support.tinywheels import sdist, simple_index, wheel
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


def begin(place: Path, *arguments: str) -> subprocess.Popen[str]:
    """The command, begun there in a process group of its own."""
    clean = {name: value for name, value in os.environ.items() if not name.startswith(("PIP_", "UV_", "COMPAT_"))}
    own = {
        "PYTHONPATH": str(ROOT / "src"),
        "PIP_INDEX_URL": (place / "simple").as_uri(),
        "UV_CACHE_DIR": str(place / "uv"),
    }
    command = [sys.executable, "-m", "torch_compat_matrix", *arguments]
    pipe = subprocess.PIPE
    return subprocess.Popen(
        command, cwd=place, env={**clean, **own}, stdout=pipe, stderr=pipe, text=True, start_new_session=True
    )


def compat(place: Path, *arguments: str, status: int) -> str:
    """What the command prints there."""
    begun = begin(place, *arguments)
    out, err = begun.communicate(timeout=280)
    assert begun.returncode == status, out + err
    return out


def test_comparison_that_was_killed_goes_on(place: Path) -> None:
    """And tells what an uninterrupted one would; it is never the latest run of the matrix."""
    first, hold = place / "first", place / "hold"
    code = f"import os, time\nif os.path.exists({str(first)!r}):\n"
    code += f"    while os.path.exists({str(hold)!r}):\n        time.sleep(0.05)\n"
    code += f"open({str(first)!r}, 'w').close()\nimport compathelper_new\n"
    wheel(place / "wheels", "torchbnn", "1.5", "compathelper", code=code)
    hold.touch()
    compare = ("compare", "--backend", "here", "--base", "any", "--with", "compathelper<2", "--confirm", "0")
    begun, until = begin(place, *compare), time.monotonic() + 200
    while not any(run.outcomes() for run in Run.all(place / ".compat")):
        assert begun.poll() is None and time.monotonic() < until, begun.communicate(timeout=10)
        time.sleep(0.05)
    os.killpg(begun.pid, signal.SIGKILL)
    begun.communicate(timeout=30)
    hold.unlink()
    (run,) = Run.all(place / ".compat")
    assert (len(run.outcomes()), run.ended(), (run.folder / "compare.md").exists()) == (1, False, False)
    answer = json.loads(compat(place, "compare", "--resume", "--json", status=1))
    assert (answer["run"], answer["base"], answer["candidate"]) == (run.id, "any", "any with compathelper<2")
    assert [(row["verdict"], row["changed"]) for row in answer["checks"]] == [
        ("regressed", ["compathelper 2.0 -> 1.0"])
    ]
    page = (run.folder / "compare.md").read_text()
    assert page.splitlines()[2] == "**1 regressed**"
    assert "base: any, no container" in page
    assert [row["kind"] for row in json.loads(compat(place, "runs", "--json", status=0))] == ["comparison"]
    compat(place, "report", status=3)
    compat(place, "run", "--resume", run.id, status=2)


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


def test_known_failure_of_the_base_is_not_run_again(place: Path) -> None:
    """A plain run asks whether it still fails; a comparison asks what the change does."""
    wheel(place / "wheels", "captum", "0.1", "compathelper", code="import compathelper_gone\n")
    known = "known: [{ cells: captum/import, expect: fail, code: missing-module, reason: x, expires: 2099-01-01 }]"
    (place / "matrix.yaml").write_text(f"{MATRIX}{known}\n")
    compare = ("compare", "--backend", "here", "--base", "any", "--with", "compathelper<2", "--json", "captum")
    rows = [json.loads(compat(place, *compare, status=0))["checks"] for _ in range(2)]
    (run, _) = Run.all(place / ".compat")
    assert [(row["verdict"], row["reused"]) for (row,) in rows] == [("same", ""), ("same", run.id)]


def test_commit_is_laid_over_the_base(place: Path) -> None:
    """`--with git+URL@SHA`: of a repository that builds its own wheel, without a network."""
    with tarfile.open(sdist(place / "src", "compathelper", "2.1", static=True)) as archive:
        archive.extractall(place, filter="data")
    repository = place / "compathelper-2.1"

    def git(*words: str) -> str:
        command = ["git", "-c", "user.name=a", "-c", "user.email=a@b.example", *words]
        done = subprocess.run(command, cwd=repository, check=True, capture_output=True, text=True, timeout=60)
        return done.stdout.strip()

    git("init", "-q")
    git("add", "-A")
    git("commit", "-q", "-m", "Drop compathelper_new")
    change = f"git+{repository.as_uri()}@{git('rev-parse', 'HEAD')}"
    compare = ("compare", "--backend", "here", "--base", "any", "--with", change, "--confirm", "0", "torchbnn")
    (check,) = json.loads(compat(place, *compare, "--json", status=1))["checks"]
    assert check["verdict"] == "regressed"
    assert check["candidate"] == f"any/torchbnn-1.5@compathelper-{change[-8:]}/import"
    assert check["changed"] == ["compathelper 2.0 -> a URL"]
    assert check["cause"] == "missing-module: No module named compathelper_new"


def test_pilot_that_collapses_stops_the_run(place: Path) -> None:
    """Libraries that each fail in their own file, by the same words, have one cause."""
    users = [
        wheel(place / "wheels", f"user{n}", "1.0", "compathelper", code="import compathelper_new\n") for n in range(5)
    ]
    simple_index(place, *users)
    (place / "matrix.yaml").write_text(
        MATRIX.partition("libraries:")[0]
        + "libraries:\n"
        + "".join(f'  user{n}: {{ versions: ["1.0"], probes: [import] }}\n' for n in range(5))
    )
    compare = ("compare", "--backend", "here", "--base", "any", "--with", "compathelper<2", "--pilot", "--confirm", "0")
    answer = json.loads(compat(place, *compare, "--json", status=1))
    assert answer["stopped"] == "stopped after the pilot: 3 of its 3 checks regressed with one cause"
    assert [check["verdict"] for check in answer["checks"]].count("no evidence") == 2


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["--base", "any", "--candidate", "any"], "any and any are the same"),
        (["--base", "any"], "there are no two sides"),
        (["--base", "any", "--with", "torch<2"], "torch makes an image what it is"),
        (["torchbnn", "--base", "any", "--with", "compathelper>1"], "changes no package"),
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
