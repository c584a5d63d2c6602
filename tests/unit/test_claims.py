"""Claims: judged by what a run saw, and never true for want of an answer."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from tests.support import ROOT
from tests.support.journals import records, write
from torch_compat_matrix.reports.claims import judge
from torch_compat_matrix.reports.expectations import expected
from torch_compat_matrix.reports.table import load
from torch_compat_matrix.reports.write import compile_report
from torch_compat_matrix.runner.matrix import claims
from torch_compat_matrix.runner.matrix import load as matrix
from torch_compat_matrix.runner.matrix.document import MatrixError
from torch_compat_matrix.runner.matrix.expand import expand
from torch_compat_matrix.runner.selector import Selector


def verdict(tmp_path: Path, *conditions: dict[str, Any], **change: Any) -> str:
    """The verdict on a claim with these conditions; `change` goes to the outcome records."""
    found = records()
    found[0]["plan"]["images"][0]["expects"] = {"torch": "2.6", "preinstalled": ["captum"]}
    found[0]["plan"]["claims"] = [{"id": "X", "source": "s", "says": "c", "holds_if": list(conditions)}]
    for record in found:
        if record["kind"] == "outcome":
            record.update(change)
    return judge(load(write(tmp_path / "journal.jsonl", found)))[0].verdict


PASSES, FAILS = "gpu-image/torch-installed/sample", "gpu-image/pyro-ppl-1.9.1/sample"


@pytest.mark.parametrize(
    ("conditions", "wanted"),
    [
        ([{"checks": PASSES}], "true"),
        ([{"checks": FAILS}], "false"),
        ([{"checks": PASSES}, {"checks": FAILS}], "partly true"),
        ([{"checks": PASSES}, {"checks": "elsewhere/*"}], "partly true"),
        ([{"checks": "elsewhere/*"}], "not tested"),
        ([], "not tested"),
        ([{"checks": "*/botorch-0.14.0/*"}], "not tested"),
        ([{"checks": "gpu-image/pyro-ppl-1.8.0/sample"}], "not tested"),
        ([{"checks": "stand-in/torch-installed/sample"}], "not tested"),
        ([{"checks": "stand-in/torch-installed/sample", "anywhere": True}], "true"),
        ([{"checks": "stand-in/torch-installed/sample", "anywhere": True, "gpu": True}], "not tested"),
        ([{"checks": PASSES, "gpu": True}], "true"),
        ([{"expects": "gpu-image/expects/torch"}], "true"),
        ([{"expects": "gpu-image/expects/captum"}], "false"),
        ([{"expects": "gpu-image/expects/*"}], "partly true"),
        ([{"exists": "gpu-image"}], "true"),
        ([{"exists": "stand-in"}], "not tested"),
        ([{"checks": PASSES, "metric": "ratio", "at_least": 5}], "not tested"),
    ],
    ids=str,
)
def test_verdict(tmp_path: Path, conditions: list[dict[str, Any]], wanted: str) -> None:
    """By passes, failures, expectations and existence; host trouble, skips and stand-ins answer nothing."""
    assert verdict(tmp_path, *conditions) == wanted


@pytest.mark.parametrize(("least", "most", "wanted"), [(5, 8, "true"), (None, 5, "false"), (7, None, "false")])
def test_metric_is_held_to_its_bounds(tmp_path: Path, least: float, most: float, wanted: str) -> None:
    """Both inclusive; a bound that is not given holds."""
    bounds = {name: value for name, value in (("at_least", least), ("at_most", most)) if value is not None}
    metrics = {"SVI: ratio": {"value": 6.0, "unit": "ratio"}}
    assert verdict(tmp_path, {"checks": PASSES, "metric": "ratio", **bounds}, metrics=metrics) == wanted


def test_note_bears_out_or_refutes(tmp_path: Path) -> None:
    """A probe that passes may well refute a claim."""
    condition = {"checks": PASSES, "true_note": "is True", "false_note": "is False"}
    assert verdict(tmp_path, condition, notes=["fullgraph is False"]) == "false"
    assert verdict(tmp_path, condition, notes=["fullgraph is True"]) == "true"
    assert verdict(tmp_path, condition, notes=["another"]) == "not tested"


def test_missing_image_makes_its_existence_false(tmp_path: Path) -> None:
    """That is an answer, not a want of one."""
    assert verdict(tmp_path, {"exists": "gpu-image"}, reason="image-not-found") == "false"


def test_import_on_a_gpu_machine_answers_for_a_gpu(tmp_path: Path) -> None:
    """It has no device of its own: its environment tells."""
    assert verdict(tmp_path, {"checks": "gpu-image/torch-installed/import", "gpu": True}) == "true"


@pytest.mark.parametrize("left", ["infra", "not-run"])
def test_part_without_an_answer_is_not_true(tmp_path: Path, left: str) -> None:
    """Passes beside checks that host trouble took are not the whole claim."""
    found = records()
    found[0]["plan"]["claims"] = [{"id": "X", "source": "s", "says": "c", "holds_if": [{"checks": PASSES[:-6] + "*"}]}]
    own = [record for record in found if str(record.get("check", "")).startswith(PASSES[:-6])]
    for record in own:
        record.update(verdict="pass", reason="")
    path = tmp_path / "journal.jsonl"
    assert judge(load(write(path, found)))[0].verdict == "true"
    next(record for record in own if record["check"] != PASSES).update(verdict=left, reason="registry-unreachable")
    assert judge(load(write(path, found)))[0].verdict == "partly true"


def test_page_shows_what_is_false_first(tmp_path: Path) -> None:
    """Beside the report, which links it; the JSON has it too."""
    found = records()
    found[0]["plan"]["claims"] = [
        {"id": name, "source": "s", "says": f"claim {name}", "holds_if": [{"checks": check}]}
        for name, check in (("A", PASSES), ("B", FAILS))
    ]
    report = compile_report(write(tmp_path / "journal.jsonl", found), tmp_path).path.read_text()
    page = (tmp_path / "claims.md").read_text()
    assert "1 false, 0 partly true, 1 true" in page
    assert page.index("claim B") < page.index("claim A")
    assert "wrong-moments" in page
    assert "see `claims.md` beside this report" in report
    assert '"verdict":"false"' in (tmp_path / "report.json").read_text()


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("claims:\n  - { id: A, source: s, says: c, holds_if: [{}] }", ":2:"),
        ("claims:\n  - { id: A, source: s, says: c, holds_if: [{ checks: a, exists: b }] }", "exactly one of"),
        ("claims:\n  - { id: A, source: s, says: c, holds_if: [{ checks: a, metric: m }] }", "needs `at_least`"),
        ("claims:\n  - { id: A, source: s, says: c, holds_if: [{ checks: a, true_note: '(' }] }", "no regular"),
        ("claims:\n  - { id: A, source: s, says: c, holdsif: [] }", "unknown key 'holdsif'; did you mean 'holds_if'?"),
        (
            "claims:\n  - { id: A, source: s, says: c, holds_if: [] }\n  - { id: A, source: s, says: c, holds_if: [] }",
            "id",
        ),
    ],
)
def test_mistake_has_its_place(tmp_path: Path, text: str, said: str) -> None:
    """File, line and column, and what is wrong."""
    path = tmp_path / "claims.yaml"
    path.write_text(text)
    with pytest.raises(MatrixError) as caught:
        claims.load(path)
    assert str(caught.value).startswith(f"{path}:")
    assert said in str(caught.value)


def test_shipped_claims_ask_for_what_the_shipped_matrix_has() -> None:
    """Every selector of claims.yaml takes in something of the matrix; every row of the articles is there."""
    shipped = matrix.load(ROOT / "matrix.yaml")
    plan = expand(shipped, "docker")
    local = expand(shipped, "local", ["*"])
    addresses = [check.address for part in (plan, local) for check in part.checks]
    addresses += [outcome.address for outcome in expected(plan.to_json(), [])]
    images = {image.name for image in plan.images}
    for claim in plan.claims:
        for condition in claim.get("holds_if", ()):
            text = condition.get("checks") or condition.get("expects")
            assert condition["exists"] in images if text is None else Selector(text).takes_any(addresses), text
    ids = [claim["id"] for claim in plan.claims]
    assert ids == [
        f"{letter}{n}" for letter, last in zip("ABCD", (11, 4, 8, 7), strict=True) for n in range(1, last + 1)
    ]
