"""The product's resolutions are pip's: the same class of answer, the same versions."""

from __future__ import annotations

import os
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.pip.answers import ask_pip, ask_product, count_equal, environment
from tests.pip.pairs import Pair, offer, read_pairs
from tests.support import ROOT
from tests.support.environments import HOME
from torch_compat_matrix.runner.packages.pip_config import Index

PAIRS = [
    pytest.param(pair, marks=[pytest.mark.slow, *([pytest.mark.share] if pair.share else [])], id=pair.id)
    for pair in read_pairs()
]


@pytest.fixture(scope="session")
def session(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder for the offered distributions, and for the product's memory: shared by all pairs, as in a run."""
    return tmp_path_factory.mktemp("pip")


@pytest.mark.parametrize("pair", PAIRS)
def test_resolution_is_pips(
    pair: Pair, session: Path, tmp_path: Path, record_property: Callable[[str, object], None]
) -> None:
    """Class and versions agree, or pairs.yaml says why they do not."""
    python, facts = environment(pair.environment, HOME / "pip")
    requires, variables = pair.write(tmp_path, offer(session / "offered"))
    kept = HOME / "pip" / "answers" / time.strftime("%Y-%m-%d") / f"{pair.key}.json"
    pip = ask_pip(python, requires, variables, facts, kept, session)
    index = Index.from_pip({**os.environ, **variables})
    product = ask_product(requires, facts, index, session)
    equal, of = count_equal(pip, product)
    record_property("agreement", [pip.kind == product.kind, equal, of, pair.differs])
    if pair.differs:
        assert (pip.kind, equal) != (product.kind, of), "the answers agree: take out `differs` of pairs.yaml"
        return
    versions = sorted({*pip.versions.items()} ^ {*product.versions.items()}) if pip.kind == product.kind else []
    said = f"pip: {pip.kind} {dict(pip.versions)} {pip.text[-400:]}\nproduct: {product.kind} {product.text[:400]}"
    assert (pip.kind, []) == (product.kind, versions), said


def test_accepted_differences_are_explained() -> None:
    """Each difference that pairs.yaml accepts stands in the documentation, word for word."""
    page = " ".join((ROOT / "docs" / "pip-agreement.md").read_text().split())
    assert [pair.id for pair in read_pairs() if " ".join(pair.differs.split()) not in page] == []
