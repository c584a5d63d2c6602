"""What pip answers, what the product answers, and whether they say the same."""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from functools import cache
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import pytest
from packaging.requirements import InvalidRequirement, Requirement
from packaging.utils import canonicalize_name
from packaging.version import Version

from tests.pip.pairs import DATA
from tests.support import ROOT, tinywheels
from torch_compat_matrix.runner.errors import Trouble
from torch_compat_matrix.runner.packages.overlay import install
from torch_compat_matrix.runner.packages.pip_config import Index
from torch_compat_matrix.runner.packages.resolution import Resolution
from torch_compat_matrix.runner.packages.resolve import resolve
from torch_compat_matrix.runner.pins import name_of

KINDS = {  # the product's reason code -> the class of the answer
    "": "adds",
    "drift": "replaces",
    "unsatisfiable": "unsatisfiable",
    "version-not-found": "not found",
    "yanked": "not found",
    "python-too-old": "python",
    "python-too-new": "python",
    "no-wheel": "no wheel",
    "sdist-build-failed": "build",
    "needs-in-image": "build",
    "pip-refuses-metadata": "metadata",
    "bad-requirement": "bad requirement",
    "index-unreachable": "unreachable",
    "constraints-unreadable": "no such constraints",
}

REFUSALS = (  # what pip says on its way to a refusal -> the class of the answer; the first that is found counts
    ("bad requirement", r"Invalid requirement|invalid requirement|UndefinedEnvironmentName|Invalid constraint"),
    ("no such constraints", r"Could not open (constraint|requirements) file"),
    ("unreachable", r"NewConnectionError|Failed to establish a new connection"),
    ("not found", r"HTTP error 404"),
    ("no wheel", r"is not a supported wheel on this platform"),
    ("python", r"requires a different Python"),
    ("build", r"metadata-generation-failed|subprocess-exited-with-error|Failed to build|Cannot install build"),
    ("unsatisfiable", r"ResolutionImpossible"),
)


@dataclass(frozen=True)
class Answer:
    """The class of an answer, with the versions that are added, or (class `replaces`) that take another's place."""

    kind: str
    versions: Mapping[str, str] = field(default_factory=dict)
    text: str = ""


def environment(name: str, home: Path) -> tuple[Path, dict[str, Any]]:
    """An environment's interpreter and its facts; the environment is made once, by venv and pip alone."""
    wanted = DATA["environments"][name]
    folder = home / f"{name}-{Version(wanted['python'])}"
    facts = folder / "facts.json"
    if not facts.exists() or json.loads(facts.read_text())["asked"] != wanted:
        shutil.rmtree(folder, ignore_errors=True)
        subprocess.run([_interpreter(wanted["python"]), "-m", "venv", folder], check=True)
        for stub, version, *requires in wanted["stubs"]:
            tinywheels.wheel(folder / "stubs", stub, version, *requires)
        python = str(folder / "bin" / "python")
        install = [python, "-m", "pip", "install", "--quiet", "--find-links", str(folder / "stubs")]
        stubs = [f"{stub}=={version}" for stub, version, *_ in wanted["stubs"]]
        subprocess.run([*install, f"pip=={wanted['pip']}"], check=True)
        subprocess.run([*install, "--no-compile", *stubs, *wanted["requires"]], check=True)  # nobody imports them
        look = "import json; from torch_compat_matrix.probes.facts import gather; print(json.dumps(gather(False)))"
        variables = {**os.environ, "PYTHONPATH": str(ROOT / "src")}
        seen = subprocess.run([python, "-c", look], env=variables, check=True, capture_output=True)
        facts.write_text(json.dumps({"asked": wanted, "facts": json.loads(seen.stdout)}))
    return folder / "bin" / "python", json.loads(facts.read_text())["facts"]


@cache
def _interpreter(version: str) -> str:
    """An interpreter of that version; pyenv's own where the one on PATH is a shim that refuses."""
    pyenv = sorted(Path("~/.pyenv/versions").expanduser().glob(f"{version}.*/bin/python"))
    for path in [shutil.which(f"python{version}"), *map(str, pyenv)]:
        if path and subprocess.run([path, "-c", ""], capture_output=True, check=False).returncode == 0:
            return path
    pytest.skip(f"this machine has no Python {version}")


def ask_pip(
    python: Path,
    requires: Sequence[str],
    variables: Mapping[str, str],
    facts: Mapping[str, Any],
    kept: Path,
    place: Path,
) -> Answer:
    """The answer of the environment's own pip, which changes nothing; kept in a file, without this session's place."""
    if not kept.exists():
        answer = json.dumps(asdict(_pip(python, requires, variables, facts)))
        kept.parent.mkdir(parents=True, exist_ok=True)
        kept.write_text(answer.replace(str(place), "{place}"))
    return Answer(**json.loads(kept.read_text().replace("{place}", str(place))))


