"""New releases find us: what was published since the last run, and how the report tells of it."""

from __future__ import annotations

import datetime as dt
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest

from tests.support.indexes import Index, json_index
from tests.support.tinywheels import wheel
from torch_compat_matrix.compat.cli import main
from torch_compat_matrix.reports.write import compile_report
from torch_compat_matrix.runner.model import Verdict, utc_now
from torch_compat_matrix.runner.outcome import Outcome
from torch_compat_matrix.runner.planning import Release, appeared, narrowed, plan_from
from torch_compat_matrix.runner.records.journal import append
from torch_compat_matrix.runner.records.runs import Run

MATRIX = """
images: { one: { local: { python: "3.11", requires: [torch] } }, two: { local: { python: "3.11", requires: [torch] } } }
probes: [import]
libraries: { torchbnn: { versions: [">=1.1", latest] } }
"""


@pytest.fixture
def index(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Index]:
    """An index of two releases, for a matrix in this folder."""
    (tmp_path / "matrix.yaml").write_text(MATRIX)
    monkeypatch.chdir(tmp_path)
    with json_index() as index:
        for name in ("PIP_INDEX_URL", "UV_INDEX_URL", "UV_DEFAULT_INDEX"):
            monkeypatch.setenv(name, index.url)
        monkeypatch.setenv("NO_PROXY", "127.0.0.1")
        for name in ("PIP_EXTRA_INDEX_URL", "PIP_FIND_LINKS", "UV_FIND_LINKS", "UV_INDEX"):
            monkeypatch.delenv(name, raising=False)
        monkeypatch.setenv("PIP_CONFIG_FILE", "/dev/null")
        monkeypatch.setenv("COMPAT_HOME", str(tmp_path / "home"))
        for number in (1, 2):
            index.add(wheel(tmp_path / "wheels", "torchbnn", f"1.{number}"), f"2026-0{number}-15")
        yield index


def night(home: Path, newest: str, *command: str, broken: tuple[str, ...] = ()) -> str:
    """A run of the plan of now, of which these cells fail; the headline of its report."""
    plan = plan_from(Path("matrix.yaml"), backend="local")
    run = Run(home / "runs" / f"20300101T00000{len(Run.all(home))}000-abcd")
    run.folder.mkdir(parents=True)
    header = {"kind": "run", "run": run.id, "started": utc_now(), "backend": "local", "plan": plan.to_json()}
    append(run.journal, {**header, "command": ["compat", "run", *command], "settings": {}, "host": {}, "version": "0"})
    for cell in plan.cells:
        outcome = Outcome(
            check=f"{cell.id}/import",
            image=cell.image,
            subject=cell.subject,
            version=cell.version,
            probe="import",
            verdict=Verdict.FAIL if cell.id in broken else Verdict.PASS,
            reason="import-failed" if cell.id in broken else "",
            installed=newest if cell.version == "latest" else cell.version,
        )
        append(run.journal, {"kind": "outcome", **outcome.to_json()})
    run.finish("complete")
    return compile_report(run.journal, run.folder).summary


def test_a_release_is_noticed_run_and_reported(
    tmp_path: Path, index: Index, capsys: pytest.CaptureFixture[str]
) -> None:
    """By a range and by `latest`; the first run has nothing to compare with, and a quiet day has no news."""
    assert "appeared" not in night(tmp_path / "home", "1.2")
    assert main(["outdated", "--backend", "local"]) == 0
    assert "nothing new since the last runs in" in capsys.readouterr().out
    assert main(["run", "--backend", "local", "--new"]) == 0
    assert "nothing new to run" in capsys.readouterr().err
    assert "appeared" not in night(tmp_path / "home", "1.2")

    today = dt.datetime.now(dt.timezone.utc).date().isoformat()
    index.add(wheel(tmp_path / "wheels", "torchbnn", "1.3"), today)
    assert main(["outdated", "--backend", "local"]) == 1
    assert capsys.readouterr().out == f"torchbnn 1.3, published {today}: not run yet in one, two\n"
    assert main(["plan", "--backend", "local", "--new", "--json"]) == 0
    said = capsys.readouterr().out
    assert ["1.2" in said, "1.3" in said, '"latest"' in said] == [True, True, True]  # 1.2: what the range takes

    said = night(tmp_path / "home", "1.3", broken=("two/torchbnn-1.3",))
    assert "torchbnn 1.3 appeared: works in 3 of 4 images." in said
    assert main(["outdated", "--backend", "local"]) == 0
    assert "appeared" not in night(tmp_path / "home", "1.3")


def test_an_old_release_that_cannot_be_taken_is_no_news(
    tmp_path: Path, index: Index, capsys: pytest.CaptureFixture[str]
) -> None:
    """`latest` that an image cannot install is older than the run: it would be told every day."""
    night(tmp_path / "home", "1.1")
    assert main(["outdated", "--backend", "local"]) == 0
    assert "nothing new" in capsys.readouterr().out


def test_a_new_tag_of_an_image_is_news(index: Index) -> None:
    """With every cell of its."""
    plan = plan_from(Path("matrix.yaml"), backend="local")
    (cell,) = (replace(cell, image="train-24.1") for cell in plan.cells[:1])
    tagged = replace(plan, cells=(cell,), taken={"train registry/train:24.*": ("24.1",)})
    assert appeared(tagged) == {cell.id: Release("train", "24.1", "")}
    assert narrowed(tagged, appeared(plan)).cells == ()
