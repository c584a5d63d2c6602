"""matrix.yaml: what is right comes through as it is written, and every mistake is named with place and remedy."""

from __future__ import annotations

import datetime as dt
import json
import time
from pathlib import Path

import jsonschema
import pytest
from ruamel.yaml import YAML

from tests.support import RESOURCES, ROOT
from torch_compat_matrix.runner.matrix.document import MatrixError
from torch_compat_matrix.runner.matrix.expand import expand
from torch_compat_matrix.runner.matrix.load import load
from torch_compat_matrix.runner.matrix.schema import Matrix, json_schema
from torch_compat_matrix.runner.model import Local, Verdict


def mistakes(name: str) -> list[str]:
    """What is said of a file, without its folder."""
    with pytest.raises(MatrixError) as raised:
        load(RESOURCES / "matrix" / f"{name}.yaml")
    return [str(mistake).replace(f"{RESOURCES}/matrix/", "") for mistake in raised.value.mistakes]


def test_sound_file() -> None:
    """Versions stay strings, sizes become bytes, an image's limits go before the file's."""
    matrix = load(RESOURCES / "matrix" / "sound.yaml")
    one, two = matrix.model_images()
    assert one.tag == "registry.example:5000/team/torch:2.10"
    assert one.local == Local(python="3.10", requires=("torch==2.10",))
    assert (one.limits.gpus, one.limits.timeout_s, one.limits.memory) == ("required", 30.0, 512 << 20)
    assert two.limits.gpus == "auto"
    assert [entry.versions for entry in matrix.entries_of("pyro-ppl")] == [["2.10", "latest"]]
    (known,) = matrix.model_known()
    assert (known.expect, known.expires) == (Verdict.FAIL, dt.date(2030, 1, 31))
    assert known.place == f"{RESOURCES / 'matrix' / 'sound.yaml'}:19:5"


def test_shipped_file() -> None:
    """The file of this repository is right, and covers the articles' images."""
    matrix = load(ROOT / "matrix.yaml")
    assert {"torch-2.6", "torch-2.9", "article-2.6", "article-2.9"} <= set(matrix.images)
    for name, library in matrix.entries:
        only = library.versions == ["installed"] or str(library.versions[0]).startswith("git+")
        assert only or len(library.versions) >= 2, name


