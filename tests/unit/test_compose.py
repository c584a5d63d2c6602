"""Several files, variables, defaults and inheritance make one matrix, whose mistakes keep their places."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path

import jsonschema
import pytest
from ruamel.yaml import YAML

from tests.support import RESOURCES
from torch_compat_matrix.runner.errors import Trouble
from torch_compat_matrix.runner.matrix.document import MatrixError
from torch_compat_matrix.runner.matrix.expand import expand
from torch_compat_matrix.runner.matrix.load import load
from torch_compat_matrix.runner.matrix.schema import Matrix, json_schema
from torch_compat_matrix.runner.packages.pip_config import Index

IMAGES = 'images: { one: { tag: "a:1" } }\n'


def read(folder: Path, files: Mapping[str, str], **given: str) -> Matrix:
    """The matrix of these files, of which matrix.yaml is the first."""
    for name, text in files.items():
        (folder / name).parent.mkdir(exist_ok=True)
        (folder / name).write_text(text)
    return load(folder / "matrix.yaml", given)


def mistakes(folder: Path, files: Mapping[str, str], **given: str) -> list[str]:
    """The mistakes of these files, without their folder."""
    with pytest.raises(MatrixError) as raised:
        read(folder, files, **given)
    return [str(mistake).replace(f"{folder}/", "") for mistake in raised.value.mistakes]


def test_files_are_merged(tmp_path: Path) -> None:
    """Relative to the file that names them, each once; lists are joined, and entries keep their places."""
    known = 'known: [{{ cells: "*/{}-*", expect: fail, reason: r }}]\n'
    matrix = read(
        tmp_path,
        {
            "matrix.yaml": "include:\n  - parts/*.yaml\n  - { images: one, library: captum, versions: ['0.9.0'] }\n"
            "libraries: { torch: { versions: [installed] } }\n" + known.format("torch"),
            "parts/images.yaml": IMAGES,
            "parts/libraries.yaml": "include: [images.yaml]\n"
            "libraries: { captum: { versions: ['0.8.0'] } }\n" + known.format("captum"),
        },
    )
    assert [*matrix.images, *matrix.libraries] == ["one", "torch", "captum"]
    assert [entry.library for _, entry in matrix.included] == ["captum"]
    assert [entry.place.removeprefix(f"{tmp_path}/") for entry in matrix.model_known()] == [
        "matrix.yaml:5:9",
        "parts/libraries.yaml:3:9",
    ]


@pytest.mark.parametrize(
    ("files", "said"),
    [
        ({"part.yaml": "images: { one: { tga: x } }\n"}, ["part.yaml:1:18: unknown key 'tga'; did you mean 'tag'?"]),
        (
            {"part.yaml": "images:\n  one: { tag: b }\ninstall: plain\n", "more.yaml": "install: plain\n"},
            [
                "more.yaml:1:1: 'install' is also at part.yaml:3:1: give it in one file only",
                "part.yaml:2:3: 'one' is also at matrix.yaml:1:11: give it in one file only",
            ],
        ),
        ({"part.yaml": "include: [matrix.yaml]\n"}, ["part.yaml:1:11: matrix.yaml includes itself: remove one of the"]),
        ({"part.yaml": "libraries: [\n"}, ["part.yaml:2:1: not YAML: "]),
        ({"part.yaml": "- one\n"}, ["part.yaml:1:1: not a matrix: "]),
        ({}, ["matrix.yaml:2:11: there is no file 'part.yaml' in"]),
    ],
)
def test_a_mistake_names_the_file_that_holds_it(tmp_path: Path, files: Mapping[str, str], said: list[str]) -> None:
    """A name of two files has both places."""
    names = ", ".join(["part.yaml", *sorted(set(files) - {"part.yaml"})])
    images = "" if "tga" in str(files) else IMAGES
    found = mistakes(tmp_path, {**files, "matrix.yaml": f"{images}include: [{names}]\n"})
    assert [line[: len(wanted)] for line, wanted in zip(found, said, strict=True)] == said


def test_variables_are_those_given_then_those_of_the_environment(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """In tags, digests, versions and indexes; a requirement keeps its own for uv."""
    monkeypatch.setenv("SHA", "of-the-environment")
    monkeypatch.setenv("EMPTY", "")
    text = """images: { one: { tag: "a/${REPO:-train}:${SHA}", claim: "${SHA}" }, two: { tag: "a:${EMPTY:-b}" } }
