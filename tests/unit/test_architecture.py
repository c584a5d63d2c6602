"""The direction of imports: probes -> nothing of ours; reports -> recorded data; only backends know engines."""

from __future__ import annotations

import ast
import sys
from functools import cache
from graphlib import TopologicalSorter
from pathlib import Path

import pytest

from tests.support import ROOT

PACKAGE = "torch_compat_matrix"
STANDARD = sys.stdlib_module_names
DECLARED = ("DISTRIBUTION", "MODULE", "NEEDS", "NOT_APPLICABLE")
UNDER_TEST = {"torch", "numpy", "pyro", "gpytorch", "captum", "deepspeed", "botorch", "torchvision"}


@cache
def tree(path: Path) -> ast.Module:
    """A file, parsed once for all tests."""
    return ast.parse(path.read_text())


@cache
def imports(path: Path, loaded: bool = False) -> frozenset[str]:
    """Every absolute module name that a file imports, wherever in the file; with `loaded`, what importing it loads."""
    names: set[str] = set()
    for node in tree(path).body if loaded else ast.walk(tree(path)):
        if isinstance(node, ast.Import):
            names |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.level == 0 and node.module:
            names |= {f"{node.module}.{alias.name}" for alias in node.names}
    return frozenset(names)


def contract(path: Path) -> set[str]:
    """What a file of runner/ imports of the probe host's contract for the type checker alone, which no image needs."""
    checked = [node for node in tree(path).body if ast.unparse(node).startswith("if TYPE_CHECKING:")]
    lines = [node for block in checked for node in ast.walk(block) if isinstance(node, ast.ImportFrom)]
    found = {f"{node.module}.{alias.name}" for node in lines for alias in node.names}
    prefix = f"{PACKAGE}.probes.contract."
    return {name for name in found if name.startswith(prefix) and path.is_relative_to(ROOT / "runner")}


def top(name: str) -> str:
    """`a` of `a.b.c`."""
    return name.partition(".")[0]


def files(folder: str) -> list[Path]:
    """The Python files below a folder of the checkout."""
    return sorted((ROOT / folder).rglob("*.py"))


def relative(path: Path) -> str:
    """A readable test id."""
    return str(path.relative_to(ROOT))


@pytest.mark.parametrize("path", files("probes"), ids=relative)
def test_probes_import_only_what_is_under_test(path: Path) -> None:
    """The bundle must run in an image that holds nothing of ours, on Python 3.9."""
    ast.parse(path.read_text(), feature_version=(3, 9))
    declared = {"torch"}
    for node in tree(path).body:
        if isinstance(node, ast.Assign) and ast.unparse(node.targets[0]) in ("MODULE", "NEEDS"):
            value = ast.literal_eval(node.value)
            declared |= {value} if isinstance(value, str) else set(value)
    foreign = {top(name) for name in imports(path)} - STANDARD - {top(name) for name in declared}
    assert foreign == set()


@pytest.mark.parametrize("path", [path for path in files("probes/libraries") if path.name[0] != "_"], ids=relative)
def test_library_declares_what_it_needs(path: Path) -> None:
    """Its names and needs, and for each probe what it asks (or why it makes no sense) and at least four mutations."""
    constants, functions = {}, {}
    for node in tree(path).body:
        if isinstance(node, ast.Assign) and ast.unparse(node.targets[0]) in DECLARED:
            constants[ast.unparse(node.targets[0])] = ast.literal_eval(node.value)
        elif isinstance(node, ast.FunctionDef) and not node.name.startswith("_"):
            functions[node.name] = ast.get_docstring(node)
    assert constants["DISTRIBUTION"].replace("-", "_") == path.stem
    assert isinstance(constants["MODULE"], str) and isinstance(constants["NEEDS"], tuple)
    senseless = constants.get("NOT_APPLICABLE", {})
    assert set(functions) - {"imported"} | set(senseless) == {"sample", "autograd", "compile"}
    assert not set(functions) & set(senseless)
    assert all(functions.values()) and all(senseless.values())
    mutations = (ROOT / "tests" / "sabotage" / "mutations" / path.name).read_text()
    for probe in functions:
        assert mutations.count(f'("{probe}", "') >= 4, f"{probe} of {path.stem} is proven by fewer than four mutations"


