"""GitHub's REST API as far as issues go, on loopback: answers, limits and refusals as its documentation has them."""

from __future__ import annotations

import json
import re
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any
from urllib.parse import parse_qs, urlsplit

REPOSITORY = "acme/models"
TOKEN = "the-token"
PAGE = 2
"""Issues on a page, whatever is asked for: the real API has at most 100."""


@dataclass
class GitHub:
    """What the server holds, what was asked of it, and the answers that it gives before its own."""

    url: str = ""
    issues: list[dict[str, Any]] = field(default_factory=list)
    comments: dict[int, list[str]] = field(default_factory=dict)
    asked: list[tuple[str, str]] = field(default_factory=list)
    refuse: list[tuple[str, int, dict[str, str], str]] = field(default_factory=list)
    """(method, status, headers, message), each for one request."""
    labels_allowed: bool = True

    @property
    def writes(self) -> list[tuple[str, str]]:
        return [request for request in self.asked if request[0] != "GET"]

    def answer(self, method: str, path: str, query: dict[str, list[str]], data: dict[str, Any]) -> tuple[int, Any]:
        """Status and answer of a request; KeyError where there is no such thing."""
        rest = path.removeprefix(f"/repos/{REPOSITORY}")
        if rest == path:
            return 404, {"message": "Not Found"}
        if not rest:
            return 200, {"full_name": REPOSITORY, "url": f"{self.url}/repos/{REPOSITORY}"}
        if rest == "/issues" and method == "GET":
            labels = query.get("labels", [""])[0].split(",")
            states = ("open", "closed") if query["state"] == ["all"] else tuple(query["state"])
            listed = [issue for issue in self.issues[::-1] if issue["state"] in states]
            return 200, [one for one in listed if {*labels} <= {label["name"] for label in one["labels"]}]
        if rest == "/issues":
            if not data.get("title") or len(data.get("body", "")) > 65536:
                return 422, {"message": "Validation Failed", "errors": [{"resource": "Issue", "code": "invalid"}]}
            number = len(self.issues) + 1
            place = f"{self.url}/repos/{REPOSITORY}/issues/{number}"
            given = [{"name": name, "url": f"{place}/{name}"} for name in data.get("labels", ())]
            page = f"https://github.com/{REPOSITORY}/issues/{number}"
            issue = {**data, "number": number, "state": "open", "url": place, "html_url": page}
            self.issues.append({**issue, "labels": given if self.labels_allowed else []})
            return 201, self.issues[-1]
        found_in = re.fullmatch(r"/issues/(\d+)(/comments)?", rest)
        if found_in is None:
            return 404, {"message": "Not Found"}
        issue = self.issues[int(found_in[1]) - 1]
        comments = self.comments.setdefault(issue["number"], [])
        if found_in[2]:
            if method == "POST":
                comments.append(data["body"])
                return 201, {"body": data["body"], "id": len(comments)}
            return 200, [{"body": body, "id": number} for number, body in enumerate(comments)]
        if method == "PATCH":
            if len(data.get("body", "")) > 65536 or data.get("state", "open") not in ("open", "closed"):
                return 422, {"message": "Validation Failed"}
            issue.update(data)
        return 200, issue


@contextmanager
def serving() -> Iterator[GitHub]:
    """The server, as long as the block runs."""
    github = GitHub()

    class Handler(BaseHTTPRequestHandler):
        def log_message(self, *words: Any) -> None:
            pass

        def handle_one(self) -> None:
            size = int(self.headers.get("Content-Length") or 0)
            data = json.loads(self.rfile.read(size) or b"{}")
            parts = urlsplit(self.path)
            github.asked.append((self.command, parts.path))
            headers: dict[str, str] = {}
            answer: Any
            if self.headers.get("Authorization", "").split()[-1:] != [TOKEN]:
                status, answer = 401, {"message": "Bad credentials"}
            elif github.refuse and github.refuse[0][0] == self.command:
                _, status, headers, message = github.refuse.pop(0)
                answer = {"message": message}
            else:
                query = parse_qs(parts.query)
                status, answer = github.answer(self.command, parts.path, query, data)
                if isinstance(answer, list) and parts.path.endswith("/issues"):
                    page = int(query.get("page", ["1"])[0])
                    answer, rest = answer[(page - 1) * PAGE : page * PAGE], answer[page * PAGE :]
                    if rest:
                        base = re.sub(r"[?&]page=\d+", "", self.path)
                        headers = {"Link": f'<{github.url}{base}&page={page + 1}>; rel="next"'}
            text = json.dumps(answer).encode()
            self.send_response(status)
            headers |= {"Content-Type": "application/json", "Content-Length": str(len(text))}
            for name, value in headers.items():
                self.send_header(name, value)
            self.end_headers()
            self.wfile.write(text)

        do_GET = do_POST = do_PATCH = handle_one

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    github.url = f"http://127.0.0.1:{server.server_port}"
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    try:
        yield github
    finally:
        server.shutdown()
        server.server_close()
        thread.join()
