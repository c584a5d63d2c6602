"""Mutants of a module's source, made mechanically: each differs from it in one place inside a function's body."""

from __future__ import annotations

import ast
import copy
import re
from collections.abc import Iterator
from dataclasses import dataclass
from types import CodeType

PAIRS = """
Add Sub Sub Add Mult Div Div Mult FloorDiv Mult Pow Mult Mod FloorDiv Lt LtE LtE Lt Gt GtE GtE Gt
Eq NotEq NotEq Eq Is IsNot IsNot Is In NotIn NotIn In And Or Or And
"""
OTHER = {getattr(ast, name): getattr(ast, other) for name, other in re.findall(r"(\w+) (\w+)", PAIRS)}
"""Operator -> the operator that takes its place."""
FUNCTIONS = (ast.FunctionDef, ast.AsyncFunctionDef)
DETACH = "(lambda it: it.detach() if hasattr(it, 'detach') else it)"
TALK = ("warn", "print", "debug", "info", "warning", "error")
"""Calls that only tell somebody something."""


@dataclass(frozen=True, kw_only=True)
class Mutant:
    """A change of one place: `before` becomes `after`, within the function of this qualified name."""

    function: str
    lines: range
    """The lines of the statement, or of its head: it ran where one of them ran."""
    line: int
    kind: str
    before: str
    after: str
    parent: ast.AST
    field: str
    index: int | None
    node: ast.AST

    def code(self, tree: ast.Module, file: str) -> CodeType:
        """The compiled module with the change; the tree is left as it was."""
        held = getattr(self.parent, self.field)
        old = held if self.index is None else held[self.index]
        try:
            self._put(self.node)
            return compile(ast.fix_missing_locations(tree), file, "exec", dont_inherit=True)
        finally:
            self._put(old)

    def _put(self, node: ast.AST) -> None:
        if self.index is None:
            setattr(self.parent, self.field, node)
        else:
            getattr(self.parent, self.field)[self.index] = node


def mutants(tree: ast.Module) -> list[Mutant]:
    """All mutants of the module, in the order of its source."""
    return list(_of(tree, "", range(0)))


def functions(code: CodeType) -> Iterator[CodeType]:
    """The code of all functions within a code object."""
    for constant in code.co_consts:
        if isinstance(constant, CodeType):
            yield constant
            yield from functions(constant)


def _of(parent: ast.AST, function: str, lines: range) -> Iterator[Mutant]:
    """The mutants below a node; none of what runs at import, of annotations, of errors raised, of words to a reader."""
    for field, value in ast.iter_fields(parent):
        if field in ("decorator_list", "returns", "annotation") or isinstance(value, ast.arguments):
            continue
        for index, node in enumerate(value if isinstance(value, list) else [value]):
            if not isinstance(node, ast.AST) or _says_nothing(node):
                continue
            own, name = lines, function
            if isinstance(node, ast.stmt):
                body = getattr(node, "body", None)
                last = body[0].lineno - 1 if body else node.end_lineno or node.lineno
                own = range(node.lineno, max(node.lineno, last) + 1)
            if isinstance(node, (*FUNCTIONS, ast.ClassDef)):
                name = f"{function}.{node.name}".removeprefix(".")
            elif function:
                for kind, change in _changes(node):
                    yield Mutant(
                        function=function,
                        lines=own,
                        line=node.lineno if isinstance(node, (ast.expr, ast.stmt)) else own.start,
                        kind=kind,
                        before=_short(node),
                        after=_short(change),
                        parent=parent,
                        field=field,
                        index=index if isinstance(value, list) else None,
                        node=ast.copy_location(change, node),
                    )
            yield from _of(node, name, own)


def _says_nothing(node: ast.AST) -> bool:
    """Whether the node decides nothing that a caller with sound arguments gets: a guard, a word, a docstring."""
    if isinstance(node, (ast.Raise, ast.Assert, ast.JoinedStr, ast.Import, ast.ImportFrom)):
        return True
    if isinstance(node, ast.If) and not node.orelse:
        return all(isinstance(child, ast.Raise) or _says_nothing(child) for child in node.body)
    if isinstance(node, ast.Expr):
        call = node.value
        name = getattr(call.func, "attr", getattr(call.func, "id", "")) if isinstance(call, ast.Call) else ""
        return isinstance(call, ast.Constant) or name in TALK
    return False


def _changes(node: ast.AST) -> Iterator[tuple[str, ast.AST]]:
    """What may stand in the node's place, each with the kind of the change."""
    if isinstance(node, ast.BinOp):
        other = OTHER.get(type(node.op))
        if other:
            yield "operator", ast.BinOp(node.left, other(), node.right)
            yield "dropped term", node.left
        if isinstance(node.op, (ast.Add, ast.Mult)):
            yield "dropped term", node.right
    elif isinstance(node, ast.Compare) and len(node.ops) == 1:
        yield "comparison", ast.Compare(node.left, [OTHER[type(node.ops[0])]()], node.comparators)
    elif isinstance(node, ast.BoolOp):
        yield "operator", ast.BoolOp(OTHER[type(node.op)](), node.values)
    elif isinstance(node, ast.UnaryOp) and isinstance(node.op, (ast.USub, ast.Not)):
        yield "dropped sign", node.operand
    elif isinstance(node, ast.Constant) and isinstance(node.value, (bool, int, float)):
        value = node.value
        new = not value if isinstance(value, bool) else value + 1 if isinstance(value, int) else value * 2 or 1.0
        yield "constant", ast.Constant(new)
    elif isinstance(node, ast.Call) and len(node.args) > 1 and not any(isinstance(a, ast.Starred) for a in node.args):
        first, second, *rest = node.args
        if ast.unparse(first) != ast.unparse(second) and getattr(node.func, "id", "") not in ("isinstance", "getattr"):
            yield "swapped arguments", ast.Call(node.func, [second, first, *rest], node.keywords)
    elif isinstance(node, (ast.If, ast.IfExp)):
        for taken in (True, False):
            changed = copy.copy(node)
            changed.test = ast.Constant(taken)
            yield "branch", changed
    elif isinstance(node, ast.Return) and node.value is not None and not isinstance(node.value, ast.Constant):
        yield "detached", ast.Return(ast.Call(ast.parse(DETACH, mode="eval").body, [node.value], []))
    elif _stores(node) or (isinstance(node, ast.Expr) and isinstance(node.value, ast.Call)):
        yield "dropped statement", ast.Pass()


def _stores(node: ast.AST) -> bool:
    """Whether the statement changes something that exists without it; a name that nobody sets would only raise."""
    if isinstance(node, ast.Assign):
        return not any(isinstance(target, (ast.Name, ast.Tuple)) for target in node.targets)
    return isinstance(node, ast.AugAssign)


def _short(node: ast.AST) -> str:
    """The first line of the node's text."""
    text = ast.unparse(node).replace(DETACH, "detached").partition("\n")[0]
    return text if len(text) < 80 else text[:77] + "..."