GROUND = (
    *("__version__", "model", "outcome", "signature", "selector", "judging", "pins", "errors"),
    *("bundle", "files", "storage", "text", "streams", "shapes", "watch", "numerics"),
)
"""The ground floor of runner/, and its version: the standard library alone."""

MAY_IMPORT = {
    "runner/ground": [],
    "runner/matrix": ["runner/ground"],
    "runner/packages": ["runner/ground"],
    "runner/verdicts": ["runner/ground"],
    "runner/records": ["runner/ground"],
    "runner/backends": ["runner/ground", "runner/packages"],
    "runner/advice": ["runner/ground", "runner/packages", "runner/records", "runner/matrix"],
    "runner/comparison": ["runner/ground", "runner/packages", "runner/records", "runner/matrix"],
    "runner/execution": ["runner/ground", "runner/backends", "runner/verdicts", "runner/packages", "runner/records"],
    "runner/planning": [
        *("runner/ground", "runner/matrix", "runner/packages"),
        *("runner/backends", "runner/records", "runner/verdicts"),
    ],
    "runner/workflow": ["runner"],
    "runner/confirming": ["runner"],
    "runner/advising": ["runner"],
    "reports": ["runner/ground", "runner/records", "runner/verdicts"],
    "compat": ["runner", "reports"],
    "probes": [],
}
"""Room -> the rooms that it may import from, beside itself; no arrow goes up (docs/architecture.md)."""

OUTSIDE = {"runner/ground": {"packaging"}, "reports": {"packaging", "jinja2"}}
"""What a room may import that is neither ours nor of the standard library; rooms that are not named may import all."""


def room(module: str) -> str:
    """`runner/records` of `runner.records.runs`; a module of the ground floor is in `runner/ground`."""
    top_level, _, rest = module.partition(".")
    if top_level != "runner":
        return top_level
    return f"runner/{'ground' if top(rest) in GROUND else top(rest)}"


def house() -> list[Path]:
    """Every module that is installed."""
    return [path for folder in ("compat", "runner", "reports", "probes") for path in files(folder)]


@pytest.mark.parametrize("path", [path for path in house() if path.name != "__init__.py"], ids=relative)
def test_imports_go_down(path: Path) -> None:
    """A room imports from the rooms that the rule names for it, and from nowhere else; the contract's types aside."""
    own = room(".".join(path.relative_to(ROOT).with_suffix("").parts))
    names = imports(path) - contract(path)
    ours = {name.removeprefix(f"{PACKAGE}.") for name in names if top(name) == PACKAGE}
    allowed = (own, *MAY_IMPORT[own])
    up = {name for name in ours if not f"{room(name)}/".startswith(tuple(f"{each}/" for each in allowed))}
    assert up == set()
    others = {top(name) for name in imports(path)} - STANDARD - {PACKAGE}
    assert not others & {"compat", "runner", "reports", "probes", "tests", *UNDER_TEST} or own == "probes"
    assert others <= OUTSIDE.get(own, others)


@pytest.mark.parametrize("path", [*files("runner"), *files("reports")], ids=relative)
def test_no_import_of_ours_inside_a_function(path: Path) -> None:
    """Imports stand at the head of a module, where a circle shows at once; a type checker's are no imports."""
    hidden = [
        ast.unparse(node)
        for function in ast.walk(tree(path))
        if isinstance(function, (ast.FunctionDef, ast.AsyncFunctionDef))
        for node in ast.walk(function)
        if isinstance(node, (ast.Import, ast.ImportFrom)) and PACKAGE in ast.unparse(node)
    ]
    assert hidden == []


def test_no_circle() -> None:
    """No two modules import each other, by whatever way round."""
    graph = {
        f"{PACKAGE}.{'.'.join(path.relative_to(ROOT).with_suffix('').parts)}": imports(path, loaded=True)
        for path in house()
    }
    edges = {
        module: {name for found in names for name in (found, found.rpartition(".")[0]) if name in graph}
        for module, names in graph.items()
    }
    TopologicalSorter(edges).prepare()


@pytest.mark.parametrize("path", [*house(), ROOT / "conftest.py"], ids=relative)
def test_only_backends_know_engines(path: Path) -> None:
    """The Docker SDK is imported by the backends alone."""
    assert room(".".join(path.relative_to(ROOT).parts)) == "runner/backends" or "docker" not in map(top, imports(path))