@pytest.mark.parametrize(
    ("name", "said"),
    [
        (
            "duplicate-key",
            ["duplicate-key.yaml:3:3: 'one' is here twice (first at duplicate-key.yaml:2:3): YAML would keep only"],
        ),
        (
            "bad-commands",
            [
                "bad-commands.yaml:5:34: 'a(b' is no regular expression: missing )",
                "bad-commands.yaml:6:16: '' is no command; write a line for `sh -c`",
                "bad-commands.yaml:7:18: no command; write a line for `sh -c`, or a list",
                "bad-commands.yaml:8:7: 'not a name' is a name in check ids",
                "bad-commands.yaml:9:34: Input should be less than or equal to 255, not '256'",
            ],
        ),
        (
            "bad-suite",
            [
                "bad-suite.yaml:6:14: 'git+https://host/captum@v0.9.0' is no Git reference with its whole commit",
                "bad-suite.yaml:6:63: '../tests' is no path within the source; write one as pytest does",
                "bad-suite.yaml:9:14: there is no folder ",
            ],
        ),
        (
            "suite-without-reference",
            ["suite-without-reference.yaml:6:14: there is no image 'trains'; did you mean 'train'"],
        ),
        (
            "anchor",
            [
                "anchor.yaml:2:8: anchors and aliases are not supported: write the value out",
                "anchor.yaml:3:8: anchors and aliases are not supported: write the value out",
            ],
        ),
        ("tag", ["tag.yaml:2:15: the tag tag:yaml.org,2002:int is not supported: every value is a string"]),
        ("documents", ["documents.yaml:2:1: a second document: a matrix is a single document; remove the `---`"]),
        ("not-yaml", ["not-yaml.yaml:3:10: not YAML: "]),
        (
            "unknown-key",
            [
                "unknown-key.yaml:2:18: unknown key 'lokal'; did you mean 'local'?",
                "unknown-key.yaml:3:1: unknown key 'imags'; did you mean 'images'?",
            ],
        ),
        ("nothing", ["nothing.yaml:1:1: no value; give a value or remove the key"]),
        (
            "wrong-values",
            [
                "wrong-values.yaml:1:40: 'many' is not a known value; there are: auto, none, required",
                "wrong-values.yaml:1:25: Input should be a valid number",
                "wrong-values.yaml:1:11: 'lots' is not a size; write it as Docker does: 512m, 8g",
                "wrong-values.yaml:3:18: 'sha256:12' is not a digest; it is `sha256:` and 64 hexadecimal digits",
                "wrong-values.yaml:4:3: 'two/three' is a name in check ids: letters, digits,",
                "wrong-values.yaml:6:26: '1.9.x' is not a version; write one like 1.9.1, a range like",
                "wrong-values.yaml:6:34: 'cold' is not a known value; there are: fresh, warm",
                "wrong-values.yaml:12:1: 'freely' is not a known value; there are: constrained, plain",
                "wrong-values.yaml:7:15: List should have at least 1 item after validation, not 0",
                "wrong-values.yaml:9:19: 'pyro-ppl==' is no requirement",
                "wrong-values.yaml:11:19: 'fial' is not a known value; did you mean 'fail'?",
                "wrong-values.yaml:11:44: Input should be a valid date",
            ],
        ),
        (
            "unknown-library",
            [
                "unknown-library.yaml:7:20: no library 'gpytorsh'",
            ],
        ),
        (
            "labels",
            [
                "labels.yaml:5:7: a further entry of 'pyro-ppl' needs a `label:`, which tells its cells apart in their",
                "labels.yaml:7:30: the label 'old' is that of another entry of 'pyro-ppl':",
            ],
        ),
        (
            "wrong-entries",
            [
                "wrong-entries.yaml:4:30: unknown key 'wiht'; did you mean 'with'?",
                "wrong-entries.yaml:5:35: unknown key 'lable'; did you mean 'label'?",
                "wrong-entries.yaml:6:35: 'a@b' is a name in check ids: letters, digits, `.`, `_` and `-`",
                "wrong-entries.yaml:7:3: List should have at least 1 item",
                "wrong-entries.yaml:8:3: Input should be a valid dictionary",
            ],
        ),
        (
            "matches-nothing",
            [
                "matches-nothing.yaml:5:7: matches no cell; did you mean 'one/pyro-ppl-1.9.1'?",
                "matches-nothing.yaml:7:7: matches no check; did you mean 'one/pyro-ppl-1.9.1'?",
                "matches-nothing.yaml:9:11: matches no check; did you mean 'one/pyro-ppl-1.9.1'?",
            ],
        ),
        (
            "unlaunchable",
            [
                "unlaunchable.yaml:2:3: neither `tag:` nor `local:`: no backend can launch the image",
                "unlaunchable.yaml:3:10: a digest needs its tag: give `tag:` as well",
            ],
        ),
        (
            "too-many",
            [
                "too-many.yaml:1:1: 200 images x 150 library versions and stacks x 4 probes are 120000 checks, more "
                "than 100000; take fewer versions, or raise `max_checks:`"
            ],
        ),
        ("absent", ["absent.yaml:1:1: cannot be read: No such file or directory; name another file with --matrix"]),
    ],
)
def test_mistakes_are_named_all_at_once(name: str, said: list[str]) -> None:
    """Each with file:line:column, what is wrong and what would be right."""
    found = mistakes(name)
    assert len(found) == len(said), "\n".join(found)
    for seen, wanted in zip(sorted(found), sorted(said), strict=True):
        assert seen.startswith(wanted)


SPELLED = """images: { one: { tag: "a:1" } }
libraries:
  Pyro_PPL: { versions: ["1.9.1"] }
  TorchBNN: { versions: ["1.x"] }
"""


def read_from(tmp_path: Path, text: str) -> Matrix:
    """The matrix of this text."""
    path = tmp_path / "matrix.yaml"
    path.write_text(text)
    return load(path)


