"""`compat run --confirm`: what newly fails is asked again in a new overlay, and beside what passed, for real."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import jsonschema
import pytest

from tests.support import ROOT, nvidia_smi, scripted_torch
from tests.support.indexes import Index, json_index
from tests.support.tinywheels import wheel
from torch_compat_matrix.runner.records.journal import append
from torch_compat_matrix.runner.records.runs import Run

MATRIX = """\
images:
  any: { local: { python: "3.11", requires: [] } }
libraries:
  torchbnn: { versions: [latest] }
"""


def compat(place: Path, index: Index, *words: str) -> tuple[int, str]:
    """Status and output of a command."""
    return python(place, index, "-m", "torch_compat_matrix", *words)


def python(place: Path, index: Index, *words: str) -> tuple[int, str]:
    """Status and output of Python with these words."""
    clean = {name: value for name, value in os.environ.items() if not name.startswith(("PIP_", "UV_", "COMPAT_"))}
    own = {
        "PYTHONPATH": f"{ROOT / 'src'}{os.pathsep}{os.environ.get('PYTHONPATH', '')}",
        "PIP_INDEX_URL": index.url,
        "NO_PROXY": "127.0.0.1",
    }
    done = subprocess.run(
        [sys.executable, *words],
        cwd=place,
        env={**clean, **own, "UV_CACHE_DIR": str(place / "uv")},
        capture_output=True,
        text=True,
        check=False,
        timeout=280,
    )
    return done.returncode, done.stdout + done.stderr


SEVERAL = """\
images:
  any: { local: { python: "3.11", requires: [] } }
libraries:
  torchbnn: { versions: [latest], probes: [import] }
  captum: { versions: [latest], probes: [import] }
  gpytorch: { versions: [latest], probes: [import] }
  botorch: { versions: [latest], probes: [import] }
"""


def run(place: Path, index: Index, *more: str) -> tuple[int, str]:
    """Status and output of a run of the import on the interpreter at hand, which need not hold torch."""
    return compat(place, index, "run", "torchbnn-latest", "--plan", "plan.json", "--probe", "import", "--rerun", *more)


def test_library_is_told_from_its_host(tmp_path: Path) -> None:
    """A release that breaks is bracketed by the one before, status 1; a host that breaks both is unconfirmed, 6."""
    broken_host = tmp_path / "broken"
    at_home = f"import os\nif os.path.exists({str(broken_host)!r}):\n    raise ImportError('no such device')\n"
    (tmp_path / "matrix.yaml").write_text(MATRIX)
    with json_index() as index:
        index.add(wheel(tmp_path / "wheels", "torchbnn", "1.0", code=at_home), "2026-01-15")
        assert compat(tmp_path, index, "plan", "--backend", "here", "--json", "plan.json")[0] == 0
        status, said = run(tmp_path, index)
        assert status == 0, said
        broken_host.touch()
        status, said = run(tmp_path, index)
        assert status == 6, said
        assert "confirmation: clean, unconfirmed: its packages and its image are what passed in run" in said
        broken_host.unlink()
        assert run(tmp_path, index, "--confirm", "0")[0] == 0
        index.add(wheel(tmp_path / "wheels", "torchbnn", "1.1", code="raise ImportError('gone')\n"), "2026-02-15")
        status, said = run(tmp_path, index)
        assert status == 1, said
        assert "confirmation: bracketed" in said
        noise = ("noise", "any/torchbnn-latest/import", "--backend", "here", "--runs", "2")
        broken_host.touch()
        status, said = compat(tmp_path, index, *noise)
        assert status == 0, said
        assert "1 check in 2 equal runs on here, cpu:\nflips: 0 of 1 verdicts" in said
        assert "false alarms: seen 0, again 0, clean 0, bracketed 0" in said
        (record,) = (tmp_path / ".compat" / "noise.jsonl").read_text().splitlines()
        schema = json.loads((ROOT / "docs" / "schemas" / "noise.json").read_text())
        jsonschema.validate(json.loads(record), schema)
    (outcome,) = Run.open(tmp_path / ".compat").outcomes().values()
    assert (outcome.confirmation, outcome.unconfirmed, outcome.resolved) == ("bracketed", "", ("torchbnn==1.1",))
    asides = Run.all(tmp_path / ".compat" / "confirmations")
    assert [[each.resolved for each in aside.outcomes().values()] for aside in asides[1:]] == [
        [("torchbnn==1.1",)],
        [("torchbnn==1.0",)],
    ]
    assert not list((tmp_path / ".compat" / "overlays").glob(".*"))


def test_host_that_breaks_half_way_is_suspect(tmp_path: Path) -> None:
    """What passed first fails last, so that the failures between are the host's; on a sound host they are news."""
    imports = tmp_path / "imports"
    wears_out = f"with open({str(imports)!r}, 'a') as file:\n    file.write('.')\n    count = file.tell()\n"
    wears_out += "if 2 < count < 20:\n    raise OSError('no such device')\n"
    (tmp_path / "matrix.yaml").write_text(SEVERAL)
    rerun = ("run", "*/*-latest", "--plan", "plan.json", "--rerun", "--jobs", "1")
    with json_index() as index:
        for name in ("torchbnn", "captum", "gpytorch", "botorch"):
            index.add(wheel(tmp_path / "wheels", name, "1.0", code=wears_out), "2026-01-15")
        assert compat(tmp_path, index, "plan", "--backend", "here", "--json", "plan.json")[0] == 0
        status, said = compat(tmp_path, index, *rerun)
        assert status == 5, said
        assert "asked again, since it passed before: here/captum-latest/import" in said
        outcomes = Run.open(tmp_path / ".compat").outcomes()
        assert [(each.subject, each.verdict.value, each.reason, each.blame) for each in outcomes.values()] == [
            ("torchbnn", "pass", "", ""),
            ("captum", "pass", "", ""),
            ("gpytorch", "infra", "host-suspect", "host"),
            ("botorch", "infra", "host-suspect", "host"),
        ]
        assert outcomes["here/botorch-latest/import"].notes[-1].startswith("was fail (unclassified)")
        imports.write_text("." * 20)
        status, said = compat(tmp_path, index, "run", "--resume")
        assert status == 0, said
        index.add(wheel(tmp_path / "wheels", "botorch", "1.1", code="raise ImportError('gone')\n"), "2026-02-15")
        status, said = compat(tmp_path, index, *rerun)
        assert status == 1, said
        assert "asked again, since it passed before" in said
        assert "confirmation: bracketed" in said
    assert Run.open(tmp_path / ".compat").outcomes()["here/botorch-latest/import"].verdict.value == "fail"


