"""`compat shell`: a command or a prompt in exactly the environment of a cell, and nothing of it left afterwards."""

from __future__ import annotations

import os
import pty
import select
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from tests.support import ROOT, scripted_torch
from tests.support.tinywheels import wheel

MATRIX = """
images:
  small: { local: { python: host, requires: ["torch==2.13.0+cpu"] } }
libraries:
  torchbnn: { versions: ["1.2"] }
  pyro-ppl: { versions: ["99.0"] }
"""


@pytest.fixture(scope="module")
def standins(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder with the environment of the matrix, which the first test builds."""
    return tmp_path_factory.mktemp("standins")


@pytest.fixture
def place(tmp_path: Path, standins: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder with a matrix, whose caches are its own but for the environments, as are its temporary files.

    Its torch is a scripted one, and its index a folder.
    """
    (tmp_path / "matrix.yaml").write_text(MATRIX)
    (tmp_path / ".compat").mkdir()
    (tmp_path / ".compat" / "standins").symlink_to(standins)
    (tmp_path / "tmp").mkdir()
    wheel(tmp_path / "wheels", "torchbnn", "1.2")
    scripted_torch.wheel(tmp_path / "wheels", version="2.13.0+cpu", cuda=None, gpus=[])
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("PIP_NO_INDEX", "1")
    monkeypatch.setenv("PIP_FIND_LINKS", str(tmp_path / "wheels"))
    monkeypatch.setenv("COMPAT_HOME", str(tmp_path / ".compat"))
    monkeypatch.setenv("PYTHONPATH", str(ROOT / "src"))
    monkeypatch.setenv("TMPDIR", str(tmp_path / "tmp"))
    return tmp_path


COMMAND = [sys.executable, "-m", "torch_compat_matrix", "shell", "--backend", "local"]


def test_a_command_runs_in_the_cells_environment(place: Path) -> None:
    """Its interpreter, overlay and files, a folder and a home of its own, its input, and the command's exit status."""
    (place / "see.py").write_text(
        "import os, sys, torch, torchbnn\n"
        "home = os.path.realpath(os.environ['HOME'])\n"
        "print(torch.__version__, torchbnn.__file__, os.listdir('.'), home, sys.stdin.read())\n"
        "sys.exit(7)\n"
    )
    command = [*COMMAND, "small/torchbnn-1.2", "--copy", "see.py", "--", "python", "see.py"]
    done = subprocess.run(command, input="input", capture_output=True, text=True, timeout=280, check=False)
    assert done.returncode == 7, done.stderr
    version, module, listed, home, said = done.stdout.split()
    assert version.startswith("2.13.0")
    assert module.startswith(str(place / ".compat" / "overlays"))
    assert (listed, said) == ("['see.py']", "input")
    assert home.startswith(str(place / "tmp"))
    killed = subprocess.run([*COMMAND, "small/torchbnn-1.2", "--", "sh", "-c", "kill -SEGV $$"], check=False)
    assert killed.returncode == 128 + signal.SIGSEGV
    assert list((place / "tmp").iterdir()) == []
    assert not (place / ".compat" / "runs").exists()


def test_a_prompt_has_the_terminal(place: Path) -> None:
    """Ctrl-C is the prompt's own; `exit` ends it."""
    assert place
    terminal, its_end = pty.openpty()
    process = subprocess.Popen(
        ["setsid", "--ctty", "--wait", *COMMAND, "small/torchbnn-1.2"], stdin=its_end, stdout=its_end, stderr=its_end
    )
    os.close(its_end)

    def await_(words: bytes) -> None:
        shown = b""
        while words not in shown:
            assert select.select([terminal], [], [], 300)[0], shown
            shown += os.read(terminal, 4096)

    try:
        await_(b"(small/torchbnn-1.2)")
        # bash that is interrupted just as it shows its prompt shows the next only after another key
        os.write(terminal, b"\x03\n")
        await_(b"(small/torchbnn-1.2)")
        os.write(terminal, b"python -c 'import torchbnn; print(6 * 7)'\n")
        await_(b"42\r\n")
        os.write(terminal, b"exit 5\n")
        assert process.wait(120) == 5
    finally:
        process.kill()
        os.close(terminal)


def test_a_signal_leaves_nothing(place: Path) -> None:
    """SIGTERM ends the command too, and its folder."""
    process = subprocess.Popen([*COMMAND, "small/torchbnn-1.2", "--", "sh", "-c", "echo $$ >../pid; exec sleep 500"])
    try:
        until = time.monotonic() + 120
        while not (found := [path.read_text() for path in (place / "tmp").glob("*/pid")]) or not found[0]:
            assert time.monotonic() < until
            time.sleep(0.05)
        process.terminate()
        assert process.wait(30) == 130
    finally:
        process.kill()
    assert not Path("/proc", found[0].strip()).exists()
    assert list((place / "tmp").iterdir()) == []


@pytest.mark.parametrize(
    ("words", "status", "said"),
    [
        (["pyro-ppl"], 3, "no such environment: "),
        (["small"], 2, "'small' is 2 cells\nname one of them: small/torchbnn-1.2, small/pyro-ppl-99.0"),
        (["torchbnn", "--copy", "none.py"], 2, "none.py: cannot be read"),
        (["torchbnn", "--", "nosuch"], 127, "nosuch: No such file or directory"),
    ],
)
def test_what_cannot_be_had_is_told(place: Path, words: list[str], status: int, said: str) -> None:
    """With the status of its kind."""
    assert place
    done = subprocess.run([*COMMAND, *words], capture_output=True, text=True, timeout=280, check=False)
    assert done.returncode == status, done.stderr
    assert said in done.stderr
