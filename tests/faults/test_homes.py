"""A home that is full, read-only or damaged, and input that is none: one message with its status, no traceback."""

from __future__ import annotations

import os
import resource
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.support import ROOT, journals
from torch_compat_matrix.runner.errors import Status

MATRIX = """
images:
  none: { local: { python: host, requires: [] }, limits: { timeout: 60, gpus: none } }
probes: [import]
libraries: { torch: { versions: [installed] }, captum: { versions: [installed] } }
"""


def share(*values: object) -> list[Any]:
    """As parameters of the quick share."""
    return [pytest.param(value, marks=pytest.mark.share) for value in values]


def slow(*values: object) -> list[Any]:
    """As parameters of the whole suite: what is between those of the share."""
    return [pytest.param(value, marks=pytest.mark.slow) for value in values]


def compat(place: Path, *arguments: str, start: Callable[[], None] | None = None, **variables: str) -> tuple[int, str]:
    """The exit status of the command, and what it says; never a traceback."""
    environment = {
        **os.environ,
        "PYTHONPATH": f"{ROOT / 'src'}:{place / 'packages'}",
        "COMPAT_HOME": str(place / "home"),
        **variables,
    }
    done = subprocess.run(
        [sys.executable, "-m", "torch_compat_matrix", *arguments],
        cwd=place,
        env=environment,
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
        preexec_fn=start,
    )
    said = done.stdout + done.stderr
    assert "Traceback" not in said, said
    return done.returncode, said


@pytest.fixture
def place(tmp_path: Path) -> Path:
    """A folder with a matrix and a home with a run."""
    (tmp_path / "matrix.yaml").write_text(MATRIX)
    (tmp_path / "packages").mkdir()
    (tmp_path / "packages" / "torch.py").write_text("raise ImportError('a name for `here`, and no more')\n")
    journals.write(tmp_path / "home" / "runs" / "20300101T000000-abcd" / "journal.jsonl", journals.records())
    return tmp_path


@pytest.fixture
def small_disk(place: Path) -> Iterator[Path]:
    """The home on a file system of its own of one MiB, which only root can mount."""
    home = place / "home"
    if os.geteuid():
        pytest.skip("only root can mount a file system")
    runs = place / "runs"
    (home / "runs").rename(runs)
    made = subprocess.run(["mount", "-t", "tmpfs", "-o", "size=1m", "tmpfs", home], capture_output=True, check=False)
    if made.returncode:
        pytest.skip(f"no file system can be mounted here: {made.stderr.decode()}")
    shutil.copytree(runs, home / "runs")
    yield home
    subprocess.run(["umount", "--lazy", home], check=True)


@pytest.mark.share
def test_a_full_disk_is_one_message(place: Path, small_disk: Path) -> None:
    """For each verb that writes."""
    with (small_disk / "filling").open("wb", buffering=0) as stream:
        try:
            while True:
                stream.write(bytes(4096))
        except OSError:
            pass
    for arguments in (["run"], ["run", "--backend", "here"], ["report"], ["history"], ["history", "captum"]):
        status, said = compat(place, *arguments)
        assert status in (Status.BAD_MATRIX, Status.INCOMPLETE, Status.NO_BACKEND), (arguments, said)
        known = "No space left on device", "disk is full", "disk I/O error", "0.0 GB free"
        assert any(words in said for words in known), said
    status, said = compat(place, "show", "captum")
    assert status == Status.AS_EXPECTED


@pytest.mark.share
def test_a_read_only_home_is_one_message(place: Path, small_disk: Path) -> None:
    """What only reads works, a report elsewhere too."""
    subprocess.run(["mount", "-o", "remount,ro", small_disk], check=True)
    for arguments in (["run"], ["run", "--backend", "here"], ["history"], ["report"]):
        status, said = compat(place, *arguments)
        assert status in (Status.BAD_MATRIX, Status.INCOMPLETE), (arguments, said)
        assert "ead-only" in said or "unable to open" in said, said
    assert compat(place, "show", "captum")[0] == Status.AS_EXPECTED
    status, said = compat(place, "report", "--out", "elsewhere")
    assert status == Status.SURPRISES
    assert "history not brought up to date" in said
    assert (place / "elsewhere" / "report.md").exists()


