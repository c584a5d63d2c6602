"""Pairs of library and torch of which the truth is known, judged by the product's own way in real environments.

`pytest -m slow tests/integration/test_truth_table.py` runs all of them (about six minutes on two cores, when the
environments of the three torch versions are built); the quick share takes one cell of each kind.
"""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

import pytest

from tests.support import ROOT
from tests.support.environments import HOME
from torch_compat_matrix.runner.records.runs import Run

STAND_INS = {
    "torch-2.6": '["torch==2.6.0", "torchvision==0.21.0", "torchaudio==2.6.0", "numpy<2.3", setuptools]',
    "torch-2.9": '["torch==2.9.0", "torchvision==0.24.0", "torchaudio==2.9.0", numpy, setuptools]',
    "torch-2.13": '["torch==2.13.0", numpy]',
}
COMPANIONS = {"gpytorch": '["linear-operator==0.6.1"]', "peft": '["transformers==4.41.2"]'}

WORKS = """
torch-2.6   botorch         0.14.0
torch-2.6   torchbnn        1.2
torch-2.9   pyro-ppl        1.8.6
torch-2.9   pyro-ppl        1.9.1
torch-2.9   torchbnn        1.2
torch-2.9   deepspeed       0.14.5
torch-2.9   open-clip-torch 3.3.0
torch-2.13  pyro-ppl        1.8.6
torch-2.13  pyro-ppl        1.9.1
torch-2.13  gpytorch        1.14
torch-2.13  botorch         0.14.0
torch-2.13  torchbnn        1.2
torch-2.13  deepspeed       0.14.5
"""

BREAKS = """
torch-2.6   pyro-ppl        1.8.0   import    unsupported  version-assert    # asserts that torch begins with 1
torch-2.9   pyro-ppl        1.8.0   import    unsupported  version-assert
torch-2.13  pyro-ppl        1.8.0   import    unsupported  version-assert
torch-2.6   pyro-ppl        1.8.6   compile   fail         not-compiled      # Dynamo skips PyroModule.forward
torch-2.6   pyro-ppl        1.9.1   compile   fail         not-compiled
torch-2.6   gpytorch        1.14    compile   fail         recursion         # Dynamo recurses without end
torch-2.9   gpytorch        1.14    compile   fail         recursion
torch-2.9   botorch         0.14.0  compile   fail         dynamo-error      # odict_keys, before the first eager call
torch-2.6   captum          0.8.0   sample    unsupported  drift             # wants NumPy below 2
torch-2.9   captum          0.8.0   sample    unsupported  drift
torch-2.13  captum          0.8.0   sample    unsupported  drift
torch-2.13  captum          0.6.0   sample    fail         wrong-dtype       # float64 for a float32 input
torch-2.9   captum          0.9.0   sample    fail         wrong-value       # DeepLift beside pooling
torch-2.13  captum          0.9.0   sample    fail         wrong-value
torch-2.9   deepspeed       0.12.6  import    fail         api-removed       # torch.distributed.elastic's `log`
torch-2.13  deepspeed       0.12.6  import    fail         api-removed
torch-2.13  open-clip-torch 3.3.0   import    skip         no-stand-in       # torchvision of another build than torch
"""

OLD = """
torch-2.6   accelerate      0.25.0
torch-2.6   open-clip-torch 2.20.0
torch-2.6   open-clip-torch 2.26.1
torch-2.6   peft            0.7.1
torch-2.6   peft            0.11.1
torch-2.6   timm            0.9.16
torch-2.6   torchmetrics    1.2.1
torch-2.13  botorch         0.8.5
torch-2.13  botorch         0.10.0
torch-2.13  gpytorch        1.9.1
torch-2.13  pyro-ppl        1.8.4
"""
"""Releases of years ago whose samples and gradients are right: the probes were written for newer ones."""

OLD_BREAKS = """
torch-2.6   torchmetrics    0.11.4  import    fail         missing-module    # pkg_resources left setuptools
torch-2.6   accelerate      0.33.0  autograd  unsupported  drift             # wants NumPy below 2
torch-2.13  gpytorch        1.8.1   sample    fail         wrong-value       # variances of several tasks change places
"""


