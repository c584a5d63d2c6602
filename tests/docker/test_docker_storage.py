"""What the engine keeps for a home, and how it goes: volumes by their last use, images that the home has pulled."""

from __future__ import annotations

import json
from pathlib import Path

import docker
import pytest

from tests.docker.test_docker import empty_image, run, scripted
from tests.support.registries import Registry
from torch_compat_matrix.runner.backends.base import Launch
from torch_compat_matrix.runner.backends.docker import DockerBackend
from torch_compat_matrix.runner.backends.docker_storage import OVERLAY_VOLUME
from torch_compat_matrix.runner.model import Image, Limits, Plan
from torch_compat_matrix.runner.watch import Phase, doing
from torch_compat_matrix.runner.workflow import make_room

__all__ = ["scripted"]


def test_volumes_of_overlays_are_kept_and_can_go(
    backend: DockerBackend, tag: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A volume and its marker go together, so that the overlay is filled again when it is needed again.

    A limit of the home counts it, but not one that another home has made.
    """
    monkeypatch.setenv("COMPAT_HOME", str(backend.home))
    monkeypatch.setenv("COMPAT_HOME_LIMIT", "1kB")
    folder = tmp_path / "overlays" / "fedcba9876543210"
    folder.mkdir(parents=True)
    (folder / "data").write_text("x" * 100_000)
    prepared = backend.prepare(Image(name="a", tag=tag))
    limits = Limits(memory=1 << 30, shm=64 << 20)
    order = {"cells": [], "deadline_s": 60, "nonce": "0"}
    for _ in range(2):
        with backend.launch(
            Launch(prepared=prepared, order=order, overlays={folder.name: folder}, limits=limits)
        ) as launch:
            launch.kill()
        (entry,) = [entry for entry in backend.kept() if entry.name.endswith(folder.name)]
        assert entry.kind == "volumes" and entry.size >= 100_000 and entry.used > 1e9 and not entry.shared
        others = DockerBackend(backend.client, tmp_path).kept()
        assert [each.shared for each in others if each.name == entry.name] == [True]
        said: list[str] = []
        make_room(Plan(images=(), cells=()), backend, said.append)
        assert f"removed volumes/{entry.name} (100.0 kB)" in said
        assert not [volume for volume in backend.client.volumes.list() if folder.name in volume.name]


def test_a_volume_that_somebody_removed_is_filled_again(scripted: DockerBackend, tag: str, tmp_path: Path) -> None:
    """Though its marker stayed, and also where a container that found none has had the engine make an empty one."""
    folder = tmp_path / "overlays" / "0fedcba987654321"
    folder.mkdir(parents=True)
    (folder / "data").write_text("whole")
    code = f"say(found=os.listdir(sys.argv[3] + '/{folder.name}'))"
    volume, client = f"{OVERLAY_VOLUME}{folder.name}", scripted.client
    for empty in (False, True, False):
        lines, _ = run(scripted, tag, code, {folder.name: folder})
        assert json.loads(lines[0]) == {"found": ["data"]}
        client.volumes.get(volume).remove()
        if empty:
            mounts = [docker.types.Mount("/overlay", volume, type="volume")]
            client.containers.create(tag, "true", mounts=mounts).remove()


def test_an_image_is_ours_only_where_we_pulled_it(registry: Registry, tag: str, tmp_path: Path) -> None:
    """An image that was here before stays, whatever its age."""
    client = docker.from_env()
    client.login(registry.user, registry.password, registry=f"http://{registry.host}")
    backend = DockerBackend(client, tmp_path)
    backend.prepare(Image(name="a", tag=tag))
    assert [entry for entry in backend.kept() if entry.kind == "images"] == []
    name = f"{registry.host}/test/cleaned:1"
    pushed = Image(name="b", tag=name)
    client.api.import_image_from_data(empty_image(), repository=f"{registry.host}/test/cleaned", tag="1")
    assert "error" not in client.images.push(name)
    client.images.remove(name)
    assert backend.room([pushed]).detail.endswith(" 3.0 GB needed")
    heard: list[Phase] = []
    with doing(heard.append, "prepare", "b"):
        backend.prepare(pushed)
    assert name in [phase.subject for phase in heard if phase.what == "pull"]
    assert backend.room([pushed]).detail.endswith(" 0.0 GB needed")
    (entry,) = [entry for entry in backend.kept() if entry.kind == "images"]
    assert entry.name == name
    entry.remove()
    assert backend.peek(pushed) is None and backend.peek(Image(name="a", tag=tag)) is not None
    assert [entry for entry in backend.kept() if entry.kind == "images"] == []
