"""Fingerprints: what is a difference, which checks are compared, and what comes of one."""

from __future__ import annotations

import json
import math
from dataclasses import replace
from pathlib import Path
from typing import Any

import jsonschema
import pytest

from tests.support import ROOT, journals
from torch_compat_matrix.compat.cli import main
from torch_compat_matrix.probes.channel import BadAnswer
from torch_compat_matrix.probes.contract import Answer
from torch_compat_matrix.probes.worker import checked
from torch_compat_matrix.reports.changes import compare as changes_of
from torch_compat_matrix.reports.markdown import markdown
from torch_compat_matrix.reports.table import load
from torch_compat_matrix.reports.write import json_text
from torch_compat_matrix.runner.execution.recorder import Recorder
from torch_compat_matrix.runner.matrix.document import MatrixError
from torch_compat_matrix.runner.matrix.expand import all_cells
from torch_compat_matrix.runner.matrix.load import load as read
from torch_compat_matrix.runner.model import STRICT, Cell, Verdict
from torch_compat_matrix.runner.numerics import amount, compare, difference
from torch_compat_matrix.runner.outcome import Outcome
from torch_compat_matrix.runner.records import history
from torch_compat_matrix.runner.records.journal import Journal
from torch_compat_matrix.runner.records.shapes import outcome as outcome_of

PATH = "integrated gradients: IntegratedGradients"


def numbers(*values: float, dtype: str = "float32", shape: tuple[int, ...] = (3,)) -> dict[str, Any]:
    """A result of a fingerprint."""
    return {"dtype": dtype, "shape": list(shape), "values": list(values)}


def outcome(check: str = "torch-2.13/captum-0.9.0/autograd", *values: float, **more: Any) -> Outcome:
    """A pass with one result."""
    image, cell, probe = check.split("/")
    subject, _, version = cell.rpartition("-")
    said = {"verdict": Verdict.PASS, "numerics": {PATH: numbers(*values or (1.0, 2.0, 4.0))}, **more}
    return Outcome(check=check, image=image, subject=subject, version=version, probe=probe, **said)


@pytest.mark.parametrize(
    ("then", "now", "by", "said"),
    [
        (numbers(1, 2, 4), numbers(1, 2, 4), 0, ""),
        (numbers(1, 2, 4), numbers(1, 2, 4.00001), 2.5e-6, ""),
        (numbers(1, 2, 4), numbers(1, 2, 4.2), 0.2 / 4.2, "differs by 4.8 %"),
        (numbers(1e-6, 2e-6), numbers(1e-6, 2.1e-6), 0.1 / 2.1, "differs by 4.8 %"),  # small ones are not all the same
        (numbers(1, 2, dtype="float64"), numbers(1, 2.00001, dtype="float64"), 5e-6, "differs by 5e-6"),
        (numbers(1, 2, dtype="bfloat16"), numbers(1, 2.015625, dtype="bfloat16"), 0.0078, ""),
        (numbers(3, dtype="int64"), numbers(4, dtype="int64"), 0.25, "differs by 25 %"),
        (numbers(1, dtype="float64"), numbers(1), 0, "is float32, not float64"),
        (numbers(1, shape=(1,)), numbers(1, shape=(1, 1)), 0, "has the shape [1, 1], not [1]"),
        (numbers(-1e308), numbers(1e308), 2, "differs by 2e+02 %"),
        (numbers(0, 0), numbers(0, 0), 0, ""),
        (numbers(), numbers(1), 0, ""),
    ],
)
def test_difference_is_what_leaves_the_band_of_the_dtype(
    then: dict[str, Any], now: dict[str, Any], by: float, said: str
) -> None:
    """In units of the result's largest number; integers are exact, another dtype or shape is told as it is."""
    seen, words = difference(then, now)
    assert words == said
    assert seen == pytest.approx(by, rel=0.02, abs=1e-12)


def test_amounts_are_said_as_a_person_says_them() -> None:
    """Percents where there are some."""
    assert [amount(share) for share in (0.05, 0.00123, 2e-6, 3.2e-12)] == ["5 %", "0.12 %", "2e-6", "3e-12"]


def test_sides_are_paired_by_what_they_have_in_common() -> None:
    """Cells, versions over images, images, and single cells; other libraries and probes are nobody's neighbours."""
    images = [outcome(f"{image}/captum-{version}/autograd") for image in ("a", "b") for version in ("0.8", "0.9")]
    other = outcome("a/gpytorch-0.8/autograd")

    def cells(before: list[Outcome], after: list[Outcome]) -> list[tuple[str, str]]:
        return [(found.before, found.after) for found in compare(before, after)]

    assert cells(images[:1], images[1:2]) == [("a/captum-0.8", "a/captum-0.9")]
    assert cells(images[::2], images[1::2]) == [("a/captum-0.8", "a/captum-0.9"), ("b/captum-0.8", "b/captum-0.9")]
    assert cells(images[:2], images[2:]) == [("a/captum-0.8", "b/captum-0.8"), ("a/captum-0.9", "b/captum-0.9")]
    assert cells(images[:1], images[2:]) == [("a/captum-0.8", "b/captum-0.8")]
    assert cells(images, images) == [(one.cell, one.cell) for one in images]
    assert cells([other], images) == []
    assert cells([replace(images[0], numerics={})], images) == []


