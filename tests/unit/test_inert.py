"""Whatever was recorded, every output stays text: nothing acts on a terminal, a page, a document or a CI service."""

from __future__ import annotations

import ast
import io
import unicodedata
from collections import Counter
from contextlib import redirect_stderr, redirect_stdout
from html.parser import HTMLParser
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from markdown_it import MarkdownIt

from tests.support import ROOT
from tests.support.journals import records, write
from tests.unit.test_reports import TODAY
from torch_compat_matrix.compat import progress
from torch_compat_matrix.compat.verbs import diff, history, show
from torch_compat_matrix.reports import html
from torch_compat_matrix.reports.changes import compare
from torch_compat_matrix.reports.claims import page
from torch_compat_matrix.reports.junit import junit
from torch_compat_matrix.reports.markdown import markdown, summary
from torch_compat_matrix.reports.table import Table, load
from torch_compat_matrix.reports.write import json_text
from torch_compat_matrix.runner.model import Verdict
from torch_compat_matrix.runner.outcome import Outcome

NAMES = {
    *("kind", "check", "image", "subject", "version", "probe", "verdict", "environment", "key", "name", "cells"),
    *("expect", "expires", "members", "probes", "status", "id", "checks", "exists"),
}
"""Fields whose words are ours, or were checked when the matrix was read."""

PARTS = [{"name": "part", "status": status, "seconds": 1.0, "message": "told"} for status in ("failed", "skipped")]
CLAIM = {"id": "c1", "says": "it works", "source": "an article", "remark": "so", "holds_if": [{"exists": "gpu-image"}]}
HOSTILE = (
    "\x1b]0;t\x07\x9b31m\u202e\x00\x85\u2028\ud800\r::error::x\n  ::set-output::y\n##[group]##vso[task]"
    " | a | <b>b</b> <!-- **c** __d__ ~~e~~ [f](javascript:g) ![h](i) &lt; $j$ \\ ```\n\n# k\n---\n- l\n1. m\n> n"
)


