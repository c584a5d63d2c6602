"""Upstream's own tests: who asks for them, where they come from, what their report says."""

from __future__ import annotations

import io
import subprocess
import tarfile
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from torch_compat_matrix.probes import suite as probe
from torch_compat_matrix.probes.contract import SuiteOrder
from torch_compat_matrix.runner.errors import Trouble
from torch_compat_matrix.runner.matrix.expand import expand
from torch_compat_matrix.runner.matrix.load import load
from torch_compat_matrix.runner.model import PROBES, SUITE, Plan
from torch_compat_matrix.runner.packages import overlay, suites
from torch_compat_matrix.runner.packages.pip_config import Index
from torch_compat_matrix.runner.packages.resolution import Resolution

MATRIX = """
images: { a: { tag: "a:1" } }
defaults: { libraries: { timeout: { compile: 7 } } }
libraries:
  captum: { versions: ["0.9.0"] }
  torchbnn: { versions: ["1.2"], suite: true }
"""


def plan_of(folder: Path, *probes: str) -> Plan:
    """The plan of the matrix above."""
    (folder / "matrix.yaml").write_text(MATRIX)
    return expand(load(folder / "matrix.yaml"), "docker", (), probes)


def test_it_runs_only_where_it_is_asked_for(tmp_path: Path) -> None:
    """By the library, beside its other probes; or by the command line, for all libraries; the plan travels."""
    captum, torchbnn = plan_of(tmp_path).cells
    assert captum.probes == PROBES and captum.suite is None
    assert torchbnn.probes[0] == "import" and torchbnn.probes[-1] == SUITE
    assert torchbnn.timeouts == {SUITE: 600, "compile": 7}
    asked = plan_of(tmp_path, SUITE)
    assert [cell.probes for cell in asked.cells] == [(SUITE,), (SUITE,)]
    assert Plan.from_json(asked.to_json()).cells == asked.cells


FILES = {
    "tests/test_a.py": "def test_a(): pass\n",
    "tests/sub/data.txt": "1",
    "acme/__init__.py": "raise SystemExit\n",
    "pyproject.toml": "[tool.pytest.ini_options]\naddopts = '--no-such-option'\n",
    "setup.py": "raise SystemExit\n",
}


def written(folder: Path) -> Path:
    """The files of a small project."""
    for name, text in FILES.items():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_text(text)
    return folder


def packed(folder: Path) -> None:
    """Its source distribution."""
    with tarfile.open(folder / "acme-1.0.tar.gz", "w:gz") as archive:
        for name, text in FILES.items():
            entry = tarfile.TarInfo(f"acme-1.0/{name}")
            entry.size = len(text)
            archive.addfile(entry, io.BytesIO(text.encode()))


def committed(folder: Path) -> str:
    """The project as a local Git repository, by its commit."""
    words = ("git", "-C", str(written(folder)), "-c", "user.name=a", "-c", "user.email=a@b.c")
    for more in (("init", "-q"), ("add", "-A"), ("commit", "-qm", "x")):
        subprocess.run([*words, *more], check=True)
    head = subprocess.run([*words, "rev-parse", "HEAD"], check=True, capture_output=True, text=True)
    return f"git+{folder.as_uri()}@{head.stdout.strip()}"