libraries: { torchbnn: { versions: ["${BNN}"], with: ["x @ git+https://${SHA}@h/x.git"] } }
"""
    matrix = read(tmp_path, {"matrix.yaml": text}, SHA="given", BNN="1.2")
    assert [image.tag for image in matrix.images.values()] == ["a/train:given", "a:b"]
    assert matrix.images["one"].claim == "${SHA}"
    assert [(entry.versions, entry.with_) for _, entry in matrix.entries] == [
        (["1.2"], ["x @ git+https://${SHA}@h/x.git"])
    ]


def test_an_unset_variable_has_its_place(tmp_path: Path) -> None:
    """And the option that sets it; so has what only resembles a variable."""
    text = 'images: { one: { tag: "a:${COMPAT_UNSET}" }, two: { tag: "a:${x y}" } }\n'
    assert mistakes(tmp_path, {"matrix.yaml": text}) == [
        "matrix.yaml:1:18: the variable COMPAT_UNSET is not set; set it in the environment, or give"
        " `--set COMPAT_UNSET=VALUE`",
        "matrix.yaml:1:53: `${` begins a variable: write `${NAME}` or `${NAME:-default}`",
    ]


def test_defaults_and_bases_fill_what_an_entry_does_not_say(tmp_path: Path) -> None:
    """Own values first, then those of the base, then the defaults; lists are replaced, mappings merged."""
    text = """defaults:
  images: { limits: { memory: 16g, timeout: 9 }, python: python3.12 }
  libraries: { versions: [latest], with: [numpy] }
images:
  last: { extends: next, limits: { timeout: 5 } }
  next: { extends: first, tag: "a:2", expects: { torch: "2.9" } }
  first: { tag: "a:1", digest: "sha256:%s", expects: { torch: "2.6", tools: [g++] }, limits: { timeout: 3 } }
libraries:
  Captum: {}
  pyro-ppl: [{ versions: ["1.9.1"] }, { with: [], label: alone }]
