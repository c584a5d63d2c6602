"""Mutants made by machine: each changes one place of a function, and none what a sound caller cannot tell."""

from __future__ import annotations

import ast
from typing import Any

from tests.sabotage.mutants import functions, mutants
from tests.sabotage.rates import page

SOURCE = '''
"""Its own words."""
LIMIT = 3

def price(units, rate=2.0):
    """Words of a function."""
    if units < 0:
        raise ValueError("no " + str(units - 1))
    total = units * rate - 1
    for _ in range(1, 4):
        total += units
    if total > LIMIT and not units == 5:
        print("many", "units")
        register(total, units)
    return -total
'''


def test_each_place_that_counts_is_changed_once() -> None:
    """No guard, word, default or constant of the module; the tree is as before."""
    tree = ast.parse(SOURCE)
    before = ast.dump(tree)
    found = mutants(tree)
    kinds = {mutant.kind for mutant in found}
    assert kinds == {
        *("operator", "dropped term", "comparison", "constant", "swapped arguments", "dropped sign", "branch"),
        *("detached", "dropped statement"),
    }
    assert {mutant.function for mutant in found} == {"price"}
    assert not {mutant.line for mutant in found} & {3, 5, 6, 7, 8, 13}
    assert len({(mutant.line, mutant.before, mutant.after) for mutant in found}) == len(found)
    assert ast.dump(tree) == before


def test_a_mutant_runs_as_it_reads() -> None:
    """Its code is that of the module with the one change."""
    tree, answers = ast.parse(SOURCE), {}
    for mutant in mutants(tree):
        space: dict[str, Any] = {"register": lambda *words: None}
        code = mutant.code(tree, "price.py")
        assert next(functions(code)).co_name == "price"
        exec(code, space)
        answers[mutant.before, mutant.after] = space["price"](2)
    assert answers["units * rate", "units / rate"] == -6.0
    assert answers["-total", "total"] == 9.0
    assert answers["total += units", "pass"] == -3.0
    assert answers["range(1, 4)", "range(4, 1)"] == -3.0
    assert answers["1", "2"] in (-8.0, -7.0)


def test_rates_leave_out_what_is_no_mutant() -> None:
    """A mutant that cannot take its function's place is neither killed nor a survivor."""
    head = {"library": "l", "run": 3, "not_run": 9}
    row = {"library": "l", "entry": "l.f", "function": "f", "line": 1, "kind": "k", "before": "a|b", "after": "c"}
    lines = list(page([head, *({**row, "killed": killed} for killed in ("", None, "sample: wrong-value"))]))
    text = "\n".join(lines)
    assert "3 places that a probe runs, 9 in the same modules that none runs; 2 mutants, 1 killed: **50%**" in text
    assert "| `l.f` | 2 | 1 |" in text
    assert "| `l.f` | `f:1` | `a\\|b` -> `c` (k) |  |" in text
