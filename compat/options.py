"""The verbs of `compat`: the docstring of each declares its options; here is what several of them share."""

from __future__ import annotations

import argparse
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from torch_compat_matrix.runner import __version__
from torch_compat_matrix.runner.backends.base import BACKENDS
from torch_compat_matrix.runner.errors import UsageError, did_you_mean
from torch_compat_matrix.runner.model import MATRIX, PROBES
from torch_compat_matrix.runner.storage import parsed_size

VERBS = (
    *("init", "plan", "run", "report", "site", "check", "show", "runs", "status", "cancel", "import", "publish"),
    *("watch", "compare", "diff", "history", "find", "numerics", "triage", "gate", "noise", "probe", "bisect"),
    *("dependents", "bounds", "advise", "clean", "doctor", "outdated", "lock", "schema", "completion"),
    *("shell", "reproduce"),
)
"""In the order of `compat --help`; each is a module of verbs/."""

EPILOG = """\
A selector is an image, a library (`captum`, `captum-0.8.0`), a cell (image/library-version),
a check (image/library-version/probe), a glob over those, or a selection named in matrix.yaml.
Checks by their recorded outcome: `@failed`, `@infra`, `@new`, `@reason:CODE`, `@run:ID`, together `@failed@run:ID`.

exit status:
  0  every outcome is as expected: passes, skips, and what matrix.yaml lists under `known:`
  1  surprises: an unexpected failure, an unexpected pass, or an expired `known:` entry
  2  matrix.yaml or the command line is wrong
  3  nothing is selected, or the named run or cell does not exist
  4  the backend cannot be used
  5  incomplete: host trouble left checks without a verdict, or a full or read-only disk stopped the work,
     which `compat run --resume` retries; or the run is still going
  6  unconfirmed: what newly fails did not come up the ladder of `--confirm`; 1 goes before 5, and 5 before 6
  130  interrupted by Ctrl-C, SIGTERM or SIGHUP; `compat run --resume` continues
"""

SHARED = {
    "variables": """\
--set NAME=VALUE ...  a variable that the matrix reads as ${NAME}, before those of the environment; may be repeated""",
    "matrix": """\
(variables)
--matrix MATRIX = MATRIX  the matrix file (%(default)s)""",
    "backend": """\
--backend {BACKENDS}  where images run (default: docker where an engine answers and an image has a tag, else local)""",
    "named": """\
--image REF ...  an image, as docker run takes it; may be repeated
--lib NAME ...  a library, as for pip; may be repeated""",
    "chosen": """\
(matrix)
(backend)
(named)
selectors [SELECTOR ...]  checks to take (see below); default: all
--probe PROBE ...  take only this probe; may be repeated
--locked  take the versions, digests and packages of matrix.lock, and nothing newer
--plan FILE  a plan that `compat plan --json` wrote, instead of a matrix
--shard N/OF  only the Nth of OF parts, which take about as long as each other
--target NAME  an entry of `targets:` in the matrix, or what reports call the device (default: the GPU's model, or cpu)
--new  only versions and tags that appeared since they were last run (`outdated`)""",
    "reported": """\
--max-bytes SIZE = 900KiB  report.md is no longer than this, and says what it leaves out (%(default)s; GitHub's limit is
    1 MiB)
--out DIR  folder of the report (default: the run's folder)
--baseline RUN  the run to compare with, or `none` (default: each check's own last verdict)""",
}
"""The options of several verbs: `(matrix)` stands for those under that name."""

OPTION = re.compile(
    r"(?P<other>\| )?(?P<names>\w+|-[\w-]+(?:, --[\w-]+)?)"
    r"(?: \[?(?:\{(?P<choices>\S+)\}|(?P<metavar>[A-Za-z][A-Z/|a-z]*(?:=[A-Z]+)?))"
    r"(?:=(?P<const>[a-z-]+))?(?P<many> \.\.\.)?(?P<may>\])?)?"
    r"(?: = (?P<default>\S+))?(?P<required> required)?  (?P<help>.+)"
)
"""`--last N = 20  help`: `[N]` may be left out and is then `M` of `[N=M]`, `N ...` several, `|` instead of the last."""

PRINTED = Path("-")
"""`--json` without a file."""


