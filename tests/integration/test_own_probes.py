"""Probes of a team's own, for a private library that exists as a wheel alone."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from zipfile import ZipFile

import pytest

from tests.support import ROOT, scripted_torch
from tests.support.environments import HOME
from tests.support.tinywheels import wheel
from torch_compat_matrix.runner.matrix.expand import expand
from torch_compat_matrix.runner.matrix.load import load
from torch_compat_matrix.runner.planning import plan_from
from torch_compat_matrix.runner.records.runs import NoRun, Run

LIBRARY = """
import torch

class Layer(torch.nn.Module):
    def __init__(self, inputs, outputs):
        super().__init__()
        self.weight = torch.nn.Parameter(torch.randn(inputs, outputs))

    def forward(self, x):
        return x @ self.weight

def noise(size):
    return torch.randn(size)

class Gate(torch.nn.Module):
    def __init__(self):
        super().__init__()
        self.scale = torch.nn.Parameter(torch.ones(1))

    def forward(self, x):
        return torch.sigmoid(self.scale * x) * x
"""

PLAIN = """
class Layer:
    def __init__(self, inputs, outputs):
        self.weight = [0.0] * inputs * outputs
"""
"""The same where no torch computes: a width that is no whole number raises."""

OWN_PLAIN = """
import acme  # at the head, where the probe host must not run it

from ..evidence import require
from ._shared import WIDTH

DISTRIBUTION = "acme-layers"
MODULE = "acme"


def sample(probe):
    layer = acme.Layer(WIDTH, 4)
    with probe.part("values"):
        require(len(layer.weight) == 64, "wrong-shape", "Layer")
"""

OWN = """
import acme  # at the head, where the probe host must not run it

from ..evidence import close, sound
from ._shared import WIDTH

DISTRIBUTION = "acme-layers"
MODULE = "acme"


def sample(probe):
    layer = acme.Layer(WIDTH, 4).to(probe.device)
    x = probe.randn(8, WIDTH)
    with probe.part("values"):
        sound(layer(x), x, "Layer")
        close(layer(x), x @ layer.weight, "Layer")
"""


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder with a wheel, probes for it and a matrix; a home with the environments of the tests."""
    monkeypatch.chdir(tmp_path)
    path = wheel(tmp_path / "links", "acme-layers", "1.0", files={"acme/__init__.py": LIBRARY, "acme_more.py": ""})
    (tmp_path / "probes").mkdir()
    (tmp_path / "probes" / "acme_layers.py").write_text(OWN)
    (tmp_path / "probes" / "_shared.py").write_text("WIDTH = 16\n")
    (tmp_path / "matrix.yaml").write_text(
        "probes: [import, sample, ./probes]\n"
        'images: { small: { tag: "x:1", local: { python: "3.11", requires: ["torch==2.13.0", numpy] } } }\n'
        f'stacks: {{ acme: {{ requires: ["acme-layers @ {path.as_uri()}"] }} }}\n'
    )
    (tmp_path / ".compat").mkdir()
    (tmp_path / ".compat" / "standins").symlink_to(HOME.absolute() / "standins")
    return tmp_path


