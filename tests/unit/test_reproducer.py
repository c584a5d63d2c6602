"""A reproducer: the failing part alone, with all that it refers to, and what counts as the same failure."""

from __future__ import annotations

import ast
import builtins
import symtable
from collections.abc import Iterator
from typing import Any

import pytest

from torch_compat_matrix.runner.advice import reproducer
from torch_compat_matrix.runner.advice.derived_image import dockerfile
from torch_compat_matrix.runner.advice.extraction import Unextractable
from torch_compat_matrix.runner.bundle import BUNDLE, catalogue, place_of
from torch_compat_matrix.runner.model import Cell, Image, Module, Verdict
from torch_compat_matrix.runner.outcome import Outcome
from torch_compat_matrix.runner.packages.pip_config import Index

BROKEN = (
    'Traceback (most recent call last):\n  File "x", line 1, in y\n    z\ncompat_probes.evidence.Broken: off by 0.5'
)


def failure(library: str = "captum", probe: str = "sample", part: str = "", **more: Any) -> tuple[Outcome, Cell]:
    """A failed check, and its cell."""
    parts = ({"name": part, "status": "failed", "seconds": 1.0},) if part else ()
    whole = {"image": "i", "subject": library, "version": "1", "verdict": Verdict.FAIL, "parts": parts, **more}
    cell = Cell(image="i", subject=library, version="1", requires=(), members=(library,), probes=(probe,))
    return Outcome(check=f"i/{library}-1/{probe}", probe=probe, **whole), cell


def written(library: str, probe: str, part: str = "", modules: tuple[Module, ...] = ()) -> str:
    """The script of a failed part."""
    return reproducer.script(*failure(library, probe, part), modules, seed=3, full=False)


def unknown(table: symtable.SymbolTable, defined: set[str]) -> Iterator[str]:
    """The global names that code reads and nothing defines."""
    for symbol in table.get_symbols():
        if symbol.is_global() and symbol.is_referenced() and symbol.get_name() not in defined:
            yield symbol.get_name()
    for inner in table.get_children():
        if inner.get_type() != "annotation":
            yield from unknown(inner, defined)


@pytest.mark.parametrize("library", list(catalogue().entries))
def test_every_part_stands_alone(library: str) -> None:
    """Whatever part of our probes fails: the script reads no name that it does not define, and nothing of ours."""
    path = BUNDLE.parent / place_of(library)
    for function in ast.parse(path.read_text()).body:
        if isinstance(function, ast.FunctionDef) and function.name in ("sample", "autograd", "compile"):
            for part in [name for name in map(reproducer._part_name, function.body) if name] or [""]:
                text = written(library, function.name, part)
                table = symtable.symtable(text, "reproduce.py", "exec")
                defined = {s.get_name() for s in table.get_symbols() if s.is_assigned() or s.is_imported()}
                assert set(unknown(table, defined | set(dir(builtins)) | {"__file__", "__name__"})) == set(), part
                assert "from ." not in text


def test_modules_of_ours_as_a_whole_come_as_namespaces() -> None:
    """With no more than what is read of them; a loop over parts is left out unless one of them has failed."""
    text = written("torch", "autograd", "Transformer")
    assert "\ntransformer = types.SimpleNamespace(gradients=gradients)\n" in text
    assert "\nmodels = " not in text
    text = written("captum", "sample", "features left out in float64")
    assert text.count("probe.part(") == 1
    assert '(("features left out", torch.float32), ("features left out in float64", torch.float64))' in text


@pytest.mark.parametrize("probe", ["import", "sample"])
def test_a_generic_probe_cannot_stand_alone(probe: str) -> None:
    """What it imports and calls is found in the image alone."""
    with pytest.raises(Unextractable, match="generic"):
        written("acme", probe, modules=catalogue().with_generic(["acme"]).modules)


def test_an_images_own_command_is_no_probe() -> None:
    """Its line in the matrix is all that there is."""
    outcome = Outcome(check="i/commands/starts", image="i", subject="commands", probe="starts", verdict=Verdict.FAIL)
    cell = Cell(image="i", subject="commands", version="", requires=(), members=(), probes=("starts",))
    with pytest.raises(Unextractable, match="a command of the matrix"):
        reproducer.script(outcome, cell, (), 0, False)


