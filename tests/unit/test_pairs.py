"""Two sides of a comparison: which cells make a pair, and what became of each of its checks."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

import pytest

from torch_compat_matrix.runner.comparison.pairs import (
    Compared,
    PairVerdict,
    causes,
    collapsed,
    compared,
    falls,
    headline,
    rounds,
)
from torch_compat_matrix.runner.comparison.sides import Comparison, Pair, Side, paired
from torch_compat_matrix.runner.model import INSTALLED, Cell, Image, Verdict
from torch_compat_matrix.runner.outcome import Outcome
from torch_compat_matrix.runner.packages.resolution import Resolution

OLD, NEW = Image(name="old", tag="r/i:1"), Image(name="new", tag="r/i:2")
FACTS: Mapping[str, Any] = {
    "old": {"packages": {"torch": "2.9", "NumPy": "2.4"}},
    "new": {"packages": {"torch": "2.13", "numpy": "2.5", "held": "9"}},
}


def cell(version: str = "1.0", image: str = "old", library: str = "lib", **more: Any) -> Cell:
    """A cell that asks pip for its version, unless it is the installed one."""
    asked = () if version == INSTALLED else (f"{library}=={version}",)
    settings: dict[str, Any] = {"requires": asked, "members": (library,), "probes": ("import", "sample"), **more}
    return Cell(image=image, subject=library, version=version, **settings)


def outcome(word: str) -> Outcome | None:
    """`fail wrong-value a1b2`: verdict, reason, signature; `flaky` is a pass that failed before."""
    if word == "none":
        return None
    verdict, reason, signature = (*word.split(), "", "")[:3]
    told = Verdict("pass" if verdict == "flaky" else verdict)
    settings: dict[str, Any] = {"verdict": told, "reason": reason, "signature": signature, "flaky": verdict == "flaky"}
    return Outcome(check="c", image="i", subject="l", version="1", probe="import", **settings)


def judged(then: str, now: str) -> Compared:
    """What became of a check."""
    pair = Pair(base=cell(), candidate=cell(label="new"), changed=())
    return Compared(pair=pair, probe="import", then=outcome(then), now=outcome(now))


@pytest.mark.parametrize(
    ("then", "now", "verdict", "lost"),
    [
        ("pass", "pass", "same", False),
        ("pass", "fail wrong-value a1b2", "regressed", False),
        ("pass", "unsupported drift", "regressed", False),
        ("pass", "crash segfault a1b2", "regressed", False),
        ("pass", "flaky", "same", False),
        ("fail wrong-value a1b2", "pass", "fixed", False),
        ("fail wrong-value a1b2", "flaky", "same", False),
        ("fail wrong-value a1b2", "fail wrong-value a1b2", "same", False),
        ("fail wrong-value a1b2", "fail wrong-value c3d4", "fails differently", False),
        ("fail wrong-value a1b2", "fail missing-module c3d4", "fails differently", False),
        ("flaky", "fail wrong-value a1b2", "no evidence", False),
        ("pass", "infra host-error", "no evidence", True),
        ("infra host-error", "fail wrong-value a1b2", "no evidence", True),
        ("infra host-error", "infra host-error", "no evidence", False),
        ("pass", "none", "no evidence", True),
        ("none", "none", "no evidence", False),
        ("pass", "skip import-failed", "no evidence", False),
        ("pass", "skip not-applicable", "no evidence", True),
        ("skip import-failed", "pass", "no evidence", False),
    ],
)
def test_pair_has_one_verdict(then: str, now: str, verdict: str, lost: bool) -> None:
    """A failure in both is nobody's news, and no side without a verdict is evidence."""
    check = judged(then, now)
    assert (check.verdict, check.lost) == (PairVerdict(verdict), lost)


def test_reason_says_from_what_to_what() -> None:
    """With signatures where nothing else tells the two failures apart."""
    assert judged("pass", "fail wrong-value a1b2").reason == "pass -> fail (wrong-value)"
    differs = judged("fail wrong-value a1b2c3d4", "fail wrong-value c3d4e5f6")
    assert differs.reason == "fail (wrong-value #a1b2) -> fail (wrong-value #c3d4)"
    assert judged("pass", "none").reason == "pass -> not run"


