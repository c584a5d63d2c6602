"""The way to a registry's list of tags that the registry of tests/docker does not have: a token, and several pages."""

from __future__ import annotations

import base64
import json
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import pytest

from torch_compat_matrix.runner.backends.registry import pages
from torch_compat_matrix.runner.errors import Trouble

LOGIN = f"Basic {base64.b64encode(b'me:word').decode()}"


@pytest.fixture
def host() -> Iterator[str]:
    """A registry that gives out a token to one user, and two tags a page."""

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            allowed = self.headers.get("Authorization")
            realm = f"http://{self.headers['Host']}/token"
            if self.path.startswith("/token"):
                known = allowed == LOGIN and "scope=repository%3Ateam%2Ftrain%3Apull" in self.path
                self.answer(200 if known else 401, {"token": "abc"})
            elif allowed != "Bearer abc":
                demand = f'Bearer realm="{realm}",service="here",scope="repository:team/train:pull"'
                self.answer(401, {}, ("WWW-Authenticate", demand))
            elif "last=" in self.path:
                self.answer(200, {"tags": ["24.3"]})
            else:
                link = '</v2/team/train/tags/list?last=24.2&n=2>; rel="next"'
                self.answer(200, {"tags": ["24.1", "24.2"]}, ("Link", link))

        def answer(self, status: int, content: object, *headers: tuple[str, str]) -> None:
            text = json.dumps(content).encode()
            self.send_response(status)
            for name, value in (*headers, ("Content-Length", str(len(text)))):
                self.send_header(name, value)
            self.end_headers()
            self.wfile.write(text)

        def log_message(self, *_: object) -> None:
            """Quiet."""

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    yield f"http://127.0.0.1:{server.server_port}"
    server.shutdown()
    server.server_close()


def test_all_pages_are_read_with_a_token(host: str) -> None:
    """Which the user's password buys."""
    assert list(pages(f"{host}/v2/team/train/tags/list", ("me", "word"), "x")) == ["24.1", "24.2", "24.3"]


def test_a_user_without_a_token_is_refused(host: str) -> None:
    """By name."""
    with pytest.raises(Trouble, match="401") as raised:
        list(pages(f"{host}/v2/team/train/tags/list", ("me", "other"), "x"))
    assert raised.value.code == "registry-refused"
