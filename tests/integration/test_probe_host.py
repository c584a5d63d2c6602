"""The probe host against libraries that misbehave: each has its own clear observation, and the host lives on."""

from __future__ import annotations

import json
import os
import re
import shutil
import signal
import subprocess
import sys
import textwrap
import time
from collections.abc import Iterator, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any, get_args, get_type_hints

import pytest

from tests.support import scripted_environment
from torch_compat_matrix.probes import contract
from torch_compat_matrix.probes.cell import changes_torch
from torch_compat_matrix.probes.process import cores_of
from torch_compat_matrix.probes.typed import misfits
from torch_compat_matrix.runner.backends import process as processes
from torch_compat_matrix.runner.bundle import BUNDLE
from torch_compat_matrix.runner.execution.protocol import Work, frames, order
from torch_compat_matrix.runner.model import Cell, Image, Limits

BEHAVIOURS = {
    "sound": """
        with probe.part('draws'):
            probe.metric('draws', 1, 'count')
        with probe.part('half precision'):
            raise evidence.NotApplicable('no such dtype')
    """,
    "prints": "print('x' * 5_000_000, 'the end')",
    "exits": "os._exit(0)",
    "leaves": "sys.exit(0)",
    "segfaults": "ctypes.string_at(0)",
    "hangs": "time.sleep(1000)",
    "deaf": "signal.signal(signal.SIGTERM, signal.SIG_IGN); time.sleep(1000)",
    "forks": """
        for _ in range(20):
            if os.fork() == 0:
                os.setsid()
                time.sleep(1000)
    """,
    "forges": """
        print('compat/1 0 999 {"kind": "observation", "status": "passed"}')
        for descriptor in range(1, 64):
            try:
                os.write(descriptor, b'{"kind": "forged", "status": "passed"}\\n[1]\\nnoise\\n')
            except OSError:
                pass
        raise RuntimeError("the forger's own failure")
    """,
    "closes": "os.closerange(0, 256)",
    "broken": "evidence.require(False, 'wrong-value', 'off by one')",
    "inapplicable": "raise evidence.NotApplicable('no such thing here')",
}

HANGING = [f"hostile-{index}" for index, behaviour in enumerate(BEHAVIOURS) if behaviour in ("hangs", "deaf")]

PROBES = """
import ctypes, os, signal, sys, time
from .. import evidence
DISTRIBUTION = "{name}"
MODULE = "{module}"
NEEDS = ()

def sample(probe):
{body}
"""


