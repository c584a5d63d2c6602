"""A reproducer for a bug report: the failing part of a probe as a script of its own, and what the issue has to say."""

from __future__ import annotations

import ast
import re
import signal
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from string import Template
from typing import Any

from torch_compat_matrix.runner.advice.extraction import Source, Unextractable, defined, parsed, segment, source_of
from torch_compat_matrix.runner.bundle import BUNDLE, place_of
from torch_compat_matrix.runner.model import Cell, Module, Verdict
from torch_compat_matrix.runner.outcome import Outcome
from torch_compat_matrix.runner.text import fit, one_line

DATA = Path(__file__).with_name("data")
PRELUDE = (DATA / "prelude.txt").read_text()
"""What a probe is handed, without the measurements; other methods are copied from the bundle where it needs them."""

GENERIC = "it is a generic probe, whose work is found in the image"
TYPING = ("Any", "Callable", "Dict", "Iterator", "List", "Mapping", "Optional", "Sequence", "Tuple", "Type", "Union")
"""The names of annotations, which are never evaluated."""

PATHS = re.compile(
    r"(?:/[^\s/'\"():]{1,255}){1,20}/(?=(?:site|dist)-packages/|overlays/[0-9a-f]{16}/|compat_probes/|work/|lib/python3)"
)
"""The part of a path that differs between machines."""
QUOTES = "'''"
"""Stands in a block of Markdown for what would end it."""
VARYING = re.compile(r"0x[0-9a-f]+|[-+]?\d+(?:\.\d+)?(?:e[-+]?\d+)?")


def script(outcome: Outcome, cell: Cell, modules: Sequence[Module], seed: int, full: bool) -> str:
    """The Python source that does what the failing part of the check does, without any module of ours."""
    if not cell.members:
        raise Unextractable("it is a command of the matrix, and no probe")
    if outcome.probe == "import":
        body = "".join(f"import {name}\n" for name in _imports(cell, modules))
    else:
        body = _part(_module(outcome, cell), outcome, modules, seed, full)
    title = one_line(f"{outcome.subject} {outcome.version}: {_bare(headline(outcome.traceback)) or outcome.evidence}")
    return f'"""{fit(title[:160]).replace(chr(92), "/").replace(chr(34), chr(39))}"""\n\n{body}'


def _module(outcome: Outcome, cell: Cell) -> Path:
    """The probe module that failed: of a stack's members the one that the records name."""
    named = [name for name in cell.members if outcome.detail.startswith(f"{name}: ")]
    return BUNDLE.parent / place_of((named or list(cell.members))[0])


def _imports(cell: Cell, modules: Sequence[Module]) -> Iterator[str]:
    for member in cell.members:
        constants = {
            name: node.value
            for node in parsed(source_of(BUNDLE.parent / place_of(member), modules))
            if isinstance(node, ast.Assign)
            for name in defined(node)
        }
        if not isinstance(constants["MODULE"], ast.Constant):
            raise Unextractable(GENERIC)
        yield str(constants["MODULE"].value)
        yield from ast.literal_eval(constants["IMPORTS"]) if "IMPORTS" in constants else ()


def _part(path: Path, outcome: Outcome, modules: Sequence[Module], seed: int, full: bool) -> str:
    """The probe's function up to its failing part, without the parts that passed, and all that it refers to."""
    text = source_of(path, modules)
    functions = [node for node in parsed(text) if isinstance(node, ast.FunctionDef) and node.name == outcome.probe]
    if not functions:
        raise Unextractable(GENERIC)
    function = functions[0]
    kept = _kept(function, _failing(outcome, function, path.stem))
    source = Source(modules=modules)
    for statement in kept:
        source.refer(path, statement)
    probe = BUNDLE / "probe.py"
    evidence = BUNDLE / "evidence.py"
    source.take(evidence, "NotApplicable")
    methods = _methods(source, probe)
    if source.clashes():
        raise Unextractable("two of its modules define the same name")
    imports = {line for line in source.imports if "typing" not in line}
    lines = [
        "from __future__ import annotations\n",
        *sorted(
            {*imports, "import contextlib", "import torch", "import types", f"from typing import {', '.join(TYPING)}"}
        ),
        "",
        *(f"\n{definition}\n" for definition in source.texts.values()),
        *source.namespaces(),
        "",
        PRELUDE.format(device=outcome.device or "cpu", seed=seed, full=full, thorough=full or outcome.device == "cuda"),
        *(f"{method}\n" for method in methods),
        "",
        f"def {function.name}(probe):",
        *(segment(text, statement) for statement in kept),
        "\n",
        f"{function.name}(Probe())",
    ]
    return "\n".join(lines) + "\n"


