"""The door to uv."""

from __future__ import annotations

import os
import select
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

import pytest

from tests.support.tinywheels import sdist
from torch_compat_matrix.runner.packages import builds, uv


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


def test_a_named_wheel_of_another_platform_is_the_matrix_mistake() -> None:
    """Which chose that very file."""
    said = "ERROR: torch-2.0.1-cp310-cp310-linux_x86_64.whl is not a supported wheel on this platform."
    ran = uv.Ran(status=1, out="", err=said)
    assert (ran.reason, ran.blame) == ("no-wheel", "matrix")


def test_pins_that_contradict_one_another_are_the_matrix_mistake() -> None:
    """Which asks for both; what a library asks for on its own is the library's."""
    said = "ERROR: Cannot install a==1 and b==2 because these package versions have conflicting dependencies.\n\n"
    said += "The conflict is caused by:\n    The user requested a==1\n    b 2 depends on a==2\n\nResolutionImpossible"
    ran = uv.Ran(status=1, out="", err=said)
    assert (ran.reason, ran.blame) == ("unsatisfiable", "matrix")
    ran = uv.Ran(status=1, out="", err=said.replace("The user requested a==1", "c 1 depends on a==1"))
    assert (ran.reason, ran.blame) == ("unsatisfiable", "")


@pytest.mark.parametrize(
    ("words", "reason", "blame"),
    [
        ("requirement torch==1.4 (from versions: 1.11, 2.2.1)\nNo matching distribution found", "no-wheel", "image"),
        ("requirement nosuch==1.4 (from versions: none)\nNo matching distribution found for", "version-not-found", ""),
        ("The user requested torch==1.13.0\ntorchvision 0.15.2 depends on torch==2.0.1", "unsatisfiable", "matrix"),
        ("gcc: error: unrecognized command line option '-std=c++14'", "sdist-build-failed", "image"),
        (
            "nvcc fatal   : Unsupported gpu architecture 'compute_35'\nFailed building wheel for x",
            "sdist-build-failed",
            "",
        ),
        ("nvcc fatal   : Unsupported gpu architecture 'compute_89'", "sdist-build-failed", "image"),
        ("ERROR: Package 'x' requires a different Python: 3.9.5 not in '<4.0,>=3.10'", "python-too-old", ""),
        ("ERROR: Package 'x' requires a different Python: 3.12.1 not in '<3.12,>=3.8'", "python-too-new", ""),
        (
            "CondaHTTPError: HTTP 404 NOT FOUND for url https://conda.example/x.tar.bz2",
            "version-not-found",
            "",
        ),
        ("Failed to extract archive: torch.whl\nFailed to download due to network timeout", "index-unreachable", ""),
        (
            "Failed to download `setuptools==80.10.1`\nFailed to extract archive: setuptools-80.10.1-py3-none-any.whl",
            "install-failed",
            "",
        ),
        (
            "pip subprocess to install backend dependencies did not run successfully.\nERROR: Ignored the following "
            "versions that require a different python version: 0.1.0 Requires-Python >=3.9",
            "python-too-old",
            "",
        ),
    ],
)
def test_an_installer_s_words_name_reason_and_blame(words: str, reason: str, blame: str) -> None:
    """As threads have them (tests/messages/blind15.jsonl, blind17.jsonl)."""
    ran = uv.Ran(status=1, out="", err=words)
    assert (ran.reason, ran.blame) == (reason, blame)


@pytest.mark.parametrize(
    ("words", "is_of_another"),
    [
        ("Failed to build `antlr4==4.9`", True),
        ("Failed to build nvdiffrast simple_knn", False),
        ("ERROR: Failed to build installable wheels for some pyproject.toml based projects (simple-knn)", False),
        ("ERROR: Failed to build installable wheels for some pyproject.toml based projects (antlr4, nvdiffrast)", True),
        (
            "Failed to build installable wheels for some pyproject.toml based projects\n╰─> nvdiffrast, simple-knn",
            False,
        ),
        (
            "Failed to build `antlr4==4.9` The build failed hint: it was included because `simple-knn` depends on it",
            True,
        ),
    ],
)
def test_a_dependency_that_cannot_be_built_is_told_from_what_was_asked(words: str, is_of_another: bool) -> None:
    """Also where both cannot."""
    assert uv.is_of_a_dependency("sdist-build-failed", words, ["simple-knn"]) is is_of_another


def test_a_killed_installer_ran_out_of_memory() -> None:
    """The kernel's killer leaves no words behind."""
    ran = uv.finish(["sh", "-c", "kill -9 $$"], {}, timeout_s=60)
    assert (ran.reason, ran.explanation) == ("out-of-memory", "The installer was killed from outside")


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


def test_an_installer_does_not_outlive_its_killed_owner(tmp_path: Path) -> None:
    """Nor does what it has started: a run that was killed leaves no compiler behind."""
    os.mkfifo(tmp_path / "pipe")
    reading = os.open(tmp_path / "pipe", os.O_RDONLY | os.O_NONBLOCK)
    hangs = f"(echo begun; exec sleep 60) >{tmp_path / 'pipe'} & wait"
    code = "from torch_compat_matrix.runner.packages.uv import finish\n"
    code += f"finish(['sh', '-c', {hangs!r}], {{}}, timeout_s=60)"
    owner = subprocess.Popen([sys.executable, "-c", code])
    os.set_blocking(reading, True)
    assert select.select([reading], [], [], 30)[0] and os.read(reading, 100) == b"begun\n"
    owner.kill()
    owner.wait()
    assert select.select([reading], [], [], 10)[0] and os.read(reading, 100) == b"", "somebody holds the other end"
    os.close(reading)


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


