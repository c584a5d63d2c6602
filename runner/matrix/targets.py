"""The entries of `targets:`: what a run's kind of device is to each scheduler."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from torch_compat_matrix.runner.errors import UsageError, did_you_mean
from torch_compat_matrix.runner.model import Image

if TYPE_CHECKING:
    from torch_compat_matrix.runner.matrix.schema import Matrix

SCHEDULERS = ("slurm", "kubernetes")
"""The backends that take a target's key of their own name."""


def chosen(matrix: Matrix, name: str | None, backend: str | None) -> dict[str, Any]:
    """The target of that name as plain data, with its name.

    Without a name, it is the only one that the backend can take; a name that the matrix does not have is a mere label
    for backends without a scheduler.
    """
    able = [each for each, entry in matrix.targets.items() if backend and getattr(entry, backend, None) is not None]
    if name is None and len(able) == 1:
        (name,) = able
    if name in matrix.targets and (name in able or backend not in SCHEDULERS):
        return {"name": name, **matrix.targets[name].model_dump(exclude_defaults=True)}
    if backend in SCHEDULERS and (name is not None or able):
        has = f"those with `{backend}:` are {', '.join(able)}" if able else f"no target has `{backend}:`"
        wrong = f"{name!r} is none that {backend} can take{did_you_mean(name, able)}" if name else "several targets"
        raise UsageError(f"{wrong}; {has}", f"name one with --target, or add `{backend}:` to it", matrix.source)
    return {}


def scheduler_of(target: Mapping[str, Any]) -> str | None:
    """The only backend that the target has a key for; None where it has none, or several."""
    able = [backend for backend in SCHEDULERS if backend in target]
    return able[0] if len(able) == 1 else None


def key_for(backend: str, target: Mapping[str, Any]) -> str:
    """The key of an image by which a scheduler's backend runs it on the target."""
    return "tag" if backend == "kubernetes" or target.get(backend, {}).get("container", "none") != "none" else "local"


def takes(backend: str, target: Mapping[str, Any], image: Image) -> bool:
    """Whether a scheduler's backend runs the image: an image with neither key is an interpreter of the node."""
    by_tag = key_for(backend, target) == "tag"
    return image.tag is not None if by_tag else image.local is not None or image.tag is None
