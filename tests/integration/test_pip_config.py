"""pip's configuration, handed on."""

from __future__ import annotations

import ast
import base64
import os
import subprocess
import sys
import threading
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path

import pytest

from tests.support.tinywheels import simple_index, wheel
from torch_compat_matrix.runner.packages import uv
from torch_compat_matrix.runner.packages.pip_config import Index


def told_by_pip(environ: dict[str, str]) -> dict[str, str]:
    """What pip itself reads, in the order in which it lets one override the other."""
    listed = subprocess.run(
        [sys.executable, "-m", "pip", "config", "list"], env=environ, capture_output=True, text=True, check=True
    )
    entries = [line.partition("=")[::2] for line in listed.stdout.splitlines()]
    merged: dict[str, str] = {}
    for section in ("global", "install", ":env:"):
        named = {
            key.partition(".")[2]: ast.literal_eval(value) for key, value in entries if key.startswith(f"{section}.")
        }
        merged |= {name: value.strip() for name, value in named.items() if value.strip()}
    return merged


FILES = {
    "etc/pip/pip.conf": "[global]\nindex-url = https://shared/simple\ntimeout = 9\n[install]\nno-binary = shared\n",
    "home/.pip/pip.conf": "[global]\nindex_url = https://legacy/simple\n",
    "home/.config/pip/pip.conf": (
        "[global]\nextra-index-url =\n    https://one/simple\n    https://two/simple\nno-binary = user\n"
        "[install]\nfind-links = /wheels https://links/%7Eme/\n[list]\nindex-url = https://of-another-command\n"
    ),
    "own.conf": "[global]\nindex-url = https://own/simple\n[install]\ntrusted-host = own other\n",
}


@pytest.mark.parametrize(
    "variables",
    [
        {},
        {"PIP_INDEX_URL": "https://variable/simple", "PIP_FIND_LINKS": "/a /b"},
        {"PIP_INDEX_URL": "", "PIP_NO_INDEX": "true"},
        {"PIP_CONFIG_FILE": "{folder}/own.conf"},
        {"PIP_CONFIG_FILE": "{folder}/missing.conf"},
        {"PIP_CONFIG_FILE": os.devnull, "PIP_TRUSTED_HOST": "host"},
        {"XDG_CONFIG_HOME": "{folder}/nowhere"},
    ],
)
def test_it_reads_what_pip_reads(tmp_path: Path, variables: dict[str, str]) -> None:
    """Files, sections and variables override each other as in pip, which is asked."""
    for name, text in FILES.items():
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_text(text)
    environ = {
        "PATH": os.environ["PATH"],
        "HOME": f"{tmp_path}/home",
        "XDG_CONFIG_DIRS": f"{tmp_path}/etc",
        **{name: value.format(folder=tmp_path) for name, value in variables.items()},
    }
    told = told_by_pip(environ)
    assert dict(Index.from_pip(environ).options) == {name: told[name] for name in told if name != "config-file"}


def test_an_unreadable_file_is_passed_over(tmp_path: Path) -> None:
    """A broken configuration file of pip's is pip's to complain of."""
    (tmp_path / "pip.conf").write_text("no section\n")
    assert Index.from_pip({"PIP_CONFIG_FILE": str(tmp_path / "pip.conf"), "HOME": str(tmp_path)}).uv == {}


def test_uv_is_told_by_variables_which_do_not_show_in_a_list_of_processes() -> None:
    """Each option of pip's has its counterpart."""
    index = Index(
        options={
            "index-url": "https://user:secret@main/simple",
            "extra-index-url": "https://one/simple\nfile:///two/simple",
            "find-links": "/wheels ~/more",
            "trusted-host": "main other:8080",
            "cert": "/ca.pem",
            "client-cert": "/me.pem",
            "proxy": "http://proxy:3128",
            "timeout": "15.5",
        }
    )
    assert index.uv_environment("/stubs") == {
        "UV_DEFAULT_INDEX": "https://user:secret@main/simple",
        "UV_INDEX": "https://one/simple file:///two/simple",
        "UV_INDEX_STRATEGY": "unsafe-best-match",
        "UV_FIND_LINKS": f"/wheels,{Path.home()}/more,/stubs",
        "UV_INSECURE_HOST": "main other:8080",
        "SSL_CERT_FILE": "/ca.pem",
        "SSL_CLIENT_CERT": "/me.pem",
        "HTTP_PROXY": "http://proxy:3128",
        "HTTPS_PROXY": "http://proxy:3128",
        "UV_HTTP_TIMEOUT": "16",
    }
    assert index.uv_flags() == ()


def test_what_uv_takes_as_flags_only() -> None:
    """Names may be separated by commas, and a switch is on or off in pip's own words."""
    index = Index(options={"no-index": "on", "only-binary": ":all:", "no-binary": "a,b", "pre": "0"})
    assert index.uv_flags() == ("--no-index", "--only-binary", ":all:", "--no-binary", "a", "--no-binary", "b")


def test_uvs_own_variables_win() -> None:
    """Who has set them means them."""
    environ = {"PIP_INDEX_URL": "https://pip/simple", "PIP_FIND_LINKS": "/pip", "PIP_CONFIG_FILE": os.devnull}
    own = {"UV_DEFAULT_INDEX": "https://uv/simple", "UV_FIND_LINKS": "/uv"}
    assert Index.from_pip({**environ, **own}).uv_environment() == own


