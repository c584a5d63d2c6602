"""The door to uv."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from tests.support.tinywheels import sdist
from torch_compat_matrix.runner.packages import uv


def test_uv_says_its_version() -> None:
    """It is part of the key of everything that uv answered."""
    assert uv.version().startswith("uv ")


def test_the_first_cause_is_the_evidence_and_one_line_the_detail() -> None:
    """uv explains over many lines, with hints for its own command line."""
    ran = uv.run(("pip", "compile", "--no-index", "-"), {"UV_FIND_LINKS": ""}, stdin="lib==1.0\n")
    assert (ran.status, ran.reason) == (1, "version-not-found")
    assert "hint:" in ran.explanation
    assert uv.evidence(ran.explanation).startswith("Because lib was not found")
    assert uv.brief(ran.explanation).startswith("Because lib was not found")
    assert "hint" not in uv.brief(ran.explanation)


def test_a_long_explanation_is_cut() -> None:
    """A report has a line for it."""
    assert len(uv.brief("error " * 1000)) == 600


def test_the_exception_of_a_failed_build_is_the_evidence(tmp_path: Path) -> None:
    """Not the frames above it."""
    sdist(tmp_path, "broken", "1.0", at_build="import json; json.loads('{')")
    variables = {"UV_FIND_LINKS": str(tmp_path), "UV_CACHE_DIR": str(tmp_path / "uv")}
    ran = uv.run(("pip", "install", "--no-index", "--target", str(tmp_path / "to"), "broken"), variables)
    assert ran.reason == "sdist-build-failed"
    assert uv.evidence(ran.explanation).startswith("json.decoder.JSONDecodeError")


@pytest.mark.slow
def test_a_build_does_not_outlive_the_time_limit(tmp_path: Path) -> None:
    """The build's end of the pipe closes with it."""
    os.mkfifo(tmp_path / "pipe")
    reading = os.open(tmp_path / "pipe", os.O_RDONLY | os.O_NONBLOCK)
    hang = f"pipe = open({str(tmp_path / 'pipe')!r}, 'w'); print('building', file=pipe, flush=True)"
    sdist(tmp_path, "endless", "1.0", at_build=f"{hang}; import signal; signal.pause()")
    variables = {"UV_FIND_LINKS": str(tmp_path), "UV_CACHE_DIR": str(tmp_path / "uv")}
    ran = uv.run(("pip", "install", "--no-index", "--target", str(tmp_path / "to"), "endless"), variables, timeout_s=5)
    assert (ran.status, ran.reason) == (124, "install-failed")
    assert os.read(reading, 100) == b"building\n"
    assert os.read(reading, 100) == b"", "somebody still holds the other end"
    os.close(reading)


@pytest.mark.parametrize(
    ("url", "reason", "evidence"),
    [
        ("git+https://host.invalid/x.git@abc", "index-unreachable", "Could not resolve host: host.invalid"),
        ("git+https://127.0.0.1:9/x.git", "index-unreachable", "Failed to connect to 127.0.0.1 port 9"),
        ("git+file:///nowhere/x.git", "version-not-found", "fatal: '/nowhere/x.git' does not appear to be a git"),
        ("file:///nowhere/lib-1.0-py3-none-any.whl", "version-not-found", "Distribution not found at: file:///nowhere"),
    ],
)
def test_a_url_that_does_not_answer_is_no_build_that_fails(
    tmp_path: Path, url: str, reason: str, evidence: str
) -> None:
    """Git's own words, the innermost, are the evidence."""
    variables = {"UV_CACHE_DIR": str(tmp_path / "uv"), "UV_HTTP_RETRIES": "0"}
    ran = uv.run(("pip", "compile", "--no-index", "-"), variables, stdin=f"lib @ {url}\n")
    assert ran.reason == reason
    assert uv.evidence(ran.explanation).startswith(evidence)
