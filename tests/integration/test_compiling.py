"""The order of compiled and eager calls."""

from __future__ import annotations

import json
import os
import subprocess

import pytest

from tests.support import ROOT

ASKS = """
import json, torch
from torch_compat_matrix.probes.compiling import compiled
from torch_compat_matrix.probes.probe import Probe

known = {}

def function(x):
    if not known:
        torch._dynamo.graph_break()
        known["warm"] = True
    return x.sin() * 2

probe = Probe("cpu")
compiled(probe, function, [(torch.ones(3),)], "cold", backend="eager")
compiled(probe, function, [(torch.ones(3),)], "warm", backend="eager")
print(json.dumps({name: metric["value"] for name, metric in probe.metrics.items()}))
"""


@pytest.mark.slow
def test_compiled_code_runs_before_eager_code(torch_python: str) -> None:
    """A break of the first call alone is counted, and the function is said not to compile whole."""
    environment = {**os.environ, "PYTHONPATH": str(ROOT / "src")}
    ran = subprocess.run([torch_python, "-c", ASKS], env=environment, capture_output=True, text=True, check=True)
    metrics = json.loads(ran.stdout)
    seen = {
        name: [metrics[f"{name}: {what}"] for what in ("graph breaks", "compiles with fullgraph")]
        for name in ("cold", "warm")
    }
    assert seen == {"cold": [1, 0], "warm": [0, 1]}
