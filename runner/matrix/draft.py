"""A matrix made of images and libraries that a user names: as a document, or as the text of a first matrix.yaml."""

from __future__ import annotations

import json
import re
import shlex
import sys
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from itertools import accumulate, product
from pathlib import Path
from string import Template
from urllib.parse import unquote, urlsplit

from packaging.markers import Marker
from packaging.requirements import Requirement
from ruamel.yaml import YAML
from ruamel.yaml.error import YAMLError

from torch_compat_matrix.runner.errors import NothingSelected, did_you_mean
from torch_compat_matrix.runner.files import read_whole
from torch_compat_matrix.runner.matrix.compose import gather
from torch_compat_matrix.runner.matrix.document import Document
from torch_compat_matrix.runner.matrix.values import requirement
from torch_compat_matrix.runner.model import HERE, INSTALLED, LATEST, TORCH, repository
from torch_compat_matrix.runner.pins import canonical, version_of

if sys.version_info >= (3, 11):
    import tomllib
else:
    import tomli as tomllib

COMMAND_LINE = "the command line"

FOLLOWED = re.compile(r"(?P<what>-[rc]|--(?:requirement|constraint))[ =]*(?P<path>(?!\w+://)[^ =].*)")
MOST = 16 << 20
"""Bytes of such a file."""

NO_LIBRARIES = re.compile(r"python|pip|setuptools|wheel|conda|cuda\b.*|cudatoolkit|pytorch-cuda|pytorch-mutex")
"""What an environment.yml lists beside libraries."""


def drafted(images: Sequence[str], libraries: Sequence[str]) -> Document:
    """The document of a matrix with these images (references) and libraries (requirements); places are their options.

    Without images it is for this interpreter; without libraries, for the image's own torch.
    """
    options = [f"--image {shlex.quote(image)}" for image in images]
    options += [f"--lib {shlex.quote(library)}" for library in libraries]
    line = " ".join(options)
    document = Document(name=line, data={"images": {}, "libraries": {}}, lines={COMMAND_LINE: [line]})
    ends = accumulate(len(option) + 1 for option in options)
    places = [f"{COMMAND_LINE}:1:{end - len(option)}" for end, option in zip(ends, options, strict=True)]
    document.places[()] = begin = f"{COMMAND_LINE}:1:1"
    for name, reference, place in zip(_names(images), images, places, strict=False):
        document.data["images"][name] = _referred(reference)
        document.places["images", name] = place
    if not images:
        document.data["images"][HERE] = {}
    for text, place in zip(libraries, places[len(images) :], strict=True) if libraries else [(TORCH, begin)]:
        try:
            asked = Requirement(requirement(text))
            if asked.marker is not None:
                raise ValueError("a requirement with a marker; leave out what stands behind the `;`")
        except ValueError as error:
            document.note(place, f"{text!r} is {error}")
            continue
        add(document, asked, INSTALLED if not libraries else _version(asked), place)
    return document


def _referred(reference: str) -> dict[str, str]:
    tag, _, digest = reference.partition("@")
    return {"tag": tag, **({"digest": digest} if digest else {})}


def _by_digest(name: str, tags: Mapping[str, str], digest: str) -> dict[str, str | None]:
    """The entry of an image by that digest; its tag may be a pattern, and stays with the image where it inherits it."""
    tag = {"tag": repository(tags[name])} if tags.get(name) else {}
    return {"extends": name, **tag, "digest": digest, "newest": None, "local": None}


def with_images(matrix: Path, asked: Sequence[str]) -> tuple[Document, list[str]]:
    """The document of a matrix file with the images asked for, and their names in it.

    An image is asked for by its name in the file, a reference, or a digest of the one before it or of the only one. One
    that the file has is the same by another digest: its entry holds for it, but for the stand-in.
    """
    document, names = gather(matrix), list[str]()
    found = document.data.get("images") if isinstance(document.data, dict) else None
    images = found if isinstance(found, dict) else {}  # else `load` names the mistake
    tags = {name: str(entry.get("tag") or "") for name, entry in images.items() if isinstance(entry, dict)}
    tag = "".join(images) if len(images) == 1 else ""
    for text in asked:
        if text.startswith("sha256:"):
            if not tag:
                raise NothingSelected(f"{text} may be of any image", "name it as IMAGE@sha256:...")
            text = f"{tag}@{text}"
        tag, _, digest = text.partition("@")
        of = [tag] if tag in images else [name for name, known in tags.items() if known == tag]
        of = of or [name for name, known in tags.items() if known and repository(known) == tag]
        if text in images or not re.search("[/:@]", text):
            names.append(text)
            if images and text not in images:
                near = did_you_mean(text, images)
                raise NothingSelected(f"there is no image {text!r}{near}", "name one of the matrix, or a reference")
        else:
            names.append(re.sub(r"[^A-Za-z0-9._-]+", "-", f"{tag.rpartition('/')[2]}{digest[6:15]}"))
            images[names[-1]] = _by_digest(of[0], tags, digest) if digest and len(of) == 1 else _referred(text)
    return document, names