def planted(value: Any, words: str, name: str = "") -> Any:
    """The record with these words in every text that somebody else wrote."""
    if isinstance(value, dict):
        return {key: planted(item, words, key) for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [planted(item, words, name) for item in value]
    return words + value + words if isinstance(value, str) and name not in NAMES else value


def hostile(folder: Path, words: str) -> tuple[Table, Table]:
    """Two runs with these words in all that libraries, images, users and engines have said."""
    found = records()
    found[0]["plan"]["claims"] = [CLAIM]
    for record in found:
        if record["kind"] == "outcome":
            told = {"traceback": "told", "output": "told", "notes": ["told"], "installed": "1", "resolved": ["a==1"]}
            record["signature"] = "0123abcd"  # words decide which outcomes share a note
            record.update(told, parts=PARTS, metrics={f"{words}import": {"value": 0.25, "unit": "s"}})
            result = {"dtype": record["image"], "shape": [1], "values": [1.0]}  # differs from image to image
            record["numerics"] = {f"{words}result": result}
    found = [planted(record, words) for record in found]
    earlier = [
        {**record, "facts": {**record["facts"], "driver": ""}} if "facts" in record else record for record in found
    ]
    before, after = (
        load(write(folder / name, each), TODAY) for name, each in (("before.jsonl", earlier), ("after.jsonl", found))
    )
    return before, after


def log(before: Table, after: Table) -> str:
    """What is printed of the runs: progress, the summary, and the answers of verbs."""
    outcomes = list(after.outcomes.values())
    changes = compare(before, after)
    said = io.StringIO()
    lines = progress.Lines(1, said)
    with redirect_stdout(said), redirect_stderr(said):
        progress.say(summary(after, changes))
        lines.say(str(after.header["plan"]))
        for outcome in outcomes:
            lines.outcome(outcome)
            environment = dict(after.environments.get(outcome.environment, {}))
            progress.answer("\n".join(show.describe(outcome, dict(after.header), environment)))
        progress.answer("\n".join(history._lines([(after.run, outcome) for outcome in outcomes])))
        progress.answer("\n".join(diff._lines(before, after, changes)))
    return said.getvalue()


def active(text: str) -> set[str]:
    """The characters in it that act or hide."""
    kinds = {character for character in set(text) if unicodedata.category(character) in ("Cc", "Cs", "Zl", "Zp")}
    return (kinds - {"\n", "\t"}) | (
        set(text) & set("\u061c\u200b\u200e\u200f\u202a\u202b\u202c\u202d\u202e\u2066\ufeff")
    )


def structure(text: str) -> Counter[str]:
    """What a Markdown page is made of beside its words."""
    tokens = MarkdownIt("commonmark").enable(["table", "strikethrough"]).parse(text)
    inline = [child for token in tokens for child in token.children or ()]
    words = ("text", "text_special", "softbreak", "hardbreak", "code_inline")
    return Counter(token.type for token in (*tokens, *inline) if token.type not in words)


class Tags(HTMLParser):
    """Counts the tags and the attributes of a page, of which those that describe a check hold its words."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.found: Counter[str] = Counter()
        self.feed(text)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        """Count a tag by its name and the names of its attributes."""
        self.found[" ".join([tag, *(name for name, _ in attrs)])] += 1

    def handle_comment(self, data: str) -> None:
        """Count a comment."""
        self.found["comment"] += 1


def check(folder: Path, words: str) -> None:
    """Every output of a run with these words."""
    before, after = hostile(folder, words)
    pages = {
        "report.md": markdown(after, compare(before, after)),
        "claims.md": "".join(page(after)),
        "report.json": "".join(json_text(after, compare(before, after))),
        "junit.xml": "".join(junit(after)),
        "report.html": "".join(html.page(after, compare(before, after))),
        "log": log(before, after),
    }
    for name, text in pages.items():
        assert active(text) == set(), name
        if name not in ("report.json", "junit.xml", "report.html"):  # nobody prints these
            assert "##[" not in text and "##vso[" not in text, name
            assert not any(line.strip().startswith("::") for line in text.splitlines()), name
    ElementTree.fromstring(pages["junit.xml"])
    harmless = hostile(folder, "x")
    assert Tags(pages["report.html"]).found == Tags("".join(html.page(harmless[1], compare(*harmless)))).found
    assert structure(pages["report.md"]) == structure(markdown(harmless[1], compare(*harmless)))
    assert structure(pages["claims.md"]) == structure("".join(page(harmless[1])))


@pytest.mark.parametrize("first", ["", "\n\n", "\r\r", "`", "|", "<b>", "* ", "1. ", "](x)"])
def test_hostile_words_stay_words(tmp_path: Path, first: str) -> None:
    """All that is known to act on somebody, in every field; of a signature the first four characters are shown."""
    check(tmp_path, first + HOSTILE)


@settings(max_examples=15, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(words=st.text(alphabet=st.one_of(st.sampled_from(HOSTILE), st.characters(exclude_categories=())), max_size=40))
def test_any_words_stay_words(tmp_path: Path, words: str) -> None:
    """Whatever else somebody thinks of; a visible letter behind it, since some sections leave out what is empty."""
    check(tmp_path, words + "w")


def test_progress_names_an_outcome_on_one_line() -> None:
    """Also a reason that a probe made up."""
    outcome = Outcome(
        check="i/l-1/import", image="i", subject="l", version="1", probe="import", verdict=Verdict.FAIL, reason="a\nb"
    )
    assert progress.line(outcome) == "fail        i/l-1/import 0.0 s a b"


@pytest.mark.parametrize("path", sorted((ROOT / "compat").rglob("*.py")), ids=lambda path: path.name)
def test_the_faces_print_through_one_door(path: Path) -> None:
    """Nobody can forget to disarm a text."""
    calls = [node for node in ast.walk(ast.parse(path.read_text())) if isinstance(node, ast.Call)]
    prints = [call for call in calls if ast.unparse(call.func) == "print"]
    doors = [call for call in prints if ast.unparse(call.args[0]).startswith("printable(")]
    assert prints == doors
    assert not prints or path.name == "progress.py"
