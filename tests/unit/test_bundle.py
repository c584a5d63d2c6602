"""The probe modules as the host reads them, without importing any."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from torch_compat_matrix.runner import bundle
from torch_compat_matrix.runner.errors import CompatError
from torch_compat_matrix.runner.matrix.document import MatrixError
from torch_compat_matrix.runner.matrix.expand import expand
from torch_compat_matrix.runner.matrix.load import load
from torch_compat_matrix.runner.matrix.select import installed_plan
from torch_compat_matrix.runner.model import Plan
from torch_compat_matrix.runner.planning import plan_from

SMALL = 'DISTRIBUTION = "einops"\nMODULE = "einops"\n'
IMAGES = "images: { torch-2.13: { tag: 'x:1' } }\n"
Write = Callable[[str, str], None]


@pytest.fixture
def module(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Write]:
    """Writes a probe module into a folder of libraries that holds einops alone."""
    (tmp_path / "libraries").mkdir()
    monkeypatch.setattr(bundle, "BUNDLE", tmp_path)
    monkeypatch.chdir(tmp_path)
    bundle.catalogue.cache_clear()

    def write(name: str, text: str) -> None:
        (tmp_path / "libraries" / f"{name}.py").write_text(text)

    write("einops", SMALL)
    yield write
    bundle.catalogue.cache_clear()


def plan(text: str, *, backend: str = "docker", selectors: tuple[str, ...] = ()) -> Plan:
    """The plan of a matrix with these libraries."""
    path = Path("matrix.yaml")
    path.write_text(text if text.startswith("images") else IMAGES + text)
    return expand(load(path), backend, selectors)


def mistakes_of(path: Path) -> list[str]:
    """The mistakes of a matrix file."""
    with pytest.raises(MatrixError) as raised:
        load(path)
    return list(map(str, raised.value.mistakes))


WRONG = {
    'DISTRIBUTION = "broken"\n': "no `MODULE = ...`",
    'MODULE = "broken"\n': "no `DISTRIBUTION = ...`",
    'DISTRIBUTION = "broken"\nMODULE =\n': "line 2: invalid syntax",
    'DISTRIBUTION = "broken"\nMODULE = name()\n': "line 2: MODULE is not written out",
    'DISTRIBUTION = "broken"\nMODULE = 3\n': "line 2: MODULE is not a string",
    'DISTRIBUTION = MODULE = "broken"\nIMPORTS = ("broken.sub")\n': "line 2: IMPORTS is not a tuple of strings",
    'DISTRIBUTION = "other"\nMODULE = "other"\n': "the probes of other belong in other.py",
    'DISTRIBUTION = MODULE = "broken"\nNOT_APPLICABLE = []\n': "line 2: NOT_APPLICABLE is not a dict of strings",
}


@pytest.mark.parametrize(("text", "said"), WRONG.items())
def test_a_module_that_is_wrong_is_told_where_it_is_used(module: Write, text: str, said: str) -> None:
    """With the place in the matrix, the file and the cause; in a stack too."""
    module("broken", text)
    path = Path("matrix.yaml")
    path.write_text(f'{IMAGES}libraries: {{ broken: {{ versions: ["1"] }}, einops: {{ versions: ["1"] }} }}\n')
    assert mistakes_of(path) == [f"matrix.yaml:2:14: probes/libraries/broken.py: {said}"]
    path.write_text(f'{IMAGES}stacks: {{ both: {{ requires: ["einops==1", "broken==1"] }} }}\n')
    assert mistakes_of(path) == [f"matrix.yaml:2:43: probes/libraries/broken.py: {said}"]


@pytest.mark.parametrize("text", WRONG)
def test_a_module_that_is_wrong_harms_no_other(module: Write, text: str) -> None:
    """The other libraries are planned as if it were not there."""
    module("broken", text)
    assert [cell.id for cell in plan('libraries: { einops: { versions: ["1"] } }').cells] == ["torch-2.13/einops-1"]
    assert [cell.subject for cell in installed_plan({"einops": "1", "broken": "1"}).cells] == ["einops"]


def test_a_plan_from_elsewhere_is_refused_too(module: Write) -> None:
    """Its libraries have their probes here."""
    Path("plan.json").write_text(json.dumps(installed_plan({"einops": "1"}).to_json()))
    module("einops", "MODULE =")
    bundle.catalogue.cache_clear()
    with pytest.raises(CompatError, match="invalid syntax") as caught:
        plan_from(Path("matrix.yaml"), backend="here", plan_file=Path("plan.json"))
    assert "probes/libraries/einops.py" in f"{caught.value.place} {caught.value}"


def test_constants_of_its_own_may_be_computed(module: Write) -> None:
    """Only those that the host reads are written out."""
    module("einops", SMALL + "LEAST = 2 * 3\nPATTERN = __import__('re').compile('x')\nDRAWS: int = 4\n")
    assert not bundle.catalogue().entries["einops"].problem


def test_a_module_is_not_asked_for_functions_that_it_lacks(module: Write) -> None:
    """The default probes are those that it has; what is not applicable stays, as a skip with its reason."""
    for text, probes in {
        SMALL: ("import",),
        SMALL + "def autograd(probe): ...\n": ("import", "autograd"),
        SMALL + "if True:\n    from .other import sample\n": ("import", "sample"),
        SMALL + "NOT_APPLICABLE = {'compile': 'no code'}\n": ("import", "compile"),
    }.items():
        module("einops", text)
        bundle.catalogue.cache_clear()
        for found in (
            plan('libraries: { einops: { versions: ["1"] } }'),
            plan("libraries: { einops: { versions: [installed] } }", backend="here"),
            plan('stacks: { some: { requires: ["einops==1"] } }'),
            installed_plan({"einops": "1"}),
        ):
            assert [cell.probes for cell in found.cells] == [probes]


def test_a_probe_that_is_asked_for_and_missing_is_a_mistake(module: Write) -> None:
    """At its place; where no probe is left, at the library's."""
    module("torch", 'DISTRIBUTION = MODULE = "torch"\ndef sample(probe): ...\n')
    path = Path("matrix.yaml")
    path.write_text(f'{IMAGES}libraries: {{ einops: {{ versions: ["1"], probes: [import, sample] }} }}\n')
    assert mistakes_of(path) == ["matrix.yaml:2:58: probes/libraries/einops.py has no `sample`"]
    libraries = 'libraries: { einops: { versions: ["1"] }, torch: { versions: [installed] } }\n'
    path.write_text(f"probes: [sample]\n{IMAGES}{libraries}")
    assert mistakes_of(path) == ["matrix.yaml:3:14: probes/libraries/einops.py has none of the probes that run: sample"]


