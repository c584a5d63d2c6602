"""What a registry has today: the tags of a pattern."""

from __future__ import annotations

import base64
import json
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

import docker
import pytest
from docker.errors import ImageNotFound

from tests.docker.test_docker import empty_image
from tests.support.registries import Registry
from torch_compat_matrix.runner.backends.docker import DockerBackend
from torch_compat_matrix.runner.backends.registry import tags
from torch_compat_matrix.runner.errors import Trouble
from torch_compat_matrix.runner.workflow import plan_from


@pytest.fixture
def train(
    registry: Registry, client: docker.DockerClient, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> Iterator[str]:
    """A repository with four tags, in a registry that asks for the password that the client's configuration has."""
    name = f"{registry.host}/test/train"
    login = {"username": registry.user, "password": registry.password}
    for tag in ("24.1", "24.2", "24.10", "latest"):
        client.api.import_image_from_data(empty_image(), repository=name, tag=tag)
        assert "error" not in client.images.push(name, tag=tag, auth_config=login)
    saved = base64.b64encode(f"{registry.user}:{registry.password}".encode()).decode()
    (tmp_path / "config.json").write_text(json.dumps({"auths": {registry.host: {"auth": saved}}}))
    monkeypatch.setenv("DOCKER_CONFIG", str(tmp_path))
    monkeypatch.setenv("COMPAT_HOME", str(tmp_path / "home"))
    yield name
    for held in client.images.list(name):
        for reference in [*held.tags, *(held.attrs.get("RepoDigests") or [])]:
            with suppress(ImageNotFound):
                client.images.remove(reference)


def test_each_tag_of_a_pattern_is_an_image_of_the_plan(train: str, tmp_path: Path) -> None:
    """The newest by version; the pattern is asked once, and recorded."""
    path = tmp_path / "matrix.yaml"
    path.write_text(
        f"images:\n  train: {{ tag: '{train}:24.*', newest: 2 }}\nlibraries: {{ captum: {{ versions: ['1'] }} }}\n"
    )
    plan = plan_from(path, backend="docker")
    assert [image.tag for image in plan.images] == [f"{train}:24.2", f"{train}:24.10"]
    assert [cell.id for cell in plan.cells] == ["train-24.2/captum-1", "train-24.10/captum-1"]
    assert plan.taken == {f"train {train}:24.*": ("24.2", "24.10")}


def test_a_registry_that_does_not_tell_is_named(
    train: str, client: docker.DockerClient, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A repository that is not there, a refusal and a registry that is away are three things."""
    backend = DockerBackend(client, tmp_path)
    for repository, code in (
        (f"{train}-not", "image-not-found"),
        ("127.0.0.1:9/test/train", "registry-unreachable"),
    ):
        with pytest.raises(Trouble) as raised:
            tags(backend, repository)
        assert raised.value.code == code
    monkeypatch.setenv("DOCKER_CONFIG", str(tmp_path / "nothing"))
    with pytest.raises(Trouble) as raised:
        tags(backend, train)
    assert raised.value.code == "registry-refused"
