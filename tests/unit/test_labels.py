"""Labels, owners and restrictions: which cells there are, and the words that select them."""

from __future__ import annotations

from pathlib import Path

import pytest

from torch_compat_matrix.runner.matrix.document import MatrixError
from torch_compat_matrix.runner.matrix.expand import expand
from torch_compat_matrix.runner.matrix.load import load
from torch_compat_matrix.runner.model import Plan, Verdict
from torch_compat_matrix.runner.outcome import Outcome
from torch_compat_matrix.runner.selector import Selector, address, first

MATRIX = """images:
  old: { tag: "a:1", labels: [nightly], owner: platform, libraries: [captum, "label:bayes"] }
  new: { tag: "a:2" }
libraries:
  captum: { versions: ["0.8.0"] }
  pyro-ppl: { versions: ["1.9.1"], labels: [bayes], owner: ann, images: [%s] }
  torchbnn: { versions: ["1.2"] }
stacks:
  both: { requires: ["pyro-ppl==1.9.1", "torchbnn==1.2"], labels: [bayes], images: [old] }
include:
  - { images: "label:nightly", library: torchbnn, versions: ["1.1"] }
"""


def cells(folder: Path, *selectors: str, images: str = "old, new") -> list[str]:
    """The ids of the selected cells of that matrix."""
    (folder / "matrix.yaml").write_text(MATRIX % images)
    return [cell.id for cell in expand(load(folder / "matrix.yaml"), "docker", selectors).cells]


def test_images_and_libraries_may_admit_only_some_of_each_other(tmp_path: Path) -> None:
    """What `include:` names is there all the same."""
    assert cells(tmp_path, images="label:night*") == [
        "old/captum-0.8.0",
        "old/pyro-ppl-1.9.1",
        "old/torchbnn-1.1",
        "old/both-stack",
        "new/captum-0.8.0",
        "new/torchbnn-1.2",
    ]


@pytest.mark.parametrize(
    ("selector", "selected"),
    [
        ("label:bayes", ["old/pyro-ppl-1.9.1", "old/both-stack", "new/pyro-ppl-1.9.1"]),
        ("label:nightly/captum", ["old/captum-0.8.0"]),
        ("new/label:bayes", ["new/pyro-ppl-1.9.1"]),
        ("label:nightly/label:b*/sample", ["old/pyro-ppl-1.9.1", "old/both-stack"]),
    ],
)
def test_a_label_stands_for_image_or_library(tmp_path: Path, selector: str, selected: list[str]) -> None:
    """In place of either, as a glob, beside any other part."""
    assert cells(tmp_path, selector) == selected


@pytest.mark.parametrize("selector", ["label:bay", "bayes", "label:", "*bayes", "label:bayes/captum", "a/b/*bayes*"])
def test_a_label_is_no_name_and_no_part_of_one(selector: str) -> None:
    """Whole words only; no glob over names reaches it."""
    where = address("a/b-1/sample", "b", ("bayes", "nightly"))
    assert not Selector(selector).takes(where)
    assert first([selector, "label:nightly"], where) == 1


def test_without_labels_addresses_and_selectors_are_what_they_were() -> None:
    """A glob takes in a labelled check as it does any other."""
    labelled, plain = address("a/b-1/sample", "b", ("x",)), address("a/b-1/sample", "b")
    assert plain == "a/b/b-1/sample"
    for selector in ("a", "b", "a/b-1/sample", "b/sample", "*/*/s?mpl[!x]", "*"):
        assert Selector(selector).takes(labelled) and Selector(selector).takes(plain)


@pytest.mark.parametrize(
    ("old", "new", "said"),
    [
        ("[old]", "[odl]", "6:74: matches no image; did you mean 'old'?"),
        ("[captum,", "[captun,", "2:70: matches no library; did you mean 'captum'?"),
        ("[captum,", "[old,", "2:70: matches no library"),
        ("label:nightly", "label:nightli", "11:7: matches no image; did you mean 'label:nightly'?"),
    ],
)
def test_a_restriction_that_names_nothing_is_a_mistake(tmp_path: Path, old: str, new: str, said: str) -> None:
    """With its place."""
    (tmp_path / "matrix.yaml").write_text((MATRIX % "old").replace(old, new))
    with pytest.raises(MatrixError) as raised:
        load(tmp_path / "matrix.yaml")
    assert said in str(raised.value)


def test_labels_and_owners_go_with_the_plan_and_the_outcomes(tmp_path: Path) -> None:
    """A library's owner goes before its image's."""
    (tmp_path / "matrix.yaml").write_text(MATRIX % "old")
    plan = expand(load(tmp_path / "matrix.yaml"), "docker", ["old/captum", "old/pyro-ppl"])
    assert [(cell.labels, cell.owner) for cell in plan.cells] == [
        (("nightly",), "platform"),
        (("nightly", "bayes"), "ann"),
    ]
    assert Plan.from_json(plan.to_json()) == plan
    outcome = Outcome(
        check="a/b-1/import",
        image="a",
        subject="b",
        version="1",
        probe="import",
        verdict=Verdict.FAIL,
        labels=("bayes",),
        owner="ann",
    )
    assert Outcome.from_json(outcome.to_json()) == outcome
    assert Selector("label:bayes").takes(outcome.address)
