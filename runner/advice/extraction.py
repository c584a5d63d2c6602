"""Definitions taken out of the probe modules with all that they refer to, for a script that stands alone."""

from __future__ import annotations

import ast
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path

from torch_compat_matrix.runner.bundle import BUNDLE
from torch_compat_matrix.runner.model import Module

FINGERPRINT = ("remember", "remember_gradients", "forget")
"""Called by the evidence for the runner's sake: such a line is left out."""


class Unextractable(Exception):
    """A part that cannot stand alone; the message says why."""


@dataclass(kw_only=True)
class Source:
    """Definitions gathered from modules of the bundle, each once, in an order in which they can be executed."""

    modules: Sequence[Module]
    """The user's own modules."""
    texts: dict[tuple[Path, str], str] = field(default_factory=dict)
    """(module, name) -> source."""
    imports: dict[str, None] = field(default_factory=dict)
    wholes: dict[str, tuple[Path, set[str]]] = field(default_factory=dict)
    """Name of a module of the bundle that is imported as a whole -> its file, and the names that are read of it."""
    methods: set[str] = field(default_factory=set)
    """The names that are read of any object: those that Probe has too are its methods."""

    def take(self, path: Path, name: str) -> None:
        """Add the module's definition of that name, after all that it refers to."""
        if (path, name) in self.texts or name in ("Probe", *FINGERPRINT):
            return
        text = source_of(path, self.modules)
        for node in parsed(text):
            if isinstance(node, ast.ImportFrom) and node.level:
                for alias in node.names:
                    # of a module that is imported as a whole, only what is read of it is wanted
                    if name == (alias.asname or alias.name) and node.module is not None:
                        self.take(path.parents[node.level - 1] / f"{node.module.replace('.', '/')}.py", alias.name)
            elif isinstance(node, ast.Import | ast.ImportFrom):
                if any(name == (alias.asname or alias.name).partition(".")[0] for alias in node.names):
                    self.imports[ast.unparse(node)] = None
            elif name in defined(node):
                self.texts[path, name] = ""  # it may refer to itself
                self.refer(path, node)
                del self.texts[path, name]
                self.texts[path, name] = segment(text, node)

    def _read_of_whole(self, path: Path, module: str, name: str) -> bool:
        """Add the name of a module that the one at `path` imports as a whole; return whether it is one."""
        for node in parsed(source_of(path, self.modules)):
            if isinstance(node, ast.ImportFrom) and node.level and node.module is None:
                for alias in node.names:
                    if module == (alias.asname or alias.name):
                        file = path.parents[node.level - 1] / f"{alias.name}.py"
                        known, names = self.wholes.setdefault(module, (file, set()))
                        if known != file:
                            raise Unextractable(f"two of its modules call another module {module}")
                        names.add(name)
                        self.take(file, name)
                        return True
        return False

    def namespaces(self) -> Iterator[str]:
        """The lines that define the modules that are read as a whole."""
        for module, (_, names) in self.wholes.items():
            yield f"{module} = types.SimpleNamespace({', '.join(f'{name}={name}' for name in sorted(names))})"

    def refer(self, path: Path, node: ast.AST) -> None:
        """Add all that the code refers to; annotations are no references."""
        for inner in _evaluated(node):
            if isinstance(inner, ast.Name):
                self.take(path, inner.id)
            elif isinstance(inner, ast.Attribute):
                base = inner.value
                if not (isinstance(base, ast.Name) and self._read_of_whole(path, base.id, inner.attr)):
                    self.methods.add(inner.attr)

    def clashes(self) -> bool:
        """Whether two modules define the same name otherwise."""
        names: dict[str, str] = {}
        return any(names.setdefault(name, text) != text for (_, name), text in self.texts.items())


def source_of(path: Path, modules: Sequence[Module]) -> str:
    """The source of a module of the bundle, or of the user's own in its place."""
    own = [module.text for module in modules if path == BUNDLE / "libraries" / f"{module.name}.py"]
    return own[0] if own else path.read_text()


@cache
def parsed(text: str) -> tuple[ast.stmt, ...]:
    """The statements of a module."""
    return tuple(ast.parse(text).body)


def defined(node: ast.stmt) -> set[str]:
    """The names that the statement defines."""
    if isinstance(node, ast.FunctionDef | ast.ClassDef):
        return {node.name}
    targets = node.targets if isinstance(node, ast.Assign) else [node.target] if isinstance(node, ast.AnnAssign) else []
    return {name.id for target in targets for name in ast.walk(target) if isinstance(name, ast.Name)}


def _evaluated(node: ast.AST) -> Iterator[ast.AST]:
    """The nodes of code, without annotations."""
    yield node
    for name, value in ast.iter_fields(node):
        if name not in ("annotation", "returns"):
            for inner in value if isinstance(value, list) else [value]:
                if isinstance(inner, ast.AST):
                    yield from _evaluated(inner)


def segment(text: str, node: ast.stmt) -> str:
    """The statement as it is written in the text, with its decorators."""
    first = min([node.lineno, *(decorator.lineno for decorator in getattr(node, "decorator_list", ()))])
    lines = text.splitlines()[first - 1 : node.end_lineno]
    return "\n".join(line for line in lines if line.lstrip().partition("(")[0] not in FINGERPRINT)