def test_sentence_names_the_largest_difference_and_the_rest() -> None:
    """In words that a report and a terminal share."""
    before = outcome(numerics={"p: a": numbers(1, 2), "p: b": numbers(1, 2), "p: c": numbers(1)}, probed_by="x")
    after = replace(before, numerics={"p: a": numbers(1, 2.1), "p: b": numbers(1, 2.00001)}, probed_by="x")
    (found,) = compare([before], [after])
    assert found.sentence == "autograd: p: a differs by 4.8 %; the other 1 within 5e-6"
    (found,) = compare([before], [replace(after, probed_by="y")])
    assert found.sentence.endswith("(other probes took these numbers: the difference may be theirs)")
    (found,) = compare([before], [before])
    assert found.sentence == "3 results exactly the same"


@pytest.mark.parametrize(
    "numerics",
    [
        {"a": numbers(math.nan)},
        {"a": numbers(math.inf)},
        {"a": numbers(*range(65))},
        {"a": numbers(1, shape=tuple(range(65)))},
        {str(name): numbers(1) for name in range(65)},
        {"a": {"dtype": 1, "shape": [], "values": []}},
        {"a": {"dtype": "float32", "shape": [1], "values": "1"}},
        {"a": {"dtype": "float32", "shape": [1.5], "values": [1]}},
        {"a": [1.0]},
        [1.0],
    ],
)
def test_hostile_numbers_stop_at_both_doors(numerics: Any, tmp_path: Path) -> None:
    """The probe host refuses the answer; of a record of another hand the result is lost, or the record."""
    answer: Any = {"kind": "result", "status": "passed", "seconds": 1.0}
    assert "numerics" in Answer.__annotations__
    assert checked({**answer, "numerics": {"a": numbers(1)}})
    with pytest.raises(BadAnswer):
        checked({**answer, "numerics": numerics})
    path = tmp_path / "journal.jsonl"
    path.write_text(json.dumps({"kind": "outcome", **outcome().to_json(), "numerics": numerics}) + "\n")
    read = [outcome_of(record) for record in Journal(path)]
    kept = {name: values for one in read for name, values in one.numerics.items()}
    assert compare([outcome(numerics=kept)], [outcome(numerics=kept)]) in ([], compare(read, read))


CELL = Cell(image="torch-2.13", subject="captum", version="0.9.0", requires=(), members=("captum",))


@pytest.mark.parametrize(
    ("cell", "key", "probed", "verdict"),
    [
        (CELL, "other", True, Verdict.PASS),
        (CELL, "same", True, Verdict.FAIL),
        (replace(CELL, numerics=STRICT), "other", True, Verdict.FAIL),
        (replace(CELL, numerics=STRICT), "other", False, Verdict.PASS),
    ],
)
def test_a_change_is_noted_and_fails_where_nothing_changed_or_the_matrix_is_strict(
    tmp_path: Path, cell: Cell, key: str, probed: bool, verdict: Verdict
) -> None:
    """Not where the probes are others than those that took the numbers before."""

    def recorded(now: Outcome, before: Outcome | None) -> Outcome:
        found: list[Outcome] = []
        recorder = Recorder(
            journal=tmp_path / "RUN" / "journal.jsonl",
            backend="local",
            listen=found.append,
            cells={cell.id: cell},
            earlier=lambda outcome: ("20260801", before) if before else None,
        )
        recorder.journal.parent.mkdir(exist_ok=True)
        recorder.know({now.check: "same"})
        recorder.outcomes([now])
        return found[-1]

    first = recorded(outcome(environment="e"), None)
    assert (first.verdict, first.notes, bool(first.probed_by)) == (Verdict.PASS, (), True)
    before = replace(first, key=key, probed_by=first.probed_by if probed else "others")
    assert recorded(outcome(environment="e"), before) == first
    second = recorded(outcome(CELL.id + "/autograd", 1.0, 2.0, 4.2, environment="e"), before)
    said = f"autograd: {PATH} differs by 4.8 %"
    assert second.verdict is verdict
    if verdict is Verdict.PASS:
        assert second.notes[0].startswith(f"computes differently than in run 20260801: {said}")
    else:
        assert (second.reason, second.blame, second.evidence) == ("wrong-value", "unknown", said)


@pytest.mark.parametrize(
    ("everywhere", "own", "cells"), [("noted", "", "noted"), ("strict", "", "strict"), ("strict", "noted", "noted")]
)
def test_matrix_says_what_a_change_is(tmp_path: Path, everywhere: str, own: str, cells: str) -> None:
    """For the whole file, or for a library."""
    matrix = tmp_path / "matrix.yaml"
    said = f", numerics: {own}" if own else ""
    matrix.write_text(
        f"numerics: {everywhere}\nimages: {{ small: {{ tag: 'x:1' }} }}\n"
        f"libraries: {{ captum: {{ versions: ['0.9.0']{said} }} }}\n"
    )
    assert {cell.numerics for cell in all_cells(read(matrix))} == {cells}
    matrix.write_text(matrix.read_text().replace(f"numerics: {everywhere}", "numerics: loose"))
    with pytest.raises(MatrixError, match="there are: noted, strict"):
        read(matrix)


