"""The exact set of packages that a cell adds to its image, built once and shared by all cells that add it."""

from __future__ import annotations

import json
import os
import platform
import re
import sys
from collections.abc import Collection, Mapping, Sequence
from contextlib import suppress
from dataclasses import asdict
from email.parser import HeaderParser
from functools import cache, partial
from pathlib import Path
from typing import Any

from torch_compat_matrix.runner.errors import Trouble
from torch_compat_matrix.runner.files import build_once, read_cache, stamps, write_whole
from torch_compat_matrix.runner.model import Install, digest, utc_now
from torch_compat_matrix.runner.packages import buildline, bytecode, uv
from torch_compat_matrix.runner.packages import manifest as manifests
from torch_compat_matrix.runner.packages.pip import is_strict
from torch_compat_matrix.runner.packages.pip_config import Index
from torch_compat_matrix.runner.packages.resolution import Resolution
from torch_compat_matrix.runner.packages.resolve import resolve
from torch_compat_matrix.runner.packages.target import Target
from torch_compat_matrix.runner.pins import canonical, is_standard, numbers, too_new
from torch_compat_matrix.runner.text import fit
from torch_compat_matrix.runner.watch import phase


def install(
    requirements: Sequence[str],
    facts: Mapping[str, Any],
    index: Index,
    home: Path,
    *,
    newest: Collection[str] = (),
    since: float = 0,
    how: Install = "constrained",
    stand_in: bool = False,
) -> tuple[Resolution, Path | None]:
    """As `resolve`, with the overlay of what is added; where its metadata is such as pip refuses, pip itself is asked.

    uv mends what pip refuses, and passes over upper bounds of Python; only the packages themselves show it.  `how`:
    which of pip's two answers is taken (`install:` of the matrix).
    """
    answer = partial(resolve, requirements, facts, index, home / "resolutions", newest=newest, since=since)
    resolution = answer().under(how)
    if resolution.problem or not resolution.add:
        return resolution, None
    folder = build(resolution.add, facts, index, home, stand_in=stand_in)
    refused = refusals(folder, facts, strict=is_strict(facts["packages"].get("pip", "")))
    if not refused:
        return resolution, folder
    resolution = answer(refused=refused).under(how)
    add = () if resolution.problem else resolution.add
    return resolution, build(add, facts, index, home, stand_in=stand_in) if add else None


def build(add: Sequence[str], facts: Mapping[str, Any], index: Index, home: Path, *, stand_in: bool = False) -> Path:
    """The folder with these packages for the image that the facts describe; its name is its key.

    A folder that differs from its manifest is built again.  For a stand-in, whose torch may be of another build line
    than the image's, the packages are taken from its torch's line; Trouble `no-stand-in` where that lacks them.
    """
    folder = _build(add, facts, index, home)
    torch = facts.get("torch")
    if not (stand_in and torch):
        return folder
    cuda = torch["cuda"] or ""
    misfits = buildline.misfits(_cuda_needed(folder), cuda)
    if misfits and not cuda and buildline.has_cpu_index(index):
        with suppress(Trouble):
            folder = _build(add, facts, index, home, cpu_line=True)
            misfits = buildline.misfits(_cuda_needed(folder), cuda)
    if misfits:
        raise Trouble("no-stand-in", buildline.explain(misfits, torch["version"], cuda))
    return folder


def _cuda_needed(folder: Path) -> dict[str, str]:
    """What `buildline.cuda_needed` says of an overlay, kept beside it: a library may have 100 MB of compiled code."""

    def parse(record: Any) -> dict[str, str] | None:
        return dict(record["cuda_needed"]) if "cuda_needed" in record else None

    kept = read_cache(folder.with_suffix(".json"), parse)
    return buildline.cuda_needed(folder) if kept is None else kept


def _build(add: Sequence[str], facts: Mapping[str, Any], index: Index, home: Path, *, cpu_line: bool = False) -> Path:
    target = Target.of(facts)
    folder = folder_of(add, facts, index, home, cpu_line=cpu_line)

    def fill(partial: Path) -> None:
        _install(add, target, index, partial, cpu_line)
        _refuse_foreign(partial, facts)
        manifest = {"schema": 1, "add": fit(sorted(add)), **asdict(target), "built": utc_now(), "uv": uv.version()}
        manifest["cuda_needed"] = buildline.cuda_needed(partial)
        write_whole(folder.with_suffix(".json"), [json.dumps(manifest, indent=2) + "\n"])
        manifests.seal(partial, folder)

    return build_once(folder, fill, lambda folder: not manifests.damage(folder))


