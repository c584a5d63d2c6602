"""Every pattern that searches what others have written takes time in proportion to its length."""

from __future__ import annotations

import re
import signal
import time
from collections.abc import Iterator
from typing import Any

import pytest

from torch_compat_matrix.reports import escape
from torch_compat_matrix.reports.table import HERE
from torch_compat_matrix.runner import text
from torch_compat_matrix.runner.backends.docker_errors import MEANINGS
from torch_compat_matrix.runner.model import Limits
from torch_compat_matrix.runner.packages import uv
from torch_compat_matrix.runner.verdicts import classify, signs
from torch_compat_matrix.runner.verdicts.rules import RULES

SEARCHED = ("says", "within", "through", "prints", "signal", "exit")
WHOLE = dict.fromkeys(rule.raises for rule in RULES if rule.raises)
"""Patterns that a whole name must match, from its beginning on."""

PATTERNS = dict.fromkeys(
    [
        *(pattern for rule in RULES for pattern in (getattr(rule, field) for field in SEARCHED) if pattern),
        *(entry[-1] for entry in (*uv.REASONS, *MEANINGS)),
        *(
            classify.COMPILER,
            signs.LAST_WORDS,
            signs.FRAME,
            signs.BUILDS,
            signs.COMPILER_SAYS,
            signs.PACKAGE,
            HERE.pattern,
        ),
        *WHOLE,
    ]
)

SHORT, LONG = 60_000, 250_000
"""A quadratic pattern that begins anew every 16 characters takes 100 million steps, seconds, for the short text."""

BREAK = re.compile(r"(?<!\\)[()|^$?*+{}]+")


def worst(pattern: str, size: int) -> Iterator[str]:
    """Texts of that size in which the pattern begins to match again and again, and never does."""
    plain = re.sub(r"\(\?(?:P<\w+>|[:=!]|<[=!])", "(", pattern)
    plain = re.sub(r"\\([dswSWDb])", lambda match: {"d": "1", "s": " ", "b": "", "W": " "}.get(match[1], "a"), plain)
    plain = re.sub(r"\[[^]]*\]|\.(?=[*+?{])", "a", plain)
    pieces = {piece.replace("\\", "") for piece in [*BREAK.split(plain), *BREAK.sub(" ", plain).split("  ")]}
    pieces |= {*"a0 \n\t'\"/.:_-=[(", "a.", "a/", "a: ", "a::", "/a", "\n "}
    for piece in sorted(pieces - {""}):
        yield piece * (size // len(piece) + 1)
        yield piece + "a" * size
        yield (piece + "\n") * (size // len(piece))


def slow(pattern: str, size: int, limit_s: float) -> str:
    """The first of the worst texts that takes longer, by its beginning; empty where none does."""

    def stop(*arguments: object) -> None:
        raise TimeoutError

    compiled = re.compile(pattern, re.MULTILINE)
    look = compiled.fullmatch if pattern in WHOLE else compiled.search
    before = signal.signal(signal.SIGVTALRM, stop)
    try:
        for said in worst(pattern, size):
            signal.setitimer(signal.ITIMER_VIRTUAL, limit_s)
            try:
                look(said)
            except TimeoutError:
                return said[:80]
            finally:
                signal.setitimer(signal.ITIMER_VIRTUAL, 0)
    finally:
        signal.signal(signal.SIGVTALRM, before)
    return ""


@pytest.mark.share
@pytest.mark.parametrize("pattern", PATTERNS)
def test_no_pattern_is_quadratic(pattern: str) -> None:
    """In the worst texts that its own pieces make."""
    assert slow(pattern, SHORT, 0.5) == ""


@pytest.mark.slow
@pytest.mark.parametrize("pattern", PATTERNS)
def test_a_long_text_is_searched_within_seconds(pattern: str) -> None:
    """The same texts at length."""
    assert slow(pattern, LONG, 3) == ""


HOSTILE = (
    *("a", "0", " ", "\n", "'", '"', "/", "://", "?a=", "#", "\\", "`", "::", "##[", "\x1b[", "\r", "&", "_", "|"),
    *(
        "Failed to fetch ",
        "Because a was not found in ",
        "expected ",
        'File "',
        ' File "/triton/',
        "\n  what():",
        "libcublas",
    ),
    *("NVML_SUCCESS == ", "torchinductor", "/tmp/", "Error: ", "://a@", "://${A}:", "The above exception was the "),
)


@pytest.mark.share
@pytest.mark.parametrize("piece", HOSTILE)
def test_a_long_text_is_classified_redacted_and_escaped_at_once(piece: str) -> None:
    """Whatever it is that a library prints, raises or dies with."""
    said = piece * (LONG // len(piece))
    seen: dict[str, Any] = {"message": said, "traceback": said, "output": said, "exception": [said], "member": "x"}
    started = time.process_time()
    classify.classify({"status": "raised", **seen}, {}, Limits())
    classify.classify({"status": "died", "signal": 6, "exit": None, **seen}, {}, Limits())
    classify.classify({"status": "timeout", **seen}, {}, Limits())
    assert uv.Ran(status=1, out="", err=said).reason
    text.printable(said)
    text.fit(said)
    escape.prose(said), escape.code(said)
    assert time.process_time() - started < 10
