"""Hostile libraries: none speaks for another cell, reaches the probe host, or claims what it did not do."""

from __future__ import annotations

import os
import shutil
import subprocess
import threading
from collections.abc import Iterator, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from tests.integration.test_probe_host import distribution
from tests.support import ROOT, light_images
from torch_compat_matrix.probes.cell import proves_work
from torch_compat_matrix.probes.channel import BadAnswer
from torch_compat_matrix.probes.worker import started_child
from torch_compat_matrix.runner.backends import process as processes
from torch_compat_matrix.runner.bundle import BUNDLE
from torch_compat_matrix.runner.execution.protocol import Work, frames, order
from torch_compat_matrix.runner.model import Cell, Image, Limits, Module
from torch_compat_matrix.runner.packages.suites import Suite

HOSTILE = ROOT / "tests" / "resources" / "hostile"

EXPECTED = {
    "forges_frames": ("raised", "the forger's own failure"),
    "reaches_into_the_host": ("passed", ""),
    "forges_a_device": ("passed", ""),
    "speaks_for_others": ("failed", "the child ended with ('passed', None)"),
    "floods_its_channel": ("failed", "it sent more than 1048576 bytes over its channel"),
    "floods_with_lines": ("failed", "it sent more than 1048576 bytes over its channel"),
    "notes_a_number": ("failed", "the answer.notes[0] is 1, not str"),
    "measures_nan": ("failed", "the answer.metrics['loss'].value is nan, not float"),
    "passes_splendidly": (
        "failed",
        "the answer.parts[0].status is 'splendid', not 'passed' or 'failed' or 'skipped'",
    ),
    "loses_a_field": ("failed", "the answer.parts[0].status lacks"),
    "kills_another": ("failed", f"it says that it is process {os.getpid()}"),
    "victim": ("raised", "the victim's own failure"),
}
"""Library -> status and message of its sample probe; the victim comes last."""


def bundle(folder: Path, names: list[str], runner: int = os.getpid(), text: str | None = None) -> None:
    """A bundle with the probes of these libraries, and an overlay that holds the libraries; `runner` is a process.

    `text` are the probes of all, where they are not read from files.
    """
    shutil.copytree(BUNDLE, folder / "probes")
    for name in names:
        distribution(folder / "overlays" / "key", name.replace("_", "-"))
        constants = f"DISTRIBUTION = {name.replace('_', '-')!r}\nMODULE = {name!r}\nNEEDS = ()\n"
        body = (HOSTILE / f"{name}.py").read_text() if text is None else text
        (folder / "probes" / "libraries" / f"{name}.py").write_text(f"{constants}RUNNERS = [{runner}]\n{body}")


def cell(name: str, isolation: str) -> Work:
    """A cell of one of these libraries."""
    library = name.replace("_", "-")
    asked = Cell(
        image="x",
        subject=library,
        version="1.0",
        requires=(),
        members=(library,),
        probes=("sample",),
        isolation=isolation,
    )
    return Work(cell=asked, overlay=Path("key"), added={library: "1.0"}, versions={library: "1.0"})


@pytest.fixture(scope="module")
def light_python(tmp_path_factory: pytest.TempPathFactory) -> str:
    """An interpreter whose torch computes nothing: what these libraries attack is the probe host."""
    return light_images.python(tmp_path_factory.mktemp("light"))


@pytest.fixture(
    scope="module",
    params=[pytest.param("warm", marks=pytest.mark.share), pytest.param("fresh", marks=pytest.mark.slow)],
)
def seen(
    request: pytest.FixtureRequest, light_python: str, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Mapping[str, dict[str, Any]]]:
    """The only observation of each library, from a launch on all of them."""
    folder = tmp_path_factory.mktemp("hostile")
    bundle(folder, list(EXPECTED))
    ordered = order(
        Image(name="x", limits=Limits(timeout_s=30.0)), [cell(name, request.param) for name in EXPECTED], device="cpu"
    )
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(processes, "BUNDLE", folder / "probes")
        overlays = {"key": folder / "overlays" / "key"}
        with processes.launched(light_python, ordered, overlays, home=folder, gpu=None) as launch:
            found: list[Any] = list(frames(launch.lines()))
            assert launch.exit().status == 0, launch.exit().stderr
    assert found[-1] == {"kind": "end", "state": "complete"}
    assert next(frame["facts"]["hidden"] for frame in found if frame["kind"] == "facts")
    observations = [frame for frame in found if frame["kind"] == "observation"]
    assert [frame["member"].replace("-", "_") for frame in observations] == list(EXPECTED)
    yield dict(zip(EXPECTED, observations, strict=True))


