"""The rules (rules.ini): signs in an observation that must all be there, and the reason that they give."""

from __future__ import annotations

from configparser import BasicInterpolation
from dataclasses import dataclass
from pathlib import Path

from torch_compat_matrix.runner.errors import OF_THE_IMAGE
from torch_compat_matrix.runner.files import read_ini


@dataclass(frozen=True, kw_only=True, slots=True)
class Rule:
    """Signs that must all be there; patterns are searched, and the first rule that holds gives the reason."""

    reason: str
    says: str = ""
    """In the exception's message or that of a direct cause; in the last words of a process that died."""
    raises: str = ""
    """A whole qualified type of the exception, its bases or its causes."""
    within: str = ""
    """In the innermost frame: its path, or the source line that raised."""
    through: str = ""
    """In any frame: a path, or the name of a function."""
    prints: str = ""
    """In the end of the output; never enough by itself for an exception, which has a message of its own."""
    signal: str = ""
    exit: str = ""
    oom: str = ""
    """`yes`: the kernel killed a process for memory meanwhile."""
    unprovoked: str = ""
    """`yes`: a second process died too, and the kernel certainly killed none for memory."""
    uncounted: str = ""
    """`yes`: a process died, and nobody can tell whether the kernel killed one for memory."""
    raised_by: str = ""
    """`name==version` of the distribution whose code raised; empty where that is not known."""
    lacks: str = ""
    """A distribution that is not installed."""
    lacking: str = ""
    """`yes`: an installed distribution, not the library's own, lacks the name or the submodule that was asked for."""
    unheld: str = ""
    """`yes`: the library itself asks, and nobody is known to lack the name."""
    own: str = ""
    """`yes`: the distribution that raised is the one whose `namespace` lacks the `name`."""
    blame: str = ""
    """Instead of the reason's; `caller|library`: the library, where no frame shows who called."""


def read_rules(path: Path) -> tuple[Rule, ...]:
    """The rules of an INI file, in its order; TypeError or configparser.Error for a mistake in it."""
    parser, rules = read_ini(path, BasicInterpolation()), list[Rule]()
    parser.read_dict({parser.default_section: {"of_the_image": OF_THE_IMAGE}})
    for name in parser.sections():
        keys = {
            key: text.replace("\n|", "|").strip() for key, text in parser[name].items() if key not in parser.defaults()
        }
        for said in keys.pop("says", "").split("\n"):
            rules.append(Rule(reason=name.partition(":")[0], says=said, **keys))
    return tuple(rules)


RULES = read_rules(Path(__file__).with_name("data") / "rules.ini")
