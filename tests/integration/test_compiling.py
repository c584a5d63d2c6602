"""The order of compiled and eager calls, and what the calls of later processes need not compile again."""

from __future__ import annotations

import json
import os
import subprocess
from pathlib import Path

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


AHEAD = """
import os, sys
from torch_compat_matrix.probes import compiling, shared

folder = sys.argv[1]
if os.path.isdir(folder):
    shared.compiled = lambda: folder
    assert shared.seed()
    compiling.prepare("cpu")
    compiling.precompile()
    headers = shared.stamps(shared.header_folder())
    print([os.path.islink(path) for path in headers if path.endswith((".gch", ".pch"))])
    print({path.rpartition(".")[2] for path in shared.stamps(folder) if "/trials/" in path})
else:
    compiling.ahead(folder)
"""


@pytest.mark.slow
def test_what_was_compiled_ahead_is_not_compiled_again(torch_python: str, tmp_path: Path) -> None:
    """Torch finds the headers in another process, under the name that it would give them there."""
    said = ""
    for name in ("first", "second"):
        (tmp_path / name).mkdir()
        places = {"TMPDIR": str(tmp_path / name), "TORCHINDUCTOR_CACHE_DIR": str(tmp_path / name / "cache")}
        command = [torch_python, "-c", AHEAD, str(tmp_path / "standin-compiled")]
        environment = {**os.environ, **places, "PYTHONPATH": str(ROOT / "src")}
        said = subprocess.run(command, env=environment, capture_output=True, text=True, check=True).stdout
    links, trials = said.splitlines()
    assert links == "[True]"
    assert "so" in trials