@pytest.mark.parametrize("most", [*share(0, 5000), *slow(100, 20_000)])
def test_a_file_that_cannot_grow_is_one_message(place: Path, most: int) -> None:
    """As a disk that fills up in the middle of a run: what is recorded stays; pytest tells it too."""

    def limit() -> None:
        resource.setrlimit(resource.RLIMIT_FSIZE, (most, most))

    for arguments in (["run", "--backend", "here"], ["report"], ["history"], ["plan", "--json", "plan.json"]):
        status, said = compat(place, *arguments, start=limit, PYTHONDONTWRITEBYTECODE="1")
        assert status in (0, 1, Status.BAD_MATRIX, Status.NO_BACKEND, Status.INCOMPLETE), said
        if status not in (0, 1):
            assert "too large" in said or "disk" in said or "database" in said, said
    if most == 0:  # pytest itself needs a temporary file
        return
    command = [sys.executable, "-m", "pytest", "-m", "matrix", "--compat-backend=here", "-p", "no:cacheprovider"]
    environment = {**os.environ, "COMPAT_HOME": str(place / "home"), "PYTHONDONTWRITEBYTECODE": "1"}
    done = subprocess.run(
        command, cwd=place, env=environment, capture_output=True, text=True, preexec_fn=limit, check=False, timeout=120
    )
    said = done.stdout + done.stderr
    assert "Traceback" not in said and "INTERNALERROR" not in said, said


@pytest.mark.share
@pytest.mark.parametrize("kind", ["device", "pipe", "folder", "absent", "empty", "control", "size", "directive"])
def test_input_that_is_none_is_one_message(place: Path, kind: str) -> None:
    """As a matrix, as claims and as a plan; a pipe without a writer is not waited for."""
    path = place / "input.yaml"
    if kind == "device":
        path = Path("/dev/zero")
    elif kind == "pipe":
        os.mkfifo(path)
    elif kind == "folder":
        path.mkdir()
    elif kind != "absent":
        texts = {
            "empty": "",
            "control": "images:\n  a: { tag: 'x\x1b[31m\x00' }\n",
            "size": MATRIX.replace("gpus: none", f"memory: {'9' * 400}g, timeout: {'9' * 400}, pids: {'9' * 5000}"),
            "directive": "%YAML 7.7\n%TAG ! !\n---\nimages: {}\n",
        }
        path.write_text(texts[kind])
    status, said = compat(place, "plan", "--matrix", str(path))
    assert status == Status.BAD_MATRIX, said
    assert f"{path}:" in said
    if kind == "control":
        assert "input.yaml:2:15: not YAML: the control character U+001B; remove it" in said
    status, said = compat(place, "plan", PIP_CONFIG_FILE=str(path), PIP_CONSTRAINT=str(path))
    assert status in (Status.AS_EXPECTED, Status.NO_BACKEND), said
    status, said = compat(place, "plan", "--plan", str(path))
    assert status == Status.BAD_MATRIX, said
    if kind != "device":
        path.rename(place / "claims.yaml") if path.exists() else None
        assert compat(place, "plan")[0] in (Status.AS_EXPECTED, Status.BAD_MATRIX)


@pytest.mark.share
@pytest.mark.parametrize("verb", [["run"], ["report"]])
def test_a_folder_that_is_a_file_is_one_message(place: Path, verb: list[str]) -> None:
    """Before a run begins."""
    status, said = compat(place, *verb, "--out", "matrix.yaml")
    assert status == Status.BAD_MATRIX
    assert "name another folder with --out" in said
    assert len(list((place / "home" / "runs").iterdir())) == 1


@pytest.mark.parametrize("garbage", [*share(b'{"python": 3}', b"\xff\x00", None, "pipe"), *slow(b"", b"null")])
def test_caches_of_garbage_heal(place: Path, garbage: bytes | str | None) -> None:
    """They are thrown away, which is said, and made again."""
    assert compat(place, "run", "--backend", "here")[0] in (0, 1, 5)
    home = place / "home"
    caches = [home / "durations.json", *home.glob("facts/*.json"), home / "history.sqlite"]
    assert len(caches) == 3
    for cache in caches:
        cache.unlink()
        if garbage is None:
            cache.mkdir()
        elif isinstance(garbage, str):
            os.mkfifo(cache)
        else:
            cache.write_bytes(garbage)
    status, said = compat(place, "run", "--backend", "here", "--rerun")
    assert status in (0, 1, 5), said
    assert "thrown away" in said
    assert compat(place, "history")[0] == 0
    assert all(cache.is_file() for cache in caches)
