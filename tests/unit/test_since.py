"""Since when: each check stands to its own last verdict on the same image, backend and target."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest

from tests.unit.test_history import ENVIRONMENT, outcome
from torch_compat_matrix.runner.model import target_of
from torch_compat_matrix.runner.outcome import Outcome
from torch_compat_matrix.runner.records import history
from torch_compat_matrix.runner.records.journal import append
from torch_compat_matrix.runner.records.runs import Run
from torch_compat_matrix.runner.records.since import Since, standings
from torch_compat_matrix.runner.signature import signature

PLAN = {"images": [], "cells": [], "known": [], "source": ""}
GPU = {"name": "NVIDIA H100 80GB HBM3", "uuid": "GPU-1", "capability": "9.0", "memory": 1}


def run(home: Path, number: int, *outcomes: Outcome, backend: str = "local", gpu: bool = False) -> str:
    """A run with these outcomes."""
    made = Run(home / "runs" / f"2030010{number}T000000-0000")
    made.folder.mkdir(parents=True)
    facts = {"python": "3.11.7", "gpus": [GPU] if gpu else []}
    append(
        made.journal,
        {"kind": "run", "run": made.id, "started": f"2030-01-0{number}", "backend": backend, "plan": PLAN},
        {**ENVIRONMENT, "digest": f"sha256:{number}", "facts": facts},
        *({"kind": "outcome", **one.to_json()} for one in outcomes),
    )
    return made.id


def failed(evidence: str = "ValueError: bad words here", **more: str) -> Outcome:
    """A failure that a rule explains."""
    found = outcome("fail", reason="wrong-value", evidence=evidence, **more)
    return replace(found, signature=signature(found))


def since(home: Path, now: Outcome, number: int = 9, **where: str) -> Since:
    """How the outcome stands in a run of that day."""
    history.sync(home)
    where = {"backend": "local", "target": "cpu", **where}
    return standings(home, f"2030010{number}T000000-0000", outcomes=[now], **where)[now.check]


def test_partial_run_in_between_hides_nothing(tmp_path: Path) -> None:
    """Neither a run of another image, nor one that host trouble ended; the last good run is told with its packages."""
    run(tmp_path, 1, outcome(installed="0.8.0"))
    run(tmp_path, 2, outcome(check="other/l-1/sample"))
    run(tmp_path, 3, outcome("infra", reason="engine-unreachable"))
    found = since(tmp_path, failed())
    assert (found.state, found.run, found.runs) == ("new", "20300109T000000-0000", 1)
    assert found.to_json()["good"] == {
        "run": "20300101T000000-0000",
        "date": "2030-01-01",
        "verdict": "pass",
        "version": "0.8.0",
        "reference": "i:1",
        "digest": "sha256:1",
    }


def test_failure_is_told_since_its_first_run(tmp_path: Path) -> None:
    """Though the runs between had no verdict on it."""
    run(tmp_path, 1, outcome())
    first = run(tmp_path, 2, failed())
    run(tmp_path, 3, outcome("infra", reason="engine-unreachable"))
    run(tmp_path, 4, failed("ValueError: bad 17 words here"))
    found = since(tmp_path, failed())
    assert (found.state, found.run, found.date, found.runs) == ("still", first, "2030-01-02", 3)
    assert found.good is not None
    assert found.good.date == "2030-01-01"


@pytest.mark.parametrize(
    ("before", "now", "state"),
    [
        ("fail", "pass", "fixed"),
        ("pass", "pass", "same"),
        ("pass", "infra", "lost"),
        ("fail", "not-run", "lost"),
        ("pass", "skip", "lost"),
        ("infra", "fail", "no-base"),
        ("skip", "fail", "no-base"),
        ("infra", "infra", "no-base"),
    ],
)
def test_states(tmp_path: Path, before: str, now: str, state: str) -> None:
    """Host trouble and skips are no base; a verdict that is gone is lost."""
    run(tmp_path, 1, outcome(before))
    assert since(tmp_path, outcome(now)).state == state


def test_library_that_cannot_be_imported_loses_nothing_more(tmp_path: Path) -> None:
    """Its import tells it; a flaky pass fixes nothing; other words are another failure."""
    run(tmp_path, 1, outcome())
    assert since(tmp_path, outcome("skip", reason="import-failed")).state == "same"
    run(tmp_path, 2, failed())
    assert since(tmp_path, replace(outcome(), flaky=True)).state == "same"
    assert since(tmp_path, failed("KeyError: no such key at all")).state == "differs"


def test_other_backend_and_other_device_are_no_base(tmp_path: Path) -> None:
    """A run on a GPU is compared with runs on such a GPU."""
    run(tmp_path, 1, outcome(), backend="docker")
    run(tmp_path, 2, outcome(), gpu=True)
    assert since(tmp_path, failed()).state == "no-base"
    assert since(tmp_path, failed(), backend="docker").state == "new"
    assert since(tmp_path, failed(), target="h100").state == "new"


@pytest.mark.parametrize(
    ("name", "target"),
    [
        ("", "cpu"),
        ("NVIDIA H100 80GB HBM3", "h100"),
        ("NVIDIA A100-SXM4-40GB", "a100"),
        ("NVIDIA H100 PCIe", "h100"),
        ("Tesla T4", "t4"),
        ("NVIDIA L40S", "l40s"),
        ("NVIDIA GeForce RTX 4090", "rtx-4090"),
    ],
)
def test_target_is_the_model_of_the_gpu(name: str, target: str) -> None:
    """Whatever its memory and its socket."""
    assert target_of(name) == target