def test_other_parts_are_left_out() -> None:
    """Those before it as well as those behind it; the seed and the device are the check's."""
    text = written("captum", "sample", "noise tunnel")
    assert 'probe.part("noise tunnel")' in text
    assert text.count("probe.part(") == 1
    assert "seed, full, thorough, work = 3, False, False, None" in text
    assert "GradientShap" not in text


def test_a_failed_import_is_its_imports() -> None:
    """The first line names the failure; no line of the records can end the words that it stands in."""
    outcome, cell = failure("pyro-ppl", "import", traceback=BROKEN + '"""; import os\\')
    text = reproducer.script(outcome, cell, (), 0, False)
    assert text.endswith("\n\nimport pyro\n")
    assert len(ast.parse(text).body) == 2


def test_a_module_of_the_users_own_counts() -> None:
    """In the place of ours."""
    own = Module(
        name="captum", origin="probes/captum.py", text="MODULE = 'own'\ndef sample(probe):\n    fail = own()\n"
    )
    assert "fail = own()" in written("captum", "sample", modules=(own,))


@pytest.mark.parametrize(
    ("more", "status", "output", "same"),
    [
        ({"traceback": BROKEN}, 1, BROKEN.replace("compat_probes.evidence.Broken", "__main__.Broken"), True),
        ({"traceback": BROKEN}, 1, BROKEN.replace("compat_probes.evidence.", "").replace("0.5", "0.25"), True),
        ({"traceback": BROKEN}, 0, BROKEN, False),
        ({"traceback": BROKEN}, 1, BROKEN.replace("off by", "detached at"), False),
        ({"traceback": BROKEN}, 1, BROKEN.replace("Broken", "Other"), False),
        ({"traceback": BROKEN}, 1, "", False),
        ({"verdict": Verdict.CRASH, "detail": "ended by SIGSEGV"}, 139, "", True),
        ({"verdict": Verdict.CRASH, "detail": "ended by SIGSEGV"}, 134, "", False),
        ({"verdict": Verdict.CRASH, "detail": "ended by SIGSEGV"}, 0, "", False),
        ({"verdict": Verdict.TIMEOUT}, 124, "", True),
        ({"verdict": Verdict.TIMEOUT}, 0, "", False),
    ],
)
def test_what_fails_the_same_way(more: dict[str, Any], status: int, output: str, same: bool) -> None:
    """The same exception with the same last line but for numbers and paths, the same signal, or as long a wait."""
    assert reproducer.fails_alike(failure(**more)[0], status, output) is same


def test_an_issue_tells_no_secret_and_no_place() -> None:
    """What was seen and expected, and whether it was verified; the traceback keeps what it needs."""
    trace = (
        'Traceback (most recent call last):\n  File "/home/me/.compat/overlays/0123456789abcdef/pyro/x.py", line 1\n'
    )
    outcome, cell = failure("pyro-ppl", "import", traceback=trace + "OSError: https://me:secret@example.org/x is away")
    text = reproducer.issue(outcome, cell, (), {"reference": "r:1", "facts": {}}, "not verified: why", "", ["python x"])
    assert "secret" not in text
    assert "/home/me" not in text
    assert 'File "overlays/0123456789abcdef/pyro/x.py", line 1' in text
    assert "**Expected**: `import pyro` succeeds." in text
    assert "**Verified**: not verified: why" in text


def test_dockerfile_and_requirements_fit_the_image() -> None:
    """An image without pip installs by uv; indexes come along without secrets, folders of this machine as a remark."""
    image = Image(name="i", tag="acme/train:1")
    for held, words in (
        ({"pip": "25.1"}, "python3 -m pip install"),
        ({"torch": "2.13.0"}, "uv pip install --python $(command -v python3) "),
    ):
        assert words in dockerfile(image, "", held, {"captum": "0.9.0"}, [], script="reproduce.py")
    urls = "https://pypi.org/simple https://me:secret@acme.example/simple"
    index = Index(options={"extra-index-url": urls, "find-links": "/opt/wheels"})
    option, remark, links = index.lines()
    assert option == "--extra-index-url https://acme.example/simple"
    assert (remark[0], links[0], "/opt" in links) == ("#", "#", False)
