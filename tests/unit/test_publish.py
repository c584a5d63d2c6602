"""`compat publish`: one issue follows the state of a matrix; people are told of changes alone."""

from __future__ import annotations

import json
import threading
from collections.abc import Iterator, Mapping
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path
from typing import Any

import pytest

from tests.support.github import REPOSITORY, TOKEN, GitHub, serving
from tests.support.journals import records
from torch_compat_matrix.compat.cli import main
from torch_compat_matrix.reports.announce import MEMORY
from torch_compat_matrix.runner.records.journal import append

PASSES = "gpu-image/torch-installed/"
PROBES = ("import", "sample", "autograd", "compile")
FIRST, SECOND = f"{PASSES}sample", f"{PASSES}autograd"


class Nights:
    """Runs of one cell, one a night, each published."""

    def __init__(self, home: Path, github: GitHub, capsys: pytest.CaptureFixture[str]) -> None:
        self.home, self.github, self.capsys = home, github, capsys
        self.number = 0

    def run(
        self, failing: Mapping[str, str] | None = None, state: str = "complete", lost: Mapping[str, str] | None = None
    ) -> None:
        """A night in which these checks fail with these words; `lost` are probes with another verdict."""
        self.number += 1
        header, *rest = records()
        run = f"203001{self.number:02}T000000-abcd"
        image, subject = PASSES.strip("/").split("/")
        cells = [cell for cell in header["plan"]["cells"] if f"{cell['subject']}-{cell['version']}" == subject]
        kept = [{**cell, "owner": "@acme/bayes"} for cell in cells if cell["image"] == image]
        header = {**header, "run": run, "started": f"2030-01-{self.number:02}T00:00:00+00:00"}
        header["plan"] = {**header["plan"], "cells": kept, "known": []}
        outcomes = [record for record in rest if record.get("check", "").startswith(PASSES)]
        for record in outcomes:
            record["owner"] = "@acme/bayes"
            if words := (failing or {}).get(record["check"]):
                record |= {"verdict": "fail", "reason": "wrong-moments", "evidence": words, "detail": words}
            if verdict := (lost or {}).get(record["probe"]):
                record |= {"verdict": verdict, "reason": "gpu-unhealthy"}
        folder = self.home / "runs" / run
        folder.mkdir(parents=True)
        environments = [record for record in rest if record["kind"] == "environment" and record["image"] == image]
        append(folder / "journal.jsonl", header, *environments, *outcomes, {**rest[-1], "state": state})

    def publish(self, *options: str, status: int = 0) -> str:
        """What the verb says; the requests of before are forgotten."""
        self.github.asked.clear()
        assert main(["publish", "github-issue", REPOSITORY, "--name", "h100", "--wait", "0.1", *options]) == status
        caught = self.capsys.readouterr()
        return caught.out + caught.err

    @property
    def issue(self) -> dict[str, Any]:
        return self.github.issues[-1]

    @property
    def comments(self) -> list[str]:
        return self.github.comments.get(self.issue["number"], [])


