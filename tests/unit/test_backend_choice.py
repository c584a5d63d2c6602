"""Where images run when nobody says so, on a host whose container engine does not answer."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from torch_compat_matrix.runner.errors import BackendUnusable
from torch_compat_matrix.runner.matrix.expand import candidates
from torch_compat_matrix.runner.matrix.load import load
from torch_compat_matrix.runner.matrix.select import SelectionError
from torch_compat_matrix.runner.planning import plan_from

TAGGED = "  tagged: { tag: 'team/train:1' }\n"
STAND_IN = "  small: { local: { python: '3.11', requires: ['torch==2.13.0'] } }\n"
BOTH = "  both: { tag: 'team/train:1', local: { python: '3.11', requires: ['torch==2.13.0'] } }\n"
REST = "libraries: { torch: { versions: [installed] } }\n"

pytestmark = pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")  # its socket stays open


@pytest.fixture(autouse=True)
def without_engine(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """No engine answers, and the folder is empty."""
    monkeypatch.setenv("DOCKER_HOST", "unix:///nowhere.sock")
    monkeypatch.chdir(tmp_path)


def written(*images: str, more: str = "") -> Path:
    """A matrix of these images."""
    path = Path("matrix.yaml")
    path.write_text("images:\n" + "".join(images) + REST + more)
    return path


@pytest.mark.parametrize(
    ("images", "able"),
    [
        ([TAGGED], {"docker": []}),
        ([STAND_IN], {"local": []}),
        ([BOTH], {"docker": [], "local": []}),
        ([TAGGED, STAND_IN], {"docker": ["small"], "local": ["tagged"]}),
        (["  here: {}\n"], {"here": []}),
    ],
)
def test_the_images_say_what_can_run_them(images: list[str], able: dict[str, list[str]]) -> None:
    """A container by its tag before a stand-in; what a backend has to leave out is named."""
    assert candidates(load(written(*images))) == able


def test_only_what_is_selected_counts() -> None:
    """An image with a stand-in alone runs as that, whatever the others have."""
    assert candidates(load(written(TAGGED, STAND_IN)), ["small"]) == {"local": []}


def test_only_the_images_that_are_meant_count() -> None:
    """No other takes the run to a backend of its own, and on `here` this interpreter is the one that is meant."""
    for backend, chosen in [(None, "local"), ("here", "here")]:
        plan = plan_from(written(TAGGED, STAND_IN), backend=backend, selectors=["torch"], images=["small"])
        assert (plan.backend, [cell.image for cell in plan.cells]) == (chosen, ["small"])


def test_a_default_selection_names_its_backend() -> None:
    """A plain run takes what the matrix says that it takes; a selector asks for something else."""
    matrix = load(written(BOTH, more="selections: { local: [both/torch-installed] }\n"))
    assert candidates(matrix) == {"local": []}
    assert list(candidates(matrix, ["both"])) == ["docker", "local"]
    assert list(candidates(matrix, ["local"])) == ["docker", "local"]


def test_without_an_engine_the_stand_ins_run(tmp_path: Path) -> None:
    """The backend is said first, with the reason and with the images that it leaves out."""
    said: list[str] = []
    plan = plan_from(written(TAGGED, BOTH), say=said.append)
    assert plan.backend == "local"
    assert [image.name for image in plan.images] == ["both"]
    assert said == ["backend: local, without tagged; no container engine answers"]


def test_an_image_with_a_tag_alone_needs_an_engine() -> None:
    """Which is one message with the remedy, and not an empty selection."""
    with pytest.raises(
        BackendUnusable, match="the images need a container engine: no container engine answers"
    ) as told:
        plan_from(written(TAGGED))
    assert "start an engine" in told.value.remedy
    assert "`local:`" in told.value.remedy


def test_a_named_backend_is_taken_at_its_word() -> None:
    """Where it cannot run what is selected, the message names the images and the key that they lack."""
    with pytest.raises(SelectionError, match="backend local runs images that have a `local:`, and tagged has none"):
        plan_from(written(TAGGED, STAND_IN), backend="local", selectors=["tagged"])
    with pytest.raises(SelectionError, match="`local:`, and tagged has none"):
        plan_from(written(TAGGED, STAND_IN), backend="local", selectors=["small", "tagged"])
    with pytest.raises(SelectionError, match="'tagde' selects nothing"):
        plan_from(written(TAGGED, STAND_IN), backend="local", selectors=["tagde"])


def test_a_plan_file_keeps_its_backend() -> None:
    """So that the host to which it was carried need not be told."""
    plan = plan_from(written(BOTH), backend="here")
    Path("plan.json").write_text(json.dumps(plan.to_json()))
    assert plan_from(Path("matrix.yaml"), plan_file=Path("plan.json")).backend == "here"
    assert plan_from(Path("matrix.yaml"), plan_file=Path("plan.json"), backend="docker").backend == "docker"