@pytest.fixture
def fetched(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Any:
    """Fetches the suite of acme 1.0; the image holds pytest, so that nothing is resolved."""
    monkeypatch.setattr(overlay, "install", lambda *words, **more: (Resolution(), None))
    index = Index.from_pip({"PIP_NO_INDEX": "1", "PIP_FIND_LINKS": str(tmp_path), "PIP_CONFIG_FILE": "/dev/null"})

    def fetch(source: str, *select: str) -> suites.Suite:
        wanted = {"source": source, "select": list(select), "with": []}
        return suites.fetch(wanted, "acme", "1.0", {}, index, tmp_path / "home")

    return fetch


@pytest.mark.parametrize("kind", ["sdist", "git", "folder"])
def test_only_tests_and_their_configuration_are_taken(fetched: Any, tmp_path: Path, kind: str) -> None:
    """From each kind of source, pinned by a hash; never the library's own package."""
    packed(tmp_path)
    source = {"sdist": "sdist", "git": committed(tmp_path / "g"), "folder": str(written(tmp_path / "f"))}[kind]
    found = fetched(source)
    names = {str(path.relative_to(found.tests)) for path in found.tests.rglob("*") if path.is_file()}
    assert names == {"tests/test_a.py", "tests/sub/data.txt", "pyproject.toml"}
    assert found.select == ("tests",)
    assert found == fetched(source)
    with pytest.raises(Trouble, match=r"has no tests/test_b\.py") as none:
        fetched(source, "tests/test_b.py")
    assert none.value.code == "suite-not-run"


def test_what_cannot_be_had_is_named(fetched: Any, tmp_path: Path) -> None:
    """A version without a source distribution, a commit that is nowhere, tests that are nowhere."""
    with pytest.raises(Trouble, match=r"no \.tar\.gz of acme 1\.0"):
        fetched("sdist")
    repository = committed(tmp_path / "g").partition("@")[0]
    with pytest.raises(Trouble, match="git: fatal: not a tree object"):
        fetched(f"{repository}@{'1' * 40}")
    (tmp_path / "empty").mkdir()
    with pytest.raises(Trouble, match="has no tests and no test"):
        fetched(str(tmp_path / "empty"))


def ordered(folder: Path, *known: str) -> SuiteOrder:
    """The order to run the tests in the folder, of which some fail in the image `ref`."""
    reference = "ref" if known else ""
    return SuiteOrder(
        source="here", tests=str(folder), packages="", select=["tests"], reference=reference, known=list(known)
    )


TESTS = """
import os, pytest
def test_good(): assert "PYTHONDONTWRITEBYTECODE" in os.environ
def test_bad(): assert 1 == 2
def test_worse(): raise OSError("disk")
@pytest.mark.skip(reason="no GPU")
def test_left_out(): pass
"""


def test_failures_count_unless_they_are_upstreams_own(tmp_path: Path) -> None:
    """A real pytest runs; the reference's failures are left out, a test that fails here alone is not."""
    folder = written(tmp_path / "source")
    (folder / "tests/test_a.py").write_text(TESTS)
    assert probe.answer(ordered(folder), "acme")["code"] == "suite-not-run"  # it would shadow the installed package
    seen = probe.answer(ordered(folder, "tests.test_a.test_bad", "tests.test_a.test_gone"), "other")
    assert (seen["status"], seen["code"]) == ("failed", "suite-failed")
    assert seen["message"] == "1 of 4 tests fail that do not fail on ref: tests.test_a.test_worse"
    counts = {name: metric["value"] for name, metric in seen["metrics"].items()}
    assert counts == {"tests passed": 1, "tests failed": 2, "tests skipped": 1, "tests failed at the reference too": 1}
    assert [(part["status"], part["message"]) for part in seen["parts"]] == [
        ("skipped", "fails on ref too"),
        ("failed", "OSError: disk"),
    ]
    assert {path.name for path in folder.rglob("*")} == {"tests", "sub", "acme"} | {
        name.rpartition("/")[2] for name in FILES
    }


@pytest.mark.parametrize(
    ("tests", "status", "said"),
    [
        ([("t", "passed", 0.1, "")], 0, ("passed", "")),
        ([("t", "failed", 0.1, "x")], 1, ("failed", "suite-failed")),
        ([("t", "skipped", 0.1, "no GPU")], 0, ("skipped", "")),
        ([("t", "passed", 0.1, "")], 2, ("failed", "suite-not-run")),
        ([], 5, ("failed", "suite-not-run")),
        ([], 0, ("failed", "suite-not-run")),
    ],
)
def test_no_pass_without_a_test_that_passed(
    tmp_path: Path, tests: list[tuple[str, str, float, str]], status: int, said: tuple[str, str]
) -> None:
    """Whatever pytest's exit status says."""
    seen = SimpleNamespace(**{"code": "", **probe.judged(tests, status, ordered(tmp_path))})
    assert (seen.status, seen.code) == said
