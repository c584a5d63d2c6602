"""The plan: product, rules, selection, and a way to a host that cannot read a matrix."""

from __future__ import annotations

import json
import time
from pathlib import Path

import pytest

from tests.support import RESOURCES
from torch_compat_matrix.runner.matrix.expand import expand
from torch_compat_matrix.runner.matrix.load import load
from torch_compat_matrix.runner.matrix.select import SelectionError, installed_plan
from torch_compat_matrix.runner.model import PROBES, Plan


def plan(backend: str = "docker", *selectors: str, probes: tuple[str, ...] = ()) -> Plan:
    """The plan of the sound matrix."""
    return expand(load(RESOURCES / "matrix" / "sound.yaml"), backend, selectors, probes)


def cells(plan: Plan) -> list[str]:
    """Ids in order."""
    return [cell.id for cell in plan.cells]


def test_product_with_its_rules() -> None:
    """Every image with every version and stack; less what is excluded, plus what is included."""
    assert cells(plan()) == [
        "one/torch-installed",
        "one/pyro-ppl-2.10",
        "one/pyro-ppl-latest",
        "one/bayes-stack",
        "two/torch-installed",
        "two/pyro-ppl-latest",
        "two/pyro-ppl-1.8.0",
        "two/bayes-stack",
    ]


def test_what_is_handed_to_pip() -> None:
    """A version is pinned, `latest` is not, `installed` asks for nothing; a stack's members are those with probes."""
    found = {cell.id: cell for cell in plan().cells}
    assert found["one/pyro-ppl-2.10"].requires == ("pyro-ppl==2.10", "numpy<2")
    assert found["one/pyro-ppl-latest"].requires == ("pyro-ppl", "numpy<2")
    assert found["one/torch-installed"].requires == ()
    assert found["one/bayes-stack"].requires == ("pyro-ppl==1.9.1", "torchbnn==1.2", "tqdm==4.66")
    assert found["one/bayes-stack"].members == ("pyro-ppl", "torchbnn")


def test_a_library_may_have_several_entries() -> None:
    """A label tells the cells of the further entries apart; the ids of the first are those of an only entry."""
    whole = expand(load(RESOURCES / "matrix" / "entries.yaml"), "docker")
    assert {cell.id: (cell.requires, cell.probes) for cell in whole.cells if cell.image == "one"} == {
        "one/pyro-ppl-1.8.6": (("pyro-ppl==1.8.6",), PROBES),
        "one/pyro-ppl-1.9.1": (("pyro-ppl==1.9.1",), PROBES),
        "one/pyro-ppl-1.9.1@numpy1": (("pyro-ppl==1.9.1", "numpy<2"), ("import", "sample")),
        "one/pyro-ppl-latest@numpy-1.26": (("pyro-ppl", "numpy==1.26.4"), PROBES),
        "one/torch-installed": ((), PROBES),
    }
    assert [cell.id for cell in whole.cells if cell.version == "1.7.0"] == ["two/pyro-ppl-1.7.0"]  # by `include:`
    assert Plan.from_json(json.loads(json.dumps(whole.to_json()))) == whole


def test_a_library_may_be_installed_otherwise_than_the_rest(tmp_path: Path) -> None:
    """The file says how to install, a library or a stack may say otherwise; plans of earlier versions say nothing."""
    path = tmp_path / "matrix.yaml"
    libraries = "pyro-ppl: { versions: [latest], install: constrained }, torchbnn: { versions: [latest] }"
    stacks = "a: { requires: [torchbnn] }, b: { requires: [torchbnn], install: constrained }"
    text = f"images: {{ one: {{ tag: 'a:1' }} }}\nlibraries: {{ {libraries} }}\nstacks: {{ {stacks} }}\n"
    path.write_text(f"install: plain\n{text}")
    assert [cell.install for cell in expand(load(path), "docker").cells] == [
        "constrained",
        "plain",
        "plain",
        "constrained",
    ]
    path.write_text(text)
    whole = expand(load(path), "docker")
    assert {cell.install for cell in whole.cells} == {"constrained"}
    earlier = whole.to_json()
    for cell in earlier["cells"]:
        del cell["install"], cell["label"]
    assert Plan.from_json(json.loads(json.dumps(earlier))) == whole


@pytest.mark.parametrize(
    ("selector", "found"),
    [
        ("one/pyro-ppl-1.9.1", ["one/pyro-ppl-1.9.1"]),
        ("one/pyro-ppl-1.9.1@numpy1", ["one/pyro-ppl-1.9.1@numpy1"]),
        ("*@numpy1", ["one/pyro-ppl-1.9.1@numpy1", "two/pyro-ppl-1.9.1@numpy1"]),
        ("one/pyro-ppl-1.9.1*", ["one/pyro-ppl-1.9.1", "one/pyro-ppl-1.9.1@numpy1"]),
        ("one/pyro-ppl", [f"one/pyro-ppl-{v}" for v in ("1.8.6", "1.9.1", "1.9.1@numpy1", "latest@numpy-1.26")]),
    ],
)
def test_a_label_is_selected_as_part_of_the_version(selector: str, found: list[str]) -> None:
    """The version alone is the entry without a label, the library's name all of its entries."""
    assert cells(expand(load(RESOURCES / "matrix" / "entries.yaml"), "docker", [selector])) == found


