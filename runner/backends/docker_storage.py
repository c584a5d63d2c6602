"""What the engine keeps between runs: the volumes of overlays and compiled code, and images that a home has pulled."""

from __future__ import annotations

import datetime as dt
import os
import tarfile
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from functools import partial
from pathlib import Path
from typing import Any

from docker import DockerClient
from docker.errors import ImageNotFound, NotFound
from docker.types import Mount

from torch_compat_matrix.runner.backends.docker_errors import named
from torch_compat_matrix.runner.backends.docker_gpus import LABEL
from torch_compat_matrix.runner.backends.owner import owner
from torch_compat_matrix.runner.files import locked
from torch_compat_matrix.runner.storage import Kept
from torch_compat_matrix.runner.watch import phase

OVERLAY_VOLUME = "compat-overlay-"
COMPILED_VOLUME = "compat-compiled-"
WHOLE = "-whole"
"""The end of the name of the volume that marks an overlay's volume as whole."""


def overlay_volume(client: DockerClient, home: Path, key: str, folder: Path, image: str) -> str:
    """The name of the volume that holds the overlay; it is filled on first use.

    A volume cannot be renamed into place: a marker volume, made last, tells that the overlay's volume is whole.
    """
    name = f"{OVERLAY_VOLUME}{key}"
    marker = f"{name}{WHOLE}"
    used = home / "volumes" / key
    with locked(used):
        os.utime(used)
        if _is_whole(client, name, marker):
            return name
        phase("copy the packages")
        with suppress(NotFound):
            client.volumes.get(name).remove(force=True)
        client.volumes.create(name, labels={f"{LABEL}.overlay": key})
        filler = client.containers.create(
            image,
            entrypoint=["true"],
            mounts=[Mount("/overlay", name, type="volume")],
            labels={f"{LABEL}.owner": owner()},
        )
        try:
            with _archive(folder) as stream:
                filler.put_archive("/overlay", stream)
        finally:
            filler.remove(force=True)
        client.volumes.create(marker, labels={f"{LABEL}.overlay": key})
    return name


def _is_whole(client: DockerClient, *names: str) -> bool:
    """Whether all these volumes are there, none made empty by a container for which the engine found none."""
    with suppress(NotFound):
        return all(f"{LABEL}.overlay" in (client.volumes.get(name).attrs["Labels"] or ()) for name in names)
    return False


@contextmanager
def _archive(folder: Path) -> Iterator[Any]:
    """The overlay as a tar archive on disk: it may be larger than memory."""
    with tempfile.TemporaryFile() as file:
        with tarfile.open(fileobj=file, mode="w") as tar:
            for path in sorted(folder.iterdir()):
                tar.add(path, path.name, filter=_owned)
        file.seek(0)
        yield file


def _owned(entry: tarfile.TarInfo) -> tarfile.TarInfo:
    entry.uid = entry.gid = 0
    entry.mode |= 0o444 | (0o111 if entry.isdir() else 0)
    return entry


def kept(client: DockerClient, home: Path) -> Iterator[Kept]:
    """Each volume and pulled image with its size; an image whose tag was pulled by someone else is not ours."""
    for volume in client.df()["Volumes"] or ():
        name = volume["Name"]
        if name.startswith((OVERLAY_VOLUME, COMPILED_VOLUME)) and not name.endswith(WHOLE):
            own = home / "volumes" / name.removeprefix(OVERLAY_VOLUME)
            made = dt.datetime.fromisoformat(volume["CreatedAt"].replace("Z", "+00:00")).timestamp()
            yield Kept(
                kind="volumes",
                name=name,
                size=max(0, volume["UsageData"]["Size"]),
                used=max(made, _time(own)),
                remove=partial(_remove_volume, client, name),
                shared=not own.exists(),
            )
    for record in sorted((home / "pulls").glob("*")):
        reference = record.read_text()
        with suppress(ImageNotFound, NotFound):
            if reference:
                image = client.images.get(reference)
                yield Kept(
                    kind="images",
                    name=reference,
                    size=int(image.attrs["Size"]),
                    used=_time(record),
                    remove=partial(_remove_image, client, reference, record),
                )


def _time(path: Path) -> float:
    return path.stat().st_mtime if path.exists() else 0.0


def _remove_volume(client: DockerClient, name: str) -> None:
    for own in (f"{name}{WHOLE}", name):  # the marker first: a volume without it is filled again
        with named(f"removing {own}"), suppress(NotFound):
            client.volumes.get(own).remove()


def _remove_image(client: DockerClient, reference: str, record: Path) -> None:
    with named(f"removing {reference}"):
        client.images.remove(reference)
    record.write_text("")