def parser() -> argparse.ArgumentParser:
    """All verbs with their options."""
    raw = argparse.RawDescriptionHelpFormatter
    top = argparse.ArgumentParser(
        prog="compat",
        description="Which version of which library really works in which PyTorch image, on which GPU.",
        epilog=EPILOG,
        formatter_class=raw,
    )
    top.add_argument("--version", action="version", version=f"compat {__version__}")
    verbs = top.add_subparsers(dest="verb", required=True, metavar="VERB")
    for name in VERBS:
        # not imported: `compat --help` answers at once, and on a bare host
        module = Path(__file__).parent / "verbs" / f"{name}.py"
        what, *options, examples = module.read_text("utf-8").split('"""')[1].strip().split("\n\n")
        help, epilog = " ".join(what.split()), "\n  ".join(["examples:", *examples.splitlines()])
        brief = (help[0].lower() + help[1:]).partition(". ")[0].rstrip(".")
        verb = verbs.add_parser(name, help=brief, description=help, epilog=f"{epilog}\n\n{EPILOG}", formatter_class=raw)
        _declare(verb, "\n".join(options))
    earlier = "--fresh"
    verbs.choices["run"].add_argument(earlier, dest="rerun", action="store_true", help=argparse.SUPPRESS)
    return top


def _declare(verb: argparse.ArgumentParser, text: str) -> None:
    """Add the options that the text declares, each in a line of its own and the indented lines that follow."""
    for line in re.sub(r"\n +", " ", text).splitlines():
        if line.startswith("("):
            _declare(verb, SHARED[line[1:-1]])
            continue
        said = OPTION.fullmatch(line)
        assert said is not None, f"no option: {line}"
        names, optional = said["names"].split(", "), said["names"].startswith("-")
        more: dict[str, Any] = {"help": said["help"]}
        if said["choices"]:
            more["choices"] = CHOICES.get(said["choices"]) or said["choices"].split(",")
        elif said["metavar"]:
            more |= {"metavar": said["metavar"], "type": TYPES.get(names[0]) or TYPES.get(said["metavar"])}
        elif optional:
            more["action"] = "store_true"
        if said["many"]:
            more |= {"action": "append", "default": []} if optional else {"nargs": "*" if said["may"] else "+"}
        elif said["may"]:
            more |= {"nargs": "?", "const": said["const"]}
        if said["default"]:
            default = MATRIX if said["default"] == "MATRIX" else said["default"]
            more["default"] = [default] if said["many"] else default
        if said["required"]:
            more["required"] = True
        parent: Any = verb
        if said["other"]:
            parent = verb.add_mutually_exclusive_group()
            parent._group_actions.append(verb._actions[-1])
        parent.add_argument(*names, **more)


def verbs_of(top: argparse.ArgumentParser) -> Mapping[str, argparse.ArgumentParser]:
    """The parser of each verb."""
    (verbs,) = (action for action in top._actions if isinstance(action, argparse._SubParsersAction))
    return verbs.choices


def variable(text: str) -> tuple[str, str]:
    """Name and value of `NAME=VALUE`."""
    name, equals, value = text.partition("=")
    if not (equals and name.isidentifier()):
        raise UsageError(f"{text!r} is not NAME=VALUE", place="--set")
    return name, value


def shard(text: str) -> str:
    """`2/4`, the second of four parts."""
    parts = re.fullmatch(r"([1-9]\d{0,3})/([1-9]\d{0,3})", text)
    if parts is None or int(parts[1]) > int(parts[2]):
        raise UsageError(f"{text!r} is not a part like 2/4", place="--shard")
    return text


def label(text: str) -> str:
    """A name for a target."""
    if not re.fullmatch(r"[A-Za-z0-9][\w.-]{0,63}", text, re.ASCII):
        raise UsageError(f"{text!r} is no name of letters, digits, `.`, `_` and `-`", place="--target")
    return text


CHOICES = {"BACKENDS": sorted(BACKENDS), "PROBES": PROBES}
TYPES: Mapping[str, Any] = {
    **dict.fromkeys(("FILE", "DIR", "OUT", "MATRIX"), Path),
    **dict.fromkeys(("N", "SEED"), int),
    **dict.fromkeys(("S", "MINUTES"), float),
    "NAME=VALUE": variable,
    "N/OF": shard,
    "--target": label,
    "--max-bytes": parsed_size,
}
"""By what stands for the value, or by the option."""


def read(words: Sequence[str]) -> argparse.Namespace:
    """The options of a command line; UsageError with a suggestion for a verb or an option that does not exist."""
    top = parser()
    verbs = verbs_of(top)
    if words and not words[0].startswith("-") and words[0] not in verbs:
        raise UsageError(f"there is no verb {words[0]!r}{did_you_mean(words[0], verbs)}", "`compat --help` lists them")
    cut = words.index("--") if words[:1] == ["shell"] and "--" in words else len(words)
    options, unknown = top.parse_known_args(words[:cut])
    if words[:1] == ["shell"]:
        options.command = words[cut + 1 :]
    if unknown:
        actions = verbs[options.verb]._option_string_actions
        known = [name for name, action in actions.items() if action.help is not argparse.SUPPRESS]
        near = did_you_mean(unknown[0].partition("=")[0], known) if unknown[0].startswith("-") else ""
        remedy = f"`compat {options.verb} --help` lists what it takes"
        raise UsageError(f"cannot take {unknown[0]!r}{near}", remedy, options.verb)
    return options