def test_commands_of_an_image_are_a_cell(tmp_path: Path) -> None:
    """Those of the file and of the image, which goes first; selected, excluded and counted like any other cell."""
    (tmp_path / "matrix.yaml").write_text(
        """
commands: { user: id -u, release: cat /etc/os-release }
images:
  one:
    tag: t
    commands:
      release: { command: [cat, /etc/release], status: 1, output: '^no', timeout: 300 }
  two: { tag: t }
libraries:
  torch: { versions: [installed] }
exclude:
  - { cells: two/commands, reason: the same image }
known:
  - { cells: one/commands/user, expect: fail, reason: as root }
"""
    )
    matrix = load(tmp_path / "matrix.yaml")
    found = expand(matrix, "docker")
    assert cells(found) == ["one/commands", "one/torch-installed", "two/torch-installed"]
    assert [check.id for check in found.cells[0].checks] == ["one/commands/user", "one/commands/release"]
    assert found.cells[0].timeouts == {"release": 300.0}
    assert [(command.command, command.status, command.output) for command in found.images[0].commands] == [
        (("sh", "-c", "id -u"), 0, ""),
        (("cat", "/etc/release"), 1, "^no"),
    ]
    assert Plan.from_json(json.loads(json.dumps(found.to_json()))) == found
    for selector in ("commands", "one/commands", "commands/*", "one/commands/user"):
        assert cells(expand(matrix, "docker", [selector])) == ["one/commands"]


def test_backend_takes_the_images_it_can_launch() -> None:
    """`local` those with a stand-in, and of them its own selection unless another is named."""
    assert cells(plan("local")) == ["one/torch-installed"]
    assert [cell.split("/")[0] for cell in cells(plan("local", "*"))] == ["one"] * 4


@pytest.mark.parametrize(
    ("selector", "count"),
    [
        ("two", 16),
        ("pyro-ppl-*", 16),
        ("pyro-ppl", 16),
        ("torch", 8),
        ("one/pyro-ppl", 8),
        ("bayes", 8),
        ("two/pyro-ppl-1.8.0", 4),
        ("two/pyro-ppl-1.8.0/import", 1),
        ("pyro-ppl-1.8.0/compile", 1),
        ("*/*/compile", 8),
        ("bayes-stack", 8),
        ("local", 4),
    ],
)
def test_selectors(selector: str, count: int) -> None:
    """Image, cell, check, library, glob, or a selection's name."""
    assert len(plan("docker", selector).checks) == count


def test_probes_are_selected() -> None:
    """Across all cells."""
    assert {check.probe for check in plan("docker", probes=("compile",)).checks} == {"compile"}


@pytest.mark.parametrize(
    ("backend", "selector", "probe", "said"),
    [
        ("docker", "tow", "", "'tow' selects nothing; did you mean 'two'"),
        ("docker", "two/pyro-ppl-1.8.1", "", "did you mean 'two/pyro-ppl-1.8.0'"),
        ("docker", "", "complie", "there is no probe 'complie'; did you mean 'compile'"),
        ("local", "two", "", "and two has none"),
    ],
)
def test_nothing_selected_is_told(backend: str, selector: str, probe: str, said: str) -> None:
    """With what could have been meant."""
    with pytest.raises(SelectionError, match=said):
        plan(backend, *filter(None, [selector]), probes=tuple(filter(None, [probe])))


def test_here_is_an_image_of_its_own_or_the_one_named() -> None:
    """The interpreter at hand, with what it holds and the versions of the matrix."""
    found = cells(plan("here"))
    assert found[:3] == ["here/torch-installed", "here/pyro-ppl-installed", "here/torchbnn-installed"]
    assert "here/pyro-ppl-2.10" in found
    assert {cell.split("/")[0] for cell in cells(plan("here", "two"))} == {"two"}


def test_plan_travels_as_json() -> None:
    """Unchanged, limits and known outcomes included."""
    whole = plan()
    assert Plan.from_json(json.loads(json.dumps(whole.to_json()))) == whole


def test_bare_host_takes_what_is_installed() -> None:
    """Every library that has probes, whatever the spelling of its name."""
    found = installed_plan({"torch": "2.6.0", "Pyro_PPL": "1.9.1", "requests": "2"})
    assert sorted(cells(found)) == ["here/pyro-ppl-installed", "here/torch-installed"]


@pytest.mark.share
def test_large_plans_are_cheap(tmp_path: Path) -> None:
    """100,000 checks and 300 `known:` entries are read and expanded within seconds."""
    images = "\n".join(f"  i{number}: {{ tag: a:{number} }}" for number in range(250))
    versions = ", ".join(f'"1.{number}"' for number in range(100))
    path = tmp_path / "matrix.yaml"
    known = "".join(f"  - {{ cells: '*/pyro-ppl-1.{n % 100}/[i]*', expect: fail, reason: r }}\n" for n in range(300))
    path.write_text(f"images:\n{images}\nlibraries:\n  pyro-ppl: {{ versions: [{versions}] }}\nknown:\n{known}")
    started = time.process_time()
    whole = expand(load(path), "docker")
    assert len(whole.checks) == 100_000
    assert time.process_time() - started < 20
