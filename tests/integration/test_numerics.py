"""What two versions of a library compute differently, by a user's commands, and numbers that vary by themselves."""

from __future__ import annotations

import json
import os
import subprocess
from pathlib import Path

from tests.integration.test_own_probes import compat, outcomes
from tests.support import ROOT
from tests.support.environments import HOME
from tests.support.tinywheels import wheel

LIBRARY = """
from pathlib import Path

def attribution(x):
    return {factor} * float(Path({file!r}).read_text()) * x
"""

PROBES = """
import acme

from ..evidence import close

DISTRIBUTION = "acme"
MODULE = "acme"


def sample(probe):
    x = probe.randn(8)
    with probe.part("values"):
        close(acme.attribution(x), x, "attribution", rtol=0.2)
        close(x + 1, x + 1, "sum")
"""

MATRIX = """
probes: [import, sample, ./probes]
images: { small: { local: { python: "3.11", requires: ["torch==2.13.0", numpy] } } }
libraries: { acme: { versions: [./links/acme-1.0-py3-none-any.whl, ./links/acme-2.0-py3-none-any.whl] } }
"""


FINGERPRINT = """
import json, torch
from torch_compat_matrix.probes.evidence import close, falls, reached
from torch_compat_matrix.probes.fingerprint import numbers
from torch_compat_matrix.probes.probe import Probe

large = torch.linspace(-1, 1, 5000)
base, seen = numbers(large)["values"], []
for place in (0, 7, 1234, 4999):
    changed = large.clone()
    changed[place] += 0.5
    seen.append(numbers(changed)["values"] != base)
seen.append(numbers(large.flip(0))["values"] != base)
large[[10, 4000]] = large[[4000, 10]]
seen.append(numbers(large)["values"] != base)


def taken(seed, full=False):
    probe = Probe("cpu", seed, full)
    with probe.part("values"):
        close(torch.ones(2, dtype=torch.bfloat16), torch.ones(2), "half")
        close(torch.tensor([True, False]), torch.tensor([True, False]), "flags")
        close(torch.full((3,), 1e-9), torch.zeros(3), "nothing")
        close(torch.ones(1), torch.ones(1), "half")
        keys, other = torch.nn.Parameter(torch.ones(2)), torch.nn.Parameter(torch.ones(2))
        (keys * 1e-9 + other).sum().backward()
        reached({"keys": keys, "other": other}, "layer")
    with probe.part("training"):
        close(torch.ones(1), torch.ones(1), "step")
        falls([2.0, 1.0], "loss")
        close(torch.ones(1), torch.ones(1), "end")
    with probe.part("fails"):
        close(torch.ones(1), torch.ones(1), "before")
        close(torch.ones(1), torch.zeros(1), "wrong")
    with probe.part("many"):
        for number in range(99):
            close(torch.ones(1), torch.ones(1), str(number))
    return probe.numerics


first = taken(0)
names = [name for name in first if not name.startswith("many")]
print(json.dumps([seen, names, first[names[0]], len(first), len(base), taken(1), taken(0, full=True)]))
"""


def test_a_fingerprint_holds_what_is_the_same_in_every_run(torch_python: str) -> None:
    """A change of any element shows; not in it: rounding, training, parts that fail, other seeds, too many results."""
    environment = {**os.environ, "PYTHONPATH": str(ROOT / "src")}
    command = [torch_python, "-c", FINGERPRINT]
    said = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=280, check=True).stdout
    seen, names, half, results, most, *others = json.loads(said)
    assert seen == [True] * 6
    assert names == ["values: half", "values: flags", "values: half (2)", "values: layer: gradient of other"]
    assert half == {"dtype": "bfloat16", "shape": [2], "values": [1.0, 1.0]}
    assert (results, most, others) == (64, 16, [{}, {}])


def test_versions_that_compute_differently_and_numbers_that_vary(tmp_path: Path, torch_python: str) -> None:
    """By verb and in the report; the same pins with other numbers are a failure that blames nobody."""
    outside = tmp_path / "factor"
    outside.write_text("1")
    for version, factor in (("1.0", 1.05), ("2.0", 1.0)):
        code = LIBRARY.format(factor=factor, file=str(outside))
        wheel(tmp_path / "links", "acme", version, files={"acme/__init__.py": code})
    (tmp_path / "probes").mkdir()
    (tmp_path / "probes" / "acme.py").write_text(PROBES)
    (tmp_path / "matrix.yaml").write_text(MATRIX)
    (tmp_path / ".compat").mkdir()
    (tmp_path / ".compat" / "standins").symlink_to(HOME.absolute() / "standins")

    compat(tmp_path, "run", "--backend", "local")
    said = compat(tmp_path, "numerics", "small/acme-wheel-1.0", "small/acme-wheel-2.0")
    assert said == (
        "small/acme-wheel-1.0 -> small/acme-wheel-2.0: 1 of 2 differ\n"
        "  sample: values: attribution differs by 4.8 %\n"
        "  the other 1: exactly the same\n"
    )
    (report,) = (tmp_path / ".compat" / "runs").glob("*/report.md")
    told = "sample: values: attribution differs by 4.8 %; the other 1 exactly the same"
    assert f"- small/acme-wheel-1.0 -> small/acme-wheel-2.0: {told}" in report.read_text()

    outside.write_text("1.02")
    compat(tmp_path, "run", "acme-wheel-2.0", "--backend", "local", "--rerun", status=6)  # nothing else changed
    failed = outcomes(tmp_path)["sample"]
    assert (failed["verdict"], failed["reason"], failed["blame"]) == ("fail", "wrong-value", "unknown")
    assert failed["evidence"] == "sample: values: attribution differs by 2 %; the other 1 exactly the same"
    (row,) = json.loads(compat(tmp_path, "numerics", "latest", "small/acme-wheel-1.0", "--json"))["comparisons"]
    assert row["results"] == 2
