"""The command line: each verb explains itself, and a slip is answered with what was meant."""

from __future__ import annotations

import argparse
import re
import shlex
from importlib.util import find_spec

import pytest

from torch_compat_matrix.compat.cli import main
from torch_compat_matrix.compat.options import parser, read, verbs_of
from torch_compat_matrix.runner import __version__

VERBS = verbs_of(parser())


@pytest.mark.parametrize("verb", VERBS)
def test_verb_has_a_description_and_two_examples(verb: str) -> None:
    """In its own --help, whose examples the parser takes, each as a command of that verb."""
    text = VERBS[verb].format_help()
    assert VERBS[verb].description, f"give `{verb}` a description in compat/options.py"
    examples = re.findall(r"^  (compat .*)$", text.partition("examples:\n")[2], re.MULTILINE)
    assert len(examples) >= 2, f"give `{verb}` two examples in compat/options.py: verb(name, help, *examples)"
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