@pytest.fixture
def plain(folder: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The folder where no torch is asked to compute: its image holds a scripted one, and its index is a folder."""
    wheel(folder / "links", "acme-layers", "1.0", files={"acme/__init__.py": PLAIN})
    scripted_torch.wheel(folder / "links", version="2.13.0+cpu", cuda=None, gpus=[])
    matrix = (folder / "matrix.yaml").read_text()
    (folder / "matrix.yaml").write_text(
        matrix.replace(
            'python: "3.11", requires: ["torch==2.13.0", numpy]', 'python: host, requires: ["torch==2.13.0+cpu"]'
        )
    )
    (folder / "probes" / "acme_layers.py").write_text(OWN_PLAIN)
    (folder / ".compat" / "standins").unlink()
    monkeypatch.setenv("PIP_NO_INDEX", "1")
    monkeypatch.setenv("PIP_FIND_LINKS", str(folder / "links"))
    return folder


def compat(folder: Path, *arguments: str, status: int = 0, **variables: str) -> str:
    """What `compat` says, its exit status made sure of."""
    environment = {**os.environ, "PYTHONPATH": str(ROOT / "src"), "COMPAT_HOME": "", **variables}
    command = [sys.executable, "-m", "torch_compat_matrix", *arguments]
    done = subprocess.run(
        command, cwd=folder, env=environment, capture_output=True, text=True, timeout=280, check=False
    )
    assert done.returncode == status, done.stdout + done.stderr
    return done.stdout + done.stderr


def outcomes(folder: Path, subject: str = "") -> dict[str, dict[str, object]]:
    """The outcomes of the latest run, or of one subject of it, by probe."""
    report = sorted((folder / ".compat" / "runs").glob("*/report.json"))[-1]
    found = json.loads(report.read_text())["outcomes"]
    return {outcome["probe"]: outcome for outcome in found if subject in ("", outcome["subject"])}


def test_own_probes_run_beside_ours(plain: Path) -> None:
    """A module with its helper, in a fork and in a fresh process; a changed helper makes it run again."""
    compat(plain, "run", "--backend", "local")
    assert {probe: outcome["verdict"] for probe, outcome in outcomes(plain).items()} == dict.fromkeys(
        ("import", "sample"), "pass"
    )
    (plain / "probes" / "_shared.py").write_text("WIDTH = 16.5\n")
    compat(plain, "run", "--backend", "local", status=1)
    failed = outcomes(plain)["sample"]
    assert (failed["verdict"], failed["isolation"]) == ("fail", "fresh")
    assert "own/acme_layers.py" in str(failed["traceback"]), "its source line is told, though no file holds it"
    assert "layer = acme.Layer(WIDTH, 4)" in str(failed["traceback"])


def test_a_run_and_a_plan_file_keep_the_modules(folder: Path) -> None:
    """As they were, whatever became of the folder; a file of the run that was changed is refused."""
    found = expand(load(Path("matrix.yaml")), "docker")
    run = Run.create(folder / "home", found, "docker", ["compat"], {})
    Path("plan.json").write_text(json.dumps(found.to_json()))
    (folder / "probes" / "acme_layers.py").write_text("MODULE =\n")
    assert run.plan().modules == found.modules
    assert "def sample" not in run.journal.read_text()
    assert plan_from(Path("matrix.yaml"), backend="here", plan_file=Path("plan.json")).modules == found.modules
    kept = next((run.folder / "probes").rglob("acme_layers.py"))
    kept.write_text(kept.read_text() + "# changed\n")
    with pytest.raises(NoRun, match="has changed"):
        run.plan()


def test_generic_probes_run_what_is_exported(folder: Path, torch_python: str) -> None:
    """What can be made without arguments; an EXAMPLE makes the rest; where nothing applies, a skip says why.

    One library has no module of its own; the other is the same under another name, with a module that says EXAMPLE.
    """
    path = wheel(folder / "links", "shown-layers", "1.0", files={"shown/__init__.py": LIBRARY})
    stacks = f"stacks: {{ shown: {{ probes: [import, sample], requires: ['shown-layers @ {path.as_uri()}'] }},"
    matrix = (folder / "matrix.yaml").read_text().replace("stacks: {", stacks).replace("sample,", "sample, autograd,")
    (folder / "matrix.yaml").write_text(matrix)
    (folder / "probes" / "acme_layers.py").unlink()
    example = 'EXAMPLE = {"shown.Layer": lambda torch: ((16, 4), {}, (torch.randn(8, 16),))}\n'
    (folder / "probes" / "shown_layers.py").write_text(f"DISTRIBUTION = 'shown-layers'\nMODULE = 'shown'\n{example}")
    compat(folder, "run", "--backend", "local")
    found = outcomes(folder, "acme")
    assert {probe: (outcome["verdict"], outcome.get("grade")) for probe, outcome in found.items()} == dict.fromkeys(
        ("import", "sample", "autograd"), ("pass", "superficial")
    )
    parts = {part["name"]: part for part in found["sample"]["parts"]}  # type: ignore[attr-defined]
    assert {name: part["status"] for name, part in parts.items()} == {"acme.Layer": "skipped", "acme.Gate": "passed"}
    assert parts["acme.Layer"]["message"] == "it needs inputs, outputs: say so in EXAMPLE"
    found = outcomes(folder, "shown")
    assert found["import"].get("grade") is None
    assert found["sample"].get("grade") == "superficial"
    assert {part["status"] for part in found["sample"]["parts"]} == {"passed"}  # type: ignore[attr-defined]


def test_where_nothing_is_exported_the_generic_probes_do_not_apply(plain: Path) -> None:
    """They are skipped, and the import is superficial."""
    path = wheel(plain / "links", "bare", "1.0", files={"bare.py": "X = 1\n"})
    matrix = (plain / "matrix.yaml").read_text().replace(", ./probes", "")
    (plain / "matrix.yaml").write_text(
        matrix.partition("stacks")[0] + f"stacks: {{ s: {{ requires: ['bare @ {path.as_uri()}'] }} }}\n"
    )
    compat(plain, "run", "--backend", "local")
    found = outcomes(plain)
    assert (found["import"]["verdict"], found["import"]["grade"]) == ("pass", "superficial")
    assert (found["sample"]["verdict"], found["sample"]["reason"]) == ("skip", "not-applicable")


WEAK = """
DISTRIBUTION = "acme-layers"
MODULE = "acme"


def sample(probe):
    import torch
    from acme import Layer, noise
    from ..evidence import finite

    with probe.part("layer"):
        finite(Layer(4, 2)(torch.ones(3, 4)), "Layer")
    with probe.part("noise"):
        print("drawn", noise(3).shape)
"""


def test_a_module_is_tried_and_proved(folder: Path, torch_python: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """In a folder that holds `probes` of its own; a module that compares misses nothing, one that does not misses all.

    A module that fails says where.
    """
    with ZipFile(folder / "links" / "acme_layers-1.0-py3-none-any.whl") as packed:
        packed.extractall(folder / "site")
    tried = ("probe", "acme-layers", "--python", torch_python, "--probe", "sample")
    paths = f"{ROOT / 'src'}{os.pathsep}{folder / 'site'}"
    proved = compat(folder, *tried, "--prove", PYTHONPATH=paths)
    assert "noticed  acme.Layer.forward is scaled by 1.1  (wrong-value)" in proved
    assert "noticed  acme.Layer.forward is on another device" in proved
    assert "every mutation is noticed" in proved
    (folder / "probes" / "acme_layers.py").write_text(WEAK)
    missed = compat(folder, *tried, "--prove", status=1, PYTHONPATH=paths)
    assert "drawn torch.Size([3])" in missed
    for what in ("Layer.forward is scaled by 1.1", "noise is scaled by 1.1", "noise ignores the seed"):
        assert f"MISSED   acme.{what}" in missed
    (folder / "probes" / "acme_layers.py").write_text(WEAK.replace("Layer(4, 2)", "Layer(4)"))
    failed = compat(folder, *tried, status=1, PYTHONPATH=paths)
    assert "finite(Layer(4)(torch.ones(3, 4))" in failed
