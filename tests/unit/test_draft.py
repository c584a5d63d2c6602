"""A matrix of named images and libraries: what `compat run --image --lib` takes and `compat init` writes."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
from ruamel.yaml import YAML

from tests.support import ROOT
from torch_compat_matrix.compat import cli
from torch_compat_matrix.compat.verbs.init import NIGHT, OWNER
from torch_compat_matrix.runner.errors import NothingSelected, Status
from torch_compat_matrix.runner.matrix.document import Document, MatrixError
from torch_compat_matrix.runner.matrix.draft import drafted, listed, with_images
from torch_compat_matrix.runner.matrix.load import load
from torch_compat_matrix.runner.planning import plan_from
from torch_compat_matrix.runner.records.runs import again

TRAIN = "ghcr.io/acme/train"
SHA = "sha256:" + "0123456789abcdef" * 4

pytestmark = pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")  # the SDK's open socket


@pytest.fixture(autouse=True)
def empty(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Path:
    """An empty folder on a host whose container engine does not answer."""
    monkeypatch.setenv("DOCKER_HOST", "unix:///nowhere.sock")
    monkeypatch.setenv("COMPAT_HOME", str(tmp_path / "home"))
    monkeypatch.chdir(tmp_path)
    return tmp_path


@pytest.mark.parametrize(
    ("images", "named"),
    [
        ([f"{TRAIN}:1"], {"train": {"tag": f"{TRAIN}:1"}}),
        ([f"{TRAIN}@{SHA}"], {"train": {"tag": TRAIN, "digest": SHA}}),
        (
            [f"{TRAIN}:1", f"{TRAIN}:2"],
            {"train-1": {"tag": f"{TRAIN}:1"}, "train-2": {"tag": f"{TRAIN}:2"}},
        ),
        (["localhost:5000/train"], {"train": {"tag": "localhost:5000/train"}}),
        (
            ["a/train:1", "b/train:1"],
            {"a-train-1": {"tag": "a/train:1"}, "b-train-1": {"tag": "b/train:1"}},
        ),
    ],
)
def test_an_image_is_called_after_its_repository(images: list[str], named: dict[str, dict[str, str]]) -> None:
    """So that the runs of one repository have one history, whatever the tag; two of a repository keep their tags."""
    assert drafted(images, ["captum"]).data["images"] == named


def test_the_plan_is_that_of_a_file() -> None:
    """With ids, requirements and the command that runs it again; without a library it is the image's own torch."""
    document = drafted([f"{TRAIN}:1"], ["pyro-ppl", "captum==0.9.0", "captum==0.8.0", "transformers[torch]"])
    plan = plan_from(document, backend="docker", probes=["import"])
    assert [(cell.id, cell.requires) for cell in plan.cells] == [
        ("train/pyro-ppl-latest", ("pyro-ppl",)),
        ("train/captum-0.9.0", ("captum==0.9.0",)),
        ("train/captum-0.8.0", ("captum==0.8.0",)),
        ("train/transformers-latest", ("transformers", "transformers[torch]")),
    ]
    command = again({"backend": "docker", "plan": plan.to_json()}, "train/captum-0.9.0")
    assert command.endswith(
        f"train/captum-0.9.0 --image {TRAIN}:1 --lib pyro-ppl --lib captum==0.9.0 --lib captum==0.8.0 "
        "--lib 'transformers[torch]'"
    )
    assert [cell.id for cell in plan_from(drafted([TRAIN], []), backend="docker").cells] == ["train/torch-installed"]


@pytest.mark.parametrize(
    ("library", "said"),
    [
        ("captum=>0.7", "the command line:1:28: 'captum=>0.7' is no requirement"),
        ("./dist/own.whl", "--lib ./dist/own.whl\n" + " " * 31 + "^"),
        ("captum; python_version < '3.9'", "is a requirement with a marker"),
    ],
)
def test_a_mistake_names_its_option(library: str, said: str) -> None:
    """With the words that the file's own loader has."""
    with pytest.raises(MatrixError) as told:
        load(drafted([TRAIN], [library]))
    assert said in str(told.value)


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["run", "--lib", "captum"], "--lib needs an image"),
        (["plan", "--image", TRAIN, "--matrix", "matrix.yaml"], "leave out --image and --lib, or --matrix"),
        (["plan", "--image", TRAIN, "--plan", "plan.json"], "leave out --image and --lib, or --plan"),
    ],
)
def test_options_that_do_not_go_together(arguments: list[str], said: str, capsys: pytest.CaptureFixture[str]) -> None:
    """End in one message, also where the file is the default one."""
    assert cli.main(arguments) == Status.BAD_MATRIX
    assert said in capsys.readouterr().err