def _pip(python: Path, requires: Sequence[str], variables: Mapping[str, str], facts: Mapping[str, Any]) -> Answer:
    with TemporaryDirectory() as folder:
        report = Path(folder) / "report.json"
        command = [str(python), "-m", "pip", "install", "--no-input", "--dry-run", "--report", str(report)]
        said = _run([*command, *requires], variables)
        if report.exists():
            return _installs(json.loads(report.read_text())["install"], requires, facts)
        return Answer(_refusal(said, lambda: _run([*command, "-vv", *requires], variables)), text=said[-4000:])


def _run(command: Sequence[str], variables: Mapping[str, str]) -> str:
    environ = {**os.environ, **variables, "PYTHONPATH": ""}
    done = subprocess.run(command, env=environ, capture_output=True, text=True, timeout=580, check=False)
    return done.stdout + done.stderr


def _installs(entries: Sequence[Mapping[str, Any]], requires: Sequence[str], facts: Mapping[str, Any]) -> Answer:
    """What pip would install; another version of a package that nobody asked for by name makes it `replaces`."""
    versions: dict[str, str] = {canonicalize_name(each["metadata"]["name"]): _version(each) for each in entries}
    named: set[str] = {canonicalize_name(each["metadata"]["name"]) for each in entries if each["requested"]}
    replaced = {
        name: version
        for name, version in versions.items()
        if name not in named and version != facts["packages"].get(name, version)
    }
    return Answer("replaces", replaced) if replaced else Answer("adds", versions)


def _version(entry: Mapping[str, Any]) -> str:
    """The version of an entry of pip's report; its URL where one was asked for."""
    return str(entry["download_info"]["url"] if entry["is_direct"] else entry["metadata"]["version"])


def _refusal(said: str, ask_more: Callable[[], str]) -> str:
    """The class of a refusal."""
    for kind, pattern in REFUSALS:
        if re.search(pattern, said):
            return kind
    missing = re.search(r"No matching distribution found for (.+)", said)
    if not missing:
        return "unknown"
    try:
        wanted = Requirement(missing[1].partition(" (from ")[0])
    except InvalidRequirement:
        return "unknown"
    if re.search(rf"{re.escape(wanted.name)}.*invalid metadata|pip<24.1", said):
        return "metadata"
    if " (from " in missing[1] and "constraint" not in missing[1]:
        return "unsatisfiable"
    ignored = re.search(r"that require a different python version: (.+)", said)
    versions = re.findall(r"(\S+) Requires-Python", ignored[1]) if ignored else []
    if any(wanted.specifier.contains(version, prereleases=True) for version in versions):
        return "python"
    skipped = r"Skipping link: (?:none of the wheel's tags|No sources permitted)[^\n]*?://\S*/([^/\s#]+)"
    files = re.findall(skipped, ask_more())
    return "no wheel" if any(_is_file_of(name, wanted) for name in files) else "not found"


def _is_file_of(name: str, wanted: Requirement) -> bool:
    """Whether a file holds a release that the requirement takes."""
    stem = re.sub(r"\.(whl|tar\.gz|zip)$", "", name)
    version = stem.split("-")[1] if name.endswith(".whl") else stem.rpartition("-")[2]
    return wanted.specifier.contains(version, prereleases=bool(wanted.specifier))


def ask_product(requires: Sequence[str], facts: Mapping[str, Any], index: Index, place: Path) -> Answer:
    """The answer of a run, which fetches what is added, since only that shows some of what pip refuses."""
    try:
        resolution = install(requires, facts, index, place)[0]
    except Trouble:  # a build failed, which a dry run does not try
        resolution = resolve(requires, facts, index, place / "resolutions")
    return ours(resolution, set(map(name_of, requires)))


def ours(resolution: Resolution, named: Collection[str]) -> Answer:
    """The product's answer in pip's terms: what a plain `pip install` would do.

    A torch that is asked for by name (`named`) is drift for the product, since it makes another image.
    """
    changes = [change.split() for change in resolution.drift]
    replaced = {name: version for name, _, _, version in changes if name not in named}
    if replaced:
        return Answer("replaces", replaced, "; ".join(resolution.drift))
    kind = "adds" if changes else KINDS.get(resolution.problem, resolution.problem)
    text = " ".join(filter(None, [resolution.problem, resolution.detail, resolution.evidence]))
    lines = resolution.plain if changes else resolution.add
    added = [Requirement(line) for line in lines] if kind == "adds" else []
    versions = {each.name: each.url or str(each.specifier).lstrip("=") for each in added}
    return Answer(kind, {canonicalize_name(name): version for name, version in versions.items()}, text)


def count_equal(pip: Answer, product: Answer) -> tuple[int, int]:
    """How many versions are equal, of how many that either names; (0, 0) where the classes differ."""
    if pip.kind != product.kind:
        return 0, 0
    names = pip.versions.keys() | product.versions.keys()
    return sum(pip.versions.get(name) == product.versions.get(name) for name in names), len(names)
