"""A derived image: what is added to an image with exact pins and hashes, and the files that build and verify it."""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Iterable, Mapping, Sequence
from contextlib import suppress
from dataclasses import asdict, dataclass
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from packaging.utils import (
    InvalidSdistFilename,
    InvalidWheelFilename,
    parse_sdist_filename,
    parse_wheel_filename,
)

from torch_compat_matrix.runner.errors import Trouble
from torch_compat_matrix.runner.model import Image, Limits, repository
from torch_compat_matrix.runner.packages import uv
from torch_compat_matrix.runner.packages.pip_config import Index
from torch_compat_matrix.runner.packages.resolve import PASSING, Resolution, resolve
from torch_compat_matrix.runner.packages.target import Target
from torch_compat_matrix.runner.pins import name_of, same_version, version_of

STACK = "advice"
"""The name of the stack that verifies the combination."""


class Blocked(Exception):
    """A combination that cannot be had, in words that name what is in the way."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Joint:
    """The complete set that the image lacks."""

    added: Mapping[str, str]
    """Canonical name -> version."""
    requirements: str
    """The same with hashes, as pip takes it."""
    replaced: tuple[str, ...] = ()
    """What of the image gives way, because it was asked for (`captum 0.7.0 -> 0.9.0`)."""


def join(
    versions: Mapping[str, str], known: Mapping[str, str], facts: Mapping[str, Any], index: Index, home: Path
) -> Joint:
    """Resolve the libraries together against the image, at the versions verified with them as far as that can be.

    Blocked where they do not go together or the image could not be kept, Trouble where no index answers.
    """
    facts = {**facts, "metadata": _metadata(facts, home)}
    asked = [f"{name}=={version}" for name, version in versions.items()]
    with TemporaryDirectory(prefix="compat-") as cache:  # what was yanked since an earlier answer must not be advised
        found = _resolved(asked, facts, index, Path(cache))
        wanted = {name: version for name, version in known.items() if found.get(name) not in (None, version)}
        if wanted:
            exactly = [f"{name}=={version}" for name, version in wanted.items() if name not in versions]
            with suppress(Blocked):  # then it is another set than was verified, which the answer says
                found = _resolved([*asked, *exactly], facts, index, Path(cache))
    held = facts["packages"]
    return Joint(
        added=found,
        requirements=_hashed(found, Target.of(facts), index),
        replaced=tuple(f"{name} {held[name]} -> {version}" for name, version in found.items() if name in held),
    )


def _resolved(requirements: Sequence[str], facts: Mapping[str, Any], index: Index, cache: Path) -> dict[str, str]:
    found: Resolution = resolve(requirements, facts, index, cache)
    if found.problem in PASSING:
        raise Trouble(found.problem, found.detail, evidence=found.evidence)
    if found.problem:
        raise Blocked(found.detail)
    return {name: found.versions[name] for name in map(name_of, found.add)}


def _metadata(facts: Mapping[str, Any], home: Path) -> Mapping[str, Any]:
    """The requirements of the image's own packages: journals leave them out, the cache of facts has them."""
    for path in sorted((home / "facts").glob("*.json")):
        kept = json.loads(path.read_text())
        if all(kept.get(name) == facts.get(name) for name in ("packages", "python", "machine")):
            found: Mapping[str, Any] = kept.get("metadata", {})
            return found
    return {}


