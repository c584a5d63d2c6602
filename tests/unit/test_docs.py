"""The pages that people read: their links, the commands that they show, and what they repeat of the code."""

from __future__ import annotations

import re
import shlex
from collections.abc import Iterator
from functools import cache
from pathlib import Path

import pytest
from markdown_it import MarkdownIt
from markdown_it.token import Token

from tests.support import ROOT
from tests.unit.test_architecture import MAY_IMPORT
from torch_compat_matrix.compat.options import parser, read, verbs_of

PAGES = sorted(
    path for folder in ("", "docs", "docs/reasons", "reports/examples") for path in (ROOT / folder).glob("*.md")
)
NAMED = re.compile(
    r"(?P<file>(?:compat|runner|reports|probes|docs|tests|benchmarks|\.ci)/[a-z_/.-]*)(?::(?P<names>[\w.]+))?"
)
"""`runner/matrix/`, `tests/unit/test_docs.py`, `runner/execution/engine.py:Engine.run`."""

NOTE = re.compile(r"✂️|<sup>[^<]*</sup>")


def relative(path: Path) -> str:
    """A readable test id."""
    return str(path.relative_to(ROOT))


@cache
def tokens(path: Path) -> list[Token]:
    """Everything on a page, from its blocks down to its code spans."""
    blocks = MarkdownIt("commonmark").enable("table").parse(path.read_text(encoding="utf-8"))
    return [token for block in blocks for token in (block, *(block.children or ()))]


def links(path: Path) -> set[Path]:
    """What a page's relative links lead to."""
    targets = {str(token.attrs["href"]) for token in tokens(path) if token.type == "link_open"}
    files = {target.partition("#")[0] for target in targets if "://" not in target}
    return {(path.parent / file).resolve() for file in files if file}


def code(path: Path) -> Iterator[str]:
    """What stands in a page's code blocks and code spans."""
    yield from (token.content for token in tokens(path) if token.type in ("fence", "code_inline"))


def commands(path: Path) -> Iterator[list[str]]:
    """The arguments of each `compat` command in a page's code, those with an ellipsis left out."""
    for text in code(path):
        for line in re.split(r"\n|&&|;", text):
            found = re.match(r"\s*(?:\$ )?(?:python3 |\S+/)?compat(?: (?!\.\.\.)(.*))?$", line)
            if found and "..." not in line:
                yield shlex.split(found[1] or "", comments=True)


@pytest.mark.parametrize("path", PAGES, ids=relative)
def test_links_lead_somewhere(path: Path) -> None:
    """A file or a folder of this repository."""
    assert {target for target in links(path) if not target.exists()} == set()


@pytest.mark.parametrize("path", PAGES, ids=relative)
def test_paths_in_code_are_there(path: Path) -> None:
    """A file or folder of a room; where a name follows a colon, the file has a function or class of that name."""
    for text in code(path):
        named = NAMED.fullmatch(text)
        if named is None or text in MAY_IMPORT:
            continue
        assert (ROOT / named["file"]).exists(), text
        for name in filter(None, (named["names"] or "").split(".")):
            assert re.search(rf"(?:def|class) {name}\b", (ROOT / named["file"]).read_text()), text


def test_every_page_can_be_reached_from_the_readme() -> None:
    """By links, over however many pages."""
    reached, ahead = set(), {ROOT / "README.md"}
    while ahead:
        page = ahead.pop()
        reached.add(page)
        followed = {target / "README.md" if target.is_dir() else target for target in links(page)}
        ahead |= {target for target in followed if target in PAGES} - reached
    assert set(PAGES) - reached == set()


@pytest.mark.parametrize("path", [path for path in PAGES if list(commands(path))], ids=relative)
def test_commands_are_understood(path: Path) -> None:
    """The parser takes each command that a page shows; a verb alone names itself."""
    for words in commands(path):
        if len(words) > 1 or words in (["--help"], ["--version"]):
            try:
                read(words)
            except SystemExit as ended:
                assert ended.code == 0, shlex.join(["compat", *words])
        else:
            assert set(words) <= verbs()


@cache
def verbs() -> set[str]:
    """The verbs of `compat`."""
    return set(verbs_of(parser()))


def test_pytest_options_are_the_plugins() -> None:
    """`--compat-...`, wherever a page names one."""
    plugin = (ROOT / "compat" / "pytest_plugin.py").read_text()
    named = {option for path in PAGES for option in re.findall(r"--compat-[a-z-]+", path.read_text(encoding="utf-8"))}
    assert {option for option in named if f'"{option}"' not in plugin} == set()


def rows(text: str) -> list[list[str]]:
    """The rows of all tables, cell by cell, with their spaces evened out."""
    lines = [line for line in text.splitlines() if line.startswith("|") and not set(line) <= set("|-: ")]
    return [[" ".join(cell.split()) for cell in line.strip("|").split("|")] for line in lines]


def test_import_rule_is_the_one_that_is_held() -> None:
    """The table of docs/architecture.md says what test_architecture.py checks."""
    text = (ROOT / "docs" / "architecture.md").read_text(encoding="utf-8")
    _, _, section = text.partition("## The rule of imports\n")
    _, *table = rows(section.partition("\n## ")[0])
    told = {room.strip("`"): re.findall(r"`([\w/]+)`", may) for room, may in table}
    assert told == MAY_IMPORT


def test_readme_shows_a_real_table() -> None:
    """Its first table is ten rows of the example report, without its notes and the marks of parts left out."""
    readme = (ROOT / "README.md").read_text(encoding="utf-8")
    report = (ROOT / "reports" / "examples" / "cpu-stand-ins" / "report.md").read_text(encoding="utf-8")
    head, *shown = rows(readme)[:11]
    real = rows(NOTE.sub("", report.partition("## Notes")[0]))
    assert head == real[0]
    assert [row for row in shown if row not in real] == []


def test_readme_tests_by_the_command_of_ci() -> None:
    """The last line of .ci/run stands in the README, word for word."""
    *_, line = (ROOT / ".ci" / "run").read_text().strip().splitlines()
    command, _, _ = line.partition(" || once_more")
    assert command.endswith("worksteal") and command in (ROOT / "README.md").read_text(encoding="utf-8")
