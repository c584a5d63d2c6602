"""Selectors by outcome: the records say which checks they take in, wherever a selector is taken."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from tests.support.journals import LIBRARIES, records, write
from torch_compat_matrix.compat import cli
from torch_compat_matrix.runner.errors import NothingSelected
from torch_compat_matrix.runner.planning import chosen, plan_from
from torch_compat_matrix.runner.records.runs import Run
from torch_compat_matrix.runner.selector import Checks

RUN = "20300101T000000-abcd"
EARLIER = "20291231T000000-0000"


@pytest.fixture(autouse=True)
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A home with two runs, of which the later lacks an outcome; in the earlier, torch failed."""
    monkeypatch.setenv("COMPAT_HOME", str(tmp_path))
    for name, change in ((RUN, {}), (EARLIER, {"gpu-image/torch-installed/import": "fail"})):
        found = [record | ({"run": name} if record["kind"] == "run" else {}) for record in records(change)]
        (tmp_path / "runs" / name).mkdir(parents=True)
        left_out = "stand-in/torch-installed/import" if name == RUN else ""
        write(tmp_path / "runs" / name / "journal.jsonl", [one for one in found if one.get("check") != left_out])
    return tmp_path


def taken(selector: str) -> set[str]:
    """Library-version/probe of what the selector takes in."""
    found = chosen(selector)
    assert isinstance(found, Checks)
    return {check.partition("/")[2] for check in found.ids}


@pytest.mark.parametrize(
    ("selector", "checks"),
    [
        (
            "@failed",
            {
                "pyro-ppl-1.8.0/import",
                *("pyro-ppl-1.9.1/sample", "pyro-ppl-1.9.1/compile", "gpytorch-1.14/autograd", "gpytorch-1.14/compile"),
                *(f"captum-0.8.0/{probe}" for probe in ("import", "sample", "autograd", "compile")),
            },
        ),
        (
            "@infra",  # a check without an outcome was not run
            {
                *(f"botorch-0.14.0/{probe}" for probe in ("import", "sample", "autograd", "compile")),
                "torch-installed/import",
            },
        ),
        ("@reason:segfault", {"pyro-ppl-1.9.1/compile"}),
        ("@reason:seg*", {"pyro-ppl-1.9.1/compile"}),
        ("@failed@reason:wrong-*", {"pyro-ppl-1.9.1/sample"}),
        (f"@run:{EARLIER[:6]}@reason:wrong-moments", {"torch-installed/import", "pyro-ppl-1.9.1/sample"}),
    ],
)
def test_terms_and_their_combinations(selector: str, checks: set[str]) -> None:
    """All terms hold at once; without a run it is the latest."""
    assert taken(selector) == checks


def test_a_run_is_all_its_checks() -> None:
    """Whatever their outcome, and whether they have one."""
    assert len(taken(f"@run:{RUN}")) == 4 * len(LIBRARIES)


@pytest.mark.parametrize(
    ("selector", "said"),
    [
        ("@fialed", "@fialed: there is no @fialed; did you mean '@failed'?"),
        ("@failed@", "@failed@: there is no @"),
        ("@failed:x", "there is no @failed:x; did you mean '@failed'?"),
        ("@reason", "there is no @reason; did you mean '@reason:...'?"),
        ("@reason:segfalt", f"no check of run {RUN}; there is no such reason; did you mean 'segfault'?"),
        ("@reason:disk-full", f"@reason:disk-full: no check of run {RUN}\n"),
        ("@run:20300101T000000-abce", f"did you mean '{RUN}'?"),
    ],
)
@pytest.mark.parametrize("verb", ["show", "history", "plan"])
def test_what_selects_nothing_is_told(
    selector: str, said: str, verb: str, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    """One line, and the same exit status as for any selector."""
    assert cli.main([verb, selector]) == 3
    error = capsys.readouterr().err
    assert said in error
    assert error.count("\n") == 1


def test_plan_takes_the_recorded_checks_that_it_still_has(home: Path) -> None:
    """Beside other selectors; the checks that are gone are named."""
    plan = Run.open(home).plan()
    path = home / "plan.json"
    said: list[str] = []
    path.write_text(json.dumps({**plan.to_json(), "cells": plan.to_json()["cells"][2:]}))
    found = plan_from(Path(), backend="docker", selectors=["@failed", "torchbnn"], plan_file=path, say=said.append)
    assert {check.id for check in found.checks} == {
        *(f"gpu-image/{name}" for name in taken("@failed") - {"pyro-ppl-1.8.0/import"}),
        *(f"stand-in/{name}" for name in taken("@failed")),
        *(f"{image}/torchbnn-1.2/{probe}" for image in ("gpu-image", "stand-in") for probe in plan.cells[0].probes),
    }
    assert said == ["recorded checks that are no longer in the plan: gpu-image/pyro-ppl-1.8.0/import"]
    with pytest.raises(NothingSelected, match=r"none of the recorded checks is in the plan: gpu-image/pyro-ppl-1\.9"):
        plan_from(Path(), backend="docker", selectors=["@reason:segfault"], probes=["import"], plan_file=path)


def test_show_and_history_take_them(capsys: pytest.CaptureFixture[str]) -> None:
    """In the run that the selector, or else `--run`, names."""
    torch = "gpu-image/torch-installed/import"
    assert cli.main(["show", "@failed"]) == 0
    assert torch not in capsys.readouterr().out
    assert cli.main(["show", "@failed", "--run", EARLIER]) == 0
    assert f"{torch}: fail" in capsys.readouterr().out
    assert cli.main(["show", f"@failed@run:{EARLIER}"]) == 0
    assert f"{torch}: fail" in capsys.readouterr().out
    assert cli.main(["history", "@reason:segfault"]) == 0
    assert capsys.readouterr().out.startswith("gpu-image/pyro-ppl-1.9.1/compile\n")


def test_a_file_takes_none(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """The records of one host say nothing to another that reads the same matrix."""
    (tmp_path / "matrix.yaml").write_text(
        "images: {one: {tag: 'a:1'}}\nlibraries: {captum: {versions: ['0.8.0']}}\n"
        "known: [{cells: '@failed', expect: fail, reason: old}]\n"
    )
    assert cli.main(["plan", "--matrix", str(tmp_path / "matrix.yaml"), "--backend", "docker"]) == 2
    assert "a selector by outcome belongs on the command line" in capsys.readouterr().err