@pytest.mark.parametrize("name", EXPECTED)
def test_each_speaks_for_itself_alone(seen: Mapping[str, dict[str, Any]], name: str) -> None:
    """Its own verdict, on the device that was ordered, within its time; and nothing of the host was reached."""
    status, message = EXPECTED[name]
    assert (seen[name]["status"], seen[name].get("message", "")) == (status, message)
    assert seen[name].get("code", "") == ("bad-answer" if status == "failed" else "")
    assert seen[name].get("device", "cpu") == "cpu"
    assert seen[name]["device_name"] in ("CPU", "")
    assert seen[name].get("notes", []) == []


@pytest.mark.share
def test_death_of_the_host_belongs_to_its_killer(light_python: str, tmp_path: Path) -> None:
    """The last frame says which probe ran; nothing has been said of the next cell."""
    bundle(tmp_path, ["kills_the_host", "victim"])
    work = [cell("kills_the_host", "warm"), cell("victim", "warm")]
    ordered = order(Image(name="x"), work, device="cpu")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(processes, "BUNDLE", tmp_path / "probes")
        overlays = {"key": tmp_path / "overlays" / "key"}
        with processes.launched(light_python, ordered, overlays, home=tmp_path, gpu=None) as launch:
            found: list[Any] = list(frames(launch.lines()))
            assert launch.exit().status == -9
    assert (found[-1]["kind"], found[-1]["member"]) == ("begin", "kills-the-host")


STOP = """
import os, signal

def sample(probe):
    above = os.getppid()
    while above != RUNNERS[0]:
        host = above
        with open(f"/proc/{host}/stat") as stream:
            above = int(stream.read().rpartition(")")[2].split()[1])
    os.kill(host, signal.SIGNAL)
"""


@pytest.mark.share
@pytest.mark.parametrize("name", ["SIGSTOP", "SIGINT"])
def test_a_stopped_probe_host_goes_on(light_python: str, tmp_path: Path, name: str) -> None:
    """The runner wakes it, so that no library ends the time limits that the probe host keeps; no Ctrl-C is for it."""
    bundle(tmp_path, ["stopper"], text=STOP.replace("SIGNAL", name))
    ordered = order(Image(name="x"), [cell("stopper", "warm")], device="cpu")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(processes, "BUNDLE", tmp_path / "probes")
        overlays = {"key": tmp_path / "overlays" / "key"}
        with processes.launched(light_python, ordered, overlays, home=tmp_path, gpu=None) as launch:
            late = threading.Timer(60, launch.kill)
            late.start()
            found: list[Any] = list(frames(launch.lines()))
            late.cancel()
    assert found[-1] == {"kind": "end", "state": "complete"}


PLANTS = """
import hashlib, os, tempfile
def sample(probe):
    launch = os.path.dirname(os.path.dirname(tempfile.gettempdir()))
    open(os.path.join(launch, hashlib.sha256(b"x/victim-1.0").hexdigest()[:8]), "w").close()
"""
ASKS = """
import os
def sample(probe):
    with open("/proc/self/environ") as stream:
        assert "HOME=" + os.environ["HOME"] in stream.read().split(chr(0)), "the interpreter began in another home"
"""


@pytest.mark.share
def test_no_cell_finds_what_another_has_put_into_its_place(light_python: str, tmp_path: Path) -> None:
    """Neither in its temporary folder nor in the home in which an interpreter looks for code when it starts."""
    bundle(tmp_path, ["attacker", "victim"], text="")
    for name, text in (("attacker", PLANTS), ("victim", ASKS)):
        with (tmp_path / "probes" / "libraries" / f"{name}.py").open("a") as stream:
            stream.write(text)
    work = [cell("attacker", "warm"), cell("victim", "fresh")]
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(processes, "BUNDLE", tmp_path / "probes")
        overlays = {"key": tmp_path / "overlays" / "key"}
        ordered = order(Image(name="x"), work, device="cpu")
        with processes.launched(light_python, ordered, overlays, home=tmp_path, gpu=None) as launch:
            found: list[Any] = list(frames(launch.lines()))
    seen = [(frame["status"], frame.get("message", "")) for frame in found if frame["kind"] == "observation"]
    assert seen == [("passed", ""), ("passed", "")]


def test_own_probe_modules_run_in_children_alone(light_python: str, tmp_path: Path) -> None:
    """Since they may import their library at their head, which would then run in the probe host."""
    told = tmp_path / "told"
    head = f"import os\nopen({str(told)!r}, 'a').write(f'{{os.getpid()}} ')\n"
    text = f"{head}DISTRIBUTION = MODULE = 'victim'\nNEEDS = ()\ndef sample(probe): pass\n"
    bundle(tmp_path, ["victim"])
    own = Module(name="victim", origin="victim.py", text=text)
    ordered = order(Image(name="x"), [cell("victim", "warm")], device="cpu", modules=[own])
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(processes, "BUNDLE", tmp_path / "probes")
        overlays = {"key": tmp_path / "overlays" / "key"}
        with processes.launched(light_python, ordered, overlays, home=tmp_path, gpu=None) as launch:
            found: list[Any] = list(frames(launch.lines()))
    assert found[0]["kind"] == "hello"
    ran_in = told.read_text().split()
    assert ran_in and str(found[0]["pid"]) not in ran_in