def _methods(source: Source, probe: Path) -> list[str]:
    """The sources of Probe's methods that the code calls, and those that these call."""
    text = probe.read_text()
    (whole,) = (node for node in parsed(text) if isinstance(node, ast.ClassDef) and node.name == "Probe")
    given = set(re.findall(r"def (\w+)", PRELUDE)) | {"__init__", "begin", "finish"}
    found: dict[str, str] = {}
    while True:
        new = [
            node
            for node in whole.body
            if isinstance(node, ast.FunctionDef) and node.name in source.methods - given - found.keys()
        ]
        if not new:
            return list(found.values())
        for node in new:
            source.refer(probe, node)
            found[node.name] = segment(text, node)


def _failing(outcome: Outcome, function: ast.FunctionDef, module: str) -> str | int:
    """The name of the first failed part, or else the line of the probe that the recorded output names last; 0: all."""
    failed = [str(part["name"]).rpartition(": ")[2] for part in outcome.parts if part["status"] == "failed"]
    if failed:
        return failed[0]
    line = rf'{module}\.py", line (\d+),? in {function.name}\b'
    return max((int(number) for number in re.findall(line, outcome.traceback + outcome.output)), default=0)


def _kept(function: ast.FunctionDef, failing: str | int) -> list[ast.stmt]:
    """The statements up to the failing one, without other parts that define no name which they read."""
    body = function.body[1:] if ast.get_docstring(function) else function.body
    named = [index for index, statement in enumerate(body) if failing in _part_names(statement)]
    if named:
        end = named[0]
    else:
        at = [index for index, node in enumerate(body) if node.lineno <= (failing or 0) <= (node.end_lineno or 0)]  # type: ignore[operator]
        end = at[0] if at and not isinstance(failing, str) else len(body) - 1
    kept = [body[end]]
    for statement in reversed(body[:end]):
        read = {name for node in kept for name in _read(node)}
        made = {
            name.id for name in ast.walk(statement) if isinstance(name, ast.Name) and isinstance(name.ctx, ast.Store)
        } | {node.name for node in ast.walk(statement) if isinstance(node, ast.FunctionDef)}
        if not _parts(statement) or made & read:
            kept.insert(0, statement)
    return kept


def _read(statement: ast.stmt) -> set[str]:
    """The names in a statement, less those that its own loop gives."""
    own = statement.target if isinstance(statement, ast.For) else ast.Pass()
    names, given = ({name.id for name in ast.walk(node) if isinstance(name, ast.Name)} for node in (statement, own))
    return names - given


def _parts(statement: ast.stmt) -> list[ast.Call]:
    calls = (node for node in ast.walk(statement) if isinstance(node, ast.Call))
    return [call for call in calls if ast.unparse(call.func) == "probe.part"]


def _part_names(statement: ast.stmt) -> set[object]:
    """The name of the part that the statement is; of a loop over parts every text in it, since it may be one's name."""
    name = _part_name(statement)
    if name is not None or not _parts(statement):
        return {name}
    return {node.value for node in ast.walk(statement) if isinstance(node, ast.Constant)}