def test_a_library_may_be_spelled_as_for_pip(tmp_path: Path) -> None:
    """It has one name afterwards, whatever names it."""
    more = 'include: [{ images: one, library: PYRO.PPL, versions: ["1.8.0"] }]\n'
    more += 'known: [{ cells: "one/pyro_PPL-1.8.0", expect: fail, reason: old }]\n'
    matrix = read_from(tmp_path, SPELLED.replace("1.x", "1.2") + more)
    assert list(matrix.libraries) == ["pyro-ppl", "torchbnn"]
    plan = expand(matrix, "docker", ["Pyro_PPL-1.9.1", "TORCHBNN"])
    assert [cell.id for cell in plan.cells] == ["one/pyro-ppl-1.9.1", "one/torchbnn-1.2"]


@pytest.mark.parametrize(
    ("text", "said"),
    [
        (SPELLED, "4:26: '1.x' is not a version"),
        (
            SPELLED.replace("TorchBNN", "pyro-ppl").replace("1.x", "1.2"),
            "4:3: 'pyro-ppl' is 'Pyro_PPL' in another spelling",
        ),
    ],
)
def test_a_mistake_in_a_spelled_library_has_its_place(tmp_path: Path, text: str, said: str) -> None:
    """Where the file has it."""
    with pytest.raises(MatrixError, match=said):
        read_from(tmp_path, text)


@pytest.mark.parametrize("name", ["bayes", "Pyro.PPL"])
def test_a_stack_is_called_like_nothing_else(tmp_path: Path, name: str) -> None:
    """In any spelling: a selector would mean both."""
    stacks = "".join(f'  {stack}: {{ requires: ["pyro-ppl==1.9.1"] }}\n' for stack in ("Bayes", name))
    with pytest.raises(MatrixError, match=r"are one name|is also a library"):
        read_from(tmp_path, SPELLED.replace("1.x", "1.2") + "stacks:\n" + stacks)


@pytest.mark.parametrize(
    ("written", "said"),
    [
        ("", "'' is empty; write"),
        (" ", "' ' is empty; write"),
        ("-e .", "'-e .' is an editable install"),
        ("--editable=git+https://x.org/y.git", "is an editable install"),
        ("-r requirements.txt", "'-r requirements.txt' is a file of requirements; write its lines here"),
        ("--index-url https://x.org/simple", "is an option of pip"),
        ("-f wheels", "'-f wheels' is an option of pip"),
        ("./wheels/lib.whl", "is a path or URL without a name; write `name @ file:///"),
        ("file:///wheels/lib.whl", "is a path or URL without a name"),
        ("git+https://x.org/y.git", "is a path or URL without a name"),
        ("lib-1.0-py3-none-any.whl", "is a path or URL without a name"),
        ("lib @ ./wheels/lib.whl", "is a path where a URL belongs; write `lib @ file:///"),
        ("lib==1 ; color == 'red'", "is no requirement: Expected a marker variable"),
        ("lib==1 --hash=sha256:00", "is no requirement: "),
        ("lib=1", "is no requirement: "),
    ],
)
@pytest.mark.parametrize("key", ["local", "with", "stack"])
def test_what_is_no_requirement_is_refused_in_its_place(tmp_path: Path, key: str, written: str, said: str) -> None:
    """With what would be right; a name, extras, markers and URLs are honoured."""
    text = """images: {{ one: {{ tag: "a:1", local: {{ python: "3.11", requires: [
      torch, {local}] }} }} }}
libraries: {{ torchbnn: {{ versions: ["1.2"], with: [
      lib, {with_}] }} }}
stacks: {{ both: {{ requires: [
      torchbnn, {stack}] }} }}
"""
    good = "\"lib[extra]>=1,<2 ; python_version < '3.15' and extra == 'x'\""
    places = {"local": (2, "local"), "with": (4, "with_"), "stack": (6, "stack")}
    line, field = places[key]
    entries = {"local": good, "with_": "lib @ git+ssh://git@x.org/y.git@v1", "stack": "lib @ file:///wheels/lib.whl"}
    column = text.splitlines()[line - 1].index("{" + field) + 1
    with pytest.raises(MatrixError) as raised:
        read_from(tmp_path, text.format(**{**entries, field: json.dumps(written)}))
    (mistake,) = raised.value.mistakes
    assert str(mistake).startswith(f"{tmp_path}/matrix.yaml:{line}:{column}: ")
    assert said in str(mistake)


