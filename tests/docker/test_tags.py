"""What a registry has today: the tags of a pattern, and another image under a tag that has moved."""

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
from torch_compat_matrix.compat.verbs.lock import lock_of
from torch_compat_matrix.runner.backends.docker import DockerBackend
from torch_compat_matrix.runner.backends.registry import tags
from torch_compat_matrix.runner.errors import Trouble
from torch_compat_matrix.runner.matrix.lockfile import text_of
from torch_compat_matrix.runner.model import Image, Plan
from torch_compat_matrix.runner.planning import plan_from


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


@pytest.fixture
def moved(train: str, client: docker.DockerClient, registry: Registry) -> Iterator[str]:
    """A tag of which the engine holds the image that it named before."""
    tag, login = f"{train}:24.1", {"username": registry.user, "password": registry.password}
    before = client.images.get(tag)
    client.api.import_image_from_data(empty_image("another"), repository=train, tag="24.1")
    assert "error" not in client.images.push(train, tag="24.1", auth_config=login)
    client.images.remove(tag)
    assert before.tag(train, "24.1")
    client.login(registry.user, registry.password, registry=f"http://{registry.host}")
    yield tag


def test_a_tag_that_moved_is_pulled_again_where_it_always_is(
    moved: str, client: docker.DockerClient, tmp_path: Path
) -> None:
    """By default the image that is here stays; a digest never moves."""
    backend = DockerBackend(client, tmp_path / "home")
    here = backend.prepare(Image(name="x", tag=moved))
    pinned = backend.prepare(Image(name="x", tag=moved, digest=here.digest, pull="always"))
    now = backend.prepare(Image(name="x", tag=moved, pull="always"))
    assert pinned.identity == here.identity != now.identity
    assert now.digest.startswith("sha256:") and now.digest != here.digest
    assert backend.prepare(Image(name="x", tag=moved)).identity == now.identity


def test_a_lock_holds_the_digest_of_today(moved: str, client: docker.DockerClient, tmp_path: Path) -> None:
    """That of the registry, whatever the engine holds; a run is held to it, and an image built here has none."""
    path, backend, own = tmp_path / "matrix.yaml", DockerBackend(client, tmp_path / "home"), "compat-own:1"
    client.api.import_image_from_data(empty_image(), repository="compat-own", tag="1")
    path.write_text(
        f"images: {{ train: {{ tag: '{moved}' }}, own: {{ tag: '{own}' }} }}\n"
        "libraries: { captum: { versions: [installed] } }\n"
    )
    try:
        held = backend.prepare(Image(name="train", tag=moved))
        locked = lock_of(plan_from(path, backend="docker"), backend)
        reference, _, digest = locked.images["train"].partition("@")
        assert (reference, locked.images["own"]) == (moved, own)
        assert digest.startswith("sha256:") and digest != held.digest
        path.with_suffix(".lock").write_text(text_of({"docker": locked}, path))
        train, unchanged = plan_from(path, backend="docker", locked=True).images
        assert (train.digest, unchanged.digest) == (digest, None)
        assert backend.prepare(train).identity != held.identity
    finally:
        client.images.remove(own)


def test_a_registry_that_is_away_ends_a_lock(client: docker.DockerClient, tmp_path: Path) -> None:
    """Nothing older is locked in its place."""
    image = Image(name="train", tag="127.0.0.1:9/test/train:1")
    with pytest.raises(Trouble) as raised:
        lock_of(Plan(images=(image,), cells=(), backend="docker"), DockerBackend(client, tmp_path))
    assert (raised.value.code, raised.value.status) == ("registry-unreachable", 5)


def test_an_image_that_we_pulled_goes_when_its_tag_moves(
    moved: str, client: docker.DockerClient, tmp_path: Path
) -> None:
    """Else a host that is kept fills with them; an image that was here before us stays."""
    backend = DockerBackend(client, tmp_path / "home")
    backend.prepare(Image(name="x", tag=moved, pull="always"))
    assert [entry.kind for entry in backend.kept() if entry.kind == "images"] == []
    client.images.remove(moved)
    ours = backend.prepare(Image(name="x", tag=moved))
    client.api.import_image_from_data(empty_image("a third"), repository=moved.rpartition(":")[0], tag="24.1")
    client.images.push(moved)
    client.images.remove(moved)
    client.images.get(ours.identity).tag(moved)
    assert backend.prepare(Image(name="x", tag=moved, pull="always")).identity != ours.identity
    with pytest.raises(ImageNotFound):
        client.images.get(ours.identity)


def test_a_registry_that_is_away_is_host_trouble_with_a_way_out(
    train: str, client: docker.DockerClient, tmp_path: Path
) -> None:
    """The image that is here is not taken silently, and the remedy names it."""
    backend = DockerBackend(client, tmp_path / "home")
    gone = "127.0.0.1:9/test/train"
    client.images.get(f"{train}:24.1").tag(gone, "24.1")
    try:
        with pytest.raises(Trouble, match=r"pulling 127\.0\.0\.1:9/test/train") as raised:
            backend.prepare(Image(name="x", tag=f"{gone}:24.1", pull="always"))
        assert raised.value.code == "registry-unreachable"
        assert "`pull: missing`" in raised.value.remedy
    finally:
        client.images.remove(f"{gone}:24.1")