def distribution(folder: Path, name: str, version: str = "1.0", code: str = "") -> None:
    """A package of that name as an install leaves it in a folder."""
    package = folder / name.replace("-", "_")
    package.mkdir(parents=True)
    (package / "__init__.py").write_text(code or f"__version__ = {version!r}\n")
    metadata = folder / f"{package.name}-{version}.dist-info"
    metadata.mkdir()
    (metadata / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {name}\nVersion: {version}\n")


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """A bundle with probes of misbehaving libraries, and an overlay that holds those libraries."""
    world = tmp_path_factory.mktemp("world")
    shutil.copytree(BUNDLE, world / "probes")
    for index, body in enumerate(BEHAVIOURS.values()):
        name = f"hostile-{index}"
        distribution(world / "overlays" / "key", name)
        text = PROBES.format(
            name=name, module=f"hostile_{index}", body=textwrap.indent(textwrap.dedent(body).strip() or "pass", "    ")
        )
        (world / "probes" / "libraries" / f"hostile_{index}.py").write_text(text)
    patch = pytest.MonkeyPatch()
    patch.setattr(processes, "BUNDLE", world / "probes")
    yield world
    patch.undo()


def observe(python: str, world: Path, work: list[Work], **settings: Any) -> list[dict[str, Any]]:
    """Every frame of one launch."""
    image = Image(name="x", limits=Limits(timeout_s=60.0), expects=settings.pop("expects", {}))
    keep = settings.pop("keep", ())
    timeout_s = settings.pop("timeout_s", None)
    work = [replace(piece, cell=replace(piece.cell, **settings)) for piece in work]
    ordered = order(image, work, device="cpu")
    for asked in ordered["cells"]:
        if asked["members"][0]["distribution"] in HANGING:  # the others may take as long as a busy machine needs
            asked["timeout_s"] = 3.0
        if timeout_s is not None:
            asked["timeout_s"] = timeout_s
    overlays = {"key": world / "overlays" / "key"}
    assert list(misfits(json.loads(json.dumps(ordered)), contract.WorkOrder)) == []
    with processes.launched(python, ordered, overlays, home=Path("unused"), gpu=None, keep=keep) as launch:
        found: list[Any] = list(frames(launch.lines()))
        assert launch.exit().status == 0, launch.exit().stderr
    return found


def cell(name: str, probes: tuple[str, ...] = ("import", "sample"), asked: str = "1.0") -> Work:
    """A cell of one hostile library from the overlay."""
    one = Cell(image="x", subject=name, version=asked, requires=(f"{name}=={asked}",), members=(name,), probes=probes)
    return Work(cell=one, overlay=Path("key"), added={name: asked}, versions={name: asked})


@pytest.fixture(scope="module")
def plain_python(tmp_path_factory: pytest.TempPathFactory) -> str:
    """An interpreter whose torch computes nothing, and takes no time; it holds what the real one's dependencies are."""
    libraries = ("sympy", "jinja2", "networkx")
    return scripted_environment.environment(tmp_path_factory.mktemp("plain") / "environment", libraries)


@pytest.fixture(scope="module", params=["warm", "fresh"])
def launched(request: pytest.FixtureRequest, plain_python: str, world: Path) -> list[dict[str, Any]]:
    """Every frame of one launch on all behaviours."""
    work = [cell(f"hostile-{index}") for index in range(len(BEHAVIOURS))]
    return observe(plain_python, world, work, isolation=request.param)


@pytest.fixture(scope="module")
def seen(launched: list[dict[str, Any]]) -> Mapping[str, dict[str, Any]]:
    """The sample observation of every behaviour."""
    assert launched[-1] == {"kind": "end", "state": "complete"}
    observations = [frame for frame in launched if frame["kind"] == "observation" and frame["probe"] == "sample"]
    return dict(zip(BEHAVIOURS, observations, strict=True))


KINDS = {get_type_hints(frame)["kind"].__args__[0]: frame for frame in get_args(contract.Frame)}
"""Kind of frame -> its TypedDict."""


def test_frames_are_as_the_contract_says(launched: list[dict[str, Any]]) -> None:
    """Whatever the library does, no key lacks, none is unknown, and every value is of its type."""
    assert [problem for frame in launched for problem in misfits(frame, KINDS[frame["kind"]], frame["kind"])] == []
    assert {"draws", "half precision"} == {part["name"] for frame in launched for part in frame.get("parts", ())}


def test_frames_of_a_torch_that_does_not_import(
    plain_python: str, world: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It is told, the facts lack what only torch can say, and the cells are probed all the same."""
    distribution(tmp_path, "torch", "1.0", "raise OSError('libcudart.so.13: cannot open shared object file')\n")
    monkeypatch.setenv("PYTHONPATH", str(tmp_path))
    expects = {"tools": ["sh"], "services": ["sshd"]}
    found = observe(plain_python, world, [cell("hostile-0")], expects=expects, keep=("PYTHONPATH",))
    assert [problem for frame in found for problem in misfits(frame, KINDS[frame["kind"]], frame["kind"])] == []
    frames = {frame["kind"]: frame for frame in found}
    assert frames["cold"]["exception"][0] == "OSError"
    facts = frames["facts"]["facts"]
    assert (facts["torch"], facts["torch_error"]["message"]) == (None, frames["cold"]["message"])
    assert "sh" in facts["tools"] and "sshd" in facts["services"]
    assert {*frames} | {"warm"} == {*KINDS}


def test_sound_library_passes(seen: Mapping[str, dict[str, Any]]) -> None:
    """A pass says on which device and in what kind of process."""
    assert seen["sound"]["status"] == "passed"
    assert (seen["sound"]["device"], seen["sound"]["device_name"]) == ("cpu", "CPU")


def test_output_is_bounded(seen: Mapping[str, dict[str, Any]]) -> None:
    """Megabytes pass through without being kept; the beginning and the end are."""
    assert seen["prints"]["status"] == "passed"
    assert seen["prints"]["output_bytes"] == 5_000_009
    assert len(seen["prints"]["output"]) < 30_000
    assert seen["prints"]["output"].endswith("the end\n")


def test_exit_without_an_answer_is_not_a_pass(seen: Mapping[str, dict[str, Any]]) -> None:
    """Exit code 0 proves nothing."""
    assert (seen["exits"]["status"], seen["exits"]["exit"]) == ("died", 0)
    assert seen["leaves"]["status"] == "raised"
    assert seen["leaves"]["exception"] == ["SystemExit"]
    assert seen["closes"]["status"] == "died"


def test_segfault_is_named(seen: Mapping[str, dict[str, Any]]) -> None:
    """The signal is told, and the line of Python in which it happened."""
    assert (seen["segfaults"]["status"], seen["segfaults"]["signal"]) == ("died", 11)
    assert re.search(r'hostile_\d+\.py", line \d+ in sample', seen["segfaults"]["output"])


def test_forks_of_a_process_with_the_real_torch(torch_python: str, world: Path) -> None:
    """What a fork of it answers, prints and dies of arrives as of any other; so does a fresh process's confirmation."""
    names = ("sound", "prints", "segfaults")
    found = observe(torch_python, world, [cell(f"hostile-{[*BEHAVIOURS].index(name)}") for name in names])
    assert [problem for frame in found for problem in misfits(frame, KINDS[frame["kind"]], frame["kind"])] == []
    assert found[-1] == {"kind": "end", "state": "complete"}
    observed = [frame for frame in found if frame["kind"] == "observation"]
    assert {frame["status"] for frame in observed if frame["probe"] == "import"} == {"passed"}
    sound, prints, segfaults = (frame for frame in observed if frame["probe"] == "sample")
    assert (sound["status"], sound["isolation"], sound["device"]) == ("passed", "fork", "cpu")
    assert (prints["status"], prints["output_bytes"]) == ("passed", 5_000_009)
    assert (segfaults["status"], segfaults["signal"], segfaults["isolation"]) == ("died", 11, "fresh")
    assert re.search(r'hostile_\d+\.py", line \d+ in sample', segfaults["output"])


@pytest.mark.parametrize("behaviour", ["hangs", "deaf"])
def test_hang_is_a_timeout(seen: Mapping[str, dict[str, Any]], behaviour: str) -> None:
    """What never returns is ended, and says where it was."""
    assert seen[behaviour]["status"] == "timeout"
    assert re.search(r'hostile_\d+\.py", line \d+ in sample', seen[behaviour]["output"])
    assert 0 <= seen[behaviour]["metrics"]["cores in use at the limit"]["value"] < 0.05
    assert seen[behaviour]["metrics"]["load of the host at the limit"]["value"] >= 0


def test_cores_are_those_of_a_process_and_its_descendants() -> None:
    """The processor time of a child counts, sleep does not; two on one processor wait for each other."""
    code = (
        "import os, subprocess, sys; os.sched_setaffinity(0, {min(os.sched_getaffinity(0))})\n"
        "for child in [subprocess.Popen([sys.executable, '-c', sys.argv[1]]) for _ in range(2)]: child.wait()"
    )
    for inner, works in (("while True: pass", True), ("import time; time.sleep(60)", False)):
        with subprocess.Popen([sys.executable, "-c", code, inner], start_new_session=True) as process:
            time.sleep(1)
            busy, waiting = cores_of(process.pid)
            os.killpg(process.pid, signal.SIGKILL)
        assert (0.05 < busy < 1.1 and waiting > 0.5) if works else (busy < 0.05 and waiting < 0.05)


def test_forked_processes_are_ended(seen: Mapping[str, dict[str, Any]]) -> None:
    """Daemons that left the session are found and killed."""
    assert seen["forks"]["status"] == "passed"
    assert seen["forks"]["notes"] == ["left 20 processes running, which were killed"]


def test_forged_frames_are_not_results(seen: Mapping[str, dict[str, Any]]) -> None:
    """What a library writes to any descriptor can neither be a result nor hide one."""
    assert seen["forges"]["status"] == "raised"
    assert seen["forges"]["message"] == "the forger's own failure"


def test_evidence_names_its_code(seen: Mapping[str, dict[str, Any]]) -> None:
    """A failure by evidence and a probe that does not apply are not exceptions to be guessed at."""
    assert (seen["broken"]["status"], seen["broken"]["code"]) == ("failed", "wrong-value")
    assert (seen["inapplicable"]["status"], seen["inapplicable"]["code"]) == ("skipped", "not-applicable")


def test_import_checks_version_and_place(plain_python: str, world: Path) -> None:
    """The version asked for, from the overlay, and nothing that hides a package of the image."""
    distribution(world / "overlays" / "key", "hostile-liar", "1.0", "__version__ = '2.0'\n")
    distribution(world / "overlays" / "key", "hostile-absent", "1.0", "import nothing_of_that_name\n")
    distribution(world / "overlays" / "key", "hostile-hollow")
    (world / "overlays" / "key" / "hostile_hollow" / "__init__.py").unlink()
    for name in ("hostile_liar", "hostile_absent", "hostile_hollow"):
        text = PROBES.format(name=name.replace("_", "-"), module=name, body="    pass")
        (world / "probes" / "libraries" / f"{name}.py").write_text(text)
    elsewhere = cell("hostile-0")
    work = [
        cell("hostile-0", asked="1.1"),
        cell("hostile-liar"),
        cell("hostile-absent"),
        cell("hostile-hollow"),
        Work(cell=elsewhere.cell, overlay=Path("key"), added={}),
    ]
    found = [one for one in observe(plain_python, world, work) if one["kind"] == "observation"]
    codes = [(one["probe"], one["status"], one.get("code")) for one in found]
    assert codes == [
        ("import", "failed", "wrong-version"),
        ("sample", "skipped", "import-failed"),
        ("import", "failed", "wrong-version"),
        ("sample", "skipped", "import-failed"),
        ("import", "raised", None),
        ("sample", "skipped", "import-failed"),
        ("import", "failed", "wrong-location"),
        ("sample", "skipped", "import-failed"),
        ("import", "failed", "wrong-location"),
        ("sample", "skipped", "import-failed"),
    ]


def test_import_failure_answers_for_the_probe_asked(plain_python: str, world: Path) -> None:
    """Where import is not among the probes, its failure is the answer."""
    found = observe(plain_python, world, [cell("hostile-0", probes=("sample",), asked="9.9")])
    observations = [one for one in found if one["kind"] == "observation"]
    assert [(one["probe"], one["code"]) for one in observations] == [("sample", "wrong-version")]


def test_overlay_must_not_hide_the_image(plain_python: str, world: Path) -> None:
    """A package of the image in the overlay would be tested in its stead."""
    distribution(world / "overlays" / "spoilt", "hostile-0")
    distribution(world / "overlays" / "spoilt", "sympy", "0.0")
    found = observe(plain_python, world, [replace(cell("hostile-0"), overlay=Path("spoilt"))])
    observations = [one for one in found if one["kind"] == "observation"]
    assert observations[0]["code"] == "environment-changed"


@pytest.mark.parametrize(
    ("requires", "said"),
    [
        (("hostile-0==1.0", "sympy<1"), "passed"),
        (("hostile-0==1.0", "networkx<1"), "sympy 0.0 of the overlay shadows the image's"),
        (("hostile-0==1.0", "torch<1"), "torch 0.0 of the overlay shadows the image's"),
    ],
)
def test_the_matrix_may_replace_what_it_asks_for(
    plain_python: str, world: Path, requires: tuple[str, ...], said: str
) -> None:
    """By name, and in a process that has not imported the image's; torch stays the image's in any case."""
    name = "torch" if "torch" in said else "sympy"
    folder = world / "overlays" / f"replaces-{name}"
    if not folder.exists():
        distribution(folder, "hostile-0")
        distribution(folder, name, "0.0", "" if name == "sympy" else "raise ImportError('the image has a better one')")
    sound = cell("hostile-0")
    asked = replace(
        sound,
        cell=replace(sound.cell, requires=requires),
        overlay=folder,
        added={"hostile-0": "1.0", name: "0.0"},
        replaces={name: "9.9"},
    )
    found = observe(plain_python, world, [asked])
    (imported, _) = [frame for frame in found if frame["kind"] == "observation"]
    assert imported["isolation"] == "fresh"
    assert imported.get("message", imported["status"]).startswith(said)


def test_what_is_to_be_replaced_must_not_come_from_the_image(plain_python: str, world: Path) -> None:
    """Metadata alone is no package: the image's own would be tested under the name of another version."""
    folder = world / "overlays" / "hollow"
    distribution(folder, "hostile-0", code="import jinja2\n__version__ = '1.0'\n")
    distribution(folder, "jinja2", "0.0")
    shutil.rmtree(folder / "jinja2")
    sound = cell("hostile-0")
    requires = ("hostile-0==1.0", "jinja2<1")
    hollow = replace(
        sound,
        cell=replace(sound.cell, requires=requires, probes=("import",)),
        overlay=folder,
        added={"hostile-0": "1.0", "jinja2": "0.0"},
        replaces={"jinja2": "3.1"},
    )
    (imported,) = [frame for frame in observe(plain_python, world, [hollow]) if frame["kind"] == "observation"]
    assert (imported["code"], imported["message"].partition(" from ")[0]) == ("environment-changed", "jinja2 comes")


def test_a_crash_stays_one_where_its_confirmation_starts_slowly(plain_python: str, world: Path) -> None:
    """A fresh process imports what the fork had already: that time is not the probe's."""
    slowly = "import sys, time\ntime.sleep(0 if 'torch' in sys.modules else 4)\n__version__ = '1.0'\n"
    distribution(world / "overlays" / "slow", "slow-to-start", code=slowly)
    text = PROBES.format(name="slow-to-start", module="slow_to_start", body="    os.abort()")
    (world / "probes" / "libraries" / "slow_to_start.py").write_text(text)
    work = [replace(cell("slow-to-start"), overlay=Path("slow"))]
    found = observe(plain_python, world, work, timeout_s=3.0)
    sample = next(frame for frame in found if frame["kind"] == "observation" and frame["probe"] == "sample")
    assert (sample["status"], sample["isolation"]) == ("died", "fresh")


def test_compiling_has_a_limit_of_its_own(plain_python: str, world: Path) -> None:
    """Longer than the others', in a fork and in a fresh process."""
    distribution(world / "overlays" / "slow", "slow-to-compile")
    text = PROBES.format(name="slow-to-compile", module="slow_to_compile", body="    pass")
    text += "\ndef compile(probe):\n    time.sleep(2.5)\n"
    (world / "probes" / "libraries" / "slow_to_compile.py").write_text(text)
    for isolation in ("warm", "fresh"):
        work = [replace(cell("slow-to-compile", ("compile",)), overlay=Path("slow"))]
        found = observe(plain_python, world, work, timeout_s=2.0, isolation=isolation)
        assert [frame["status"] for frame in found if frame["kind"] == "observation"] == ["passed"]


def test_all_cells_give_their_first_answers_before_any_compiles(plain_python: str, world: Path) -> None:
    """A library that does not import has nothing to wait for: its answers stay together.

    What compiles is asked of a fork again, also where the cell's own process imported torch itself.
    """
    for name in ("one", "two", "torn-apart"):
        code = "raise ImportError('gone')" if name == "torn-apart" else ""
        distribution(world / "overlays" / "order", name, code=code)
        text = PROBES.format(name=name, module=name.replace("-", "_"), body="    pass")
        text += "\ndef compile(probe):\n    import torch\n"
        (world / "probes" / "libraries" / f"{name.replace('-', '_')}.py").write_text(text)
    probes = ("import", "sample", "compile")
    work = [replace(cell(name, probes), overlay=Path("order")) for name in ("one", "torn-apart", "two")]
    work[2] = replace(work[2], added={**work[2].added, "optree": "1.0"})  # torch would look for it
    frames = [frame for frame in observe(plain_python, world, work) if frame["kind"] == "observation"]
    assert [(frame["isolation"], frame.get("notes")) for frame in frames[-2:]] == [("fork", []), ("fork", [])]
    found = [(frame["member"], frame["probe"], frame["status"]) for frame in frames]
    assert found == [
        ("one", "import", "passed"),
        ("one", "sample", "passed"),
        ("torn-apart", "import", "raised"),
        ("torn-apart", "sample", "skipped"),
        ("torn-apart", "compile", "skipped"),
        ("two", "import", "passed"),
        ("two", "sample", "passed"),
        ("one", "compile", "passed"),
        ("two", "compile", "passed"),
    ]


def test_a_module_says_which_submodules_count(plain_python: str, world: Path) -> None:
    """They are imported too; a function that it lacks is no failure of the library."""
    for name, code in (("whole", "VALUE = 1"), ("torn", "raise ImportError('gone')")):
        distribution(world / "overlays" / "parts", name)
        (world / "overlays" / "parts" / name / "part.py").write_text(code)
        module = f"DISTRIBUTION = MODULE = {name!r}\nIMPORTS = ('{name}.part',)\n"
        (world / "probes" / "libraries" / f"{name}.py").write_text(module)
    work = [replace(cell(name), overlay=Path("parts")) for name in ("whole", "torn")]
    found = {
        (frame["member"], frame["probe"]): (frame["status"], frame.get("message", ""))
        for frame in observe(plain_python, world, work)
        if frame["kind"] == "observation"
    }
    assert found == {
        ("whole", "import"): ("passed", ""),
        ("whole", "sample"): ("skipped", "the probes of whole have no `sample`"),
        ("torn", "import"): ("raised", "gone"),
        ("torn", "sample"): ("skipped", "torn does not import"),
    }


def test_home_and_temporary_folder_are_private_to_a_cell(plain_python: str, world: Path) -> None:
    """All probes of a cell share them; the next cell finds nothing in them."""
    for name in ("first", "second"):
        distribution(world / "overlays" / "homes", name)
        text = f"""
            import os, tempfile
            DISTRIBUTION = MODULE = {name!r}
            def marks():
                return [os.path.join(place, "mark") for place in (os.path.expanduser("~"), tempfile.gettempdir())]
            def sample(probe):
                for mark in marks():
                    os.mkdir(mark)
            def autograd(probe):
                for mark in marks():
                    os.rmdir(mark)
                    os.mkdir(mark)
        """
        (world / "probes" / "libraries" / f"{name}.py").write_text(textwrap.dedent(text))
    work = [replace(cell(name, ("sample", "autograd")), overlay=Path("homes")) for name in ("first", "second")]
    found = observe(plain_python, world, work)
    seen = [frame for frame in found if frame["kind"] == "observation"]
    assert [frame["status"] for frame in seen] == ["passed"] * 4, seen


DOUBTFUL = {
    "warm-only": """
        def sample(probe):
            probe.metric("pid", os.getpid(), "count")
            assert "--child" in sys.argv, "not in this process"

        def autograd(probe):
            sample(probe)
    """,
    "warm-import": """
        def sample(probe):
            pass
    """,
    "broken-alike": """
        def sample(probe):
            raise ValueError("always")
    """,
    "broken-unlike": """
        def sample(probe):
            raise (ValueError if "--child" in sys.argv else RuntimeError)("always")
    """,
    "flaky-warm": """
        def sample(probe):
            if attempt() < 3:
                raise (ValueError, RuntimeError)[attempt.count - 1]("not yet")
    """,
    "flaky-fresh": """
        def sample(probe):
            assert attempt() > 1, "not yet"
    """,
}
"""Libraries whose failures depend on the process, or on the attempt."""

ATTEMPT = """
import os, sys

def attempt():
    with open({counts!r}, "a+") as stream:
        stream.write("x")
        attempt.count = stream.tell()
    return attempt.count
"""


@pytest.fixture(scope="module")
def confirmed(plain_python: str, world: Path) -> Mapping[tuple[str, str], dict[str, Any]]:
    """The observation of each library and probe of DOUBTFUL."""
    work = []
    for name, body in DOUBTFUL.items():
        code = "import sys\nassert '--child' in sys.argv, 'not in this process'\n" if name == "warm-import" else ""
        distribution(world / "overlays" / "doubt", name, code=code + "__version__ = '1.0'\n")
        module = name.replace("-", "_")
        text = ATTEMPT.format(counts=str(world / f"{name}.count")) + textwrap.dedent(body)
        constants = f"DISTRIBUTION = {name!r}\nMODULE = {module!r}\nNEEDS = ()\n"
        (world / "probes" / "libraries" / f"{module}.py").write_text(constants + text)
        probes = ("import", "sample", "autograd") if name == "warm-only" else ("import", "sample")
        piece = replace(cell(name, probes), overlay=Path("doubt"))
        isolation = "fresh" if name == "flaky-fresh" else "warm"
        work.append(replace(piece, cell=replace(piece.cell, isolation=isolation)))
    found = observe(plain_python, world, work)
    assert [problem for frame in found for problem in misfits(frame, KINDS[frame["kind"]], frame["kind"])] == []
    return {(frame["member"], frame["probe"]): frame for frame in found if frame["kind"] == "observation"}


def test_failure_of_a_fork_alone_is_none(confirmed: Mapping[tuple[str, str], dict[str, Any]]) -> None:
    """A fresh process passes all that failed in forks of the warm one, and it is the same for all of them."""
    for probe in ("sample", "autograd"):
        seen = confirmed["warm-only", probe]
        assert (seen["status"], seen["isolation"], seen["attempts"]) == ("passed", "fresh", ["raised"])
        assert seen["notes"] == ["warm process disagreed: not in this process"]
        assert not seen["flaky"]
    pids = {confirmed["warm-only", probe]["metrics"]["pid"]["value"] for probe in ("sample", "autograd")}
    assert len(pids) == 1


def test_failed_import_has_the_whole_cell_asked_in_a_fresh_process(
    confirmed: Mapping[tuple[str, str], dict[str, Any]],
) -> None:
    """The import passes there, and the other probes are asked of children of that process."""
    imported, sample = confirmed["warm-import", "import"], confirmed["warm-import", "sample"]
    assert (imported["status"], imported["isolation"], imported["attempts"]) == ("passed", "fresh", ["raised"])
    assert imported["notes"] == ["warm process disagreed: not in this process"]
    assert (sample["status"], sample["isolation"], "attempts" in sample) == ("passed", "fork", False)


def test_failure_that_a_fresh_process_shows_is_its_own(confirmed: Mapping[tuple[str, str], dict[str, Any]]) -> None:
    """The same in both is sure; another is asked once more, and that there was another is told."""
    alike, unlike = confirmed["broken-alike", "sample"], confirmed["broken-unlike", "sample"]
    assert (alike["status"], alike["isolation"], alike["attempts"]) == ("raised", "fresh", ["raised"])
    assert "notes" not in alike or alike["notes"] == []
    assert (unlike["status"], unlike["isolation"], unlike["attempts"]) == ("raised", "fresh", ["raised", "raised"])
    assert unlike["exception"] == ["ValueError"]


@pytest.mark.parametrize(("name", "attempts"), [("flaky-warm", 2), ("flaky-fresh", 1)])
def test_failure_that_one_fresh_process_shows_and_another_does_not_is_flaky(
    confirmed: Mapping[tuple[str, str], dict[str, Any]], name: str, attempts: int
) -> None:
    """Whatever the warm process said."""
    seen = confirmed[name, "sample"]
    assert (seen["status"], seen["attempts"], seen["flaky"]) == ("passed", ["raised"] * attempts, True)
    assert seen["notes"] == ["flaky: not yet"]


def test_what_torch_looks_for_is_there_when_it_is_imported(torch_python: str, world: Path) -> None:
    """torch looks once, so a cell that brings such a package has torch imported with the overlay on the path."""
    distribution(world / "overlays" / "einsum", "hostile-einsum")
    distribution(world / "overlays" / "einsum", "opt-einsum")
    body = "    import torch\n    assert torch.backends.opt_einsum.is_available()"
    text = PROBES.format(name="hostile-einsum", module="hostile_einsum", body=body)
    (world / "probes" / "libraries" / "hostile_einsum.py").write_text(text)
    asked = replace(cell("hostile-einsum"), overlay=Path("einsum"))
    work = [replace(asked, added={"hostile-einsum": "1.0", "opt-einsum": "1.0"})]
    found = [frame for frame in observe(torch_python, world, work) if frame["kind"] == "observation"]
    assert [(frame["status"], frame["isolation"]) for frame in found] == [("passed", "fresh"), ("passed", "fork")]
    assert not any("attempts" in frame for frame in found)


@pytest.mark.parametrize(
    ("added", "changes"),
    [
        (["pyro-ppl", "pyro-api"], False),
        (["pyro-ppl", "NumPy"], True),
        (["pyro-ppl", "Opt_Einsum"], True),
        (["pyro-ppl", "sympy"], True),
        (["pyro-ppl"], False),
    ],
)
def test_what_a_cell_brings_for_torch(added: list[str], changes: bool) -> None:
    """Packages that torch looks for, and those that replace one of the image's; not the library under test."""
    asked: Any = {"added": added, "members": [{"distribution": "pyro-ppl", "version": ""}]}
    assert changes_torch(asked, {"torch": "2.13.0", "sympy": "1.13", "pyro-ppl": "1.8"}) is changes
