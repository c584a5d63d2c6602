"""The direction of imports: probes -> nothing of ours; reports -> recorded data; only backends know engines."""

from __future__ import annotations

import ast
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent
STANDARD = sys.stdlib_module_names
DECLARED = ("DISTRIBUTION", "MODULE", "NEEDS", "NOT_APPLICABLE")
UNDER_TEST = {"torch", "numpy", "pyro", "gpytorch", "captum", "deepspeed", "botorch", "torchvision"}


def imports(path: Path) -> Iterator[str]:
    """Every absolute module name that a file imports, wherever in the file."""
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom) and node.level == 0 and node.module:
            yield from (f"{node.module}.{alias.name}" for alias in node.names)


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
    source = path.read_text()
    ast.parse(source, feature_version=(3, 9))
    declared = {"torch"}
    for node in ast.parse(source).body:
        if isinstance(node, ast.Assign) and ast.unparse(node.targets[0]) in ("MODULE", "NEEDS"):
            value = ast.literal_eval(node.value)
            declared |= {value} if isinstance(value, str) else set(value)
    foreign = {top(name) for name in imports(path)} - set(STANDARD) - {top(name) for name in declared}
    assert foreign == set()


@pytest.mark.parametrize("path", [path for path in files("probes/libraries") if path.name[0] != "_"], ids=relative)
def test_library_declares_what_it_needs(path: Path) -> None:
    """Its names and needs, and for each probe what it asks (or why it makes no sense) and at least four mutations."""
    constants, functions = {}, {}
    for node in ast.parse(path.read_text()).body:
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


@pytest.mark.parametrize("path", files("runner"), ids=relative)
def test_runner_knows_probes_only_as_files(path: Path) -> None:
    """The host side imports neither the probes nor what is under test."""
    names = {top(name) for name in imports(path)}
    assert not names & {"probes", *UNDER_TEST}
    if path.parent.name != "commands":  # the verbs that write or read a report
        assert "reports" not in names


@pytest.mark.parametrize("path", files("reports"), ids=relative)
def test_reports_read_recorded_data_only(path: Path) -> None:
    """A report never launches anything."""
    ours = {name for name in imports(path) if top(name) in ("runner", "probes", "conftest")}
    assert all(name.startswith(("runner.model", "runner.journal")) for name in ours)
    assert "docker" not in {top(name) for name in imports(path)}


@pytest.mark.parametrize("path", [*files("runner"), ROOT / "conftest.py"], ids=relative)
def test_only_backends_know_engines(path: Path) -> None:
    """The Docker SDK, and the backend modules themselves, are imported nowhere else."""
    if path.parent.name == "backends":
        return
    assert "docker" not in {top(name) for name in imports(path)}
    backends = {name for name in imports(path) if name.startswith("runner.backends")}
    assert all(name.startswith(("runner.backends.base", "runner.backends.here.installed")) for name in backends)


def test_starting_is_cheap() -> None:
    """`compat --help` loads neither docker nor torch nor pydantic."""
    code = "import sys, runner.cli; runner.cli.parser().format_help(); print(*sys.modules)"
    loaded = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True)
    assert not {"docker", "torch", "pydantic", "rich", "ruamel"} & {top(name) for name in loaded.stdout.split()}
