"""A derived image: the exact pins and hashes that it adds to an image, and the files that build and verify it."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import asdict, dataclass
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from torch_compat_matrix.runner.errors import Trouble
from torch_compat_matrix.runner.model import PROBES, Image, Limits, repository
from torch_compat_matrix.runner.packages.pip_config import Index
from torch_compat_matrix.runner.packages.releases import hashed
from torch_compat_matrix.runner.packages.resolution import PASSING
from torch_compat_matrix.runner.packages.resolve import resolve
from torch_compat_matrix.runner.pins import HASH, name_of
from torch_compat_matrix.runner.records.shapes import kept_facts

STACK = "advice"
"""The name of the stack that verifies the combination."""


class Blocked(Exception):
    """A combination that cannot be installed; the message names the obstacle."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Joint:
    """The complete set of packages that the image lacks."""

    added: Mapping[str, str]
    """Canonical name -> version."""
    requirements: str
    """The same packages with hashes, as a requirements file for pip."""
    replaced: tuple[str, ...] = ()
    """Packages of the image that are replaced, as requested (`captum 0.7.0 -> 0.9.0`)."""


def join(
    versions: Mapping[str, str], known: Mapping[str, str], facts: Mapping[str, Any], index: Index, home: Path
) -> Joint:
    """Resolve the libraries together against the image, with the dependencies that they were verified with if possible.

    Blocked where they conflict with each other or with the image, Trouble where no index answers.
    """
    facts = {**facts, "metadata": _metadata(facts, home)}
    asked = [f"{name}=={version}" for name, version in versions.items()]
    with TemporaryDirectory(prefix="compat-") as cache:  # a version yanked since an earlier answer must not be advised
        added = _resolved(asked, facts, index, Path(cache))
        wanted = {name: version for name, version in known.items() if added.get(name) not in (None, version)}
        if wanted:
            exactly = [f"{name}=={version}" for name, version in wanted.items() if name not in versions]
            with suppress(Blocked):  # else the set differs from the verified one, and the answer says so
                added = _resolved([*asked, *exactly], facts, index, Path(cache))
    held = facts["packages"]
    return Joint(
        added=added,
        requirements=_hashed(added, facts, index),
        replaced=tuple(f"{name} {held[name]} -> {version}" for name, version in added.items() if name in held),
    )


def _resolved(requirements: Sequence[str], facts: Mapping[str, Any], index: Index, cache: Path) -> dict[str, str]:
    resolution = resolve(requirements, facts, index, cache)
    if resolution.problem in PASSING:
        raise resolution.trouble()
    if resolution.problem:
        raise Blocked(resolution.detail)
    return {name: resolution.versions[name] for name in map(name_of, resolution.add)}


def _metadata(facts: Mapping[str, Any], home: Path) -> Mapping[str, Any]:
    """The requirements of the image's own packages: journals leave them out, the cache of facts has them."""
    for path in sorted((home / "facts").glob("*.json")):
        kept = kept_facts(path)
        if kept is not None and all(kept.get(name) == facts.get(name) for name in ("packages", "python", "machine")):
            return kept["metadata"]
    return {}


def _hashed(added: Mapping[str, str], facts: Mapping[str, Any], index: Index) -> str:
    """The packages with the hashes of their files; Blocked for a package that was withdrawn or has no known hash."""
    if not added:
        return ""
    try:
        pins = hashed([f"{name}=={version}" for name, version in added.items()], facts, index, withdrawn=False)
    except Trouble as trouble:
        if trouble.code in PASSING:
            raise
        raise Blocked(str(trouble)) from trouble
    for pin in pins:
        if HASH not in pin:
            raise Blocked(f"the index tells no hash of {pin.replace('==', ' ')}")
    return "".join(f"{line}\n" for line in (*index.lines(), *(pin.replace(HASH, f" \\\n   {HASH}") for pin in pins)))


def dockerfile(
    image: Image,
    digest: str,
    held: Mapping[str, str],
    added: Mapping[str, str],
    remarks: Sequence[str],
    script: str = "",
) -> str:
    """The Dockerfile of the derived image: pip adds the pins and may touch none of the `held`, the image's packages.

    In an image without pip it is uv.  With a script, a container runs that, and the pins have no hashes.
    """
    source = f"{repository(image.tag)}@{digest}" if image.tag and digest else image.tag
    lines = [
        *(f"# {line}" for line in remarks),
        f"# {image.tag}" if digest else "# No digest was recorded: the tag may name another image by now.",
        f"FROM {source}",
        f"COPY requirements.txt {script or 'constraints.txt'} /opt/advice/",
    ]
    options = f"--no-deps {'' if script else '--require-hashes '}-r /opt/advice/requirements.txt"
    if added and "pip" in (held or ["pip"]):
        lines += [
            "# PIP_BREAK_SYSTEM_PACKAGES: newer images mark their Python as the distribution's; only what they lack is",
            "# added.  A pip that does not know the variable passes over it.",
            f"RUN PIP_BREAK_SYSTEM_PACKAGES=1 {image.python} -m pip install {options}",
        ]
    elif added:
        lines += [
            "# The image has no pip.",
            "COPY --from=ghcr.io/astral-sh/uv /uv /usr/local/bin/uv",
            f"RUN uv pip install --python $(command -v {image.python}) --break-system-packages {options}",
        ]
    if script:
        lines.append(f"CMD {json.dumps([image.python, f'/opt/advice/{script}'])}")
    return "\n".join([*lines, ""])


def constraints(held: Mapping[str, str], added: Mapping[str, str]) -> str:
    """All of the image's packages and the pins: no later install may change them.

    All packages, since it is not known which of them a library's compiled code depends on.
    """
    return "".join(f"{name}=={version}\n" for name, version in sorted({**held, **added}.items()) if version)


def matrix(image: Image, digest: str, requires: Sequence[str], probes: Sequence[str], remarks: Sequence[str]) -> str:
    """A matrix of the image and the stack, for `compat run` to prove; values are JSON, which is YAML too.

    The `probes` are those that the file names for all: only there may folders of probe modules stand.
    """
    entry: dict[str, Any] = {"tag": image.tag, "digest": digest} if image.tag else {}
    entry |= {"python": image.python} if image.python != "python3" else {}
    entry |= {"local": {**asdict(image.local), "requires": list(image.local.requires)}} if image.local else {}
    limits, default = asdict(image.limits), asdict(Limits())
    changed = {name: value for name, value in limits.items() if value != default[name]}
    changed |= {name: changed.pop(f"{name}_s") for name in ("timeout", "compile_timeout") if f"{name}_s" in changed}
    if timeouts := changed.pop("timeouts", None):
        changed["timeout"] = {**dict.fromkeys(PROBES, limits["timeout_s"]), **timeouts}
    entry |= {"limits": changed} if changed else {}
    return "\n".join(
        [
            *(f"# {line}" for line in remarks),
            f"probes: {json.dumps(list(probes))}",
            "images:",
            f"  {image.name}:",
            *(f"    {name}: {json.dumps(value)}" for name, value in entry.items() if value),
            "stacks:",
            f"  {STACK}:",
            f"    requires: {json.dumps(list(requires))}",
            "",
        ]
    )