def test_headline_counts_what_was_lost() -> None:
    """And the regressions of one cause stand together, the commonest first."""
    checks = [
        judged("pass", "fail x aaaa"),
        judged("pass", "fail y bbbb"),
        judged("pass", "fail y bbbb"),
        judged("pass", "infra z"),
    ]
    assert headline(checks) == "3 regressed, 1 without evidence; evidence lost: 1 with a verdict on one side only"
    assert [len(group) for group in causes(checks)] == [2, 1]
    silent = [judged("pass", "skip import-failed"), judged("skip not-applicable", "skip not-applicable")]
    assert headline([*silent, judged("pass", "pass")]) == "nothing regressed, 1 same"
    assert headline(silent) == "nothing compared"
    assert [check.open for check in (*checks, *silent)] == [False, False, False, True, False, False]


def test_pilot_collapses_by_one_cause() -> None:
    """Different causes are no collapse."""
    alike = [judged("pass", "fail x aaaa")] * 2 + [judged("pass", "pass")]
    assert collapsed(alike, 50) == "stopped after the pilot: 2 of its 3 checks regressed with one cause"
    assert not collapsed(alike, 70)
    assert not collapsed([judged("pass", "fail x aaaa"), judged("pass", "fail y bbbb"), judged("pass", "pass")], 50)


def test_regression_that_did_not_come_again_is_unconfirmed() -> None:
    """It is counted, and said to be no news."""
    good, bad = outcome("pass"), outcome("fail x aaaa")
    assert good is not None and bad is not None
    pair = Pair(base=cell(), candidate=cell(image="new", label="old"), changed=())
    certain, doubtful = (
        Compared(pair=pair, probe="import", then=good, now=replace(bad, confirmation=level, unconfirmed=why))
        for level, why in (("bracketed", ""), ("seen", "it passed"))
    )
    assert headline([certain, doubtful]) == "2 regressed (1 unconfirmed)"
    assert certain.reason == "pass -> fail (x); bracketed"
    assert doubtful.reason == "pass -> fail (x); seen, unconfirmed: it passed"
    assert not list(falls([certain, doubtful], [OLD, NEW], {}, "run"))  # those of a resumed run were asked
    new = Compared(pair=pair, probe="import", then=good, now=bad)
    (fall,) = falls([new, judged("pass", "pass")], [OLD, NEW], {}, "run")
    assert (fall.image, fall.cell.id, fall.cell.probes) == (NEW, "new/lib-1.0@old", ("import",))
    assert fall.before == (OLD, replace(cell(), probes=("import",)))


def pairs(number: int, image: str = "old") -> list[Pair]:
    """Pairs of which each needs the libraries of all that come after it."""
    return [
        Pair(
            base=cell(library=f"lib{n}"),
            candidate=cell(library=f"lib{n}", image=image, label="c"),
            changed=(),
            needed=frozenset(f"lib{later}" for later in range(n, number)),
        )
        for n in range(number)
    ]


def test_pilot_takes_those_with_most_dependents() -> None:
    """And the rest runs only where it is asked for."""
    turns = [*rounds(pairs(100), lambda cell: 1, pilot=True, goes_on=lambda: False)]
    assert [check.cell.subject for check in turns[0]][::4] == ["lib99", "lib98", "lib97", "lib96", "lib95"]
    assert len(turns) == 1
    assert len([*rounds(pairs(100), lambda cell: 1, pilot=True, goes_on=lambda: True)]) == 2


def test_two_images_take_turns() -> None:
    """Each turn has both sides of its pairs; one image needs no turns."""
    turns = [*rounds(pairs(9, "new"), lambda cell: 50, pilot=False, goes_on=lambda: True)]
    assert [len(turn) for turn in turns] == [12, 12, 12]
    assert all({check.cell.image for check in turn} == {"old", "new"} for turn in turns)
    assert len([*rounds(pairs(9), lambda cell: 50, pilot=False, goes_on=lambda: True)]) == 1


def resolver(table: Mapping[str, Resolution]) -> Any:
    """The resolution of each set of requirements; whatever is not in the table adds its pins."""

    def resolve(cell: Cell, facts: Mapping[str, Any]) -> Resolution:
        asked = " ".join(cell.requires)
        return table.get(asked) or Resolution(add=cell.requires)

    return resolve


