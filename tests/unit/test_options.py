"""The command line: each verb explains itself, and a slip is answered with what was meant."""

from __future__ import annotations

import argparse
import re
import shlex
from importlib.util import find_spec
from pathlib import Path

import pytest

from torch_compat_matrix.compat.cli import main
from torch_compat_matrix.compat.options import parser, read, verbs_of
from torch_compat_matrix.runner import __version__
from torch_compat_matrix.runner.backends import here

VERBS = verbs_of(parser())


@pytest.mark.parametrize("verb", VERBS)
def test_verb_has_a_description_and_two_examples(verb: str) -> None:
    """In its own --help, whose examples the parser takes, each as a command of that verb."""
    text = VERBS[verb].format_help()
    assert VERBS[verb].description, f"give `{verb}` a description in its docstring"
    examples = re.findall(r"^  (compat .*)$", text.partition("examples:\n")[2], re.MULTILINE)
    assert len(examples) >= 2, f"give `{verb}` two examples in its docstring"
    for example in examples:
        assert read(shlex.split(example)[1:]).verb == verb, f"an example of `{verb}` is of another verb: {example}"
    assert find_spec(f"torch_compat_matrix.compat.verbs.{verb}"), f"`{verb}` needs a module in compat/verbs/"


@pytest.mark.parametrize("verb", VERBS)
def test_option_has_a_help(verb: str) -> None:
    """So has each argument."""
    assert [action.dest for action in VERBS[verb]._actions if not action.help] == []


def test_list_of_verbs_shows_a_sentence_each(capsys: pytest.CaptureFixture[str]) -> None:
    """Bare `compat` asks nothing wrong: it prints the same help as --help."""
    assert main([]) == 0
    said = capsys.readouterr().out
    assert said == parser().format_help()
    assert {verb for verb in VERBS if not re.search(rf"^    {verb}\s", said, re.MULTILINE)} == set()


def test_version(capsys: pytest.CaptureFixture[str]) -> None:
    """In one line."""
    with pytest.raises(SystemExit, match="0"):
        main(["--version"])
    assert capsys.readouterr().out == f"compat {__version__}\n"


@pytest.mark.parametrize(
    ("words", "said"),
    [
        ("rnu", "there is no verb 'rnu'; did you mean 'run'?"),
        ("xylophone", "there is no verb 'xylophone'; there are: advise, bisect,"),
        ("run --bakend docker", "run: cannot take '--bakend'; did you mean '--backend'?"),
        ("plan --probes=import", "plan: cannot take '--probes=import'; did you mean '--probe'?"),
        ("history a b", "history: cannot take 'b'\n`compat history --help`"),
    ],
)
def test_slip_is_answered_with_what_was_meant(words: str, said: str, capsys: pytest.CaptureFixture[str]) -> None:
    """In one message, with status 2; the names are those of the help."""
    assert main(words.split()) == 2
    assert said in capsys.readouterr().err


def test_namespace_is_the_parsers_own() -> None:
    """What a verb gets is what argparse read."""
    assert read(["runs", "--last", "3"]) == argparse.Namespace(verb="runs", last=3, json=False)


def test_absent_baseline_is_refused_before_the_run(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """At once, not after an hour: before the matrix is even looked for."""
    monkeypatch.setenv("COMPAT_HOME", str(tmp_path))
    assert main(["run", "--matrix", "absent.yaml", "--baseline", "2019"]) == 3
    assert "no run that begins with '2019'" in capsys.readouterr().err


def test_doctor_fails_for_the_backend_asked_for(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """The engine answers here with a finding, not with an error: this interpreter holds no torch."""
    monkeypatch.setattr(here, "find_spec", lambda name: None)
    monkeypatch.setenv("COMPAT_HOME", str(tmp_path))
    assert main(["doctor", "--matrix", "absent.yaml", "--backend", "here"]) == 4
    assert "no  torch here" in capsys.readouterr().out
