"""A token in a URL is used, and found in nothing that a command writes or says."""

from __future__ import annotations

import os
import subprocess
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest

from tests.support import ROOT
from tests.support.tinywheels import wheel

pytestmark = pytest.mark.share

CANARY = "c4n4ry"
URL = "http://{user}127.0.0.1:{port}/{file}?token=c4n4ryQuery#token=c4n4ryFragment"
MATRIX = """
images:
  x: {{ local: {{ python: host, requires: ["helper @ {helper}"] }} }}
libraries:
  torchbnn: {{ versions: ["1.0"], with: ["later @ {later}"], probes: [import] }}
  captum: {{ versions: ["0.1"], with: ["gone @ git+http://c4n4ryGit@127.0.0.1:{port}/gone.git"], probes: [import] }}
  botorch: {{ versions: ["0.1"], probes: [import] }}
stacks:
  pair: {{ requires: ["torchbnn @ {torchbnn}", "gpytorch==1.0"], probes: [import] }}
"""


class Server(SimpleHTTPRequestHandler):
    """Gives files to whoever knows the password."""

    def do_GET(self) -> None:
        """Refuse a stranger."""
        if self.headers.get("Authorization"):
            file = Path(self.translate_path(self.path))
            if file.suffix == ".whl" and not file.exists():
                self.send_error(503)  # a host in trouble, not a release that is gone
            else:
                super().do_GET()
        else:
            self.send_response(401)
            self.send_header("WWW-Authenticate", "Basic")
            self.end_headers()

    def log_message(self, *arguments: object) -> None:
        """Say nothing."""


@contextmanager
def serving(folder: Path) -> Iterator[int]:
    """The port of a server of this folder."""
    folder.mkdir()
    with ThreadingHTTPServer(("127.0.0.1", 0), partial(Server, directory=str(folder))) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        yield server.server_port
        server.shutdown()


class User:
    """A person in a folder with a matrix full of secrets; what commands say to them is kept."""

    def __init__(self, folder: Path, port: int) -> None:
        self.folder = folder
        self.said = ""
        index = f"http://me:c4n4ryIndex@127.0.0.1:{port}/simple"
        self.environment = {
            **{name: value for name, value in os.environ.items() if not name.startswith(("PIP_", "UV_", "COMPAT_"))},
            "PYTHONPATH": str(ROOT / "src"),
            "PIP_CONFIG_FILE": os.devnull,
            "PIP_INDEX_URL": f"{index}?key=c4n4ryKey",
            "UV_CACHE_DIR": str(folder.parent / "uv"),
            "NO_PROXY": "127.0.0.1",
        }

    def does(self, *command: str) -> int:
        """The exit status of a command."""
        done = subprocess.run(
            [sys.executable, "-m", *command],
            cwd=self.folder,
            env=self.environment,
            capture_output=True,
            text=True,
            timeout=280,
            check=False,
        )
        self.said += done.stdout + done.stderr
        return done.returncode

    def compat(self, *arguments: str) -> int:
        """The exit status of `compat`."""
        return self.does("torch_compat_matrix", *arguments)

    def leaks(self, *places: Path) -> set[str]:
        """The files that hold a secret, and others may read; `said` where a command has told one."""
        found = {"said"} if CANARY in self.said else set()
        for path in (path for place in places for path in place.rglob("*") if path.is_file()):
            private = path.stat().st_mode & 0o077 == 0 and path.name == "plan.json"
            if not private and (CANARY in str(path) or CANARY.encode() in path.read_bytes()):
                found.add(str(path))
        return found


@pytest.fixture
def user(tmp_path: Path) -> Iterator[User]:
    """The person, and an index with all but one of the files that their matrix asks for."""
    with serving(tmp_path / "files") as port:
        files = {
            name: wheel(tmp_path / "files", name, "1.0").name for name in ("helper", "torchbnn", "gpytorch", "later")
        }
        (tmp_path / "files" / files["later"]).rename(tmp_path / "not-yet")
        for name in ("torchbnn", "gpytorch"):
            page = tmp_path / "files" / "simple" / name / "index.html"
            page.parent.mkdir(parents=True)
            page.write_text(f'<a href="/{files[name]}">{files[name]}</a>')
        urls = {name: URL.format(user="me:c4n4ryPassword@", port=port, file=file) for name, file in files.items()}
        folder = tmp_path / "place"
        folder.mkdir()
        (folder / "matrix.yaml").write_text(MATRIX.format(port=port, **urls))
        person = User(folder, port)
        person.environment["COMPAT_HOME"] = str(tmp_path / "home")
        yield person


def test_no_secret_is_left_anywhere(user: User, tmp_path: Path) -> None:
    """Whatever is planned, run, resumed, reported, shown or compared; a resumed run and a saved plan still work."""
    files, home = tmp_path / "files", tmp_path / "home"
    assert user.compat("plan") == 0
    assert user.compat("run", "--out", "out") == 1
    (journal,) = home.glob("runs/*/journal.jsonl")
    private = journal.with_name("plan.json")
    assert "resolved" in journal.read_text(), user.said
    assert CANARY in private.read_text()

    (tmp_path / "not-yet").rename(files / "later-1.0-py3-none-any.whl")
    user.compat("run", "--resume")
    assert '"later==' in journal.read_text(), "a resumed run knows the URL"
    for verb in (["plan"], ["report", "--out", "again"], ["show", "*/*"], ["history", "*/*"], ["triage"], ["doctor"]):
        user.compat(*verb)
    assert "later==" in user.said

    assert user.compat("plan", "--json", "plan.json") == 0
    assert user.compat("run", "--rerun", "--plan", "plan.json", "x/pair-stack") == 0
    newest = max(home.glob("runs/*/journal.jsonl"))
    assert "gpytorch==1.0" in newest.read_text(), "a saved plan knows the URLs"
    assert not newest.with_name("plan.json").exists(), "nothing is left that a resume may need"
    user.compat("diff", journal.parent.name, newest.parent.name)
    user.does("pytest", "-m", "matrix", "--junitxml", "junit.xml")
    assert " passed in " in user.said

    (user.folder / "matrix.yaml").rename(tmp_path / "matrix.yaml")
    assert user.leaks(home, user.folder) == set()


def test_a_run_whose_secrets_are_gone_is_not_resumed_without_them(user: User, tmp_path: Path) -> None:
    """It says so, and what to do."""
    user.compat("run", "x/torchbnn-1.0")  # the host of one of its files is in trouble
    (private,) = (tmp_path / "home").glob("runs/*/plan.json")
    private.unlink()
    assert user.compat("run", "--resume") == 2
    assert "start a new run" in user.said


def test_a_variable_in_a_url_is_no_secret(user: User, tmp_path: Path) -> None:
    """uv puts in its value; the plan, the journal and the packages have its name or nothing."""
    matrix = user.folder / "matrix.yaml"
    text = (
        matrix.read_text().replace("c4n4ryPassword", "${TOKEN}").replace("token=c4n4ryQuery#token=c4n4ryFragment", "")
    )
    matrix.write_text(text)
    user.environment["TOKEN"] = "c4n4ryToken"
    assert user.compat("run", "x/pair-stack") == 0
    (journal,) = (tmp_path / "home").glob("runs/*/journal.jsonl")
    assert "gpytorch==1.0" in journal.read_text()
    assert "me:${TOKEN}@127.0.0.1" in journal.read_text()
    matrix.unlink()
    assert user.leaks(tmp_path / "home", user.folder) == set()