@pytest.mark.parametrize("newest", ["index-url", "extra-index-url"])
def test_the_best_of_all_indexes_is_taken_as_pip_does(tmp_path: Path, newest: str) -> None:
    """uv's default would stop at the first index that knows the name."""
    old = simple_index(tmp_path / "old", wheel(tmp_path / "files", "lib", "1.0"))
    new = simple_index(tmp_path / "new", wheel(tmp_path / "files", "lib", "2.0"))
    index = Index(options={"index-url": old, "extra-index-url": old, newest: new})
    ran = uv.run(("pip", "compile", "--no-header", "--no-annotate", "-"), index.uv_environment(), stdin="lib")
    assert ran.out.strip() == "lib==2.0"


def test_secrets_are_in_no_key() -> None:
    """Another password is the same index."""
    keys = {Index(options={"index-url": f"https://user:{each}@main/simple"}).key for each in ("a", "b")}
    assert len(keys) == 1


def test_the_key_changes_with_what_can_be_found(tmp_path: Path) -> None:
    """Another index or cut-off date is another key; another time limit is not."""
    index = Index(options={"find-links": str(tmp_path)})
    assert Index(options={**index.options, "timeout": "3"}).key == index.key
    assert Index(options={**index.options, "index-url": "https://other/simple"}).key != index.key
    assert Index(options=index.options, uv={"UV_EXCLUDE_NEWER": "2025-01-01"}).key != index.key


def test_a_new_file_in_a_local_folder_shows(tmp_path: Path) -> None:
    """The settings are the same, the contents are not."""
    index = Index(options={"find-links": f"{tmp_path} {tmp_path}/missing https://elsewhere/"})
    key, contents = index.key, index.contents
    os.utime(tmp_path, (1, 1))
    assert (index.key == key, index.contents == contents) == (True, False)


def test_an_image_gets_pips_variables_and_the_files_they_name(tmp_path: Path) -> None:
    """An install inside an image has neither this host's configuration nor its certificates."""
    for name in ("pypi/simple", "wheels"):
        (tmp_path / name).mkdir(parents=True)
    (tmp_path / "ca.pem").touch()
    environ = {
        "PIP_CONFIG_FILE": os.devnull,
        "PIP_EXTRA_INDEX_URL": f"file://{tmp_path}/pypi/simple https://more/simple",
        "PIP_FIND_LINKS": f"{tmp_path}/wheels /not/there",
        "REQUESTS_CA_BUNDLE": f"{tmp_path}/ca.pem",
        "https_proxy": "http://proxy:3128",
        "PIP_LOG": "/not/handed/on",
    }
    index = Index.from_pip(environ)
    assert index.pip_environment() == {
        "PIP_EXTRA_INDEX_URL": environ["PIP_EXTRA_INDEX_URL"],
        "PIP_FIND_LINKS": environ["PIP_FIND_LINKS"],
        "PIP_CERT": f"{tmp_path}/ca.pem",
        "PIP_DISABLE_PIP_VERSION_CHECK": "1",
        "https_proxy": "http://proxy:3128",
    }
    assert set(index.paths()) == {tmp_path / "pypi", tmp_path / "wheels", tmp_path / "ca.pem"}


def test_constraint_files_are_named_in_full_and_handed_on(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A relative path is that of this process; an image must see the file at the same place."""
    monkeypatch.chdir(tmp_path)
    (tmp_path / "a.txt").write_text("lib<2\n")
    (tmp_path / "b.txt").write_text("setuptools<81\n")
    environ = {
        "PIP_CONFIG_FILE": os.devnull,
        "PIP_CONSTRAINT": "a.txt",
        "PIP_BUILD_CONSTRAINT": "b.txt",
        "UV_BUILD_CONSTRAINT": "c.txt",
        "UV_CONSTRAINT": "d.txt",
    }
    index = Index.from_pip(environ)
    assert index.pip_environment()["PIP_CONSTRAINT"] == f"{tmp_path}/a.txt"
    assert set(index.paths()) == {tmp_path / "a.txt", tmp_path / "b.txt"}
    assert index.uv_flags() == ("--build-constraints", f"{tmp_path}/b.txt", "--build-constraints", "c.txt")
    assert not {"UV_CONSTRAINT", "UV_BUILD_CONSTRAINT"} & index.uv_environment().keys()


@pytest.mark.parametrize("option", ["constraint", "build-constraint"])
def test_the_text_of_a_constraint_file_shows(tmp_path: Path, option: str) -> None:
    """The settings are the same, the contents are not; the file that it names counts too."""
    (tmp_path / "outer.txt").write_text("-c inner.txt\n")
    (tmp_path / "inner.txt").write_text("lib<2\n")
    index = Index(options={option: f"{tmp_path}/outer.txt"})
    key, contents = index.key, index.contents
    (tmp_path / "inner.txt").write_text("lib<3\n")
    assert (index.key == key, index.contents == contents) == (True, False)


def test_a_constraint_file_may_lie_behind_a_url_with_a_password(tmp_path: Path) -> None:
    """It is read as pip reads it, and named without the password."""

    class Answer(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            known = self.headers["Authorization"] == f"Basic {base64.b64encode(b'me:se@cret').decode()}"
            self.send_response(200 if known else 401)
            self.end_headers()
            self.wfile.write(b"-c more.txt\n" if self.path == "/first.txt" else b"lib<2 # why\nother \\\n ==1\n")

        def log_message(self, *arguments: object) -> None:
            pass

    with HTTPServer(("127.0.0.1", 0), Answer) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        place = f"me:se%40cret@127.0.0.1:{server.server_port}"
        lines = [str(line) for line in Index(options={"constraint": f"http://{place}/first.txt"}).constraints()]
        server.shutdown()
    source = f"http://***@127.0.0.1:{server.server_port}/more.txt"
    assert lines == [f"constraint lib<2 of {source}", f"constraint other  ==1 of {source}"]
