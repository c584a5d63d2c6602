"""What the engine keeps between runs, for `compat clean`: volumes of ours, and images that a home has pulled."""

from __future__ import annotations

import datetime as dt
from collections.abc import Iterator
from contextlib import suppress
from functools import partial
from pathlib import Path

from docker import DockerClient
from docker.errors import ImageNotFound, NotFound

from torch_compat_matrix.runner.storage import Kept

OVERLAY_VOLUME = "compat-overlay-"
COMPILED_VOLUME = "compat-compiled-"
WHOLE = "-whole"
"""The end of the name of the volume that marks an overlay's volume as whole."""


def kept(client: DockerClient, home: Path) -> Iterator[Kept]:
    """Each volume and pulled image with its size; an image whose tag was pulled by someone else is not ours."""
    for volume in client.df()["Volumes"] or ():
        name = volume["Name"]
        if name.startswith((OVERLAY_VOLUME, COMPILED_VOLUME)) and not name.endswith(WHOLE):
            made = dt.datetime.fromisoformat(volume["CreatedAt"].replace("Z", "+00:00")).timestamp()
            yield Kept(
                kind="volumes",
                name=name,
                size=max(0, volume["UsageData"]["Size"]),
                used=max(made, _time(home / "volumes" / name.removeprefix(OVERLAY_VOLUME))),
                remove=partial(_remove_volume, client, name),
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
        with suppress(NotFound):
            client.volumes.get(own).remove()


def _remove_image(client: DockerClient, reference: str, record: Path) -> None:
    client.images.remove(reference)
    record.write_text("")
