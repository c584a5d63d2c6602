"""Tiny packages for the tests of what installs: wheels, source distributions and simple indexes, made on the spot."""

from __future__ import annotations

import io
import re
import tarfile
from base64 import urlsafe_b64encode
from collections.abc import Mapping
from hashlib import sha256
from pathlib import Path
from types import MappingProxyType
from zipfile import ZipFile


def wheel(
    folder: Path,
    name: str,
    version: str,
    *requires: str,
    tags: str = "py3-none-any",
    needs_python: str = "",
    files: Mapping[str, str] = MappingProxyType({}),
    code: str = "",
) -> Path:
    """A wheel with one module that knows its version and runs this code, and with further files (path -> text)."""
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / f"{name.replace('-', '_')}-{version}-{tags}.whl"
    with ZipFile(path, "w") as archive:
        for member, text in _members(name, version, requires, tags, needs_python, files, code).items():
            archive.writestr(member, text)
    return path


def torch_for(folder: Path, version: str, cuda: str | None) -> Path:
    """A torch that says for which CUDA it is built; None is the CPU."""
    return wheel(folder, "torch", version, files={"torch/version.py": f"cuda: Optional[str] = {cuda!r}\n"})


def linked_to(folder: Path, name: str, version: str, *libraries: str) -> Path:
    """A package compiled against torch: a file that names these shared libraries, as an ELF file would."""
    return wheel(folder, name, version, "torch", files={f"{name}_C/_C.so": "\0".join(("", *libraries, ""))})


def sdist(
    folder: Path, name: str, version: str, *, tags: str = "py3-none-any", at_build: str = "", static: bool = False
) -> Path:
    """A source distribution that is its own build backend: it needs no setuptools, and so no network.

    `static`: pyproject.toml says all that its metadata would, so that uv need not build them.
    """
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / f"{name.replace('-', '_')}-{version}.tar.gz"
    members = _members(name, version, (), tags, "", {})
    files = {
        "PKG-INFO": next(text for member, text in members.items() if member.endswith("METADATA")),
        "pyproject.toml": '[build-system]\nrequires = []\nbuild-backend = "backend"\nbackend-path = ["."]\n'
        + (f'[project]\nname = "{name}"\nversion = "{version}"\n' if static else ""),
        "backend.py": _BACKEND.format(at_build=at_build, file=f"{path.name[:-7]}-{tags}.whl", members=members),
    }
    with tarfile.open(path, "w:gz") as archive:
        for member, text in files.items():
            entry = tarfile.TarInfo(f"{path.name[:-7]}/{member}")
            entry.size = len(text.encode())
            archive.addfile(entry, io.BytesIO(text.encode()))
    return path


def simple_index(folder: Path, *files: Path, yanked: str = "") -> str:
    """The URL of a simple index (PEP 503) of these files; `yanked` is the reason why all were withdrawn."""
    for file in files:
        page = folder / "simple" / file.name.partition("-")[0].replace("_", "-") / "index.html"
        page.parent.mkdir(parents=True, exist_ok=True)
        mark = f' data-yanked="{yanked}"' if yanked else ""
        with page.open("a") as stream:
            stream.write(f'<a href="{file.as_uri()}"{mark}>{file.name}</a><br>\n')
    return (folder / "simple").as_uri()


def _members(
    name: str,
    version: str,
    requires: tuple[str, ...],
    tags: str,
    needs_python: str,
    files: Mapping[str, str],
    code: str = "",
) -> dict[str, str]:
    module = name.replace("-", "_")
    metadata = [f"Metadata-Version: 2.1\nName: {name}\nVersion: {version}"]
    metadata += [f"Requires-Dist: {each}" for each in requires]
    metadata += [f"Provides-Extra: {extra}" for extra in sorted(set(re.findall(r'extra == "(.+?)"', str(requires))))]
    metadata += [f"Requires-Python: {needs_python}"] if needs_python else []
    info = f"{module}-{version}.dist-info"
    content = {
        f"{module}.py": f"__version__ = {version!r}\n{code}",
        f"{info}/METADATA": "\n".join(metadata) + "\n",
        f"{info}/WHEEL": f"Wheel-Version: 1.0\nRoot-Is-Purelib: true\nTag: {tags}\n",
        **files,
    }
    return {**content, f"{info}/RECORD": "".join(f"{file},{_hash(text)},\n" for file, text in content.items())}


def _hash(text: str) -> str:
    return "sha256=" + urlsafe_b64encode(sha256(text.encode()).digest()).decode().rstrip("=")


_BACKEND = """
import os, zipfile
{at_build}
def build_wheel(folder, config_settings=None, metadata_directory=None):
    with zipfile.ZipFile(os.path.join(folder, {file!r}), "w") as archive:
        for member, text in {members!r}.items():
            archive.writestr(member, text)
    return {file!r}
"""
