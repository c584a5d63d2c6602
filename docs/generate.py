"""`python -m docs.generate`: write the pages of docs/ that come from the code; for maintainers, from the checkout."""

from __future__ import annotations

import inspect
import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import is_dataclass
from pathlib import Path
from types import NoneType, UnionType
from typing import Any, Union, get_args, get_origin, get_type_hints, is_typeddict

from tests.support.messages import Message, messages
from torch_compat_matrix.compat.answers import ANSWERS, Report, ReportedOutcome
from torch_compat_matrix.runner.backends.base import BACKENDS
from torch_compat_matrix.runner.bundle import catalogue
from torch_compat_matrix.runner.matrix.schema import json_schema
from torch_compat_matrix.runner.outcome import Outcome
from torch_compat_matrix.runner.records.shapes import OUTCOME
from torch_compat_matrix.runner.verdicts.reasons import CALLER, RAISER, REASONS, Reason, fill, names_in
from torch_compat_matrix.runner.verdicts.rules import RULES, Rule

RAISERS = {
    RAISER: "whoever raised: the library, a package that the cell added, or one of the image",
    CALLER: "whoever called torch, where a frame shows it: the library, or a package that the cell added; else nobody",
}
PLAIN = {str: "string", bool: "boolean", int: "integer", float: "number", NoneType: "null"}
SOURCES = {"measured": "Measured", "constructed": "Constructed"}


def pages() -> dict[str, str]:
    """File name -> content, the index (README.md) among them."""
    seen: dict[str, list[Message]] = {code: [] for code in REASONS}
    for message in messages():
        if not message.refuses:
            seen[message.reason].append(message)
    found = {f"{code}.md": "\n".join(_page(reason, seen[code])) + "\n" for code, reason in REASONS.items()}
    found["README.md"] = "\n".join(_index()) + "\n"
    return found


def _index() -> Iterator[str]:
    yield from ("# Reasons", "", "Each non-pass in a report carries one of these codes.", "")
    yield from ("| code | verdict | blame | cause |", "|---|---|---|---|")
    for code, one in REASONS.items():
        yield f"| [{code}]({code}.md) | {one.verdict.value} | {one.blame} | {_general(one.templates['cause'])} |"


def _page(reason: Reason, examples: Sequence[Message]) -> Iterator[str]:
    yield f"# {reason.code}"
    yield ""
    yield f"Verdict: **{reason.verdict.value}**. Blame: **{RAISERS.get(reason.blame, reason.blame)}**."
    for title, text in zip(("Cause", "How to confirm", "What to do"), reason.templates.values(), strict=True):
        yield from ("", f"## {title}", "", _general(text))
        for backend in BACKENDS:
            if _general(text, backend) != _general(text):
                yield from ("", f"On the backend `{backend}`: {_general(text, backend)}")
    for number, example in enumerate(examples):
        yield from ("", *(("## What it looks like", "") if number == 0 else ()), *_example(example))
    signs = [_signs(rule) for rule in RULES if rule.reason == reason.code]
    if signs:
        yield from ("", "## What it is found by", "", *(f"- {sign}" for sign in signs))


def _example(message: Message) -> Iterator[str]:
    """The message as it was said, and where."""
    kind, _, what = message.source.partition(": ")
    yield f"{SOURCES[kind]}: {what}." if kind in SOURCES else f"<{message.source}>:"
    seen = message.observation
    ended = [f"{sign} {seen[sign]}" for sign in ("signal", "exit") if seen.get(sign) is not None]
    ended += [f"{seen['oom_kills']} process killed for memory"] if seen.get("oom_kills") else []
    if ended:
        yield from ("", f"The process ended: {', '.join(ended)}.")
    lines = dict.fromkeys(part for part in (seen["output"], message.text) if part)
    if lines:
        yield from ("", "```text", *lines, "```")


def _signs(rule: Rule) -> str:
    """What a rule asks for, all of it."""
    signs = [
        f"`{pattern}` in {where}"
        for where, pattern in (
            ("the message", rule.says),
            ("the exception's type", rule.raises),
            ("the line that raised", rule.within),
            ("the traceback", rule.through),
            ("the output", rule.prints),
            ("the signal", rule.signal),
            ("the exit status", rule.exit),
            ("the distribution that raised", rule.raised_by),
        )
        if pattern
    ]
    signs += ["a process killed for memory"] if rule.oom else []
    signs += ["nobody counts what is killed for memory"] if rule.uncounted else []
    signs += [f"{rule.lacks} is not installed"] if rule.lacks else []
    return ", and ".join(signs)