def contents(add: Sequence[str], facts: Mapping[str, Any]) -> str:
    """A hash of an overlay's packages and of what they are for."""
    return digest({"add": fit(sorted(add)), **asdict(Target.of(facts))})


def fetched(home: Path) -> set[str]:
    """The `contents` of the overlays that are here; no index is asked whether it has other files today."""

    def parse(record: Any) -> str:
        return digest({name: record[name] for name in ("add", *Target.__slots__)})

    records = (path for path in (home / "overlays").glob("*.json") if path.with_suffix("").is_dir())
    return {found for record in records if (found := read_cache(record, parse))}


def refusals(folder: Path, facts: Mapping[str, Any], *, strict: bool) -> dict[str, str]:
    """Name -> what pip holds against a package here that uv accepts: an upper bound of Python, a broken requirement.

    `strict`: pip refuses requirements outside the standard, as 24.1 and newer do.
    """
    refused = {}
    for path in sorted(folder.glob("*.dist-info/METADATA")):
        metadata = HeaderParser().parsestr(path.read_text(encoding="utf-8", errors="replace"))
        needs = str(metadata["Requires-Python"] or "")
        broken = [text for text in metadata.get_all("Requires-Dist") or () if strict and not is_standard(text)]
        words = [f"Requires-Python: {needs}"] if needs and too_new(needs, facts["python"]) else broken
        if words:
            refused[canonical(metadata["Name"])] = f"{metadata['Name']} {metadata['Version']} ({words[0]})"
    return refused


def folder_of(
    add: Sequence[str], facts: Mapping[str, Any], index: Index, home: Path, *, cpu_line: bool = False
) -> Path:
    """The folder of the overlay of these packages, whether it exists or not."""
    target, line = Target.of(facts), ["cpu"] if cpu_line else []
    flags, variables = (*target.flags(), *index.uv_flags()), index.uv_environment().items()
    files: list[object] = []
    if index.may_change:
        hashes = re.findall(r"--hash=(\S+)", offered(tuple(sorted(add)), flags, *variables).out)
        files = [*sorted(hashes), *index.stamps(add)]
    return home / "overlays" / digest([sorted(add), asdict(target), *line, *stamps(add), *files])


@cache
def offered(add: tuple[str, ...], flags: tuple[str, ...], *variables: tuple[str, str]) -> uv.Ran:
    """uv's answer with the hashes of the files that the indexes offer for these pins, asked once a process."""
    return uv.pins(add, dict(variables), "--no-deps", "--generate-hashes", *flags)


def _install(add: Sequence[str], target: Target, index: Index, folder: Path, cpu_line: bool) -> None:
    if not add:
        return
    phase("fetch")
    flags = ("--no-deps", "--target", str(folder), *target.flags(), *index.uv_flags())
    variables = index.uv_environment()
    if index.stamps(add):
        flags = (*flags, "--refresh")  # else uv takes an earlier file of find-links from its cache
    if cpu_line:
        flags, variables = (*flags, *buildline.CPU_INDEX), {**variables, **buildline.CPU_INDEX_VARIABLES}
    words = ("pip", "install", *flags, "-r", "-")
    ran = uv.run(words, variables, stdin="\n".join(add))
    changed = [] if ran.status else manifests.unlike_records(folder)
    if changed:  # by a library that found uv's cache, which belongs to the same user
        uv.run(("cache", "clean", *changed), variables)
        ran = uv.run((*words, "--reinstall"), variables, stdin="\n".join(add))
    if ran.status:
        raise ran.trouble("the packages cannot be fetched")
    uv.redact_sources(folder)
    if target.host_python:
        # Bytecode saves a container, which cannot write it to a read-only mount, up to a third of the import; only an
        # interpreter of the image's own version can compile it.
        uv.finish([sys.executable, "-I", bytecode.__file__, str(folder)], os.environ, timeout_s=uv.TIMEOUT_S)


def _refuse_foreign(folder: Path, facts: Mapping[str, Any]) -> None:
    """Raise Trouble where a package compiled here needs a newer C library than the image's; uv checks the rest."""
    own = platform.libc_ver()[1]
    if not facts["glibc"] or not own or numbers(own)[:2] <= numbers(facts["glibc"])[:2]:
        return
    for wheel in sorted(folder.glob("*.dist-info/WHEEL")):
        if any(line.startswith("Tag: ") and "-linux_" in line for line in wheel.read_text().splitlines()):
            name = wheel.parent.name.removesuffix(".dist-info")
            raise Trouble(
                "needs-in-image",
                f"{name} has no wheel for the image and was compiled for this host's glibc {own}, newer than the"
                f" image's {facts['glibc']}",
            )
