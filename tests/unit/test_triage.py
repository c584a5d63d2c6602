"""`compat triage`: entries that cover what failed unexpectedly, and nothing else."""

from __future__ import annotations

import datetime as dt
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.support.journals import records, write
from torch_compat_matrix.compat import cli
from torch_compat_matrix.reports.table import load
from torch_compat_matrix.runner.advice import triage
from torch_compat_matrix.runner.judging import Judged, matching
from torch_compat_matrix.runner.matrix import load as matrix
from torch_compat_matrix.runner.model import Known, Verdict
from torch_compat_matrix.runner.outcome import Outcome

IMAGES = ("a", "b")
DAY = dt.date(2031, 1, 1)
FILE = """\
# a comment that must stay
images:
  a: { tag: "x/a:1" }   # and this
  b: { tag: "x/b:1" }
libraries:
  pyro-ppl:
    versions: ["1.9.1"]
  gpytorch: { versions: ["1.14"] }
"""


def outcome(check: str, verdict: str = "fail", reason: str = "wrong-value", detail: str = "it: is #wrong") -> Outcome:
    """What came of a check."""
    image, cell, probe = check.split("/")
    subject, _, version = cell.rpartition("-")
    return Outcome(
        check=check,
        image=image,
        subject=subject,
        version=version,
        probe=probe,
        verdict=Verdict(verdict),
        reason="" if verdict == "pass" else reason,
        detail="" if verdict == "pass" else detail,
    )


@given(
    st.dictionaries(
        st.sampled_from(
            [f"{image}/l-{version}/{probe}" for image in "ab" for version in "12" for probe in ("x", "y", "z")]
        ),
        st.sampled_from(
            [("pass", ""), ("fail", "one"), ("fail", "two"), ("crash", "segfault"), ("infra", "host-error")]
        ),
    )
)
def test_entries_cover_the_failures_and_nothing_else(seen: dict[str, tuple[str, str]]) -> None:
    """Whatever failed where: no surprise is left, and no check is expected to be what it was not."""
    everything = [outcome(check, *pair) for check, pair in seen.items()]
    failures = [one for one in everything if one.verdict.broken]
    found = triage.entries(failures, everything, IMAGES, DAY)
    for one in everything:
        known = matching(found, one)
        assert (known is not None) == one.verdict.broken
        if known is not None:
            assert (known.expect, known.code) == (one.verdict, one.reason)


def test_entries_are_few() -> None:
    """One for a library that fails in every image; one for a cell of which all probes fail alike."""
    everywhere = [outcome(f"{image}/l-1/sample") for image in "ab"] + [outcome("a/l-1/import", "pass")]
    assert [one.cells for one in triage.entries(everywhere[:2], everywhere, IMAGES, DAY)] == ["*/l-1/sample"]
    (one, _) = triage.entries(everywhere[:2], everywhere, (*IMAGES, "not run"), DAY)
    assert one.cells == "a/l-1/sample"
    cell = [outcome(f"a/l-1/{probe}") for probe in ("import", "sample")] + [outcome("b/l-1/sample", "pass")]
    assert [one.cells for one in triage.entries(cell[:2], cell, IMAGES, DAY)] == ["a/l-1"]


@pytest.mark.parametrize(
    "known",
    [
        "",
        "known: []\n",
        "known:\n  # why\n  - { cells: b/*, expect: fail, reason: r }\n\n# selections\nselections: { s: [a] }\n",
    ],
    ids=["none", "empty", "some"],
)
def test_written_into_the_file(tmp_path: Path, known: str) -> None:
    """Comments stay, what was there stays, the entries are read back as they are."""
    path = tmp_path / "matrix.yaml"
    path.write_text(FILE + known)
    before = matrix.load(path)
    failures = [outcome("a/pyro-ppl-1.9.1/sample"), outcome("a/gpytorch-1.14/import", detail="a \"quote\": 'x' {y}")]
    entries = triage.entries(failures, failures, IMAGES, DAY)
    triage.write(path, entries)
    after = matrix.load(path)
    text = path.read_text()
    assert "# a comment that must stay" in text
    assert "# and this" in text
    assert after.libraries == before.libraries
    assert after.selections == before.selections
    added = after.model_known()[len(before.known) :]
    assert [(one.cells, one.code, one.reason, one.expires) for one in added] == [
        (one.cells, one.code, one.reason, one.expires) for one in entries
    ]


def test_one_line_is_left_to_the_person(tmp_path: Path) -> None:
    """The file stays as it was."""
    path = tmp_path / "matrix.yaml"
    text = FILE + "known: [{ cells: b/*, expect: fail, reason: r }]\n"
    path.write_text(text)
    with pytest.raises(triage.CannotWrite, match="on one line"):
        triage.write(path, triage.entries([outcome("a/pyro-ppl-1.9.1/sample")], [], IMAGES, DAY))
    assert path.read_text() == text


def test_what_the_matrix_does_not_have_is_not_written(tmp_path: Path) -> None:
    """A run of another matrix: its entries would match nothing."""
    path = tmp_path / "matrix.yaml"
    path.write_text(FILE)
    with pytest.raises(triage.CannotWrite, match="matches no check"):
        triage.write(path, triage.entries([outcome("a/captum-0.8.0/sample")], [], IMAGES, DAY))
    assert path.read_text() == FILE
    assert [one.name for one in tmp_path.iterdir()] == ["matrix.yaml"]


def test_verb(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    """Printed as YAML; with the entries in the run's plan no failure surprises any more."""
    monkeypatch.setenv("COMPAT_HOME", str(tmp_path))
    found: list[dict[str, Any]] = records()
    journal = write(tmp_path / "runs" / found[0]["run"] / "journal.jsonl", found)
    assert cli.main(["triage"]) == 0
    said = capsys.readouterr().out
    assert "known:\n  - cells:" in said
    assert "gpu-image/torchbnn-1.2/compile passes now: remove" in said
    table = load(journal)
    failures = [one.outcome for one in table.surprises if one.surprise == "unexpected failure"]
    entries = triage.entries(failures, table.outcomes.values(), (), DAY)
    found[0]["plan"]["known"] += [one.to_json() for one in entries]
    left: tuple[Judged, ...] = load(write(journal, found)).surprises
    assert "unexpected failure" not in {one.surprise for one in left}
    assert all(isinstance(one, Known) for one in entries)


def test_entry_that_expects_something_else(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """It decides, whatever is added behind it: so it is named, and nothing is added."""
    monkeypatch.setenv("COMPAT_HOME", str(tmp_path))
    found: list[dict[str, Any]] = records()
    path = tmp_path / "runs" / found[0]["run"] / "journal.jsonl"
    failures = [one.outcome for one in load(write(path, found)).surprises if one.surprise == "unexpected failure"]
    wrong = failures[0]
    alike = [one.check for one in failures if (one.verdict, one.reason) == (wrong.verdict, wrong.reason)]
    other = Known(cells="", expect=Verdict.TIMEOUT, reason="slow", place="m.yaml:9:5")
    found[0]["plan"]["known"][:0] = [replace(other, cells=check).to_json() for check in alike]
    write(path, found)
    assert cli.main(["triage"]) == 0
    comments, _, entries = capsys.readouterr().out.partition("known:\n")
    assert (
        f"# m.yaml:9:5: {wrong.check} has the verdict {wrong.verdict.value} ({wrong.reason}): change the entry"
        in comments
    )
    assert f"{len(failures)} unexpected failures" in comments
    assert entries
    assert f"code: {wrong.reason}\n" not in entries
