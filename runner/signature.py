"""What makes two failures the same failure: the words of the cause, whose code failed, and how it ended."""

from __future__ import annotations

import hashlib
import re
import sys
from collections.abc import Iterator
from functools import lru_cache
from pathlib import Path

from torch_compat_matrix.runner.files import read_ini
from torch_compat_matrix.runner.model import TORCH, Verdict
from torch_compat_matrix.runner.outcome import Outcome

LENGTH, SHORT = 8, 4
"""Hexadecimal digits that are kept, and that are shown after a `#`."""

MOST = 16 << 10
"""Characters of the end of a traceback or an output that are searched."""

MOST_SAID = 1000
"""Characters of a message that are read: the patterns take time by the square of its length."""

ENOUGH = 6
"""Words of a message after which the end of a sentence ends it: what follows is advice, which releases word anew."""

EVERYWHERE = frozenset((TORCH, "numpy"))
"""Packages whose functions stand below those of whoever calls them; they are at fault where they are imported."""

CAUSE = "\nThe above exception was the direct cause of the following exception:\n"
_TABLE = read_ini(Path(__file__).with_name("data") / "signature.ini")["patterns"]
FRAME, NATIVE, BUILT, PACKAGE, OURS, BETWEEN_TWO, SELF_TELLING, WRAPPER, NOISE, KIND, PATH, NUMBER, HASH = (
    re.compile(pattern.replace("\n", "")) for pattern in _TABLE.values()
)
"""Those of the table, in its order."""


def signature(outcome: Outcome) -> str:
    """Eight hexadecimal digits, the same for the same failure; empty where there is none."""
    if not outcome.reason or not (outcome.verdict.broken or outcome.verdict is Verdict.INFRA):
        return ""
    trace = outcome.traceback.partition(CAUSE)[0][-MOST:].replace("\\", "/")
    said = _said(outcome, trace)
    words = words_of(said)
    # a death leaves words by chance
    loud = outcome.verdict in (Verdict.CRASH, Verdict.TIMEOUT, Verdict.OOM) or len(words.split()) < 3
    parts = (outcome.reason if loud else "", words, *_raised_by(outcome, said, trace or outcome.output[-MOST:]))
    return hashlib.sha256("\n".join(parts).encode()).hexdigest()[:LENGTH]


def short(signature: str) -> str:
    """The signature as a reader sees it: `#a3f9`."""
    return f"#{signature[:SHORT]}"


@lru_cache(4096)  # a night's failures say the same words hundreds of times
def words_of(said: str) -> str:
    """The words of a message without paths, addresses, numbers, versions, shapes and the type of the exception."""
    said = NOISE.sub(r"\1", KIND.sub("", said.strip()))
    said = PATH.sub(_file, said)
    found = (word.strip(".") for word in re.findall(r"[A-Za-z_][\w./]*", NUMBER.sub(" ", said)))
    return " ".join(
        word if word.startswith("_Z") else re.sub(r"_\d+$", "", word) for word in found if not HASH.fullmatch(word)
    )


def _file(path: re.Match[str]) -> str:
    """A file by its name, and by its package where many packages have a file of that name (`_C.so`)."""
    name = path[1]
    return "/".join([*PACKAGE.findall(path[0])[-1:], name]) if len(name.partition(".")[0]) < ENOUGH else name


def _said(outcome: Outcome, trace: str) -> str:
    """The words that tell the failure: the evidence's first sentences, and the line behind it where it says little."""
    line = (outcome.evidence or outcome.detail)[:MOST_SAID]
    if outcome.evidence and len(line.split()) < ENOUGH:
        line += " " + trace.partition(line)[2].strip().partition("\n")[0]
    line = KIND.sub("", WRAPPER.sub("", line[:MOST_SAID]))
    for end in re.finditer(r"(?<![.\s])[.?!](?=\s)", line):
        if len(line[: end.start()].split()) >= ENOUGH:
            return line[: end.start()]
    return line


def _raised_by(outcome: Outcome, said: str, trace: str) -> Iterator[str]:
    """The innermost native function; where the words leave it open, the deepest package, or script."""
    native = ["".join(names) for names in NATIVE.findall(trace)]
    yield from native[:1]
    built = BUILT.findall(trace)
    if SELF_TELLING.search(said) and not BETWEEN_TWO.search(said) and not built:
        return
    frames = ((_owner(path), function) for path, function in FRAME.findall(trace))
    owners = [owner for owner, function in frames if owner and (owner not in EVERYWHERE or function == "<module>")]
    library = built or [owner for owner in owners if owner not in sys.stdlib_module_names]
    ran = outcome.environment and outcome.verdict is not Verdict.INFRA
    scripts = [
        path.rpartition("/")[2]
        for path, function in FRAME.findall(trace)
        if not (owners or function.startswith("<") or BETWEEN_TWO.search(said) or _owner(path) or OURS.search(path))
    ]
    yield from library[-1:] or scripts[-1:] or ([outcome.subject] if ran and not native else [])
    yield from owners[-1:] if owners and owners[-1] in sys.stdlib_module_names else ()


def _owner(path: str) -> str:
    """The package, or the module of Python, that a file belongs to; empty where it is a script or our own probe."""
    if OURS.search(path):
        return ""
    found = PACKAGE.findall(path)
    if found:
        return str(found[-1])
    folders = path.split("/")[:-1]
    for place, folder in enumerate(folders):
        if re.fullmatch(r"python3(\.\d+)?", folder):
            return path.split("/")[place + 1].removesuffix(".py")
    twice = [now for now, then in zip(folders[1:], folders) if now == then.replace("-", "_")]  # a checkout
    return (twice or folders)[-1] if twice or path.endswith("/__init__.py") else ""
