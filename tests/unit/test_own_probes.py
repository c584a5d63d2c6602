"""Probe modules of the user's own: which are read, which replace ours, and how they travel with the plan."""

from __future__ import annotations

import re
from dataclasses import replace
from pathlib import Path
from string import Template

import pytest

from tests.support import ROOT
from torch_compat_matrix.compat.progress import line
from torch_compat_matrix.reports.claims import NOT_TESTED, judge
from torch_compat_matrix.reports.junit import junit
from torch_compat_matrix.reports.markdown import markdown
from torch_compat_matrix.reports.table import Table
from torch_compat_matrix.runner.bundle import BUNDLE, extended
from torch_compat_matrix.runner.execution.protocol import Work, order
from torch_compat_matrix.runner.execution.reuse import source
from torch_compat_matrix.runner.matrix.document import MatrixError
from torch_compat_matrix.runner.matrix.expand import expand
from torch_compat_matrix.runner.matrix.load import load
from torch_compat_matrix.runner.model import PROBES, Plan, Verdict
from torch_compat_matrix.runner.outcome import Outcome

ACME = 'DISTRIBUTION = "acme-layers"\nMODULE = "acme"\ndef sample(probe): ...\n'
MATRIX = """\
probes: [./probes]
images: { torch-2.13: { tag: "x:1" } }
libraries: { acme-layers: { versions: ["1"] } }
"""


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder with a matrix and a probe module for its private library, with a helper."""
    monkeypatch.chdir(tmp_path)
    (tmp_path / "probes").mkdir()
    (tmp_path / "probes" / "acme_layers.py").write_text(ACME)
    (tmp_path / "probes" / "_shared.py").write_text("LEAST = 3\n")
    (tmp_path / "matrix.yaml").write_text(MATRIX)
    return tmp_path


def plan() -> Plan:
    """The plan of the matrix in the current folder."""
    return expand(load(Path("matrix.yaml")), "docker")


def mistake() -> str:
    """The only mistake of the matrix in the current folder."""
    with pytest.raises(MatrixError) as raised:
        load(Path("matrix.yaml"))
    (only,) = raised.value.mistakes
    return str(only)


def test_a_folder_adds_libraries_and_keeps_the_default_probes(folder: Path) -> None:
    """The cell has the probes of its module; the plan carries that and its helper, and nothing that it does not use."""
    (folder / "probes" / "unused.py").write_text('DISTRIBUTION = MODULE = "unused"\n')
    found = plan()
    assert [(cell.id, cell.probes) for cell in found.cells] == [("torch-2.13/acme-layers-1", ("import", "sample"))]
    assert [str(module) for module in found.modules] == ["./probes/acme_layers.py", "./probes/_shared.py"]
    assert load(Path("matrix.yaml")).probes == [*PROBES]
    Path("matrix.yaml").write_text(MATRIX.replace("[./probes]", "[import, ./probes]"))
    assert [cell.probes for cell in plan().cells] == [("import",)]


def test_the_folder_is_found_beside_the_matrix(folder: Path, tmp_path_factory: pytest.TempPathFactory) -> None:
    """Wherever the command runs."""
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(tmp_path_factory.mktemp("elsewhere"))
        assert len(expand(load(folder / "matrix.yaml"), "docker").modules) == 2


@pytest.mark.parametrize(
    ("entry", "said"),
    [
        ("./absent", "matrix.yaml:1:10: there is no folder ./absent"),
        (str(BUNDLE), f"matrix.yaml:1:10: {BUNDLE} is our own bundle, whose probes run anyway: remove it"),
        ("smaple", "matrix.yaml:1:10: 'smaple' is no probe, and no folder (`./NAME`); did you mean 'sample'?"),
        ("probes", "matrix.yaml:1:10: 'probes' is no probe, and no folder (`./NAME`)"),
    ],
)
def test_a_wrong_entry_is_a_mistake(folder: Path, entry: str, said: str) -> None:
    """With place and cause."""
    Path("matrix.yaml").write_text(MATRIX.replace("./probes", entry).replace("acme-layers: {", "torchbnn: {"))
    assert mistake().startswith(said)


def test_a_module_that_is_wrong_is_told_where_it_is_used(folder: Path) -> None:
    """As for ours; a helper that is wrong at the folder, since every module may import it."""
    (folder / "probes" / "acme_layers.py").write_text("MODULE =\n")
    assert mistake() == "matrix.yaml:3:14: ./probes/acme_layers.py: line 1: invalid syntax"
    (folder / "probes" / "acme_layers.py").write_text(ACME)
    (folder / "probes" / "_shared.py").write_text("def\n")
    assert mistake() == "matrix.yaml:1:10: ./probes/_shared.py: line 1: invalid syntax"
    (folder / "more").mkdir()
    (folder / "more" / "_shared.py").write_text("LEAST = 4\n")
    (folder / "probes" / "_shared.py").write_text("LEAST = 3\n")
    Path("matrix.yaml").write_text(MATRIX.replace("[./probes]", "[./probes, ./more]"))
    assert mistake() == (
        "matrix.yaml:1:20: ./more/_shared.py and ./probes/_shared.py have one name: rename one of them"
    )


def test_a_module_may_replace_ours(folder: Path) -> None:
    """It is said so; two matrices in one process do not share it."""
    (folder / "probes" / "torchbnn.py").write_text('DISTRIBUTION = MODULE = "torchbnn"\n')
    Path("matrix.yaml").write_text(MATRIX.replace("acme-layers", "torchbnn"))
    assert str(plan().modules[0]) == "./probes/torchbnn.py (in place of ours)"
    assert [cell.probes for cell in plan().cells] == [("import",)]
    Path("matrix.yaml").write_text(MATRIX.replace("acme-layers", "torchbnn").partition("\n")[2])
    assert [cell.probes for cell in plan().cells] == [PROBES]


def test_an_installed_package_brings_probes(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """By its entry point, without an import; a folder of the matrix goes before it."""
    files = {
        "acme_probes-1.dist-info/entry_points.txt": "[compat.probes]\nacme = acme_probes.modules\n",
        "acme_probes-1.dist-info/METADATA": "Metadata-Version: 2.1\nName: acme-probes\nVersion: 1\n",
        "acme_probes/__init__.py": "raise RuntimeError('imported')\n",
        "acme_probes/modules/acme_layers.py": ACME,
    }
    for name, text in files.items():
        (folder / "site" / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / "site" / name).write_text(text)
    monkeypatch.syspath_prepend(folder / "site")
    assert extended({}).entries["acme-layers"].place == "acme_probes/modules/acme_layers.py"
    assert next(module.origin for module in plan().modules) == "./probes/acme_layers.py"


def test_the_order_brings_what_its_cells_need(folder: Path) -> None:
    """Module and helper; nothing for a launch without them."""
    found = plan()
    image, (cell,) = found.images[0], found.cells
    brought = order(image, [Work(cell=cell)], device="cpu", modules=found.modules)["modules"]
    assert brought == {"acme_layers": ACME, "_shared": "LEAST = 3\n"}
    other = replace(cell, members=("torchbnn",))
    assert "acme_layers" not in order(image, [Work(cell=other)], device="cpu", modules=found.modules)["modules"]


def test_a_changed_module_or_helper_changes_the_key(folder: Path) -> None:
    """And no other library's."""
    before, ours = source("acme-layers", plan().modules), source("torchbnn", plan().modules)
    (folder / "probes" / "_shared.py").write_text("LEAST = 4\n")
    helped = source("acme-layers", plan().modules)
    (folder / "probes" / "acme_layers.py").write_text(ACME + "# changed\n")
    assert len({before, helped, source("acme-layers", plan().modules)}) == 3
    assert source("torchbnn", plan().modules) == ours == source("torchbnn")


