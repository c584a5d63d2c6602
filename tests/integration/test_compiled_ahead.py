"""What is compiled ahead while cells run: it reaches them by the runner's word alone, and as the runner has made it."""

from __future__ import annotations

import shutil
import subprocess
import sys
from collections.abc import Callable, Iterator
from concurrent.futures import Future, wait
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from tests.integration.test_hostile import bundle, cell
from torch_compat_matrix.runner.backends import local
from torch_compat_matrix.runner.backends import process as processes
from torch_compat_matrix.runner.execution.protocol import frames, order
from torch_compat_matrix.runner.model import Image
from torch_compat_matrix.runner.packages import manifest

CELL = """
import os, sys
from .. import shared

def sample(probe):
    folder = sys.prefix + "-compiled"
    {hostile}

def compile(probe):
    probe.note("headers: " + ",".join(sorted(
        open(path).read() for path in shared.stamps(shared.header_folder())
    )))
"""
FORGE = """
    os.makedirs(folder + "/headers")
    os.makedirs(folder + "/trials")
    with open(folder + "/headers/forged.h", "w") as stream:
        stream.write("forged")
    open(folder + ".sealed", "w").close()
"""
PLANT = """
    with open(folder + "/headers/planted.h", "w") as stream:
        stream.write("planted")
"""
CHANGE = """
    os.chmod(folder + "/headers/sound.h", 0o644)
    with open(folder + "/headers/sound.h", "w") as stream:
        stream.write("sOUND")
"""


TORCH = """
from types import SimpleNamespace as Named
device = lambda name: Named(type=name)
backends = Named(cuda=Named(matmul=Named(allow_tf32=False)), cudnn=Named(allow_tf32=False))
"""


@pytest.fixture
def standin(tmp_path: Path) -> Path:
    """A virtual environment that holds as much of torch as a probe takes that computes nothing."""
    subprocess.run([sys.executable, "-m", "venv", "--without-pip", tmp_path / "standin"], check=True)
    (next((tmp_path / "standin").glob("lib/python*/site-packages")) / "torch.py").write_text(TORCH)
    return tmp_path / "standin"


def seal(standin: Path) -> manifest.Sealed:
    """Headers as the runner leaves them; what a library has put in their place goes."""
    folder = standin.with_name("standin-compiled")
    shutil.rmtree(folder, ignore_errors=True)
    for name in ("headers", "trials"):
        (folder / name).mkdir(parents=True)
    (folder / "headers" / "sound.h").write_text("sound")
    manifest.seal(folder)
    return manifest.read(folder)


@contextmanager
def launched(tmp_path: Path, standin: Path, hostile: str, ahead: Future[Any]) -> Iterator[Iterator[dict[str, Any]]]:
    """The frames of a launch on a hostile cell and the one after it, which tells the headers that it finds."""
    bundle(tmp_path, ["attacker", "victim"], text="")
    for name, body in (("attacker", hostile), ("victim", "pass")):
        with (tmp_path / "probes" / "libraries" / f"{name}.py").open("a") as stream:
            stream.write(CELL.replace("{hostile}", body.strip()))
    work = [cell(name, "fresh") for name in ("attacker", "victim")]
    work = [replace(piece, cell=replace(piece.cell, probes=("sample", "compile"))) for piece in work]
    ordered = order(Image(name="x"), work, device="cpu", warm=False)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(processes, "BUNDLE", tmp_path / "probes")
        overlays = {"key": tmp_path / "overlays" / "key"}
        python = str(standin / "bin" / "python")
        with processes.launched(python, ordered, overlays, home=tmp_path, gpu=None, ahead=ahead) as launch:
            yield map(dict, frames(launch.lines()))


def notes(found: list[dict[str, Any]]) -> dict[str, Any]:
    """The notes of each answered compile probe."""
    return {
        frame["member"]: (frame["status"], frame.get("message", ""), *frame.get("notes", []))
        for frame in found
        if frame["kind"] == "observation" and frame["probe"] == "compile"
    }


