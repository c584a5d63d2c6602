"""Write a first matrix.yaml, with what each image really holds where a container engine answers. Nothing is asked, and
nothing overwritten.

(named)
--from FILE ...  take the libraries of a requirements.txt, pyproject.toml or environment.yml; may be repeated

compat init --image registry.example.com/team/train:24.1 --lib pyro-ppl --lib 'captum>=0.7'
compat init --from requirements.txt
"""

from __future__ import annotations

import argparse
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from torch_compat_matrix.compat.progress import answer, say
from torch_compat_matrix.reports.expectations import cudnn
from torch_compat_matrix.runner.backends.base import connect
from torch_compat_matrix.runner.bundle import extended
from torch_compat_matrix.runner.errors import BackendUnusable, Status, Trouble, UsageError, reading, writing
from torch_compat_matrix.runner.matrix.document import Document
from torch_compat_matrix.runner.matrix.draft import drafted, example, listed, text_of
from torch_compat_matrix.runner.matrix.load import load
from torch_compat_matrix.runner.matrix.schema import json_schema
from torch_compat_matrix.runner.model import INSTALLED, MATRIX, TORCH, Image
from torch_compat_matrix.runner.records.runs import home
from torch_compat_matrix.runner.text import one_line
from torch_compat_matrix.runner.workflow import facts_of

SCHEMA = Path("matrix.schema.json")
NIGHT = Path(".github", "workflows", "compat.yml")
OWNER = "OWNER"
"""Who publishes the tool on GitHub: the only place that says so, beside the pages of docs/."""

CALLER = f"""\
name: compat
on: {{ schedule: [{{ cron: "17 2 * * *" }}], workflow_dispatch: }}
permissions: {{ contents: read, issues: write }}
jobs:
  night:
    uses: {OWNER}/torch-compat-matrix/.github/workflows/matrix.yml@v1
    with:
      matrix: {MATRIX}
      targets: '{{"cpu": ["ubuntu-latest"]}}' # and your own: {{"h100": ["self-hosted", "gpu"]}}
      issue: true
"""


def main(options: argparse.Namespace) -> Status:
    _refuse(MATRIX)
    document = drafted(options.image, options.lib)
    left = [line for path in vars(options)["from"] for line in _listed(document, path)]
    document.data["libraries"] = {TORCH: {"versions": [INSTALLED]}, **document.data["libraries"]}
    matrix = load(document)  # every mistake, before anything is written
    lacking = next((name for name in matrix.libraries if name not in extended({}).entries), None)
    files = {SCHEMA: json_schema()} if not SCHEMA.exists() else {}
    if lacking is not None:
        name, text = example(lacking)
        files[Path("probes", name)] = text
    images = [image for image in matrix.model_images() if image.tag]
    if (Path(".git").exists() or Path(".github").is_dir()) and not NIGHT.exists():
        files[NIGHT] = CALLER
    files[MATRIX] = text_of(document, _held(images), left, schema=SCHEMA.name, own=lacking is not None)
    for path in files:
        _refuse(path)
    for path, text in files.items():
        with writing(path, "make the folder writable, or work in another"):
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(text)
        answer(f"written: {path}")
    answer("next: `compat plan` shows what a run does, `compat run` runs it")
    return Status.AS_EXPECTED


def _refuse(path: Path) -> None:
    if path.exists():
        raise UsageError("is here already and is not overwritten", "edit it, or work in another folder", str(path))


def _listed(document: Document, path: Path) -> Sequence[str]:
    remedy = "name another file with --from"
    try:
        with reading(path, remedy):
            return listed(document, str(path), path.read_text("utf-8"))
    except ValueError as error:
        raise UsageError(one_line(str(error)), remedy, str(path)) from error


def _held(images: Sequence[Image]) -> dict[str, Mapping[str, str] | str]:
    """What each image holds, or why that is not known."""
    held: dict[str, Mapping[str, str] | str] = {}
    try:
        backend = connect("docker", home()) if images else None
    except BackendUnusable as error:
        say(f"{str(error).partition(': ')[0]}: `expects:` is left for you to fill in")
        return dict.fromkeys((image.name for image in images), "No container engine answered, to ask what it holds:")
    for image in images:
        assert backend is not None
        say(f"asking {image.reference} what it holds; it is pulled where it is not here")
        try:
            held[image.name] = _expectations(facts_of(image, backend, say))
        except Trouble as trouble:
            say(f"{image.name}: {trouble}")
            held[image.name] = one_line(f"It could not be asked what it holds ({trouble}):")
    return held


def _expectations(facts: Mapping[str, Any]) -> Mapping[str, str]:
    """The facts as `expects:` states them: versions as exact as a rebuild of the image usually keeps them."""
    torch, system = facts["torch"], re.search(r"([A-Za-z]+).*?(\d+(?:\.\d+)?)", facts["os"])
    held = {
        "torch": torch["version"].partition("+")[0] if torch else "",
        "cuda": torch["cuda"] if torch else "",
        "cudnn": cudnn(torch["cudnn"]).partition(".")[0] if torch else "",
        "python": ".".join(facts["python"].split(".")[:2]),
        "os": " ".join(system.groups()) if system else "",
    }
    return {name: value for name, value in held.items() if value}
