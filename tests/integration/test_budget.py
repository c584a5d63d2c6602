"""The time that a probe may take."""

from __future__ import annotations

import os
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.sabotage.__main__ import LIBRARIES, requires, results
from tests.support.environments import environment
from torch_compat_matrix.runner.bundle import catalogue

FIRST_COMPILATIONS = 1.5
"""What a probe may take, in first compilations: machines differ, and the same machine over time, by a factor of two."""
WARM_UP = "import torch; torch.compile(lambda x: x.sin() + 1)(torch.ones(8))"


@pytest.fixture(scope="module")
def one_core() -> Iterator[None]:
    """This process and its children on one core."""
    before = os.sched_getaffinity(0)
    os.sched_setaffinity(0, {max(before)})
    yield
    os.sched_setaffinity(0, before)


@pytest.fixture(scope="module")
def allowed(one_core: None, tmp_path_factory: pytest.TempPathFactory) -> float:
    """Seconds for a probe, by what the first torch.compile takes where nothing was compiled before."""
    python, folder = environment(*requires("torch")), str(tmp_path_factory.mktemp("first"))
    started = time.perf_counter()
    subprocess.run([python, "-c", WARM_UP], env={**os.environ, "TMPDIR": folder}, check=True)
    return FIRST_COMPILATIONS * (time.perf_counter() - started)


@pytest.mark.slow
@pytest.mark.parametrize("library", LIBRARIES)
def test_a_probe_ends_within_its_time(library: str, allowed: float, tmp_path: Path) -> None:
    """On one core, with nothing compiled before but the headers, which the first torch.compile of a launch does.

    The run also shows that each part of COVERS runs, and that the library has each entry point.
    """
    python = environment(*requires(library))
    subprocess.run([python, "-c", WARM_UP], env={**os.environ, "TORCHINDUCTOR_CACHE_DIR": str(tmp_path)}, check=True)
    rows = list(results(python, [library], "sound:1", ""))
    assert {row["status"] for row in rows} == {"passed"}
    assert {row["probe"]: row["seconds"] for row in rows if row["seconds"] > allowed} == {}
    covers = catalogue().entries[library].covers
    ran = {place for row in rows for place in (row["probe"], *(f"{row['probe']}/{part}" for part in row["parts"]))}
    assert {*covers.values()} - {"", *ran} == set()
    find = "import pkgutil, sys; [pkgutil.resolve_name(name) for name in sys.argv[1:]]"
    subprocess.run([python, "-c", find, *covers], check=True)