def test_a_library_without_probes_gets_the_generic_ones(folder: Path) -> None:
    """Each is superficial; a likely slip is named; a stack without any probes gets them for all its members."""
    Path("matrix.yaml").write_text(
        'images: { torch-2.13: { tag: "x:1" } }\n'
        'libraries: { pyro-pl: { versions: ["1"] }, torchbnn: { versions: ["1"] } }\n'
        'stacks: { rest: { requires: ["einops==1", "tqdm"] }, mixed: { requires: ["torchbnn==1", "tqdm"] } }\n'
    )
    found = {cell.subject: cell for cell in plan().cells}
    assert {name: (cell.members, cell.superficial) for name, cell in found.items()} == {
        "pyro-pl": (("pyro-pl",), PROBES),
        "torchbnn": (("torchbnn",), ()),
        "rest": (("einops", "tqdm"), PROBES),
        "mixed": (("torchbnn", "tqdm"), PROBES),
    }
    assert [str(module) for module in plan().modules] == [
        "generic probes of pyro-pl (did you mean 'pyro-ppl'?)",
        "generic probes of einops",
        "generic probes of tqdm",
    ]


def test_an_example_completes_a_module(folder: Path) -> None:
    """What it defines itself counts; what it lacks is generic."""
    (folder / "probes" / "acme_layers.py").write_text(ACME + "EXAMPLE = {}\nNOT_APPLICABLE = {'compile': 'no code'}\n")
    (cell,) = plan().cells
    assert (cell.probes, cell.superficial) == (PROBES, ("autograd",))


def test_a_superficial_pass_looks_like_none(tmp_path: Path) -> None:
    """In the grid, the legend, the headline, JUnit and JSON; a claim and an advice take it for no answer."""
    outcome = Outcome(
        check="i/l-1/sample", image="i", subject="l", version="1", probe="sample",
        verdict=Verdict.PASS, device="cpu", grade="superficial",
    )  # fmt: skip
    table = Table(header={"plan": {}}, outcomes={outcome.check: outcome}, environments={}, state="complete")
    page = markdown(table, None)
    assert "(1 checks: 1 superficial)" in page
    assert "| l 1 | ·🔹·· |" in page
    assert "☑️" not in page
    assert "🔹 superficial" in page
    assert 'name="grade" value="superficial"' in "".join(junit(table))
    assert Outcome.from_json(outcome.to_json()) == outcome
    assert line(outcome).startswith("pass (superficial) i/l-1/sample")
    claim = {"id": "c", "source": "s", "says": "it works", "holds_if": [{"checks": "i/l", "anywhere": True}]}
    assert [judged.verdict for judged in judge(replace(table, header={"plan": {"claims": [claim]}}))] == [NOT_TESTED]


def test_the_example_is_a_probe_module(folder: Path) -> None:
    """`compat init` writes it: the library has all probes, superficial ones until a function takes their place."""
    example = ROOT / "runner" / "matrix" / "data" / "probe.txt"
    text = Template(example.read_text()).substitute(distribution="acme-layers", module="acme")
    (folder / "probes" / "acme_layers.py").write_text(text)
    (cell,) = plan().cells
    assert (cell.probes, cell.superficial) == (PROBES, ("sample", "autograd", "compile"))
    written_out = re.sub(r"^# ?(?=def|import|    |$)", "", text, flags=re.MULTILINE)
    (folder / "probes" / "acme_layers.py").write_text(written_out)
    assert plan().cells[0].superficial == ("compile",)
