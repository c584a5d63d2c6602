"""A user's command in a cell's environment: prepared, leased and launched as a probe host is."""

from __future__ import annotations

from torch_compat_matrix.runner.backends.base import Command, Launch, Shells
from torch_compat_matrix.runner.execution import protocol
from torch_compat_matrix.runner.execution.engine import Engine
from torch_compat_matrix.runner.packages.resolution import Resolution

LONGEST_S = 7 * 24 * 3600.0
"""Seconds until other hosts may take a container for a leftover; on its own host, its owner decides."""


def interact(engine: Engine, command: Command) -> int:
    """Run the command in the environment of the plan's only cell, and return its exit status.

    Raises Trouble where image, packages or GPU cannot be had, be it that nothing fits beside the image's packages.
    """
    (image,), (cell,), backend = engine.plan.images, engine.plan.cells, engine.backend
    assert isinstance(backend, Shells)
    engine.require_gpus(image)
    ready = engine.preparation.image(image)
    work = engine.preparation.cell(cell, ready)
    if isinstance(work, Resolution):
        raise work.trouble(f"{cell.id}: ")
    with engine.device(ready) as gpu:
        engine.preparation.mend([work])
        order = protocol.order(
            image, [work], device="cuda" if gpu else "cpu", seed=engine.seed, full=engine.full, threads=engine.threads
        )
        order["deadline_s"] = LONGEST_S
        overlays = {work.overlay.name: work.overlay} if work.overlay else {}
        launch = Launch(
            prepared=ready.prepared,
            order=order,
            overlays=overlays,
            limits=image.limits,
            labels={"run": "shell"},
            gpu=gpu,
        )
        return backend.interact(launch, command)