def test_first_answers_do_not_wait_for_it(tmp_path: Path, standin: Path) -> None:
    """It is handed over when its turn comes, to every cell."""
    ahead: Future[Any] = Future()
    found = []
    with launched(tmp_path, standin, "pass", ahead) as told:
        for frame in told:
            found.append(frame)
            if (frame["kind"], frame.get("member")) == ("observation", "victim") and not ahead.done():
                ahead.set_result(seal(standin))
    assert [frame["probe"] for frame in found if frame["kind"] == "observation"] == ["sample"] * 2 + ["compile"] * 2
    assert notes(found) == dict.fromkeys(("attacker", "victim"), ("passed", "", "headers: sound"))
    assert found[-1] == {"kind": "end", "state": "complete"}


@pytest.mark.parametrize("error", [OSError("no g++"), None], ids=["failed", "cancelled"])
def test_forged_headers_reach_no_cell(tmp_path: Path, standin: Path, error: OSError | None) -> None:
    """Where the runner has none, nobody takes any."""
    ahead: Future[Any] = Future()
    found = []
    with launched(tmp_path, standin, FORGE, ahead) as told:
        for frame in told:
            found.append(frame)
            if (frame["kind"], frame.get("member")) == ("observation", "victim") and not ahead.done():
                ahead.set_exception(error) if error else ahead.cancel()
    assert (tmp_path / "standin-compiled" / "headers" / "forged.h").exists()
    assert notes(found) == dict.fromkeys(("attacker", "victim"), ("passed", "", "headers: "))


@pytest.mark.parametrize("hostile", [PLANT, CHANGE], ids=["planted", "changed"])
@pytest.mark.parametrize("early", [True, False], ids=["before the launch", "at the last moment"])
def test_headers_that_a_cell_has_changed_reach_no_other(
    tmp_path: Path, standin: Path, hostile: str, early: bool
) -> None:
    """Whether they were handed over before it or lay there: the launch ends, and the runner makes others."""
    ahead: Future[Any] = Future()
    sealed = seal(standin)
    found = []
    if early:
        ahead.set_result(sealed)
    with launched(tmp_path, standin, hostile, ahead) as told:
        for frame in told:
            found.append(frame)
            if (frame["kind"], frame.get("member")) == ("observation", "victim") and not ahead.done():
                ahead.set_result(sealed)
    assert notes(found) == {}
    assert found[-1] == {"kind": "end", "state": "changed"}


def change(folder: Path) -> None:
    """Write a header as a library of the same user can."""
    (folder / "headers" / "sound.h").chmod(0o644)
    (folder / "headers" / "sound.h").write_text("wrong")


def forge(folder: Path) -> None:
    """Change it, and the manifest too."""
    change(folder)
    manifest.seal(folder)


@pytest.mark.parametrize("damage", [change, forge, shutil.rmtree])
def test_what_a_library_has_changed_is_made_again_for_the_next_launch(
    tmp_path: Path, standin: Path, monkeypatch: pytest.MonkeyPatch, damage: Callable[[Path], None]
) -> None:
    """And nothing is done for the launches that find it sound."""
    made = tmp_path / "made"
    (tmp_path / "bundle").mkdir()
    (tmp_path / "bundle" / "compiling.py").write_text(
        f"import os\ndef ahead(folder):\n    os.mkdir(folder + '/headers')\n    open({str(made)!r}, 'a').write('x')\n"
        "    open(folder + '/headers/sound.h', 'w').write('sound')\n"
    )
    monkeypatch.setattr(local, "BUNDLE", tmp_path / "bundle")
    backend, python, folder = local.LocalBackend(tmp_path), standin / "bin" / "python", tmp_path / "standin-compiled"

    def launch() -> Future[manifest.Sealed]:
        backend._compile_ahead(python)
        wait([backend._compiled[python]], timeout=60)
        return backend._compiled[python]

    first = launch()
    assert launch() is first
    damage(folder)
    assert launch().result()
    assert (folder / "headers" / "sound.h").read_text() == "sound"
    assert made.read_text() == "xx"