def under_pytest(place: Path, index: Index, *more: str) -> tuple[int, str]:
    """Status and output of a session of pytest with the only check of the matrix."""
    words = ("-m", "pytest", "-m", "matrix", "-rxX", "--compat-backend=here", "--compat-select=*/*-latest/import")
    return python(place, index, *words, "-p", "no:hypothesispytest", *more)


def test_pytest_heeds_quarantine(tmp_path: Path) -> None:
    """A check that flipped in equal runs is an expected failure; one that did not is a failure."""
    (tmp_path / "matrix.yaml").write_text(MATRIX)
    with json_index() as index:
        index.add(wheel(tmp_path / "wheels", "torchbnn", "1.0", code="raise ImportError('gone')\n"), "2026-01-15")
        status, said = under_pytest(tmp_path, index)
        assert status == 1, said
        check = "here/torchbnn-latest/import"
        row = {"check": check, "verdicts": ["pass"], "flips": 3, "rate": 0.3, "alarms": {}, "spread": {}}
        head = {"kind": "noise", "date": "2026-02-01", "backend": "here", "target": "cpu", "runs": 9, "alarms": {}}
        append(tmp_path / ".compat" / "noise.jsonl", {**head, "checks": [row]})
        status, said = under_pytest(tmp_path, index)
        assert status == 0, said
        assert "quarantined: flipped in 30% of equal runs on 2026-02-01" in said


def test_pytest_climbs_where_it_is_asked_to(tmp_path: Path) -> None:
    """The host's failure is an expected one, with compat's own status 6; the library's is a failure."""
    broken_host = tmp_path / "broken"
    at_home = f"import os\nif os.path.exists({str(broken_host)!r}):\n    raise ImportError('no such device')\n"
    (tmp_path / "matrix.yaml").write_text(MATRIX)
    climbing = ("--compat-rerun", "--compat-confirm=5")
    with json_index() as index:
        index.add(wheel(tmp_path / "wheels", "torchbnn", "1.0", code=at_home), "2026-01-15")
        status, said = under_pytest(tmp_path, index, *climbing)
        assert status == 0, said
        broken_host.touch()
        status, said = under_pytest(tmp_path, index, *climbing)
        assert status == 6, said
        assert "unconfirmed: its packages and its image are what passed in run" in said
        broken_host.unlink()
        assert under_pytest(tmp_path, index, "--compat-rerun")[0] == 0
        index.add(wheel(tmp_path / "wheels", "torchbnn", "1.1", code="raise ImportError('gone')\n"), "2026-02-15")
        status, said = under_pytest(tmp_path, index, *climbing)
        assert status == 1, said
        assert "confirmation: bracketed" in said
        status, said = under_pytest(tmp_path, index, *climbing, "-n", "2")
        assert status == 4, said
        assert "--compat-confirm: no worker of pytest-xdist has all outcomes" in said


def test_failure_of_one_gpu_alone_is_unconfirmed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A release fails on the first GPU of the host, where the one before passes, and passes on the second."""
    gpus = [{**scripted_torch.DEFAULT["gpus"][0], "uuid": f"GPU-rung-{name}"} for name in "ab"]
    listed = (f"{gpu['uuid']}, {place}, NVIDIA A100, 40960, 550.54.14, 8.0, Disabled" for place, gpu in enumerate(gpus))
    nvidia_smi.put(tmp_path, monkeypatch, nvidia_smi.lists(*listed))
    monkeypatch.setenv("PYTHONPATH", str(scripted_torch.write(tmp_path / "packages", gpus=gpus)))
    picky = "import os\nif os.environ['CUDA_VISIBLE_DEVICES'] == '0':\n    raise ImportError('not on this one')\n"
    (tmp_path / "matrix.yaml").write_text(MATRIX)
    with json_index() as index:
        index.add(wheel(tmp_path / "wheels", "torchbnn", "1.0"), "2026-01-15")
        assert compat(tmp_path, index, "plan", "--backend", "here", "--json", "plan.json")[0] == 0
        status, said = run(tmp_path, index)
        assert status == 0, said
        index.add(wheel(tmp_path / "wheels", "torchbnn", "1.1", code=picky), "2026-02-15")
        status, said = run(tmp_path, index)
        assert status == 6, said
    words = "it passes elsewhere: on NVIDIA A100 GPU-rung-b, and not on NVIDIA A100 GPU-rung-a"
    assert f"confirmation: bracketed, unconfirmed: {words}" in said
    asides = Run.all(tmp_path / ".compat" / "confirmations")
    told = [(each.resolved, each.verdict.value) for aside in asides for each in aside.outcomes().values()]
    assert told == [(("torchbnn==1.1",), "fail"), (("torchbnn==1.0",), "pass"), (("torchbnn==1.1",), "pass")]
