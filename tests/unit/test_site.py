"""The site of all runs, and what its latest.json answers."""

from __future__ import annotations

import json
import re
import threading
from collections.abc import Callable, Iterator
from functools import partial
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import jsonschema
import pytest

from tests.support import ROOT
from tests.support.journals import records, write
from torch_compat_matrix.compat.cli import main

Runs = Callable[..., Path]
FAILS = "gpu-image/torchbnn-1.2/autograd"


@pytest.fixture
def runs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Runs:
    """Record runs, each with what it changes in the small journal, and write their site."""
    monkeypatch.setenv("COMPAT_HOME", str(tmp_path / "home"))

    def site(*changes: dict[str, str], targets: tuple[str, ...] = ()) -> Path:
        for number, change in enumerate(changes):
            found = records(change)
            found[0] |= {"run": f"2030010{number + 1}T000000-abcd"} | ({"target": targets[number]} if targets else {})
            found[0]["plan"]["claims"] = [{"id": "c1", "says": "<it> works", "source": "x", "holds_if": []}]
            write(tmp_path / "home" / "runs" / found[0]["run"] / "journal.jsonl", found)
        assert main(["site", str(tmp_path / "out")]) == 0
        return tmp_path / "out"

    return site


def files(folder: Path) -> dict[str, bytes]:
    """Every file of the folder."""
    return {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def outcomes(out: Path) -> dict[str, dict[str, Any]]:
    """Check -> its entry in latest.json."""
    return {each["check"]: each for each in json.loads((out / "latest.json").read_text())["outcomes"]}


def test_same_records_give_the_same_bytes(runs: Runs, tmp_path: Path) -> None:
    """A page an image, a library, a run, a reason, the claims, and a badge; and every link leads to a page."""
    first = files(runs({}, {FAILS: "fail"}))
    main(["site", str(tmp_path / "again")])
    assert files(tmp_path / "again") == first
    assert {name.partition("/")[0] for name in first} == {
        *("index.html", "latest.json", "claims.html", "image", "library", "run", "reason", "badge")
    }
    assert b"<it>" not in first["claims.html"]
    for name, content in first.items():
        for target in re.findall(r'(?:href|src)="([^"#]+)"', content.decode()):
            assert (tmp_path / "out" / name).parent.joinpath(target).exists(), (name, target)


def test_the_newest_verdict_holds(runs: Runs) -> None:
    """And the page says of which run it is, where that is an older one."""
    out = runs({FAILS: "fail"}, {FAILS: "not-run", "stand-in/torchbnn-1.2/import": "fail"})
    found = outcomes(out)
    assert found[FAILS]["verdict"] == "fail"
    assert found["stand-in/torchbnn-1.2/import"]["state"] == "new"
    assert '"ran":"20300101T000000-abcd"' in (out / "index.html").read_text()


@pytest.mark.parametrize(("hour", "conflicts"), [("13", [FAILS]), ("11", [])])
def test_runs_of_a_night_may_conflict(runs: Runs, tmp_path: Path, hour: str, conflicts: list[str]) -> None:
    """What the night before said is no conflict."""
    found = records({FAILS: "fail"})
    found[0] |= {"run": "20300101T000000-0000", "started": f"2029-12-31T{hour}:00:00+00:00"}
    write(tmp_path / "home" / "runs" / found[0]["run"] / "journal.jsonl", found)
    out = runs({})
    assert list(json.loads((out / "latest.json").read_text())["conflicts"]) == conflicts
    assert ("Conflicts</h2>" in (out / "index.html").read_text()) == bool(conflicts)


def test_each_target_has_its_column(runs: Runs) -> None:
    """An image that was seen on two of them, each with its own verdict and the known issues of its run."""
    out = runs({FAILS: "fail"}, {}, targets=("h100", "l4"))
    found = outcomes(out)
    assert found["gpu-image@h100/torchbnn-1.2/autograd"]["verdict"] == "fail"
    assert found["gpu-image@l4/torchbnn-1.2/autograd"]["verdict"] == "pass"
    assert "known" in found["gpu-image@l4/pyro-ppl-1.8.0/import"]
    assert len(list((out / "image").iterdir())) == 4


def test_pages_that_no_longer_hold_go(runs: Runs) -> None:
    """Those of the site alone: a folder of somebody else's files is refused."""
    out = runs({})
    (out / "image" / "old.html").touch()
    runs({})
    assert not (out / "image" / "old.html").exists()
    (out / "latest.json").unlink()
    assert main(["site", str(out)]) == 2


def test_latest_json_is_a_report(runs: Runs) -> None:
    """By its published schema."""
    schema = json.loads((ROOT / "docs" / "schemas" / "report.json").read_text())
    jsonschema.Draft202012Validator(schema).validate(json.loads((runs({}) / "latest.json").read_text()))


@pytest.fixture
def server(tmp_path: Path) -> Iterator[str]:
    """The address of a web server with the site."""
    handler = partial(SimpleHTTPRequestHandler, directory=str(tmp_path / "out"))
    with ThreadingHTTPServer(("127.0.0.1", 0), handler) as found:
        threading.Thread(target=found.serve_forever, daemon=True).start()
        yield f"http://127.0.0.1:{found.server_port}"
        found.shutdown()


@pytest.mark.parametrize("image", ["gpu-image", "example/gpu-image:1", "gpu-image:1", "sha256:" + "0" * 64])
def test_requirements_are_checked(
    runs: Runs, server: str, tmp_path: Path, capsys: pytest.CaptureFixture[str], image: str
) -> None:
    """From a web server, by the image's name, reference or digest; flaky and superficial passes do not work."""
    runs({})
    asked = tmp_path / "requirements.txt"
    asked.write_text("torch==2.6.0\npyro-ppl>=1.8\ncaptum==0.9  # newer\n-r more/other.txt\n-e .\n")
    (tmp_path / "more").mkdir()
    (tmp_path / "more" / "other.txt").write_text("foo\n-c ../bounds.txt\n")
    (tmp_path / "bounds.txt").write_text("foo<3\npyro-ppl<2\n")
    words = ["check", str(asked), "--image", image, "--results", f"{server}/latest.json", "--json"]
    capsys.readouterr()
    assert main(words) == 1
    said = json.loads(capsys.readouterr().out)
    assert [(each["requirement"], each["answer"], each["version"]) for each in said["requirements"]] == [
        ("torch==2.6.0", "works", "2.6.0+cu124"),
        ("pyro-ppl<2,>=1.8", "fails", "1.9.1"),
        ("captum==0.9", "untested", ""),
        ("foo<3", "untested", ""),
    ]
    assert [line.partition(":")[0] for line in said["left_out"]] == ["-e ."]
    asked.write_text("torch\n")
    assert main(words[:-1]) == 0
    assert "works     torch at 2.6.0+cu124: import, sample, autograd, compile passed" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("image", "results", "status", "said"),
    [
        ("gpu-imag", "latest.json", 3, "no results of the image 'gpu-imag'; did you mean 'gpu-image'?"),
        ("gpu-image", "index.html", 2, "no results: Expecting value"),
        ("gpu-image", "none.json", 2, "cannot be read"),
        ("gpu-image", "http://127.0.0.1:9/latest.json", 2, "cannot be read"),
    ],
)
def test_what_cannot_be_answered_is_said_in_a_line(
    runs: Runs, tmp_path: Path, capsys: pytest.CaptureFixture[str], image: str, results: str, status: int, said: str
) -> None:
    """With the place and the remedy."""
    out = runs({})
    (tmp_path / "requirements.txt").write_text("torch\n")
    place = results if "://" in results else str(out / results)
    words = ["check", str(tmp_path / "requirements.txt"), "--image", image, "--results", place]
    assert main(words) == status
    assert said in capsys.readouterr().err
