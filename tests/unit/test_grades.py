"""Grades: how much a cell shows, and whose failure it is."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from tests.support.journals import records, write
from torch_compat_matrix.reports.grades import Grade, grades
from torch_compat_matrix.reports.markdown import markdown
from torch_compat_matrix.reports.notes import Note, number
from torch_compat_matrix.reports.table import Table, load


def table(tmp_path: Path, change: dict[str, dict[str, Any]], gpu: bool = True) -> Table:
    """The small journal's table with these fields in some outcomes."""
    found = records(gpu=gpu)
    for record in found:
        record.update(change.get(record.get("check", ""), {}))
    return load(write(tmp_path / "journal.jsonl", found))


def graded(found: Table) -> dict[str, Grade]:
    """The grades by cell."""
    return {f"{grade.image}/{grade.subject}-{grade.version}": grade for grade in grades(found)}


def test_cell_works_on_the_device_that_the_matrix_asks_for(tmp_path: Path) -> None:
    """A pass on the CPU is none where the run has a GPU; without one it is."""
    found = graded(table(tmp_path, {}))
    assert found["gpu-image/torch-installed"].works
    assert found["gpu-image/torch-installed"].shows == ("imported", "ran", "gradients", "compiled")
    assert found["gpu-image/gpytorch-1.14"].shows == ("imported", "ran")
    assert not found["gpu-image/gpytorch-1.14"].works
    assert not found["stand-in/torch-installed"].works
    assert found["stand-in/torch-installed"].stand_in
    assert not found["gpu-image/torchbnn-1.2"].works, "it is flaky"
    assert graded(table(tmp_path, {}, gpu=False))["stand-in/torch-installed"].works


def test_superficial_pass_is_told(tmp_path: Path) -> None:
    """By a generic probe."""
    found = graded(table(tmp_path, {"gpu-image/torch-installed/sample": {"grade": "superficial"}}))
    assert found["gpu-image/torch-installed"].superficial


def test_cell_is_blocked_by_the_library_in_whose_code_it_fails(tmp_path: Path) -> None:
    """Where that has a failing cell of its own in the image: else nobody is blocked."""
    by_gpytorch, by_torch = {"names": {"raiser": "GPyTorch 1.14"}}, {"names": {"raiser": "torch 2.6.0"}}
    own = {"gpu-image/gpytorch-1.14/autograd": by_gpytorch}
    inside = {"gpu-image/captum-0.8.0/import": by_gpytorch, "gpu-image/captum-0.8.0/sample": by_torch}
    found = table(tmp_path, {**own, **inside})
    assert found.blocked == {"gpu-image/captum-0.8.0/import": "gpytorch"}
    assert graded(found)["gpu-image/captum-0.8.0"].blocked_by == "gpytorch"
    (note,) = [note for note in number(found) if "gpu-image/captum-0.8.0/import" in checks(note)]
    assert checks(note)[0] == "gpu-image/gpytorch-1.14/autograd", "it counts under it"
    report = markdown(found, None)
    assert "   - blocked by gpytorch: captum 0.8.0 in gpu-image\n" in report
    assert "| 🚫🚫🚫🚫 blocked by gpytorch<sup>" in report


def checks(note: Note) -> list[str]:
    """The checks of a note."""
    return [judged.outcome.check for judged in note.members]
