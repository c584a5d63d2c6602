"""What a shell is told when a user presses the tab key."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest
from argcomplete.shell_integration import shellcode

from tests.support import ROOT
from torch_compat_matrix.compat.cli import main

MATRIX = (
    "images: { small: { tag: 'example/small:1', labels: [nightly] } }\nlibraries: { captum: { versions: ['0.9.0'] } }\n"
)


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder with a matrix and a run."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("COMPAT_HOME", str(tmp_path / ".compat"))
    (tmp_path / "matrix.yaml").write_text(MATRIX)
    journal = tmp_path / ".compat" / "runs" / "20260101T000000" / "journal.jsonl"
    journal.parent.mkdir(parents=True)
    journal.write_text("")
    return tmp_path


def completed(typed: str, folder: Path) -> list[str]:
    """The words that the shell offers for what stands before the cursor."""
    out = folder / "offered"
    asked = {"_ARGCOMPLETE": "1", "_ARGCOMPLETE_IFS": "\n", "_ARGCOMPLETE_STDOUT_FILENAME": str(out)}
    line = {"COMP_LINE": typed, "COMP_POINT": str(len(typed)), "PYTHONPATH": str(ROOT / "src")}
    command = [sys.executable, "-m", "torch_compat_matrix"]
    subprocess.run(command, cwd=folder, env={**os.environ, **asked, **line}, check=True, timeout=60)
    return [word.strip() for word in out.read_text().split("\n") if word.strip()]


@pytest.mark.parametrize(
    ("typed", "offered"),
    [
        ("compat hist", ["history"]),
        ("compat run --bas", ["--baseline"]),
        ("compat run --backend l", ["local"]),
        ("compat run cap", ["captum", "captum-0.9.0"]),
        ("compat show small/", ["small/captum-0.9.0"]),
        ("compat plan --matrix nonesuch.yaml cap", []),
        ("compat run label:", ["label:nightly"]),
        ("compat show @", ["@failed", "@infra", "@new", "@reason:", "@run:"]),
        ("compat run @run:2026", ["@run:20260101T000000"]),
        ("compat run @reason:comp", ["@reason:compile-mismatch", "@reason:compile-timeout"]),
        ("compat report 2026", ["20260101T000000"]),
        ("compat run --resume 2026", ["20260101T000000"]),
        ("compat numerics cap", ["captum", "captum-0.9.0"]),
        ("compat numerics captum-0.9.0 2026", ["20260101T000000"]),
    ],
)
def test_offered_words(typed: str, offered: list[str], folder: Path) -> None:
    """Verbs, options and their values, selectors of the matrix, runs."""
    assert completed(typed, folder) == offered


def test_matrix_is_read_once(folder: Path) -> None:
    """And again when it has changed: to read it takes longer than a user waits for a tab."""
    completed("compat run cap", folder)
    kept = folder / ".compat" / "selectors.json"
    kept.write_text(kept.read_text().replace("captum-0.9.0", "captum-kept"))
    assert completed("compat run cap", folder) == ["captum", "captum-kept"]
    (folder / "matrix.yaml").write_text(MATRIX.replace("0.9.0", "0.8.0"))
    assert completed("compat run cap", folder) == ["captum", "captum-0.8.0"]


@pytest.mark.parametrize("shell", ["bash", "zsh", "fish"])
def test_code_of_a_shell_is_whole(shell: str, capsys: pytest.CaptureFixture[str]) -> None:
    """What is printed passes through the door of all answers, which changes nothing of it."""
    assert main(["completion", shell]) == 0
    assert capsys.readouterr().out == shellcode(["compat"], shell=shell) + "\n"