def adds(*pins: str, needs: str = "", problem: str = "") -> Resolution:
    """A resolution that adds these pins, and needs a package of the image besides."""
    versions = {pin.partition("==")[0]: pin.partition("==")[2] for pin in (*pins, *filter(None, [needs]))}
    return Resolution(add=pins, versions=versions, problem=problem)


def over_numpy(table: Mapping[str, Resolution], *cells: Cell, only_dependents: bool = False) -> Comparison:
    """The comparison of the old image with the same and another NumPy."""
    sides = Side(image=OLD), Side(image=OLD, changes=("numpy<2",))
    return paired(*sides, cells, cells, FACTS, resolver(table), only_dependents)


def test_candidate_keeps_the_packages_of_the_base() -> None:
    """The change alone is another; its cell has an id of its own."""
    table = {
        "lib==1.0": adds("lib==1.0", "dep==3", needs="numpy==2.4"),
        "lib==1.0 numpy<2 dep==3": adds("lib==1.0", "dep==3", "numpy==1.26"),
    }
    (pair,) = over_numpy(table, cell()).pairs
    assert pair.candidate.requires == ("lib==1.0", "numpy<2", "dep==3")
    assert pair.candidate.id == "old/lib-1.0@numpy-2"
    assert pair.changed == ("numpy 2.4 -> 1.26",)
    assert pair.note == ""


def test_packages_that_the_candidate_cannot_have_are_said() -> None:
    """It is resolved anew then."""
    table = {
        "lib==1.0": adds("lib==1.0", "dep==3", needs="numpy==2.4"),
        "lib==1.0 numpy<2 dep==3": adds(problem="unsatisfiable"),
        "lib==1.0 numpy<2": adds("lib==1.0", "dep==2", "numpy==1.26"),
    }
    (pair,) = over_numpy(table, cell()).pairs
    assert pair.candidate.requires == ("lib==1.0", "numpy<2")
    assert pair.note == "the candidate cannot have all packages of the base: dep 3 -> 2"


def test_cell_that_the_change_leaves_alone_is_not_run() -> None:
    """Nor one that needs none of the changed packages, where dependents alone are asked for."""
    same = adds("lib==1.0", needs="numpy==1.0")
    comparison = over_numpy({"lib==1.0": same, "lib==1.0 numpy<2": same}, cell())
    assert (comparison.pairs, comparison.unaffected) == ((), ("old/lib-1.0",))
    dependents = over_numpy({}, cell(), cell("2.0"), cell(INSTALLED), only_dependents=True)
    assert [pair.base.version for pair in dependents.pairs] == []
    held = over_numpy({}, cell(INSTALLED, library="torch"), only_dependents=True)
    assert [pair.candidate.requires for pair in held.pairs] == [("torch==2.9", "numpy<2")]


def test_cells_of_two_images_are_pinned_alike() -> None:
    """Except for what the candidate's image holds itself; a cell that it lacks stands alone."""
    table = {"lib": adds("lib==1.0", "held==8", "dep==3")}
    latest = cell("latest", requires=("lib",))
    theirs = [cell("latest", "new", requires=("lib",))]
    sides = Side(image=OLD), Side(image=NEW)
    comparison = paired(*sides, [latest, cell("2.0")], theirs, FACTS, resolver(table))
    (pair,) = comparison.pairs
    assert pair.candidate.requires == ("lib", "lib==1.0", "dep==3")
    assert pair.candidate.id == "new/lib-latest@old"
    assert "torch 2.9 -> 2.13" in pair.changed
    assert comparison.alone == ("old/lib-2.0",)


def test_equal_sides_are_one() -> None:
    """Under two names too; a change makes another."""
    assert Side(image=OLD).same(Side(image=Image(name="again", tag="r/i:1")))
    assert not Side(image=OLD).same(Side(image=NEW))
    assert not Side(image=OLD).same(Side(image=OLD, changes=("numpy<2",)))


def test_outcomes_find_their_pair() -> None:
    """By the ids of both cells."""
    (pair,) = pairs(1)
    seen = {f"{pair.candidate.id}/import": outcome("pass")}
    told = compared([pair], {check: found for check, found in seen.items() if found})
    assert [(check.check, check.reason) for check in told] == [
        ("old/lib0-1.0/import", "not run -> pass"),
        ("old/lib0-1.0/sample", "not run -> not run"),
    ]