LISTS = {
    "requirements.txt": "torch==2.13.0\n# tools\ncaptum==0.9.0 \\\n  --hash=sha256:00\npyro-ppl>=1.8  # any\n"
    "gpytorch>=1.11,<2\n-r more.txt\nbotorch; sys_platform == 'win32'\n",
    "pyproject.toml": '[project]\nname = "own"\ndependencies = ["torch==2.13.0", "captum==0.9.0", "pyro-ppl>=1.8", '
    '"gpytorch>=1.11,<2", "botorch; sys_platform == \'win32\'"]\n[project.optional-dependencies]\nmore = ["e3nn"]\n',
    "environment.yml": "channels: [conda-forge]\ndependencies:\n  - python=3.11\n  - pytorch::pytorch=2.13\n"
    "  - pytorch-cuda=12.4\n  - captum=0.9.0=py_0\n  - conda-forge::pyro-ppl>=1.8\n  - pip\n"
    "  - pip: ['gpytorch>=1.11,<2', '-r more.txt']\n",
}


@pytest.mark.parametrize("name", LISTS)
def test_a_list_gives_what_pip_would_take(name: str, tmp_path: Path) -> None:
    """The exact version, or the newest that the line admits; torch is the image's own, tools are no libraries."""
    document = Document(name=name, data={"libraries": {}})
    (tmp_path / "more.txt").write_text(f"-r {name}\n--requirement=deep/own.txt\n--pre\n")
    (tmp_path / "deep").mkdir()
    (tmp_path / "deep" / "own.txt").write_text("-cbounds.txt\n-r https://example.com/x.txt\n")
    (tmp_path / "deep" / "bounds.txt").write_text("pyro_ppl<2 # a bound, and no library\nnot-asked-for==1\n")
    left = listed(document, str(tmp_path / name), LISTS[name])
    followed = name != "pyproject.toml"
    begins = name == "environment.yml"  # conda's `=0.9.0` is also met by 0.9.0.post1
    assert document.data["libraries"] == {
        "torch": {"versions": ["installed"]},
        "captum": {"versions": ["latest"], "with": ["captum==0.9.0.*"]} if begins else {"versions": ["0.9.0"]},
        "pyro-ppl": {"versions": ["latest"], **({"with": ["pyro-ppl<2,>=1.8"]} if followed else {})},
        "gpytorch": {"versions": ["latest"], "with": ["gpytorch<2,>=1.11"]},
    }
    assert [line.partition(":")[0] for line in left] == {
        "requirements.txt": ["-r https", "--pre", "botorch; sys_platform == 'win32'"],
        "pyproject.toml": ["botorch; sys_platform == 'win32'"],
        "environment.yml": ["-r https", "--pre"],
    }[name]


@pytest.mark.parametrize(
    ("name", "text", "said"),
    [
        ("pyproject.toml", "[project]\nname = 'own'\n", "pyproject.toml: it has no `dependencies` under [project]"),
        ("pyproject.toml", "[project\n", "pyproject.toml: not TOML"),
        ("environment.yml", "a: [\n", "environment.yml: not YAML"),
        ("environment.yaml", "a: 1\n", "environment.yaml: it has no list `dependencies:`"),
        ("absent.txt", "", "absent.txt: cannot be read"),
        ("bare.txt", "-r absent.txt\n", "bare.txt: -r absent.txt: cannot be read: No such file or directory"),
    ],
)
def test_a_list_that_is_none(name: str, text: str, said: str, capsys: pytest.CaptureFixture[str]) -> None:
    """Is told in a line, and nothing is written."""
    if text:
        Path(name).write_text(text)
    assert cli.main(["init", "--from", name]) == Status.BAD_MATRIX
    assert said in capsys.readouterr().err
    assert not Path("matrix.yaml").exists()


def test_init_without_an_engine(capsys: pytest.CaptureFixture[str]) -> None:
    """Says so, leaves `expects:` to be filled in, and writes a matrix that loads."""
    Path("requirements.txt").write_text("captum==0.9.0\n-e more\n")
    assert cli.main(["init", "--image", f"{TRAIN}:1", "--lib", "pyro-ppl", "--from", "requirements.txt"]) == 0
    assert "no container engine answers" in capsys.readouterr().err
    text = Path("matrix.yaml").read_text()
    assert text.startswith("# yaml-language-server: $schema=matrix.schema.json\n")
    assert "    # expects: " in text
    assert "#   -e more: " in text
    matrix = load(Path("matrix.yaml"))
    assert list(matrix.libraries) == ["torch", "pyro-ppl", "captum"]
    assert matrix.images["train"].tag == f"{TRAIN}:1"