@pytest.fixture
def nights(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Iterator[Nights]:
    """A home without runs, and a GitHub without issues of ours."""
    monkeypatch.setenv("COMPAT_HOME", str(tmp_path))
    with serving() as github:
        for title in ("somebody's own", "another", "a third"):
            labels = [{"name": "torch-compat-matrix", "url": ""}]
            plain = {"title": title, "body": None, "labels": labels, "state": "open", "html_url": ""}
            github.issues.append({**plain, "number": len(github.issues) + 1, "url": ""})
        monkeypatch.setenv("GITHUB_API_URL", github.url)
        monkeypatch.setenv("GITHUB_TOKEN", TOKEN)
        for name in ("SERVER_URL", "REPOSITORY", "RUN_ID"):
            monkeypatch.delenv(f"GITHUB_{name}", raising=False)
        yield Nights(tmp_path, github, capsys)


def test_an_issue_follows_the_state(nights: Nights) -> None:
    """Opened, commented on at a change alone, closed when clean, and reopened by the same failure."""
    nights.run()
    assert "no issue is open, and nothing needs one" in nights.publish()
    nights.run({FIRST: "mean 0.7 is 9 standard errors off | @everyone -->"})
    shown = nights.publish("--dry-run")
    assert "would open an issue: Compatibility matrix (h100): unexpected failures" in shown
    assert "@acme/bayes" in shown
    assert nights.github.writes == []
    nights.publish()
    body = nights.issue["body"]
    assert (nights.issue["number"], nights.issue["state"], nights.comments) == (4, "open", [])
    assert "1 unexpected failure: torch installed in gpu-image." in body
    assert "wrong-moments" in body and "compat show gpu-image/torch-installed" in body
    assert "@everyone" not in body and "mean 0.7 is 9" in body
    assert "failing " in body
    assert (nights.publish(), nights.github.writes) == ("issue 4 is up to date\n", [])

    nights.run({FIRST: "mean 0.8 is 11 standard errors off | @everyone -->"})
    nights.publish()
    assert nights.github.writes == [("PATCH", f"/repos/{REPOSITORY}/issues/4")]
    assert "failing since 2030-01-02 (2 runs)" in nights.issue["body"]

    nights.run({SECOND: "the gradient is zero where it should not be"})
    nights.publish()
    assert len(nights.comments) == 1
    assert "**1 new failure**" in nights.comments[0] and f"**1 fixed**: `{FIRST}`" in nights.comments[0]
    assert "`the gradient is zero" in nights.comments[0] and "@acme/bayes" in nights.comments[0]

    nights.run()
    nights.publish()
    assert (nights.issue["state"], len(nights.comments)) == ("closed", 2)
    assert "Everything is as expected." in nights.comments[1]
    nights.run({SECOND: "the gradient is zero where it should not be"})
    nights.publish()
    assert (nights.issue["number"], nights.issue["state"], len(nights.comments)) == (4, "open", 3)
    nights.run()
    nights.publish()
    nights.run({FIRST: "a wholly different thing"})
    nights.publish()
    assert (nights.issue["number"], nights.issue["state"]) == (5, "open")
    assert nights.github.issues[3]["state"] == "closed"


def test_a_night_that_proves_nothing_closes_nothing(nights: Nights) -> None:
    """Neither unhealthy hosts nor a stopped run; what is not asked for long is forgotten."""
    nights.run({FIRST: "the same words every night"})
    nights.publish()
    nights.run(lost=dict.fromkeys(PROBES, "infra"))
    nights.publish()
    assert (nights.issue["state"], nights.comments) == ("open", [])
    assert "The hosts were unhealthy: 4 of 4 checks got no verdict" in nights.issue["body"]
    nights.run(state="interrupted")
    nights.publish()
    assert (nights.issue["state"], len(nights.comments)) == ("open", 1)
    memory = json.loads(MEMORY.match(nights.issue["body"])[1])  # type: ignore[index]
    nights.issue["body"] = MEMORY.sub(
        lambda _: f"<!-- compat {json.dumps({**memory, 'failing': {'gone': 'a3f9'}})} -->", nights.issue["body"]
    )
    for night in range(6):
        nights.run()
        nights.publish()
        assert nights.issue["state"] == ("closed" if night == 5 else "open")
    assert "1 not told any more: known now, or no longer in the matrix." in nights.comments[-1]


def test_limits_are_waited_for(nights: Nights) -> None:
    """The secondary limit, with and without the header, and the other status that GitHub has for it."""
    nights.run({FIRST: "words"})
    limit = "You have exceeded a secondary rate limit. Please wait a few minutes before you try again."
    nights.github.refuse += [("GET", 403, {}, limit), ("POST", 403, {"Retry-After": "1"}, limit)]
    nights.publish()
    assert nights.issue["number"] == 4
    nights.run({FIRST: "words", SECOND: "other words"})
    nights.github.refuse += [("POST", 429, {"Retry-After": "1"}, limit), ("PATCH", 403, {}, limit)]
    nights.publish()
    assert len(nights.comments) == 1 and "other words" in nights.issue["body"]


@pytest.mark.parametrize(
    ("method", "status", "message", "said"),
    [
        ("POST", 403, "Resource not accessible by integration", "let the token write issues"),
        ("POST", 422, "Validation Failed", "422 Validation Failed"),
        ("GET", 404, "Not Found", "name the repository as OWNER/NAME"),
        ("POST", 410, "Issues are disabled for this repo", "switch the repository's issues on"),
        ("POST", 502, "Bad Gateway", "try again"),
    ],
)
def test_a_refusal_is_told_with_its_remedy(nights: Nights, method: str, status: int, message: str, said: str) -> None:
    """In one message, after one request: a lost answer may have made the issue."""
    nights.run({FIRST: "words"})
    nights.github.refuse.append((method, status, {}, message))
    answer = nights.publish(status=5)
    assert f"{REPOSITORY}: {status} " in answer and said in answer
    assert "Traceback" not in answer
    assert len([request for request in nights.github.asked if request[0] == method]) == 1


def test_what_is_missing_is_told(nights: Nights, monkeypatch: pytest.MonkeyPatch) -> None:
    """A label that the token may not give, a wrong token, none, and a server that is not there."""
    nights.run({FIRST: "words"})
    nights.github.labels_allowed = False
    assert "got no label, by which the next run would find it" in nights.publish(status=5)
    assert nights.issue["state"] == "closed"
    monkeypatch.setenv("GITHUB_TOKEN", "another")
    assert "401 Bad credentials" in nights.publish(status=5)
    monkeypatch.setenv("GITHUB_API_URL", "http://127.0.0.1:9")
    assert "no answer" in nights.publish(status=5)
    monkeypatch.delenv("GITHUB_TOKEN")
    assert "GITHUB_TOKEN is not set" in nights.publish(status=2)


def spelled(number: int) -> str:
    """A word of its own for each number."""
    return "".join(chr(ord("a") + int(digit)) for digit in str(number))


@pytest.mark.share
def test_sixteen_hundred_causes_fit(nights: Nights) -> None:
    """Into a body of 65,536 characters, and are no news a second time."""
    header, *rest = records()
    one = next(record for record in rest if record["kind"] == "outcome")
    many = [
        {**one, "check": f"i/l-{number}/import", "image": "i", "subject": "l", "version": str(number),
         "verdict": "fail", "reason": "wrong-moments", "evidence": f"{spelled(number)} is too far off " * 12}
        for number in range(1600)
    ]  # fmt: skip
    for day in (1, 2):
        run = f"2030010{day}T000000-abcd"
        (nights.home / "runs" / run).mkdir(parents=True)
        plan = {**header["plan"], "cells": []}
        append(nights.home / "runs" / run / "journal.jsonl", {**header, "run": run, "plan": plan}, *many, rest[-1])
        nights.publish()
    assert 40_000 < len(nights.issue["body"].encode()) <= 60 << 10
    nights.publish("--max-bytes", "9KB")
    assert 7000 < len(nights.issue["body"].encode()) <= 9000
    assert "Left out here, for want of room:" in nights.issue["body"] and "1600 unexpected" in nights.issue["body"]
    assert nights.comments == []


@pytest.fixture
def hook() -> Iterator[tuple[str, list[dict[str, Any]]]]:
    """A URL, and what was posted to it."""
    posted: list[dict[str, Any]] = []

    class Handler(BaseHTTPRequestHandler):
        def log_message(self, *words: Any) -> None:
            pass

        def do_POST(self) -> None:
            posted.append(json.loads(self.rfile.read(int(self.headers["Content-Length"]))))
            self.send_response(404 if self.path == "/gone" else 200)
            self.end_headers()

    server = HTTPServer(("127.0.0.1", 0), Handler)
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    yield f"http://127.0.0.1:{server.server_port}/secret", posted
    server.shutdown()
    server.server_close()
    thread.join()


def test_a_webhook_hears_of_changes_alone(
    nights: Nights, hook: tuple[str, list[dict[str, Any]]], capsys: pytest.CaptureFixture[str]
) -> None:
    """Once a run: a new failure, the same the night after, its end, and a night without verdicts."""
    url, posted = hook
    for failing, lost, messages in (
        ({}, {}, 0),
        ({FIRST: "words"}, {}, 1),
        ({FIRST: "words"}, {}, 1),
        ({}, {}, 2),
        ({}, dict.fromkeys(PROBES, "infra"), 3),
    ):
        nights.run(failing, lost=lost)
        for _ in range(2):
            assert main(["publish", "webhook", url, "--name", "h100"]) == 0
        assert len(posted) == messages
    assert (posted[0]["new"], posted[0]["owners"], posted[1]["fixed"]) == ([FIRST], ["@acme/bayes"], [FIRST])
    assert posted[0]["text"].startswith("h100: ") and "1 unexpected failure: " in posted[0]["text"]
    assert (posted[2]["standing"], len(posted[2]["lost"])) == ("unhealthy hosts", 4)
    nights.run({FIRST: "words"})
    assert main(["publish", "webhook", url.replace("secret", "gone")]) == 5
    assert main(["publish", "webhook", "http://127.0.0.1:9/secret"]) == 5
    assert main(["publish", "webhook", "nowhere"]) == 2
    assert "secret" not in capsys.readouterr().err
