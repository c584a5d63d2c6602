"""OpenAI's clip from a git reference, as matrix.yaml names it; a local repository may stand for GitHub."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
from ruamel.yaml import YAML

from tests.support import ROOT

MATRIX = YAML(typ="safe").load((ROOT / "matrix.yaml").read_text())
URL, _, COMMIT = MATRIX["libraries"]["clip"]["versions"][0].removeprefix("git+").rpartition("@")


def repository(place: Path) -> str:
    """What uv has kept of GitHub's repository, else what GitHub has."""
    cache = subprocess.run(["uv", "cache", "dir"], capture_output=True, text=True, check=True).stdout.strip()
    folder = place / "CLIP.git"
    subprocess.run(["git", "init", "-q", "--bare", "--initial-branch", "main", folder], check=True)
    for origin in (*Path(cache).glob("git-v*/db/*"), URL):  # which keeps commits, and no branch
        fetch = ["git", "-C", str(folder), "fetch", "-q", str(origin), f"{COMMIT}:refs/heads/main"]
        if not subprocess.run(fetch, capture_output=True, check=False).returncode:
            return f"git+{folder.as_uri()}@{COMMIT}"
    pytest.skip("neither GitHub nor uv's cache has OpenAI's CLIP")


@pytest.mark.slow
def test_clip_is_installed_from_its_commit_and_passes(tmp_path: Path) -> None:
    """Import and the other probes, beside the torchvision of the stand-in for torch 2.9."""
    matrix = {
        "limits": {"timeout": 600},
        "images": {"torch-2.9": {"local": MATRIX["images"]["torch-2.9"]["local"]}},
        "libraries": {"clip": {"versions": [repository(tmp_path)]}},
    }
    with (tmp_path / "matrix.yaml").open("w") as file:
        YAML().dump(matrix, file)
    command = [sys.executable, "-m", "torch_compat_matrix", "run", "--backend", "local", "--out", str(tmp_path / "out")]
    environment = {**os.environ, "PYTHONPATH": str(ROOT / "src")}
    done = subprocess.run(command, cwd=tmp_path, env=environment, capture_output=True, text=True, check=False)
    report = json.loads((tmp_path / "out" / "report.json").read_text())
    outcomes = {entry["check"]: entry["verdict"] for entry in report["outcomes"]}
    cell = f"torch-2.9/clip-git-{COMMIT[:7]}"
    assert outcomes == {f"{cell}/{probe}": "pass" for probe in ("import", "sample", "autograd", "compile")}, done.stdout
