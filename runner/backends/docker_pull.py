"""A pull through the engine, told in bytes."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from docker import DockerClient
from docker.errors import APIError
from docker.utils import parse_repository_tag

from torch_compat_matrix.runner.watch import phase


def pull(client: DockerClient, reference: str, platform: str = "") -> None:
    """Pull an image, for the engine's own platform or this one; APIError in the engine's words where it breaks off."""
    repository, tag = parse_repository_tag(reference)
    layers: dict[str, tuple[int, int]] = {}
    for event in client.api.pull(repository, tag=tag or "latest", stream=True, decode=True, platform=platform or None):
        if "error" in event:
            raise APIError(event["error"], explanation=event["error"])
        count(event, layers)
        done, total = bytes_of(layers)
        phase("pull", reference, done=done, total=total)


def count(event: Mapping[str, Any], layers: dict[str, tuple[int, int]]) -> None:
    """Enter an event of the engine: layer -> bytes that have arrived, and bytes of all, 0 until the engine says.

    A layer that the engine holds already is no part of the pull.
    """
    name, status = event.get("id", ""), event.get("status", "")
    if status == "Pulling fs layer":
        layers[name] = (0, 0)
    elif status == "Already exists":
        layers.pop(name, None)
    elif status == "Downloading" and name in layers:
        detail = event.get("progressDetail") or {}
        layers[name] = (detail.get("current", 0), detail.get("total", 0))
    elif status == "Download complete" and name in layers:
        layers[name] = (layers[name][1], layers[name][1])


def bytes_of(layers: Mapping[str, tuple[int, int]]) -> tuple[int, int]:
    """The bytes that have arrived, and those of all layers; 0 while the engine has not told the size of each."""
    total = sum(size for _, size in layers.values()) if all(size for _, size in layers.values()) else 0
    return sum(done for done, _ in layers.values()), total