ATTACKS = {
    "probe": "open(libraries / 'victim.py', 'a').write('def sample(probe): pass')",
    "package": "(libraries / 'victim').mkdir(); (libraries / 'victim' / '__init__.py').touch()",
    "beside": "(libraries.parent.parent / 'json.py').touch()",
    "overlay": "open(overlays / 'other' / 'victim' / '__init__.py', 'a').write('0 / 0')",
    "suite": "open(overlays / 'tests' / 'test_victim.py', 'a').write('def test(): pass')",
}
"""What is attacked -> the code of a library that changes it."""


@pytest.mark.share
@pytest.mark.parametrize("attack", ATTACKS.values(), ids=ATTACKS)
def test_no_cell_runs_with_files_that_another_changed(light_python: str, tmp_path: Path, attack: str) -> None:
    """The launch ends before it, and where the changed file is used by all, a note names it."""
    bundle(tmp_path, ["victim", "attacker"], text="")
    for name in ("other", "tests"):
        shutil.copytree(tmp_path / "overlays" / "key", tmp_path / "overlays" / name)
    code = f"import pathlib\ndef sample(probe):\n    overlays = pathlib.Path({str(tmp_path / 'overlays')!r})\n"
    code += f"    libraries = pathlib.Path(__file__).parent\n    {attack}\n"
    with (tmp_path / "probes" / "libraries" / "attacker.py").open("a") as stream:
        stream.write(code)
    suite = Suite(source="victim-1.0.tar.gz", tests=Path("tests"), packages=None, select=("test_victim.py",))
    work = [cell("attacker", "warm"), replace(cell("victim", "warm"), overlay=Path("other"), suite=suite)]
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(processes, "BUNDLE", tmp_path / "probes")
        overlays = {key: tmp_path / "overlays" / key for key in ("key", "other", "tests")}
        ordered = order(Image(name="x"), work, device="cpu")
        with processes.launched(light_python, ordered, overlays, home=tmp_path, gpu=None) as launch:
            found: list[Any] = list(frames(launch.lines()))
    assert found[-1] == {"kind": "end", "state": "changed"}
    [seen] = [frame for frame in found if frame["kind"] == "observation"]
    assert (seen["member"], seen["status"]) == ("attacker", "passed")
    noted = [note for note in seen.get("notes", []) if "was changed meanwhile" in note]
    assert bool(noted) is ("overlays" not in attack)


@pytest.mark.share
def test_no_library_is_blamed_for_packages_that_were_removed(light_python: str, tmp_path: Path) -> None:
    """The launch ends, so that the runner can bring them again."""
    bundle(
        tmp_path, ["victim"], text="def sample(probe):\n    import time\n    time.sleep(3)\n    import victim.part\n"
    )
    ordered = order(Image(name="x"), [cell("victim", "warm")], device="cpu")
    found: list[Any] = []
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(processes, "BUNDLE", tmp_path / "probes")
        overlays = {"key": tmp_path / "overlays" / "key"}
        with processes.launched(light_python, ordered, overlays, home=tmp_path, gpu=None) as launch:
            for frame in frames(launch.lines()):
                found.append(frame)
                if frame["kind"] == "begin":
                    shutil.rmtree(tmp_path / "overlays" / "key", ignore_errors=True)
    assert found[-1] == {"kind": "end", "state": "lost"}
    assert not [frame for frame in found if frame["kind"] == "observation"]


@pytest.mark.parametrize(
    ("counts", "proves"),
    [
        ({}, False),
        ({"operators": 3}, False),
        ({"allocations": 0, "operators": 3}, False),
        ({"allocations": 2, "operators": 0}, False),
        ({"allocations": 2}, True),  # this torch cannot count operators
        ({"allocations": 2, "operators": 1}, True),
    ],
)
def test_pass_on_a_gpu_needs_proof_of_work(counts: dict[str, int], proves: bool) -> None:
    """The probe host refuses any other, whatever the child says."""
    metrics = {f"device {what}": {"value": count, "unit": "count"} for what, count in counts.items()}
    assert proves_work({"status": "passed", "metrics": metrics}) is proves


def test_a_child_that_has_ended_is_no_other_process() -> None:
    """On a busy machine it may have answered and gone before the probe host reads who it is."""
    with subprocess.Popen(["true"]) as child:
        pass
    assert started_child({"pid": child.pid}) == 0
    with pytest.raises(BadAnswer):
        started_child({"pid": os.getppid()})
