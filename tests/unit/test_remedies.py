"""What to do about a trouble stands with its reason in the registry, and every face says it."""

from __future__ import annotations

import ast
import gc
from collections.abc import Iterator

import pytest

from tests.support import ROOT
from torch_compat_matrix.compat import cli
from torch_compat_matrix.runner.backends.base import Finding
from torch_compat_matrix.runner.backends.docker_errors import MEANINGS
from torch_compat_matrix.runner.errors import Status, Trouble
from torch_compat_matrix.runner.model import Limits
from torch_compat_matrix.runner.outcome import Outcome
from torch_compat_matrix.runner.packages import uv
from torch_compat_matrix.runner.verdicts.classify import classify
from torch_compat_matrix.runner.verdicts.reasons import REASONS
from torch_compat_matrix.runner.workflow import remedy_of


def raised() -> Iterator[str]:
    """The codes that stand at a `Trouble(...)` or in a table of an installer's or engine's words."""
    yield from (code for code, *_ in (*uv.REASONS, *MEANINGS))
    for path in (ROOT / "runner").rglob("*.py"):
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.Call) and ast.unparse(node.func) == "Trouble":
                yield from (str(code.value) for code in node.args[:1] if isinstance(code, ast.Constant))


@pytest.mark.parametrize("code", sorted(set(raised())))
def test_every_trouble_has_a_reason(code: str) -> None:
    """With its remedy, for whoever raises it gives none."""
    assert code in REASONS
    assert remedy_of(Trouble(code, "happened")) == REASONS[code].remedy


def test_a_remedy_that_knows_more_comes_first() -> None:
    """And what works needs none."""
    assert remedy_of(Trouble("disk-full", "happened", "empty /scratch")) == "empty /scratch"
    assert remedy_of(Finding(what="uv", works=False, detail="absent", code="no-installer")).startswith("`python -m pip")
    assert remedy_of(Finding(what="uv", works=True, detail="uv 1.0")) == ""


def test_a_remedy_is_worked_out_from_what_is_recorded() -> None:
    """What the rule caught and who raised, and then the changes, survive the journal."""
    link = {"raised_in": "opacus==1.5.4", "lacking": "torch==2.3.0", "is_cause": True, "types": ["AttributeError"]}
    message = "module 'torch.nn' has no attribute 'RMSNorm'"
    seen = {"status": "raised", "member": "opacus", "exception": ["AttributeError"], "message": message}
    found = classify({**seen, "chain": [{**link, "message": message}]}, {"packages": {"torch": "2.3.0"}}, Limits())
    assert found.names == {
        "raiser": "opacus 1.5.4",
        "holder": "torch 2.3.0",
        "namespace": "torch.nn",
        "name": "RMSNorm",
    }
    outcome = Outcome(
        check="image/opacus-1.5.4/import",
        image="image",
        subject="opacus",
        probe="import",
        verdict=found.verdict,
        names=found.names,
        changes=("use opacus==1.5.3",),
    )
    assert Outcome.from_json(outcome.to_json()) == outcome


@pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")  # the SDK leaves its socket open
@pytest.mark.parametrize("verb", [("doctor",), ("run",)])
def test_an_absent_engine_is_told_with_its_remedy(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, verb: tuple[str, ...]
) -> None:
    """Whichever verb asks for it."""
    monkeypatch.setenv("DOCKER_HOST", "unix:///nowhere.sock")
    assert cli.main([*verb, "--backend", "docker"]) == Status.NO_BACKEND
    said = capsys.readouterr()
    assert REASONS["engine-unreachable"].remedy in said.out + said.err
    gc.collect()  # within this test's filter of warnings