def rows(table: str) -> list[list[str]]:
    """The table without its comments."""
    return [line.partition("#")[0].split() for line in table.strip().splitlines()]


def wrong(
    tmp_path: Path,
    works: list[list[str]],
    breaks: list[list[str]],
    *,
    probes: Sequence[str] = ("import", "sample", "autograd", "compile"),
) -> list[str]:
    """What came out otherwise than the table says, readable, after one run of all the cells."""
    versions: dict[str, list[str]] = {}
    for _, library, version, *_ in (*works, *breaks):
        versions.setdefault(library, []).append(version)
    text = ["limits: { gpus: none }", f"probes: [{', '.join(probes)}]", "images:"]
    text += [f'  {name}: {{ local: {{ python: "3.11", requires: {made} }} }}' for name, made in STAND_INS.items()]
    text.append("libraries:")
    for library, found in versions.items():
        beside = f", with: {COMPANIONS[library]}" if library in COMPANIONS else ""
        text.append(f"  {library}: {{ versions: {sorted(set(found))}{beside} }}")
    (tmp_path / "matrix.yaml").write_text("\n".join(text) + "\n")
    cells = sorted({f"{image}/{library}-{version}" for image, library, version, *_ in (*works, *breaks)})
    command = [
        sys.executable,
        "-m",
        "torch_compat_matrix",
        "run",
        "--fresh",
        "--jobs",
        "2",
        "--matrix",
        str(tmp_path / "matrix.yaml"),
    ]
    done = subprocess.run([*command, *cells], cwd=ROOT, env={**os.environ, "COMPAT_HOME": str(HOME)}, check=False)
    assert done.returncode in (0, 1)
    outcomes = Run.open(HOME).outcomes()
    found = []
    for image, library, version in works:
        for probe in probes:
            seen = outcomes[f"{image}/{library}-{version}/{probe}"]
            if seen.verdict.value != "pass" and seen.reason != "not-applicable":
                found.append(f"{seen.check} works; seen: {seen.verdict.value} ({seen.reason}) {seen.evidence}")
    for image, library, version, probe, verdict, reason in breaks:
        seen = outcomes[f"{image}/{library}-{version}/{probe}"]
        if (seen.verdict.value, seen.reason) != (verdict, reason):
            said = f"{seen.verdict.value} ({seen.reason}) {seen.evidence}"
            found.append(f"{seen.check} is {verdict} ({reason}); seen: {said}")
    return found


def test_table_is_large_enough() -> None:
    """Twelve pairs of each kind at least, none in both."""
    working = {tuple(row) for row in rows(WORKS)}
    breaking = {tuple(row[:3]) for row in rows(BREAKS)}
    assert min(len(working), len(breaking)) >= 12
    assert not working & breaking


@pytest.mark.share(minutes=2)
def test_quick_share(torch_python: str, tmp_path: Path) -> None:
    """One that works, one that does not import, one that would replace the image's NumPy; without the gradients."""
    assert torch_python
    works = [row for row in rows(WORKS) if row == ["torch-2.13", "torchbnn", "1.2"]]
    breaks = [
        row
        for row in rows(BREAKS)
        if row[:3] in (["torch-2.13", "pyro-ppl", "1.8.0"], ["torch-2.13", "captum", "0.8.0"])
    ]
    assert (len(works), len(breaks)) == (1, 2)
    assert wrong(tmp_path, works, breaks, probes=("import", "sample", "compile")) == []


@pytest.mark.slow
@pytest.mark.parametrize("image", STAND_INS)
def test_whole_table(image: str, tmp_path: Path) -> None:
    """Every row of one torch."""
    mine = [[row for row in rows(table) if row[0] == image] for table in (WORKS, BREAKS)]
    assert wrong(tmp_path, *mine) == []


@pytest.mark.slow
def test_old_releases(tmp_path: Path) -> None:
    """No false alarm from a probe that has grown with newer releases; without compiling, whose faults are torch's."""
    assert wrong(tmp_path, rows(OLD), rows(OLD_BREAKS), probes=("import", "sample", "autograd")) == []