def add(document: Document, asked: Requirement, version: str, place: str, beside: Sequence[str] = ()) -> None:
    """Add a library at a version to the document, with its extras, and with what is installed beside it."""
    name = canonical(asked.name)
    entry = document.data["libraries"].setdefault(name, {"versions": []})
    entry["versions"] = [*dict.fromkeys([*entry["versions"], version])]
    extras = [f"{name}[{','.join(sorted(asked.extras))}]"] if asked.extras else []
    if wanted := [*dict.fromkeys([*entry.get("with", ()), *extras, *beside])]:
        entry["with"] = wanted
    document.places.setdefault(("libraries", name), place)
    document.places["libraries", name, "versions", entry["versions"].index(version)] = place


def _version(asked: Requirement) -> str:
    """The entry of `versions:` that the requirement stands for."""
    if asked.url is not None:
        parts = urlsplit(asked.url)
        return unquote(parts.path) if parts.scheme == "file" else asked.url
    return version_of(str(asked)) or str(asked.specifier) or LATEST


def _names(images: Sequence[str]) -> list[str]:
    """A name for each image: its repository's, which stays when the tag moves on; with the tag where two share it."""
    spelled = [(repository(image).rpartition("/")[2], image.rpartition("/")[2], image) for image in images]
    shared = Counter(name for names in spelled for name in set(names))
    unique = (next((name for name in names if shared[name] == 1), names[-1]) for names in spelled)
    return [re.sub(r"[^A-Za-z0-9._-]+", "-", name).strip("._-") or "image" for name in unique]


def listed(document: Document, place: str, text: str) -> list[str]:
    """Add the libraries that a requirements.txt, pyproject.toml or environment.yml lists; return what is left out.

    Each at its exact version, else at the newest that its line admits; torch as the image holds it.  ValueError where
    the text is not such a file.
    """
    begin = f"{place}:1:1"
    requirements, left = requirements_in(place, text)
    for asked in requirements:
        if canonical(asked.name) == TORCH:
            add(document, asked, INSTALLED, begin)
        elif asked.url or version_of(str(asked)) or not asked.specifier:
            add(document, asked, _version(asked), begin)
        else:
            capped = any(clause.operator not in (">=", ">") for clause in asked.specifier)
            add(document, asked, LATEST, begin, [f"{canonical(asked.name)}{asked.specifier}"] if capped else ())
    return left


def requirements_in(place: str, text: str) -> tuple[list[Requirement], list[str]]:
    """What such a file asks for, within its constraints, and the lines that are left out, each with the reason.

    Files that it names by `-r` and `-c` are read too.  ValueError as for `listed`, and where one cannot be read.
    """
    found: list[Requirement] = []
    bounds: list[Requirement] = []
    left = []
    for line, bounding in _followed(Path(place), text, frozenset({Path(place).resolve()})):
        try:
            asked = Requirement(requirement(line))
        except ValueError as error:
            left.append(f"{line}: {error}")
            continue
        if asked.marker is not None and not Marker(str(asked.marker)).evaluate():
            left.append(f"{line}: its marker does not hold here")
        else:
            (bounds if bounding else found).append(asked)
    for asked, bound in product(found, bounds):
        if canonical(asked.name) == canonical(bound.name):
            asked.specifier &= bound.specifier
    return found, left


def _followed(place: Path, text: str, within: frozenset[Path], bounding: bool = False) -> Iterator[tuple[str, bool]]:
    """The lines of the file and of those that it names, each with whether it is a constraint alone."""
    for line in _READERS.get(place.suffix[1:], _lines)(text):
        option = FOLLOWED.fullmatch(line)
        if option is None:
            yield line, bounding
            continue
        other = place.parent / option["path"]
        if other.resolve() in within:
            continue
        try:
            more = read_whole(other, MOST).decode("utf-8", "replace")
        except OSError as error:
            raise ValueError(f"{line}: cannot be read: {error.strerror}") from error
        yield from _followed(other, more, within | {other.resolve()}, bounding or "c" in option["what"])