def test_hostile_files(tmp_path: Path) -> None:
    """Too large, too deep, not UTF-8: refused, not suffered."""
    for content, said in (
        (b"#" * (1 << 21), "more than 1048576"),
        (b"images: " + b"[" * 5000, "nested deeper than 20 levels"),
        (b"images: \xff", "is not UTF-8"),
    ):
        path = tmp_path / "matrix.yaml"
        path.write_bytes(content)
        with pytest.raises(MatrixError, match=said):
            load(path)


def test_schema_is_published_and_accepts_the_shipped_file() -> None:
    """docs/matrix.schema.json is what the models say (`python -m docs.generate` writes it)."""
    assert (ROOT / "docs" / "matrix.schema.json").read_text() == json_schema()
    jsonschema.Draft202012Validator.check_schema(Matrix.model_json_schema())
    written = YAML(typ="safe").load((ROOT / "matrix.yaml").read_text())
    data = json.loads(json.dumps(written, default=str))  # to an editor a date is a string
    jsonschema.validate(data, Matrix.model_json_schema())


@pytest.mark.parametrize(("own", "seconds"), [("", 30.0), (", compile_timeout: 90", 90.0)])
def test_compiling_may_have_a_limit_of_its_own(tmp_path: Path, own: str, seconds: float) -> None:
    """The other probes keep theirs."""
    path = tmp_path / "matrix.yaml"
    path.write_text(f"limits: {{ timeout: 30{own} }}\nimages: {{ a: {{ tag: 'a:1' }} }}\n")
    (image,) = load(path).model_images()
    assert (image.limits.seconds("sample"), image.limits.seconds("compile")) == (30.0, seconds)


def test_mistakes_are_listed_by_line_up_to_the_fiftieth(tmp_path: Path) -> None:
    """The others are counted."""
    images = "".join(f"  i{number}: {{ tga: x }}\n" for number in range(1200))
    (tmp_path / "matrix.yaml").write_text(f"images:\n{images}libraries: {{ captum: {{ versions: [one] }} }}\n")
    with pytest.raises(MatrixError) as raised:
        load(tmp_path / "matrix.yaml")
    lines = str(raised.value).splitlines()
    assert lines[1:3] == ["      i0: { tga: x }", "            ^"]
    assert [int(line.split(":")[1]) for line in lines[:150:3]] == list(range(2, 52))
    assert lines[150:] == ["and 1,151 more"]
    assert len(raised.value.mistakes) == 1201


def test_a_value_of_any_length_is_cut_in_its_message(tmp_path: Path) -> None:
    """And no secret shows because its end was cut off."""
    address = f"https://user:{'s3cret' * 20_000}@index.example"
    (tmp_path / "matrix.yaml").write_text(f"limits: {{ timeout: '{address}', compile_timeout: {'9' * 100_000} }}\n")
    with pytest.raises(MatrixError) as raised:
        load(tmp_path / "matrix.yaml")
    assert "Input should be" in str(raised.value)
    assert len(str(raised.value)) < 4000
    assert "s3cret" not in str(raised.value)


@pytest.mark.share
def test_a_matrix_of_thousands_of_images_expands_within_seconds(tmp_path: Path) -> None:
    """3,000 images x 8 versions, in processor time."""
    images = "".join(f"  i{number}: {{ tag: 'registry.example/team/torch:{number}' }}\n" for number in range(3000))
    versions = ", ".join(f'"0.{number}.0"' for number in range(8))
    text = f"images:\n{images}probes: [import]\nlibraries: {{ captum: {{ versions: [{versions}] }} }}\n"
    (tmp_path / "matrix.yaml").write_text(text)
    began = time.process_time()
    plan = expand(load(tmp_path / "matrix.yaml"), "docker")
    assert len(plan.cells) == 24_000
    assert time.process_time() - began < 10