"""
    matrix = read(tmp_path, {"matrix.yaml": text % ("0" * 64)})
    last, then, first = matrix.model_images()
    assert [(image.tag, bool(image.digest)) for image in (last, then, first)] == [
        ("a:2", False),
        ("a:2", False),
        ("a:1", True),
    ]
    assert [image.limits.timeout_s for image in (last, then, first)] == [5, 3, 3]
    assert {(image.limits.memory, image.python) for image in (last, then, first)} == {(16 << 30, "python3.12")}
    assert last.expects == {"torch": "2.9", "tools": ["g++"]}
    assert [(name, entry.versions, entry.with_) for name, entry in matrix.entries] == [
        ("captum", ["latest"], ["numpy"]),
        ("pyro-ppl", ["1.9.1"], ["numpy"]),
        ("pyro-ppl", ["latest"], []),
    ]


@pytest.mark.parametrize(
    ("text", "said"),
    [
        (
            'images: { one: { tag: "a:1" }, two: { extends: on } }\n',
            "1:39: there is no image 'on'; did you mean 'one'?",
        ),
        (
            "images:\n  one: { extends: two }\n  two: { extends: one }\n",
            ":10: an image extends itself: ",
        ),
        ("defaults: { images: { tga: x } }\n" + IMAGES, "1:23: unknown key 'tga'; did you mean 'tag'?"),
        ("defaults: { images: { limits: { pids: x } } }\n" + IMAGES, "1:33: Input should be a valid integer"),
        ("defaults: { libraries: { label: x } }\n" + IMAGES, "1:26: Input should be None"),
    ],
)
def test_mistakes_of_bases_and_defaults_are_named_once(tmp_path: Path, text: str, said: str) -> None:
    """Where they are written, however many entries take them."""
    (found,) = [line for line in mistakes(tmp_path, {"matrix.yaml": text}) if "neither" not in line]
    assert said in found


def test_a_mistake_is_shown_in_its_line(tmp_path: Path) -> None:
    """With a caret below its place, and without the secrets of the line."""
    text = 'images: { one: { tag: "a:1", local: { python: "3.8", requires: ["x @ https://u:secret@h/x.whl"] } } }\n'
    with pytest.raises(MatrixError) as raised:
        read(tmp_path, {"matrix.yaml": text})
    assert str(raised.value).splitlines()[1:] == [
        '    images: { one: { tag: "a:1", local: { python: "3.8", requires: ["x @ https://***@h/x.whl"] } } }',
        "                                          ^",
    ]


def test_sources_of_packages(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Users and passwords stay names; folders are those beside the file that names them."""
    monkeypatch.setenv("TOKEN", "t0ken")
    (tmp_path / "sub" / "wheels").mkdir(parents=True)
    text = """libraries:
  captum:
    versions: [latest]
    index: "https://me:${TOKEN}@${HOST}/simple"
    extra-index: ["https://h/simple"]
    find-links: [wheels, "https://h/files"]
"""
    files = {"matrix.yaml": f"{IMAGES}include: [sub/part.yaml]\n", "sub/part.yaml": text}
    (cell,) = expand(read(tmp_path, files, HOST="pypi.example"), "docker").cells
    assert cell.index == "https://me:${TOKEN}@pypi.example/simple"
    assert (cell.extra_index, cell.find_links) == (
        ("https://h/simple",),
        (str(tmp_path / "sub" / "wheels"), "https://h/files"),
    )
    index = Index(options={"extra-index-url": "https://own/simple"}, uv={"UV_FIND_LINKS": "/own"}).beside(cell)
    variables = index.uv_environment()
    assert variables["UV_DEFAULT_INDEX"] == "https://me:t0ken@pypi.example/simple"
    assert variables["UV_INDEX"] == "https://own/simple https://h/simple"
    assert variables["UV_FIND_LINKS"] == f"/own,{tmp_path}/sub/wheels,https://h/files"
    assert index.key != Index().key
    monkeypatch.delenv("TOKEN")
    with pytest.raises(Trouble, match="needs the variable TOKEN"):
        Index().beside(cell)


@pytest.mark.parametrize(
    ("key", "said"),
    [
        ('index: "https://me:secret@h/simple"', "a URL with a secret"),
        ('find-links: ["https://h/files?token=secret"]', "a URL with a secret"),
        ("index: simple", "'simple' is not a URL; write one like https://host/simple"),
        ("find-links: [absent]", "there is no folder"),
        (
            'index: "https://${COMPAT_UNSET}@h/simple"',
            "the variable COMPAT_UNSET is not set; set it in the environment",
        ),
    ],
)
def test_a_source_that_cannot_be_meant_is_refused(tmp_path: Path, key: str, said: str) -> None:
    """With its place; a password on the command line would be recorded."""
    text = f"{IMAGES}libraries: {{ captum: {{ versions: [latest], {key} }} }}\n"
    (found,) = mistakes(tmp_path, {"matrix.yaml": text}, COMPAT_UNSET="x")
    assert found.startswith("matrix.yaml:2:") and said in found


def test_a_matrix_with_every_key_that_lets_it_grow() -> None:
    """It is what the tests of damaged files damage."""
    matrix = load(RESOURCES / "matrix" / "scaled.yaml")
    jsonschema.validate(
        YAML(typ="safe").load((RESOURCES / "matrix" / "scaled.yaml").read_text()), json.loads(json_schema())
    )
    assert len(expand(matrix, "docker").cells) == 5 + 4 + 5