def test_init_of_nothing_runs_anywhere() -> None:
    """One image, as a stand-in, and its torch."""
    assert cli.main(["init"]) == 0
    assert [cell.id for cell in plan_from(Path("matrix.yaml")).cells] == ["torch-2.13/torch-installed"]


@pytest.mark.parametrize("held", ["matrix.yaml"])
def test_init_overwrites_nothing(held: str, capsys: pytest.CaptureFixture[str]) -> None:
    """Whatever would be written is there already: one line, and all stays."""
    Path(held).write_text("mine")
    assert cli.main(["init"]) == Status.BAD_MATRIX
    assert f"{held}: is here already and is not overwritten" in capsys.readouterr().err
    assert Path(held).read_text() == "mine"
    assert [path.name for path in Path().iterdir() if path.name != "home"] == [held]


def test_init_writes_the_caller_of_the_night_into_a_repository() -> None:
    """Ten lines, whose inputs the workflow has; one that is there stays, and another folder gets none."""
    Path(".git").mkdir()
    assert cli.main(["init"]) == 0
    text = NIGHT.read_text()
    assert len(text.splitlines()) <= 10
    yaml = YAML(typ="safe")
    called = yaml.load((ROOT / ".github" / "workflows" / "matrix.yml").read_text())
    (job,) = yaml.load(text)["jobs"].values()
    assert job["with"].keys() <= called["on"]["workflow_call"]["inputs"].keys()
    assert job["uses"] == f"{OWNER}/torch-compat-matrix/.github/workflows/matrix.yml@v1"
    NIGHT.write_text("mine")
    Path("matrix.yaml").unlink()
    assert cli.main(["init"]) == 0
    assert NIGHT.read_text() == "mine"


def test_the_inputs_of_the_night_are_documented() -> None:
    """On the page that also names the owner."""
    page = (ROOT / "docs" / "nights.md").read_text()
    called = YAML(typ="safe").load((ROOT / ".github" / "workflows" / "matrix.yml").read_text())["on"]["workflow_call"]
    assert [name for name in (*called["inputs"], *called["secrets"]) if f"`{name}`" not in page] == []
    assert {found[1] for found in re.finditer(r"uses: (\S+)/torch-compat-matrix", page)} == {OWNER}


REBUILT = """\
images:
  train: { tag: "ghcr.io/acme/train:1", env: { A: b }, local: { python: "3.11", requires: [] } }
  next: { extends: train, tag: "ghcr.io/acme/next:1" }
libraries: { torch: { versions: [installed] } }
"""
PINNED, OTHER = f"{TRAIN}@{SHA}", "ghcr.io/acme/other"


@pytest.mark.parametrize(
    ("asked", "references", "limited"),
    [
        (["train", SHA], [f"{TRAIN}:1", PINNED], [True, True]),
        ([f"train@{SHA}", SHA.replace("0", "1")], [PINNED, PINNED.replace("0", "1")], [True, True]),
        ([f"{TRAIN}:1@{SHA}", "next"], [PINNED, "ghcr.io/acme/next:1"], [True, True]),
        ([f"{TRAIN}@{SHA}", f"{OTHER}:2"], [PINNED, f"{OTHER}:2"], [True, False]),
        ([f"{OTHER}@{SHA}", f"{TRAIN}:2"], [f"{OTHER}@{SHA}", f"{TRAIN}:2"], [False, False]),
    ],
)
def test_an_image_by_another_digest_is_that_image(asked: list[str], references: list[str], limited: list[bool]) -> None:
    """With its limits and variables, but without its stand-in, which is no rebuild of it."""
    Path("matrix.yaml").write_text(REBUILT)
    document, names = with_images(Path("matrix.yaml"), asked)
    plan = plan_from(document, backend="docker", images=names)
    images = [image for name in names for image in plan.images if image.name == name]
    assert [image.reference for image in images] == references
    assert [image.env == {"A": "b"} for image in images] == limited
    assert [image.name for image in images if image.digest and image.local] == []


def test_a_digest_alone_is_of_the_only_image() -> None:
    """Where there are several, nobody can say of which."""
    Path("matrix.yaml").write_text(REBUILT)
    with pytest.raises(NothingSelected, match="may be of any image"):
        with_images(Path("matrix.yaml"), [SHA])
    Path("matrix.yaml").write_text(re.sub("  next:.*\n", "", REBUILT))
    document, names = with_images(Path("matrix.yaml"), [SHA])
    assert [image.reference for image in plan_from(document, backend="docker", images=names).images] == [PINNED]
