"""Hostile libraries in a container: its unprivileged user reaches neither the probe host nor its output."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from tests.integration.test_hostile import EXPECTED as EXPECTED_HERE
from tests.integration.test_hostile import bundle, cell
from torch_compat_matrix.runner.backends.base import Launch
from torch_compat_matrix.runner.backends.docker import DockerBackend
from torch_compat_matrix.runner.execution.protocol import frames, order
from torch_compat_matrix.runner.model import Image, Limits

NAMES = [
    "forges_frames",
    "reaches_into_the_host",
    "forges_a_device",
    "floods_its_channel",
    "signals_the_host",
    "victim",
]
EXPECTED = {**EXPECTED_HERE, "signals_the_host": ("passed", "")}


@pytest.mark.share
def test_each_speaks_for_itself_alone(backend: DockerBackend, tag: str, tmp_path: Path) -> None:
    """As on this machine; the probe host is process 1, so that the attackers look for it there."""
    bundle(tmp_path, NAMES, runner=0)
    backend.bundle = tmp_path / "probes"
    limits = Limits(timeout_s=60.0)
    prepared = backend.prepare(Image(name="x", tag=tag, limits=limits))
    ordered = order(prepared.image, [cell(name, "warm") for name in NAMES], device="cpu")
    overlays = {"key": tmp_path / "overlays" / "key"}
    asked = Launch(prepared=prepared, order=ordered, overlays=overlays, limits=limits, labels={"run": "test"})
    with backend.launch(asked) as launch:
        found: list[Any] = list(frames(launch.lines()))
        assert launch.exit().status == 0, launch.exit().stderr
    assert found[0] == {"kind": "hello", "pid": 1}
    assert next(frame["facts"]["hidden"] for frame in found if frame["kind"] == "facts")
    observations = [frame for frame in found if frame["kind"] == "observation"]
    seen = [(frame["member"], frame["status"], frame.get("message", "")) for frame in observations]
    assert seen == [(name.replace("_", "-"), *EXPECTED[name]) for name in NAMES]
    assert {frame.get("device", "cpu") for frame in observations} == {"cpu"}
    assert [note for frame in observations for note in frame.get("notes", ())] == []
