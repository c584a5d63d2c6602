"""First suspects: what is new against the nearest cell that passes stands beside a failure that blames nobody."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest

from tests.support.journals import records, write
from torch_compat_matrix.compat import cli
from torch_compat_matrix.reports.ending import ending
from torch_compat_matrix.reports.write import compile_report
from torch_compat_matrix.runner.model import Verdict
from torch_compat_matrix.runner.outcome import Outcome
from torch_compat_matrix.runner.records import history
from torch_compat_matrix.runner.records.journal import append
from torch_compat_matrix.runner.records.runs import Run
from torch_compat_matrix.runner.workflow import conclude

IMAGE = {"torch": "2.13.0", "numpy": "2.4.6"}
CHECK = "stand-in/gpytorch-1.14/sample"
FAILS = Outcome(
    check=CHECK,
    image="stand-in",
    subject="gpytorch",
    version="1.14",
    probe="sample",
    verdict=Verdict.FAIL,
    reason="unclassified",
    detail="No rule names this failure",
    evidence="KeyError: 'x'",
    blame="unknown",
    environment="e",
    resolved=("gpytorch==1.14", "numpy==2.5.0", "scipy==1.17"),
)
PASSES = replace(
    FAILS, verdict=Verdict.PASS, reason="", detail="", evidence="", blame="", resolved=("gpytorch==1.14", "scipy==1.17")
)


@pytest.fixture(autouse=True)
def _in_a_home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("COMPAT_HOME", str(tmp_path))
    monkeypatch.chdir(tmp_path)


def run(home: Path, name: str, *outcomes: Outcome, packages: dict[str, str] = IMAGE) -> Run:
    """A run with these outcomes in an image with these packages."""
    made = Run(home / "runs" / name)
    header = {**records()[0], "run": name}
    facts = {"python": "3.11.7", "packages": packages, "gpus": []}
    environment = {"kind": "environment", "key": "e", "image": "stand-in", "reference": "i:1", "facts": facts}
    write(made.journal, [header, environment], torn=False)
    append(made.journal, *({"kind": "outcome", **outcome.to_json()} for outcome in outcomes))
    return made


def guess_of(run: Run, check: str = CHECK) -> str:
    """What the run's end says of a check."""
    conclude(run, "complete")
    return run.outcomes()[check].guess


def test_a_guess_names_what_is_new_against_another_version(tmp_path: Path) -> None:
    """Of the same run; the nearest cell is the one that differs least."""
    older = replace(
        PASSES, check="stand-in/gpytorch-1.13/sample", version="1.13", resolved=("gpytorch==1.13", "scipy==1.17")
    )
    far = replace(older, check="stand-in/gpytorch-1.0/sample", resolved=("gpytorch==1.0", "scipy==1.0", "numpy==1.26"))
    guess = guess_of(run(tmp_path, "20300102T000000-0000", FAILS, far, older))
    assert guess == "guess: gpytorch 1.14, numpy 2.5.0 are new against stand-in/gpytorch-1.13, which passes"


def test_an_earlier_run_is_nearer_where_less_is_new(tmp_path: Path) -> None:
    """And a pass by another probe, or of another library, says nothing."""
    run(tmp_path, "20300101T000000-0000", PASSES, replace(PASSES, check="stand-in/x-1/sample", subject="x"))
    history.sync(tmp_path)
    guess = guess_of(run(tmp_path, "20300102T000000-0000", FAILS, replace(PASSES, probe="import", check=CHECK + "x")))
    assert guess == (
        "guess: numpy 2.5.0 is new against stand-in/gpytorch-1.14, which passed in run 20300101T000000-0000"
    )


def test_nothing_new_is_said_too(tmp_path: Path) -> None:
    """Then the packages are not to blame."""
    run(tmp_path, "20300101T000000-0000", replace(PASSES, resolved=FAILS.resolved))
    history.sync(tmp_path)
    assert guess_of(run(tmp_path, "20300102T000000-0000", FAILS)).startswith("guess: nothing is new against")


@pytest.mark.parametrize("outcome", [replace(FAILS, blame="library"), PASSES])
def test_no_guess_where_somebody_is_blamed_or_nothing_failed(tmp_path: Path, outcome: Outcome) -> None:
    """A guess is no evidence, and evidence needs no guess."""
    older = replace(PASSES, check="stand-in/gpytorch-1.13/sample", version="1.13")
    assert guess_of(run(tmp_path, "20300102T000000-0000", outcome, older)) == ""


def test_a_failure_that_a_pass_contradicts_is_ours(tmp_path: Path) -> None:
    """Nothing passes in a cell that does not import, nor on a GPU that does not start; evidence is no contradiction."""
    imported = replace(FAILS, check="stand-in/gpytorch-1.14/import", probe="import", reason="missing-module")
    no_gpu = replace(FAILS, check="stand-in/gpytorch-1.14/compile", probe="compile", reason="no-gpu", blame="host")
    evident = replace(
        imported, check="stand-in/gpytorch-1.15/import", detail="1.15 is not 1.14", evidence="1.15 is not 1.14"
    )
    passes = [replace(PASSES, device="cuda"), replace(PASSES, check="stand-in/gpytorch-1.15/sample")]
    made = run(tmp_path, "20300102T000000-0000", imported, no_gpu, evident, *passes)
    conclude(made, "complete")
    blames = {check: outcome.blame for check, outcome in made.outcomes().items()}
    assert blames[imported.check] == blames[no_gpu.check] == "us"
    assert blames[evident.check] != "us"
    assert CHECK in made.outcomes()[no_gpu.check].guess


def test_every_face_shows_the_guess(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Show, its JSON, report.md, report.json, triage, and the surprises at the end."""
    older = replace(PASSES, check="stand-in/gpytorch-1.13/sample", version="1.13", resolved=("gpytorch==1.13",))
    made = run(tmp_path, "20300102T000000-0000", FAILS, older)
    guess = guess_of(made)
    assert guess
    compiled = compile_report(made.journal, tmp_path / "out")
    said = {
        "end": "\n".join(ending(compiled.table)),
        "report.md": (tmp_path / "out" / "report.md").read_text(),
        "report.json": (tmp_path / "out" / "report.json").read_text(),
    }
    for command in (("show", CHECK), ("show", CHECK, "--json"), ("triage", made.id)):
        cli.main(command)
        said[" ".join(command)] = capsys.readouterr().out
    assert [face for face, words in said.items() if guess not in words] == []
