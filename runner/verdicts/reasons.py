"""The registry of reasons (reasons.ini): code, verdict, blame and texts."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from types import MappingProxyType

from torch_compat_matrix.runner.files import read_ini
from torch_compat_matrix.runner.model import Verdict

RAISER, CALLER = "raiser", "caller"
"""Stand in the registry for whoever raised (the library, a dependency, or a package of the image), and for whoever
called torch where torch raised: nobody, where no frame shows it."""
BLAME = ("library", "dependency", "image", "host", "matrix", "us", "unknown", RAISER, CALLER)
"""Who is to blame; a dependency is a package that the cell added, and nobody has evidence against the unknown."""

TEXTS = ("cause", "confirm", "remedy")
_CHOICE, _NAME = re.compile(r"\[([^\]]*)\]"), re.compile(r"(?<!\{)\{(\w+)\}")


def names_in(template: str) -> list[str]:
    """The `{names}` in a text; other braces (`{{.Architecture}}` is Docker's) are none."""
    return _NAME.findall(template)


def fill(template: str, known: Mapping[str, str]) -> str:
    """The template with its choices made: of `[@local a|b {name}|c]` the first part that fits, else nothing.

    A part fits where all its names are known, and where it is for the backend at hand if it names any (`@local,here `).
    """

    def chosen(match: re.Match[str]) -> str:
        for part in match[1].split("|"):
            backends, text = part[1:].split(" ", 1) if part.startswith("@") else ("", part)
            if (not backends or known.get("backend") in backends.split(",")) and all(map(known.get, names_in(text))):
                return _NAME.sub(lambda name: known[name[1]], text)
        return ""

    return _CHOICE.sub(chosen, template)


@dataclass(frozen=True, kw_only=True, slots=True)
class Reason:
    """A reason code with its texts: the cause, how to confirm it, the remedy."""

    code: str
    verdict: Verdict
    blame: str
    templates: Mapping[str, str]
    """The texts with their choices; a `{name}` stands in a choice, so that no text can show one that is unknown."""

    @property
    def remedy(self) -> str:
        """The remedy where nothing is known of the environment."""
        return self.text("remedy")

    def text(self, which: str, known: Mapping[str, str] = MappingProxyType({})) -> str:
        """The cause, confirmation or remedy for this environment."""
        return fill(self.templates[which], known)


def read_reasons(path: Path) -> dict[str, Reason]:
    """The reasons of an INI file, in its order; KeyError, ValueError or configparser.Error for a mistake in it."""
    parser, reasons = read_ini(path), {}
    for code in parser.sections():
        section = parser[code]
        if section["blame"] not in BLAME:
            raise ValueError(f"{path}: [{code}] blames {section['blame']!r}, not one of {', '.join(BLAME)}")
        templates = {name: section[name] for name in TEXTS}
        for text in templates.values():
            loose = names_in(_CHOICE.sub("", text))
            if loose:
                raise ValueError(f"{path}: [{code}] names {{{loose[0]}}} outside `[...]`, and may not know it")
        reasons[code] = Reason(
            code=code, verdict=Verdict(section["verdict"]), blame=section["blame"], templates=templates
        )
    return reasons


REASONS: Mapping[str, Reason] = read_reasons(Path(__file__).with_name("data") / "reasons.ini")


def reason_for(code: str) -> Reason:
    """The reason of that code; for a code that is not in the registry, host trouble of that name."""
    unknown = REASONS["host-error"]
    return REASONS.get(code) or Reason(
        code=code, verdict=unknown.verdict, blame="host", templates={**unknown.templates, "cause": code}
    )