def _lines(text: str) -> Iterator[str]:
    """The lines of a requirements.txt, without comments and hashes."""
    for line in text.replace("\\\n", " ").splitlines():
        line = re.sub(r"(^|\s)#.*|\s--(hash|config-settings|global-option)\b.*", "", line).strip()
        if line:
            yield line


def _pyproject(text: str) -> Iterator[str]:
    try:
        project = tomllib.loads(text).get("project", {})
    except tomllib.TOMLDecodeError as error:
        raise ValueError(f"not TOML: {error}") from error
    if "dependencies" not in project:
        raise ValueError("it has no `dependencies` under [project]")
    yield from project["dependencies"]


def _environment(text: str) -> Iterator[str]:
    """The packages of a conda environment under the names that pip knows, and those of its pip section."""
    try:
        data = YAML(typ="safe", pure=True).load(text)
    except YAMLError as error:
        raise ValueError(f"not YAML: {error}") from error
    if not isinstance(data, dict) or not isinstance(data.get("dependencies"), list):
        raise ValueError("it has no list `dependencies:`")
    for entry in data["dependencies"]:
        if isinstance(entry, dict):
            yield from entry.get("pip", ())
            continue
        name, version = re.split(r"(?=[^\w.-])", str(entry).rpartition("::")[2].strip() + " ", maxsplit=1)
        if not NO_LIBRARIES.fullmatch(name):
            begins = re.fullmatch(r"\s*=\s*([\w.]+?)(\.\*)?(=\S*)?\s*", version)  # conda's `=1.2` is pip's `==1.2.*`
            yield {"pytorch": TORCH}.get(name, name) + (f"=={begins[1]}.*" if begins else version.rstrip())


_READERS: Mapping[str, Callable[[str], Iterator[str]]] = {
    "toml": _pyproject,
    "yaml": _environment,
    "yml": _environment,
}
"""Ending of a file's name -> what reads its requirements; else it is a requirements.txt."""

DATA = Path(__file__).with_name("data")
HEAD, STAND_IN, UNKNOWN = ((DATA / f"{name}.txt").read_text() for name in ("head", "stand-in", "unknown"))


def example(library: str) -> tuple[str, str]:
    """The file name and the text of a module of probes for a library of the user's own, to be filled in."""
    module = library.replace("-", "_")
    template = Template((DATA / "probe.txt").read_text())
    return f"{module}.py", template.substitute(distribution=library, module=module)


def text_of(
    document: Document, held: Mapping[str, Mapping[str, str] | str], left: Sequence[str], schema: str, own: bool
) -> str:
    """The document as a commented matrix.yaml.

    `held` tells for each image what it was seen to hold, or why that is not known; `left` are requirements that the
    file leaves out; `own` names the folder of the user's own probes.
    """
    parts = [HEAD.format(schema=schema)]
    if own:
        parts.append("# Folders of probes of your own. A library without any gets generic ones.\nprobes: [./probes]\n")
    images = [_image(name, entry, held[name]) for name, entry in document.data["images"].items() if name != HERE]
    parts.append("images:\n" + ("".join(images) or STAND_IN.format()))
    parts.append("libraries:\n" + "".join(f"  {_library(*item)}\n" for item in document.data["libraries"].items()))
    if left:
        parts.append("# Left out:\n" + "".join(f"#   {line}\n" for line in left))
    return "\n".join(parts)


def _image(name: str, entry: Mapping[str, str], held: Mapping[str, str] | str) -> str:
    lines = [f"  {name}:\n", *(f"    {key}: {_scalar(value)}\n" for key, value in entry.items())]
    if isinstance(held, str):
        return "".join([*lines, UNKNOWN.format(why=held)])
    lines.append("    expects: # what the image held when this was written; the report says where it no longer does\n")
    return "".join([*lines, *(f"      {key}: {_scalar(value)}\n" for key, value in held.items())])


def _library(name: str, entry: Mapping[str, Sequence[str]]) -> str:
    values = (f"{key}: [{', '.join(map(_scalar, values))}]" for key, values in entry.items())
    note = " # the image's own" if entry["versions"] == [INSTALLED] else ""
    return f"{_scalar(name)}: {{ {', '.join(values)} }}{note}"


def _scalar(text: str) -> str:
    """The text as YAML, quoted unless it is a plain word; JSON's quoting is YAML's too."""
    return text if re.fullmatch(r"[A-Za-z][A-Za-z0-9._-]*", text) else json.dumps(text)