def _part_name(statement: ast.stmt) -> str | None:
    """The name of the part that the statement is, where it is written out."""
    own = [item.context_expr for item in statement.items] if isinstance(statement, ast.With) else []
    named = (call.args[0] for call in _parts(statement) if call in own)
    return next((str(name.value) for name in named if isinstance(name, ast.Constant)), None)


def expected(outcome: Outcome, cell: Cell, modules: Sequence[Module]) -> str:
    """What the check asks of the library, in a sentence."""
    if outcome.probe == "import":
        return f"`import {next(_imports(cell, modules))}` succeeds."
    for node in parsed(source_of(_module(outcome, cell), modules)):
        if isinstance(node, ast.FunctionDef) and node.name == outcome.probe:
            return one_line(ast.get_docstring(node) or "")
    return ""


def headline(text: str) -> str:
    """The line that names the exception, in the last traceback of an output; empty where there is none."""
    _, traceback, last = text.rpartition("Traceback (most recent call last):\n")
    lines = [line for line in last.splitlines() if line and not line[0].isspace()]
    if traceback:
        return lines[0] if lines else ""
    return lines[-1] if lines and re.match(r"[\w.]+(?::|$)", lines[-1]) else ""


def fails_alike(outcome: Outcome, status: int, output: str) -> bool:
    """Whether the script failed as the check did: the same signal, or the same exception with the same last line."""
    if outcome.verdict is Verdict.TIMEOUT:
        return status == 124
    if not outcome.traceback:
        return status > 128 and _signal(status) in f"{outcome.detail} {outcome.evidence}"
    return status == 1 and _alike(headline(outcome.traceback)) == _alike(headline(output)) != ""


def _signal(status: int) -> str:
    try:
        return signal.Signals(status - 128).name
    except ValueError:
        return "no signal"


def _alike(line: str) -> str:
    """The line without what differs from run to run: machine, numbers, and the module of our own exceptions."""
    return VARYING.sub("#", PATHS.sub("", _bare(line)))


def _bare(line: str) -> str:
    """The line without the module of an exception of our own."""
    return re.sub(r"^(?:[\w.]*compat_probes\.\w+|__main__)\.", "", line)


def portable(text: str) -> str:
    """The text without secrets, control characters and the machine's part of paths."""
    return str(fit(PATHS.sub("", text)))


def issue(
    outcome: Outcome,
    cell: Cell,
    modules: Sequence[Module],
    environment: Mapping[str, Any],
    verified: str,
    collected: str,
    commands: Sequence[str],
) -> str:
    """The text of the issue, in Markdown."""
    facts = environment.get("facts", {})
    torch = (facts.get("torch") or {}).get("version", "?")
    last = portable(_bare(headline(outcome.traceback)) or outcome.evidence or outcome.detail)
    recorded = [
        f"{environment.get('reference', '?')}{', a virtual environment' if environment.get('stand_in') else ''}",
        f"Python {facts.get('python', '?')}, torch {torch}, {facts.get('os', '?')}",
        f"driver: {facts.get('driver') or 'none'}",
        f"device: {outcome.device or 'none'} {outcome.device_name}".strip(),
        f"installed: {', '.join(outcome.resolved) or 'nothing beside the image'}",
    ]
    listed = [f"- {portable(line)}" for line in recorded]
    listed += ["", f"```text\n{portable(collected).strip().replace('```', QUOTES)}\n```"] if collected else []
    return Template((DATA / "issue.txt").read_text()).substitute(
        subject=outcome.subject,
        version=outcome.version,
        torch=torch,
        title=one_line(last)[:120],
        what="import" if outcome.probe == "import" else f"`{outcome.probe}`",
        verdict=outcome.verdict.value,
        seen=portable(one_line(outcome.detail or last)),
        expected=expected(outcome, cell, modules),
        verified=verified,
        commands="\n".join(commands),
        trace=portable((outcome.traceback or outcome.output or last).rstrip()).replace("```", QUOTES),
        environment="\n".join(listed),
    )
