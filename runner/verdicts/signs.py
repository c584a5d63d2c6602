"""The parts of an observation that the rules search: what was said, by whom, and how it ended."""

from __future__ import annotations

import re
import signal
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from torch_compat_matrix.runner.model import TORCH

DIRECT_CAUSE = "\nThe above exception was the direct cause of the following exception:\n"
IN_PASSING = "\nDuring handling of the above exception, another exception occurred:\n"
FRAME = r'^ +File "([^"\n]+)", line \d+(?:, in [^\n]*)?(?:\n +([^\n]*))?'
"""A frame of a traceback: its path, and the source line."""

QUOTED = r"^(?:[A-Za-z_]\w*\.)*([A-Z]\w*(?:Error|Exception|Interrupt|Exit))(?:: |$)"
"""The type of an exception that another one quotes in its message, as InductorError does."""

BUILDS = r"CalledProcessError|CppCompileError|CompilationError|^Error building extension|^Error compiling objects"
COMPILER_SAYS = r"^.*(?:\berror: |\bfatal\b|cannot find -l|\bnvcc: not found).*"
"""What failed to build, and the lines in which a compiler or a linker says why, wherever they were printed."""

QUOTES = r"^Failed to import \S+ because of the following error"
WRAPPERS = (
    r"CalledProcessError|ChildFailedError|ProcessRaisedException|[Ss]ee (?:root cause above|stack trace for root cause)"
    rf"|{QUOTES}|\bCUDA Setup failed\b"
)
WRAPPED_SAY = (
    r"^(?:\(\w[^)\n]{0,80}\) )?(?:ERROR \S+ \S+ \[[^]\n]{1,80}\] )?"
    r"((?! *File )(?=.*(?:Error|Exception|Fatal|error: )).*)"
)
"""What only says that another process failed, and the lines in which that one says why, without a logger's prefix."""

PACKAGE = r"(?:(?:site|dist)-packages|overlays/\w+)/(?:[\w.-]{1,80}\.egg/|google/)?(\w+)/"
"""The folder of a package in a path."""

TORCH_ITSELF = frozenset({"torch", "torchgen", "functorch", "caffe2"})
"""The folders that torch's own distribution brings."""

CALLED = frozenset({"", TORCH, "setuptools"})
"""Distributions, or none, that raise for their caller: of setuptools, `pkg_resources` does."""

NOT_COMPILED = (
    r'^ +File "[^"\n]*[/\\]torch[/\\]_compile\.py", line \d+, in inner\n(?: +(?!File )[^\n]*\n)*'
    r' +File "[^"\n]*[/\\]_dynamo[/\\]eval_frame\.py"[^\n]*\n(?: +(?!File )[^\n]*\n)*'
)
"""Frames of code that torch keeps out of its compiler; those of compiled code end in eval_frame.py, too."""

LAST_WORDS = (
    r"^terminate called|^[ \t]*what\(\):|symbol lookup error|^Fatal Python error|^Could not load library"
    r"| received signal SIG[A-Z]+|^\*\*\* (?:Error in|SIG[A-Z]+|Process received signal)"
)
"""The first line of a dying process's explanation; earlier output has nothing to do with the death."""

MOST = 32 << 10
"""Characters of either end of a message, a traceback or an output that the rules search."""


