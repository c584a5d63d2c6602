"""A package index on loopback that tells, as PyPI does, when each file was published and which were withdrawn."""

from __future__ import annotations

import hashlib
import json
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

from torch_compat_matrix.runner.pins import canonical


@dataclass(kw_only=True)
class Index:
    """What the index says; a test may change it while it runs."""

    url: str = ""
    files: list[dict[str, Any]] = field(default_factory=list)
    paths: dict[str, Path] = field(default_factory=dict)

    def add(self, path: Path, day: str = "", *, yanked: bool = False) -> None:
        """Publish a file on that day."""
        digest = hashlib.sha256(path.read_bytes()).hexdigest()
        entry = {"filename": path.name, "url": path.name, "hashes": {"sha256": digest}, "yanked": yanked}
        self.files.append({**entry, **({"upload-time": f"{day}T12:00:00.000000Z"} if day else {})})
        self.paths[path.name] = path


@contextmanager
def json_index() -> Iterator[Index]:
    """A JSON index (PEP 691, 700), empty at first."""
    index = Index()

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            name = self.path.rstrip("/").rpartition("/")[2]
            listed = [file for file in index.files if canonical(file["filename"].partition("-")[0]) == name]
            if listed:
                page = {"meta": {"api-version": "1.1"}, "name": name, "files": listed}
                self.answer(200, json.dumps(page).encode(), "application/vnd.pypi.simple.v1+json")
            elif name in index.paths:
                self.answer(200, index.paths[name].read_bytes(), "application/octet-stream")
            else:
                self.answer(404, b"", "text/plain")

        def answer(self, status: int, content: bytes, kind: str) -> None:
            self.send_response(status)
            self.send_header("Content-Type", kind)
            self.send_header("Content-Length", str(len(content)))
            self.end_headers()
            self.wfile.write(content)

        do_HEAD = do_GET

        def log_message(self, *_: object) -> None:
            """Quiet."""

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    index.url = f"http://127.0.0.1:{server.server_port}/simple"
    yield index
    server.shutdown()
    server.server_close()