def test_the_interpreter_may_stand_among_the_images(module: Write) -> None:
    """`here: {}` is what the backend `here` takes, and runs as the matrix says; no other backend takes it."""
    here = 'images: { torch-2.13: { tag: "x:1" }, here: { limits: { timeout: 7 } } }\n'
    libraries = "libraries: { einops: { versions: [installed] } }\n"
    found = plan(here + libraries, backend="here")
    assert [cell.id for cell in found.cells] == ["here/einops-installed"]
    assert [image.limits.timeout_s for image in found.images] == [7]
    assert [cell.image for cell in plan(here + libraries).cells] == ["torch-2.13"]
    named = plan(here + libraries, backend="here", selectors=("torch-2.13",))
    assert [cell.image for cell in named.cells] == ["torch-2.13"]


def test_here_runs_no_more_than_was_asked(module: Write) -> None:
    """What is installed is asked what the matrix asks of the library, and in the same isolation."""
    module("einops", SMALL + "def sample(probe): ...\ndef compile(probe): ...\n")
    libraries = 'libraries: { einops: { versions: ["1"], isolation: fresh } }\nprobes: [import, sample]\n'
    found = plan(libraries, backend="here")
    assert {(cell.id, cell.probes, cell.isolation) for cell in found.cells} == {
        ("here/einops-installed", ("import", "sample"), "fresh"),
        ("here/einops-1", ("import", "sample"), "fresh"),
    }