@contextmanager
def index_that(answers: Callable[[socket.socket], object]) -> Iterator[tuple[str, list[socket.socket]]]:
    """The URL of an index that does this with each connection, and its connections."""
    taken: list[socket.socket] = []
    with socket.create_server(("127.0.0.1", 0)) as listening:

        def serve() -> None:
            with suppress(OSError):
                while True:
                    taken.append(listening.accept()[0])
                    threading.Thread(target=answers, args=[taken[-1]], daemon=True).start()

        serving = threading.Thread(target=serve)
        serving.start()
        try:
            yield f"http://127.0.0.1:{listening.getsockname()[1]}/simple", taken
        finally:
            listening.shutdown(socket.SHUT_RDWR)  # or the accept under way takes one more
            serving.join()
    for each in taken:
        each.close()


def answer(status: str, after_s: float = 0) -> Callable[[socket.socket], None]:
    """Answers each request with this status and an empty page."""

    def serve(connection: socket.socket) -> None:
        with suppress(OSError):
            while connection.recv(65536):
                time.sleep(after_s)
                kind = "Content-Type: application/vnd.pypi.simple.v1+json"
                page = '{"meta": {"api-version": "1.1"}, "name": "lib", "files": []}'
                connection.sendall(f"HTTP/1.1 {status}\r\n{kind}\r\nContent-Length: {len(page)}\r\n\r\n{page}".encode())

    return serve


@pytest.mark.parametrize("answers", [lambda connection: None, answer("503 Service Unavailable")])
def test_an_index_that_never_answers_is_asked_once(
    answers: Callable[[socket.socket], None], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """However long the user lets a download pause; a hundred cells do not wait for it each."""
    monkeypatch.setattr(uv, "PATIENCE_S", 2)
    monkeypatch.setenv("UV_HTTP_RETRIES", "0")
    with index_that(answers) as (url, taken):
        variables = {"UV_DEFAULT_INDEX": url, "UV_HTTP_TIMEOUT": "600", "UV_CACHE_DIR": str(tmp_path)}
        assert uv.silence(variables, "lib")
        asked = len(taken)
        ran = uv.run(("pip", "compile", "-"), variables, stdin="lib")
        assert (ran.reason, url in ran.explanation) == ("index-unreachable", True)
        assert uv.run(("pip", "install", "--target", str(tmp_path / "to"), "-r", "-"), variables, stdin="lib").status
        assert len(taken) == asked


def test_a_run_that_waits_for_a_dead_index_is_ended(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The one that is under way when the index is found to be dead."""
    monkeypatch.setattr(uv, "PATIENCE_S", 1)
    with index_that(lambda connection: None) as (url, _):
        variables = {"UV_DEFAULT_INDEX": url, "UV_HTTP_TIMEOUT": "600", "UV_CACHE_DIR": str(tmp_path)}
        ran = uv.run(("pip", "compile", "-"), variables, stdin="lib", timeout_s=300)
    assert (ran.reason, "no answer within 1 s" in ran.explanation) == ("index-unreachable", True)


def test_a_slow_index_is_waited_for(tmp_path: Path) -> None:
    """It answers each request after so long that it is asked meanwhile whether it is there."""
    with index_that(answer("200 OK", after_s=3)) as (url, _):
        ran = uv.run(("pip", "compile", "-"), {"UV_DEFAULT_INDEX": url, "UV_CACHE_DIR": str(tmp_path)}, stdin="lib")
    assert (ran.status, ran.reason) == (1, "unsatisfiable")  # its page is empty


HOARD = "import time; hoard = bytearray(300 << 20); hoard[::4096] = b'1' * len(hoard[::4096]); time.sleep(60)"


@pytest.mark.parametrize(
    ("limit", "at_build", "reason"),
    [("BUILD_S", "import time; time.sleep(60)", "build-timeout"), ("MEMORY", HOARD, "out-of-memory")],
)
def test_a_build_has_limits_of_its_own(
    limit: str, at_build: str, reason: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It is other people's code; what uv fetches may take longer."""
    left = Path("/proc/meminfo").read_text().partition("MemAvailable:")[2].split()[0]
    limits = {"BUILD_S": 1, "MEMORY": 250e6 / (int(left) * 1024)}
    monkeypatch.setattr(builds, limit, limits[limit])
    sdist(tmp_path, "endless", "1.0", at_build=at_build)
    variables = {"UV_FIND_LINKS": str(tmp_path), "UV_CACHE_DIR": str(tmp_path / "uv")}
    words = ("pip", "install", "--no-index", "--target", str(tmp_path / "to"), "endless")
    assert uv.run(words, variables).reason == reason


@pytest.mark.slow
def test_a_build_may_print_without_end(tmp_path: Path) -> None:
    """Of a gigabyte both ends are kept, and the build goes on."""
    flood = "import sys\nfor _ in range(1024): sys.stdout.write('x' * (1 << 20))\nraise SystemError('no such luck')"
    sdist(tmp_path, "loud", "1.0", at_build=flood)
    variables = {"UV_FIND_LINKS": str(tmp_path), "UV_CACHE_DIR": str(tmp_path / "uv")}
    ran = uv.run(("pip", "install", "--no-index", "--target", str(tmp_path / "to"), "loud"), variables)
    assert ran.reason == "sdist-build-failed"
    assert len(ran.err) < 1 << 20


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