def test_the_reference_is_the_last_pass_with_numbers(tmp_path: Path) -> None:
    """Of an earlier run, of such a device, and not reused; one under the same key goes before the last."""
    plain = outcome(environment="e", device_name="CPU")
    others = [replace(plain, numerics={}), replace(plain, verdict=Verdict.FAIL), replace(plain, device_name="GPU")]
    runs = [replace(plain, key="mine"), plain, *others, replace(plain, reused="1")]
    for number, each in enumerate(runs):
        record = {**journals.records()[0], "run": str(number), "backend": "local"}
        journals.write(
            tmp_path / "runs" / str(number) / "journal.jsonl",
            [record, {"kind": "outcome", **each.to_json()}],
            torn=False,
        )
    history.sync(tmp_path)

    def reference(run: str, **more: Any) -> Any:
        found = history.comparable(tmp_path, run, more.pop("backend", "local"), replace(plain, **more))
        return found and found[0]

    assert reference("9") == "1"
    assert reference("9", key="mine") == "0"
    assert reference("1") == "0"
    assert reference("0") is None
    assert reference("9", device_name="GPU") == "4"
    assert reference("9", backend="docker") is None


def with_numbers(path: Path, run: str, factor: float) -> Path:
    """A journal whose torchbnn cells computed something, that of the stand-in other numbers."""
    found = journals.records()
    found[0]["run"] = run
    for record in found:
        if "/torchbnn-" in record.get("check", "") and record["probe"] == "autograd":
            here = factor if record["image"] == "stand-in" else 1.0
            values = {PATH: numbers(1, 2, 4 * here), "sum": numbers(5)}
            record.update(verdict="pass", reason="", attempts=[], flaky=False, numerics=values)
    return journals.write(path / "runs" / run / "journal.jsonl", found, torn=False)


def test_report_has_a_section_of_what_computes_differently(tmp_path: Path) -> None:
    """Between the images of a run and since its baseline, in Markdown and in JSON; without numbers there is none."""
    before, after = (load(with_numbers(tmp_path, run, by)) for run, by in (("20260101", 1.0), ("20260102", 1.05)))
    changes = changes_of(before, after)
    page = markdown(after, changes)
    section = page.partition("## What computes differently\n")[2].partition("\n## ")[0]
    said = f"autograd: {PATH} differs by 4.8 %; the other 1 exactly the same"
    assert f"- gpu-image/torchbnn-1.2 -> stand-in/torchbnn-1.2: {said}" in section
    assert f"- stand-in/torchbnn-1.2, since 20260101: {said}" in section
    assert "- 1 comparison without a difference: 2 results exactly the same" in section
    (row,) = json.loads("".join(json_text(after, changes)))["numerics"]
    assert (row["before"], row["after"], row["results"]) == ("gpu-image/torchbnn-1.2", "stand-in/torchbnn-1.2", 2)
    assert "What computes differently" not in markdown(load(journals.write(tmp_path / "j", journals.records())), None)


def test_verb_takes_cells_images_and_runs(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """A difference is no failure; what has no numbers is told with the remedy."""
    monkeypatch.setenv("COMPAT_HOME", str(tmp_path))
    for run, factor in (("20260101", 1.0), ("20260102", 1.05)):
        with_numbers(tmp_path, run, factor)

    def said(*words: str, status: int = 0) -> str:
        capsys.readouterr()
        assert main(["numerics", *words]) == status
        streams = capsys.readouterr()
        return streams.out if status == 0 else streams.err

    difference = f"  autograd: {PATH} differs by 4.8 %\n  the other 1: exactly the same\n"
    two = "gpu-image/torchbnn-1.2 -> stand-in/torchbnn-1.2: 1 of 2 differ\n"
    assert said("gpu-image", "stand-in") == two + difference
    assert said("gpu-image/torchbnn-1.2", "stand-in/torchbnn-1.2/autograd") == two + difference
    cells = "stand-in/torchbnn-1.2 -> stand-in/torchbnn-1.2: 1 of 2 differ\n" + difference
    alike = "gpu-image/torchbnn-1.2 -> gpu-image/torchbnn-1.2: 2 results exactly the same\n"
    assert said("20260101", "latest") == cells + alike
    answer = json.loads(said("20260101", "latest", "--json"))
    schema = json.loads((ROOT / "docs" / "schemas" / "numerics.json").read_text())
    jsonschema.Draft202012Validator(schema).validate(answer)
    assert [len(row["differing"]) for row in answer["comparisons"]] == [1, 0]
    assert "20260199" in said("20260199", "latest", status=3)
    assert "`compat run gpu-image/captum --rerun` records them" in said("gpu-image/captum", "stand-in", status=3)