def _hashed(added: Mapping[str, str], target: Target, index: Index) -> str:
    """The packages with the hashes of their files; Blocked for one that was withdrawn or has no known hash."""
    if not added:
        return ""
    flags = ("--no-header", "--no-annotate", "--no-deps", "--generate-hashes", *target.flags(), *index.uv_flags())
    ran = uv.run(
        ("pip", "compile", *flags, "-"),
        index.uv_environment(),
        stdin="".join(f"{name}=={version}\n" for name, version in sorted(added.items())),
    )
    if ran.status and ran.reason in PASSING:
        raise ran.trouble("the hashes cannot be had")
    if ran.status:
        raise Blocked(uv.brief(ran.explanation))
    withdrawn = re.search(r"^warning: (`.* is yanked.*)$", ran.err, re.MULTILINE)
    if withdrawn:
        raise Blocked(withdrawn[1])
    lines = []
    for line in ran.out.replace("\\\n", "").splitlines():
        name, version = name_of(line), version_of(line)
        hashes = re.findall(r"--hash=(\S+)", line) or sorted(_files(name, version, index))
        if not hashes:
            raise Blocked(f"the index tells no hash of {name} {version}")
        lines.append(" \\\n    ".join([f"{name}=={version}", *(f"--hash={one}" for one in hashes)]))
    return "\n".join(lines) + "\n"


def _files(name: str, version: str, index: Index) -> Iterable[str]:
    """The hashes of the package's files in local find-links folders, of which uv tells none."""
    for folder in (Path(link.removeprefix("file://")) for link in index.find_links()):
        for path in folder.iterdir() if folder.is_dir() else ():
            try:
                read = parse_wheel_filename if path.suffix == ".whl" else parse_sdist_filename
                found = read(path.name)
            except (InvalidWheelFilename, InvalidSdistFilename):
                continue
            if found[0] == name and same_version(str(found[1]), version):
                yield f"sha256:{hashlib.sha256(path.read_bytes()).hexdigest()}"


def dockerfile(image: Image, digest: str, added: Mapping[str, str], remarks: Sequence[str]) -> str:
    """The derived image; the pins go on top of the image's own packages, none of which pip may touch."""
    source = f"{repository(image.tag)}@{digest}" if image.tag and digest else image.tag
    lines = [
        *(f"# {line}" for line in remarks),
        f"# {image.tag}" if digest else "# No digest was recorded: the tag may name another image by now.",
        f"FROM {source}",
        "COPY requirements.txt constraints.txt /opt/advice/",
    ]
    if added:
        lines += [
            "# PIP_BREAK_SYSTEM_PACKAGES: newer images mark their Python as the distribution's; only what they lack is",
            "# added.  A pip that does not know the variable passes over it.",
            "RUN PIP_BREAK_SYSTEM_PACKAGES=1 "
            f"{image.python} -m pip install --no-deps --require-hashes -r /opt/advice/requirements.txt",
        ]
    return "\n".join([*lines, ""])


def constraints(held: Mapping[str, str], added: Mapping[str, str]) -> str:
    """All of the image's packages and the pins: whatever is installed later, none of them may move.

    All and not a choice: which of the image's packages a library's compiled code depends on cannot be seen from here.
    """
    return "".join(f"{name}=={version}\n" for name, version in sorted({**held, **added}.items()) if version)


def matrix(image: Image, digest: str, requires: Sequence[str], probes: Sequence[str], remarks: Sequence[str]) -> str:
    """A matrix of the image and one stack, of which `compat run` is the proof; values are JSON, which is YAML too."""
    entry: dict[str, Any] = {"tag": image.tag, "digest": digest} if image.tag else {}
    entry |= {"python": image.python} if image.python != "python3" else {}
    entry |= {"local": {**asdict(image.local), "requires": list(image.local.requires)}} if image.local else {}
    limits, default = asdict(image.limits), asdict(Limits())
    changed = {name: value for name, value in limits.items() if value != default[name]}
    changed |= {"timeout": changed.pop("timeout_s")} if "timeout_s" in changed else {}
    entry |= {"limits": changed} if changed else {}
    stack = {"requires": list(requires), "probes": list(probes)}
    return "\n".join(
        [
            *(f"# {line}" for line in remarks),
            "images:",
            f"  {image.name}:",
            *(f"    {name}: {json.dumps(value)}" for name, value in entry.items() if value),
            "stacks:",
            f"  {STACK}:",
            *(f"    {name}: {json.dumps(value)}" for name, value in stack.items()),
            "",
        ]
    )