NOBODY = "(nobody)"
"""Stands for who raised where a process died and left no frame of Python or of a compiled part."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Signs:
    """The parts of an observation that the rules search."""

    head: str
    """Type and message, as the last line of a traceback has them."""
    said: str
    types: tuple[str, ...]
    frame: str
    trace: str
    raised_in: str
    """`name==version` of the distribution whose code raised the innermost cause."""
    caller: str
    """The same, or where torch raised, the folder of the package that called it."""
    own: str
    """Whose code raised, also where it is the package itself that says that it lacks a name."""
    lacking: tuple[str, ...]
    """Those that lack a name or a submodule that was asked for."""
    output: str
    signal: str
    exit: str
    oom: bool
    uncounted: bool
    unprovoked: bool


def read_signs(observation: Mapping[str, Any]) -> Signs:
    """The signs in an observation of status `raised` or `died`."""
    died = observation["status"] == "died"
    trace, output, message = (_ends(str(observation.get(name, ""))) for name in ("traceback", "output", "message"))
    trace = re.sub(NOT_COMPILED, "", trace, flags=re.MULTILINE)
    types = tuple(observation.get("exception", ()))
    kind = types[0].rpartition(".")[2] if types else ""
    chain = [link for link in observation.get("chain", ()) if link["is_cause"]]
    causes = [_ends(str(link["message"])) for link in chain[1:]] or _causes(trace)
    anew = _named_anew(observation, trace, message)
    said = last_words(output) if died else "\n".join([message, *causes, *anew])
    if not died and re.search(BUILDS, "\n".join([*types, said]), re.MULTILINE):
        said = "\n".join([said, *re.findall(COMPILER_SAYS, f"{trace}\n{output}", re.MULTILINE)])
    if not died and re.search(WRAPPERS, "\n".join([*types, said]), re.MULTILINE):
        said = "\n".join([said, *re.findall(WRAPPED_SAY, f"{output}\n{trace}", re.MULTILINE)])
    quoted = re.findall(rf"{QUOTED}(.*)", said, re.MULTILINE)
    raised_in = _died_in(said) if died else _raised_in(chain, trace)
    named = raised_in.partition("==")[0]
    return Signs(
        head=": ".join(dict.fromkeys(part for part in (kind, telling_line(message)) if part)),
        said="\n".join([said, *(words for _, words in quoted if words)]),
        types=(*types, *(kind for kind, _ in quoted)) if not died or observation.get("exit") else (),
        frame="" if died else _innermost_frame(trace),
        trace="" if died else trace,
        raised_in=raised_in,
        caller=raised_in if named not in CALLED else _deepest(trace, {*TORCH_ITSELF, "pkg_resources"}) or NOBODY,
        own=next((link["raised_in"] for link in reversed(chain) if not re.search(QUOTES, link["message"])), ""),
        lacking=tuple(
            link["lacking"]
            for link in observation.get("chain", ())
            if link["lacking"] and (link["is_cause"] or any(words in link["message"] for words in anew))
        ),
        output="\n".join(filter(None, (str(observation.get("import_output", "")), output))),
        signal=signal_of(observation) if died else "",
        exit=f"exit status {observation['exit']}" if died and observation.get("exit") is not None else "",
        oom=bool(observation.get("oom_kills")),
        uncounted=observation.get("oom_kills") is None,
        unprovoked=died and bool(observation.get("attempts")) and observation.get("oom_kills") == 0,
    )


def _raised_in(chain: Sequence[Mapping[str, Any]], trace: str) -> str:
    """Whose code raised the innermost cause; whose asked for a name, where a package only says that it lacks it."""
    held = next((link for link in reversed(chain) if link["raised_in"]), None)
    if held is None or held["raised_in"] != held["lacking"]:
        return str(held["raised_in"]) if held else ""
    lacking = str(held["lacking"].partition("==")[0])
    return _deepest(trace, {lacking, lacking.replace("-", "_"), *(TORCH_ITSELF if lacking == TORCH else ())})


def _deepest(trace: str, passed_over: Collection[str]) -> str:
    """The folder of the package with the deepest frame in a traceback, but for some; empty where there is none."""
    folders = re.findall(rf'^ +File "[^"\n]*?{PACKAGE}', trace, re.MULTILINE)
    return next((folder for folder in reversed(folders) if folder not in passed_over), "")


def _died_in(said: str) -> str:
    """The folder of the package that a process died in: its compiled part, else its innermost frame of Python."""
    found = re.search(
        rf"^ *(?:#\d.* )?from \S*?{PACKAGE}|^(?:\[ ?\d+\] )?/\S*?{PACKAGE}\S*\.so\S*\(", said, re.MULTILINE
    )
    found = found or re.search(rf'^ +File "[^"\n]*?{PACKAGE}', said, re.MULTILINE)
    if found and found[found.lastindex or 0] == "torch" and re.search(r"\bin create_module\n", said):
        return NOBODY  # torch loads by itself: what was loaded before it does not go with it
    return next(filter(None, found.groups())) if found else "" if "(most recent call first)" in said else NOBODY


def telling_line(message: str) -> str:
    """The first line of a message; where that only announces the rest with a colon, the last line too."""
    lines = [line.strip() for line in message.splitlines() if line.strip()] or [""]
    return f"{lines[0]} ... {lines[-1]}" if lines[0].endswith(":") and len(lines) > 1 else lines[0]


def _causes(trace: str) -> list[str]:
    """The messages of the causes of the last exception, the nearest first.

    An exception that was merely being handled when the next was raised (a caught ImportError, say) explains nothing.
    """
    return [
        "\n".join(line for line in block.splitlines() if line[:1].strip() and not line.startswith("Traceback "))
        for block in reversed(trace.rpartition(IN_PASSING)[2].split(DIRECT_CAUSE)[:-1])
    ]


def _named_anew(observation: Mapping[str, Any], trace: str, message: str) -> list[str]:
    """What was being handled where the exception names the same module again, in words of its own.

    A name that a module lacks counts where the module is told to be missing: who falls back may fail otherwise.
    """
    handled = [str(link["message"]) for link in observation.get("chain", ()) if not link["is_cause"]]
    lacks = r"((?:No module named|cannot import name '\w+' from) '(\w+)[\w.]*')"
    found = re.findall(lacks, "\n".join([*handled, *trace.split(IN_PASSING)[:-1]]))
    missing = re.search(r"\binstall|\brequire|\bneed|\bmissing\b", message)
    again = [words for words, module in found if re.search(rf"\b{module}\b", message)]
    return [words for words in again if missing or words.startswith("No module")]


def _innermost_frame(trace: str) -> str:
    """`path: source line` of the frame that raised."""
    frames = re.findall(FRAME, trace, re.MULTILINE)
    return ": ".join(frames[-1]) if frames else ""


def last_words(output: str) -> str:
    """The last words of a process: from the mark of its end on, or else its last five lines."""
    lines = [line for line in output.splitlines() if line.strip()]
    marks = [number for number, line in enumerate(lines) if re.search(LAST_WORDS, line)]
    return "\n".join(lines[min([*marks[:1], max(0, len(lines) - 5)]) :])


def last_telling(said: str) -> str:
    """The last line of a dying process's words; of a stack that comes with them, the innermost frame."""
    words, _, stack = said.partition("Fatal Python error: ")
    frame = re.search(r'^ +(File "[^\n]*)', stack, re.MULTILINE)
    lines = (words if frame else said).strip().splitlines()
    return ": ".join([*(line.strip() for line in lines[-1:]), *([frame[1]] if frame else [])])


def signal_of(observation: Mapping[str, Any]) -> str:
    """The name of the signal that ended the process, also where a shell or an engine turned it into an exit status."""
    number, status = observation.get("signal"), observation.get("exit")
    if number is None and status is not None and 128 < status < 160:
        number = status - 128
    try:
        return signal.Signals(number).name if number else ""
    except ValueError:
        return f"SIG{number}"


def _ends(text: str) -> str:
    """The text, without its middle where that is too long to tell anything."""
    return text if len(text) <= 2 * MOST else f"{text[:MOST]}\n{text[-MOST:]}"