def _general(text: str, backend: str = "") -> str:
    """The text with the names of what only an outcome can fill in, for a backend."""
    return fill(text, {**{name: f"[{name}]" for name in names_in(text)}, "backend": backend})


def coverage() -> str:
    """docs/coverage.md: which public entry points of each library its probes exercise."""
    entries = [entry for entry in catalogue().entries.values() if entry.covers]
    lines = [
        "# Coverage",
        "",
        "The public entry points that each library's own documentation leads with (`COVERS` of its probe module), and",
        "the part of a probe that exercises each. `compat show CHECK` names those of its libraries without one.",
        "How many faults made by machine they notice there: [mutants.md](mutants.md).",
        "",
        "| library | entry points | covered | not covered |",
        "|---|---|---|---|",
    ]
    for entry in entries:
        total, gaps = len(entry.covers), len(entry.gaps)
        lines.append(f"| [{entry.distribution}](#{entry.distribution}) | {total} | {total - gaps} | {gaps} |")
    for entry in entries:
        lines += ["", f"## {entry.distribution}", "", "| entry point | exercised by |", "|---|---|"]
        lines += [f"| `{name}` | {part or '**not covered**'} |" for name, part in entry.covers.items()]
    return "\n".join(lines) + "\n"


def schemas() -> dict[str, str]:
    """File name -> the JSON schema of a verb's `--json`, and of report.json."""
    head = {"$schema": "https://json-schema.org/draft/2020-12/schema"}
    titles = {f"{verb}.json": (f"compat {verb} --json", kind) for verb, kind in ANSWERS.items()}
    titles["report.json"] = ("report.json", Report)
    return {
        name: json.dumps({**head, "title": title, **shape(kind)}, indent=1) + "\n"
        for name, (title, kind) in titles.items()
    }


def shape(kind: Any) -> dict[str, Any]:
    """The JSON schema of a type, of those that runner/shapes.py tests."""
    if isinstance(kind, list):
        return {"type": "array", "items": shape(kind[0])}
    if isinstance(kind, dict):
        properties = {name.rstrip("?"): shape(hint) for name, hint in kind.items()}
        required = [name for name in kind if not name.endswith("?")]
        return {"type": "object", "properties": properties, "required": required}
    if kind is Outcome:
        return {**shape(OUTCOME), "description": inspect.getdoc(kind)}
    if kind is ReportedOutcome:
        added = {f"{name}?": hint for name, hint in get_type_hints(kind).items()}
        return {**shape(OUTCOME | added), "description": inspect.getdoc(kind)}
    origin, inner = get_origin(kind), get_args(kind)
    if is_typeddict(kind) or is_dataclass(kind):
        properties = {name: shape(hint) for name, hint in get_type_hints(kind).items()}
        required = [name for name in properties if is_dataclass(kind) or name in kind.__required_keys__]
        return {"type": "object", "description": inspect.getdoc(kind), "properties": properties, "required": required}
    if origin in (list, tuple):
        return {"type": "array", "items": shape(inner[0])}
    if origin is Mapping:
        return {"type": "object", "additionalProperties": shape(inner[1])}
    if origin in (Union, UnionType):
        return {"anyOf": list(map(shape, inner))}
    return {} if kind is Any else {"type": PLAIN[kind]}


def main() -> None:
    """Write docs/matrix.schema.json, docs/coverage.md, docs/schemas/ and docs/reasons/."""
    folder = Path(__file__).resolve().parent
    (folder / "coverage.md").write_text(coverage())
    (folder / "schemas").mkdir(exist_ok=True)
    for name, content in schemas().items():
        (folder / "schemas" / name).write_text(content)
    (folder / "reasons").mkdir(exist_ok=True)
    (folder / "matrix.schema.json").write_text(json_schema())
    for name, content in pages().items():
        (folder / "reasons" / name).write_text(content)
    written = ("matrix.schema.json", "coverage.md", "schemas", "reasons")
    print(f"written: {', '.join(str(folder / name) for name in written)}")


if __name__ == "__main__":
    main()
