"""The engine on real launches: every check gets one outcome, whatever happens to the probe host."""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import pytest

from tests.support import ROOT, scripted_environment, scripted_torch
from tests.support.tinywheels import wheel
from torch_compat_matrix.runner.backends import process as processes
from torch_compat_matrix.runner.backends.base import Finding, Gpu, Launch, Prepared
from torch_compat_matrix.runner.bundle import BUNDLE
from torch_compat_matrix.runner.errors import Trouble
from torch_compat_matrix.runner.execution.engine import Engine
from torch_compat_matrix.runner.execution.launch import Running
from torch_compat_matrix.runner.execution.protocol import Work
from torch_compat_matrix.runner.execution.reuse import keys
from torch_compat_matrix.runner.execution.share import Worker
from torch_compat_matrix.runner.model import Cell, Image, Known, Limits, Plan, Verdict, digest
from torch_compat_matrix.runner.outcome import Outcome
from torch_compat_matrix.runner.packages.pip_config import Index
from torch_compat_matrix.runner.records import history
from torch_compat_matrix.runner.records.journal import Follower
from torch_compat_matrix.runner.storage import Kept


class Interpreter:
    """A backend whose image is the interpreter of a test environment."""

    name = "local"
    pulls = False
    heeds: Sequence[str] = ("platform", "user", "mounts")
    machine = ""

    def __init__(self, python: str, troubles: int = 0, offered: tuple[Gpu, ...] = ()) -> None:
        self.python = python
        self.troubles = troubles
        self.launches: list[list[str]] = []
        self.offered = offered
        self.ending = ""
        self.refused = ""
        """The interpreter ends at once where the id of a cell holds this word."""
        self.endings = 0
        self.prepared: list[str] = []
        self.home = Path("unused")
        self.leased: list[str] = []

    def prepare(self, image: Image) -> Prepared:
        """The interpreter as it is."""
        self.prepared.append(image.name)
        if image.name == "absent":
            raise Trouble("image-not-found", "no such image", "look for it elsewhere")
        return Prepared(
            image=image, identity=digest(self.python), reference="a test", python=self.python, stand_in=True
        )

    def peek(self, image: Image) -> Prepared | None:
        """Nothing is here before it is prepared."""
        return None

    @contextmanager
    def launch(self, launch: Launch) -> Iterator[processes.ProcessLaunch]:
        """Start it, or be in trouble as often as asked."""
        order, gpu = launch.order, launch.gpu
        if order["cells"]:
            self.launches.append([cell["id"] for cell in order["cells"]])
            self.leased.append(gpu.uuid if gpu else "")
            if self.troubles:
                self.troubles -= 1
                raise Trouble("engine-unreachable", "the engine went away")
        keep = ("PYTHONPATH",)
        refuses = self.refused and any(self.refused in cell["id"] for cell in order["cells"])
        python = "/bin/false" if refuses else self.python
        with processes.launched(python, order, launch.overlays, home=self.home, gpu=gpu, keep=keep) as started:
            if self.endings and any("sympy" in cell["id"] for cell in order["cells"]):
                self.endings -= 1
                threading.Thread(target=end_when, args=(started, self.ending)).start()
            yield started

    def room(self, images: Sequence[Image]) -> Finding:
        """Always enough."""
        return Finding(what="disk", works=True, detail="")

    def kept(self) -> Sequence[Kept]:
        """Nothing."""
        return ()

    def gpus(self) -> tuple[Gpu, ...]:
        """What the test offers."""
        return self.offered

    def reap(self) -> list[str]:
        """Nothing to remove."""
        return []

    def doctor(self) -> list[Any]:
        """Nothing to say."""
        return []


def end_when(launch: processes.ProcessLaunch, marker: str) -> None:
    """Kill the probe host once the file is there, and remove the file."""
    while not Path(marker).exists():
        time.sleep(0.01)
    Path(marker).unlink()
    os.kill(launch.popen.pid, signal.SIGKILL)


def plan(*cells: Cell, **limits: Any) -> Plan:
    """Cells in images of their names."""
    images = dict.fromkeys(cell.image for cell in cells)
    return Plan(images=tuple(Image(name=name, limits=Limits(**limits)) for name in images), cells=cells)


def installed(library: str = "numpy", image: str = "x", probes: tuple[str, ...] = ("import", "sample")) -> Cell:
    """A cell of what the interpreter holds."""
    return Cell(image=image, subject=library, version="installed", requires=(), members=(library,), probes=probes)


@pytest.fixture(scope="module")
def plain_python(tmp_path_factory: pytest.TempPathFactory) -> str:
    """An interpreter whose torch computes nothing and takes no time: the engine is the subject, and not torch."""
    libraries = ("numpy", "sympy", "jinja2", "networkx")
    return scripted_environment.environment(tmp_path_factory.mktemp("plain") / "environment", libraries)


@pytest.fixture
def bundle(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A bundle of our own, with probes of the packages that every torch environment holds."""
    shutil.copytree(BUNDLE, tmp_path / "probes", ignore=shutil.ignore_patterns("libraries"))
    libraries = tmp_path / "probes" / "libraries"
    libraries.mkdir()
    (libraries / "__init__.py").touch()
    for name, body in {
        "numpy": "with probe.part('draws'): pass",
        "sympy": f"open({str(tmp_path / 'begun')!r}, 'w').close(); import time; time.sleep(1000)",
        "jinja2": "import os, tempfile; p = os.environ['TORCHINDUCTOR_CACHE_DIR']; "
        "os.makedirs(p, exist_ok=True); tempfile.mkstemp(dir=p)",
        "networkx": "raise RuntimeError('CUDA error: an illegal memory access was encountered')",
    }.items():
        text = f"DISTRIBUTION = MODULE = {name!r}\nNEEDS = ()\ndef sample(probe):\n    {body}\n"
        (libraries / f"{name}.py").write_text(text)
    monkeypatch.setattr(processes, "BUNDLE", tmp_path / "probes")
    return tmp_path


def engine(backend: Interpreter, what: Plan, home: Path, **settings: Any) -> Engine:
    """An engine on a run's folder."""
    folder = home / "runs" / "r"
    folder.mkdir(parents=True, exist_ok=True)
    settings = {"index": Index.from_pip(), **settings}
    return Engine(plan=what, backend=backend, home=home, folder=folder, **settings)


def probe_hosts() -> set[str]:
    """Probe hosts of this test's process, and what they forked."""
    listing = subprocess.run(["ps", "ax", "-o", "pid,args"], capture_output=True, text=True, check=True).stdout
    return {line for line in listing.splitlines() if f"compat-{os.getpid()}-" in line}


def outcomes(home: Path) -> dict[str, Outcome]:
    """What the run's journal holds."""
    return Follower(home / "runs" / "r" / "journal.jsonl").look()


def test_each_check_gets_its_outcome(plain_python: str, bundle: Path) -> None:
    """A failing library does not keep the next from being probed."""
    what = plan(installed("networkx"), installed("numpy"))
    engine(Interpreter(plain_python), what, bundle / "home").run(what.checks)
    found = outcomes(bundle / "home")
    assert {check: (one.verdict, one.reason) for check, one in found.items()} == {
        "x/networkx-installed/import": (Verdict.PASS, ""),
        "x/networkx-installed/sample": (Verdict.CRASH, "illegal-memory-access"),
        "x/numpy-installed/import": (Verdict.PASS, ""),
        "x/numpy-installed/sample": (Verdict.PASS, ""),
    }
    assert found["x/numpy-installed/sample"].device == "cpu"
    assert [(part["name"], part["status"]) for part in found["x/numpy-installed/sample"].parts] == [("draws", "passed")]
    assert found["x/numpy-installed/import"].environment


@pytest.mark.parametrize(
    ("install", "beside", "verdict", "note"),
    [
        ("constrained", (), Verdict.UNSUPPORTED, ""),
        ("constrained", ("networkx<1",), Verdict.UNSUPPORTED, ""),
        ("plain", (), Verdict.PASS, "torch {torch} -> 0.9, networkx {networkx} -> 0.9, as a plain `pip install` does"),
    ],
)
def test_the_matrix_says_how_to_install(
    plain_python: str, bundle: Path, install: Any, beside: tuple[str, ...], verdict: Verdict, note: str
) -> None:
    """A plain install replaces whatever pip does, torch too; beside the image's packages that is a drift."""
    wheel(bundle / "offered", "tiny", "1.0", "networkx<1", "torch<1")
    for name in ("networkx", "torch"):
        wheel(bundle / "offered", name, "0.9")
    probes = "DISTRIBUTION = MODULE = 'tiny'\nimport networkx, torch\ndef sample(probe): pass\n"
    (bundle / "probes" / "libraries" / "tiny.py").write_text(probes)
    cell = replace(installed("tiny", probes=("import",)), version="1.0", requires=("tiny==1.0", *beside))
    index = Index(options={"no-index": "1", "find-links": str(bundle / "offered")})
    running = engine(Interpreter(plain_python), plan(replace(cell, install=install)), bundle / "home", index=index)
    running.run(running.plan.checks)
    (outcome,) = outcomes(bundle / "home").values()
    held = running.preparation.image(running.plan.images[0]).facts["packages"]
    assert (outcome.verdict, outcome.install_note) == (verdict, note.format(**held)), outcome
    assert outcome.isolation == ("fresh" if verdict is Verdict.PASS else "")
    assert outcome.reason == ("" if verdict is Verdict.PASS else "drift")


def test_a_companion_of_the_matrix_replaces_that_of_the_image(plain_python: str, bundle: Path) -> None:
    """In processes of its own: the warm one has imported the image's; the next cell finds the image's again."""
    wheel(bundle / "offered", "tiny", "1.0", "networkx")
    wheel(bundle / "offered", "networkx", "0.9")
    for name in ("tiny", "networkx"):
        probes = f"DISTRIBUTION = MODULE = {name!r}\nimport torch, networkx\n"
        (bundle / "probes" / "libraries" / f"{name}.py").write_text(probes + "def imported(probe): pass\n")
    asked = replace(installed("tiny", probes=("import",)), version="1.0", requires=("tiny==1.0", "networkx<1"))
    what = plan(asked, installed("networkx", probes=("import",)))
    index = Index(options={"no-index": "1", "find-links": str(bundle / "offered")})
    running = engine(Interpreter(plain_python), what, bundle / "home", index=index)
    running.run(what.checks)
    held = running.preparation.image(what.images[0]).facts["packages"]["networkx"]
    own, others = (outcomes(bundle / "home")[check.id] for check in what.checks)
    assert (own.verdict, own.isolation, own.replaced) == (Verdict.PASS, "fresh", (f"networkx {held} -> 0.9",)), own
    assert (others.verdict, others.installed, others.replaced) == (Verdict.PASS, held, ())


def test_work_ahead_is_for_what_compiles(plain_python: str, bundle: Path) -> None:
    """Whatever asks for an image's facts alone, or for its other probes, begins nothing."""

    class Ahead(Interpreter):
        def ahead(self, prepared: Prepared) -> None:
            begun.append(prepared.image.name)

        def close(self) -> None:
            pass

    begun: list[str] = []
    what = plan(installed(), installed(image="y", probes=("import", "compile")))
    engine(Ahead(plain_python), what, bundle / "home").run(what.checks)
    assert set(begun) == {"y"}


def test_missing_image_is_an_outcome(plain_python: str, bundle: Path) -> None:
    """The other images go on."""
    what = plan(installed(image="absent"), installed())
    engine(Interpreter(plain_python), what, bundle / "home").run(what.checks)
    found = outcomes(bundle / "home")
    assert found["absent/numpy-installed/sample"].reason == "image-not-found"
    assert found["x/numpy-installed/sample"].verdict is Verdict.PASS


def test_host_trouble_is_tried_again_twice(plain_python: str, bundle: Path) -> None:
    """Then it is named, and no library is blamed."""
    what = plan(installed())
    engine(Interpreter(plain_python, troubles=2), what, bundle / "a", running=Running((0, 0))).run(what.checks)
    assert {one.verdict for one in outcomes(bundle / "a").values()} == {Verdict.PASS}
    backend = Interpreter(plain_python, troubles=9)
    engine(backend, what, bundle / "b", running=Running((0, 0))).run(what.checks)
    assert len(backend.launches) == 3
    for one in outcomes(bundle / "b").values():
        assert (one.verdict, one.reason, one.blame) == (Verdict.INFRA, "engine-unreachable", "host")
        assert one.attempts == ("infra", "infra")


def test_probe_host_that_dies_twice_at_a_check_is_its_outcome(plain_python: str, bundle: Path) -> None:
    """The check is asked again alone before it is blamed; the rest runs, and no child lives on."""
    what = plan(installed("sympy"), installed("numpy"))
    backend = Interpreter(plain_python)
    backend.ending, backend.endings = str(bundle / "begun"), 2
    before = probe_hosts()
    engine(backend, what, bundle / "home").run(what.checks)
    found = outcomes(bundle / "home")
    blamed = found["x/sympy-installed/sample"]
    assert (blamed.verdict, blamed.reason, blamed.attempts) == (Verdict.CRASH, "kills-itself", ("infra",))
    assert found["x/numpy-installed/sample"].verdict is Verdict.PASS
    assert ["x/sympy-installed"] in backend.launches[1:]
    assert probe_hosts() == before


def test_a_library_whose_import_ends_the_probe_host_ends_no_run(plain_python: str, bundle: Path) -> None:
    """Its import has a verdict, and dies again each time that another check needs it."""
    (bundle / "probes" / "libraries" / "sympy.py").write_text(
        "import os, signal\nDISTRIBUTION = MODULE = 'sympy'\nNEEDS = ()\n"
        "def __getattr__(name):\n    if name == 'IMPORTS':\n        os.kill(os.getppid(), signal.SIGKILL)\n"
        "    raise AttributeError(name)\n"  # asked for while the library is imported
        "def sample(probe):\n    pass\ndef autograd(probe):\n    pass\n"
    )
    what = plan(installed("sympy", probes=("import", "sample", "autograd")), installed("numpy"))
    backend = Interpreter(plain_python)
    engine(backend, what, bundle / "home", running=Running(())).run(what.checks)
    found = {check: one.verdict for check, one in outcomes(bundle / "home").items() if "sympy" in check}
    assert found == dict.fromkeys(found, Verdict.CRASH) and len(found) == 3
    assert len(backend.launches) < 9


def test_a_check_that_was_shot_down_once_passes_alone(plain_python: str, bundle: Path) -> None:
    """Whoever killed the probe host, the check of that moment did not: it passes, and both attempts are told."""
    (bundle / "probes" / "libraries" / "sympy.py").write_text(
        "DISTRIBUTION = MODULE = 'sympy'\nNEEDS = ()\n"
        f"def sample(probe):\n    open({str(bundle / 'begun')!r}, 'w').close(); import time; time.sleep(2)\n"
    )
    what = plan(installed("sympy"), installed("numpy"))
    backend = Interpreter(plain_python)
    backend.ending, backend.endings = str(bundle / "begun"), 1
    engine(backend, what, bundle / "home").run(what.checks)
    found = outcomes(bundle / "home")
    assert {check: one.verdict for check, one in found.items()} == dict.fromkeys(found, Verdict.PASS)
    shot = found["x/sympy-installed/sample"]
    assert (shot.attempts, shot.flaky) == (("infra",), True)


def test_the_cell_that_ends_launches_is_found(plain_python: str, bundle: Path) -> None:
    """It gets its verdict and its neighbours theirs, in a number of launches that grows with the logarithm."""
    names = ("jinja2", "numpy", "sympy", "networkx")
    what = plan(*(installed(name, probes=("import",)) for name in names))
    backend = Interpreter(plain_python)
    backend.refused = "sympy"
    engine(backend, what, bundle / "home", running=Running(())).run(what.checks)
    found = {one.subject: (one.verdict, one.reason) for one in outcomes(bundle / "home").values()}
    passes = dict.fromkeys(("jinja2", "numpy", "networkx"), (Verdict.PASS, ""))
    assert found == {**passes, "sympy": (Verdict.CRASH, "ends-launch")}
    assert len(backend.launches) == 5


def test_an_image_that_ends_every_launch_blames_no_library(plain_python: str, bundle: Path) -> None:
    """Nothing else tells its cells apart, so it is host trouble; and the run ends."""
    what = plan(installed("jinja2", probes=("import",)), installed("numpy", probes=("import",)))
    backend = Interpreter(plain_python)
    backend.refused = "installed"
    engine(backend, what, bundle / "home", running=Running(())).run(what.checks)
    assert {(one.verdict, one.reason) for one in outcomes(bundle / "home").values()} == {(Verdict.INFRA, "host-error")}


@pytest.mark.parametrize(
    ("libraries", "headers"),
    [
        (["numpy", "jinja2"], "counted"),
        pytest.param(["numpy", "jinja2"], "made", marks=pytest.mark.slow),
        pytest.param(["numpy"], "counted", marks=pytest.mark.slow),
    ],
    ids=["several", "several-with-headers", "one"],
)
def test_what_compiling_needs_is_done_before_the_fork(
    torch_python: str, bundle: Path, libraries: list[str], headers: str
) -> None:
    """They find the vector instructions tried; headers are compiled once, for several, which takes g++ its time."""
    for library in libraries:
        with (bundle / "probes" / "libraries" / f"{library}.py").open("a") as stream:
            stream.write(TRIED.format(number=1))
    if headers == "counted":
        with (bundle / "probes" / "compiling.py").open("a") as stream:
            stream.write(f"def precompile():\n    open({str(bundle / 'compiled')!r}, 'a').write('x')\n")
    backend = Interpreter(torch_python)
    what = plan(*(installed(library, probes=("import", "compile")) for library in libraries))
    engine(backend, what, bundle / "home").run(what.checks)
    assert {one.verdict for one in outcomes(bundle / "home").values()} == {Verdict.PASS}
    assert len(backend.launches) == 1
    if headers == "counted" and len(libraries) > 1:
        assert (bundle / "compiled").read_text() == "x"
    else:
        assert not (bundle / "compiled").exists()


TRIED = """
def compile(probe):
    from torch._inductor.cpu_vec_isa import valid_vec_isa_list as tried
    assert tried.cache_info().currsize == {number}
"""


def test_after_a_crash_of_it_each_compiles_for_itself(bundle: Path) -> None:
    """In another launch, where nothing is done for all of them."""
    python = scripted_environment.environment(bundle / "environment", ("numpy", "jinja2"))
    (package,) = (bundle / "environment").glob("lib/python*/site-packages/torch")
    for module, text in {
        "_dynamo/__init__.py": "",
        "_inductor/__init__.py": "",
        "_inductor/cpu_vec_isa.py": "import functools\n@functools.lru_cache\ndef valid_vec_isa_list(): pass\n",
    }.items():
        (package / module).parent.mkdir(exist_ok=True)
        (package / module).write_text(text)
    for library in ("numpy", "jinja2"):
        with (bundle / "probes" / "libraries" / f"{library}.py").open("a") as stream:
            stream.write(TRIED.format(number=0))
    with (bundle / "probes" / "compiling.py").open("a") as stream:
        stream.write("def prepare(device):\n    import os\n    os.abort()\n")
    backend = Interpreter(python)
    what = plan(*(installed(library, probes=("import", "compile")) for library in ("numpy", "jinja2")))
    engine(backend, what, bundle / "home").run(what.checks)
    assert {one.verdict for one in outcomes(bundle / "home").values()} == {Verdict.PASS}
    assert len(backend.launches) == 2


def test_what_compiling_for_a_gpu_needs_is_done_before_the_fork(torch_python: str) -> None:
    """Dynamo's guards for shapes that vary are C++ on a GPU too; without a compiler for it they are Python.

    Both are asked in forks of one process, since what is imported takes most of the time.
    """
    program = (
        "import os, sys, torch._inductor.compile_fx, torch._inductor.config as config\n"
        "from torch_compat_matrix.probes.compiling import prepare\n"
        "from torch._inductor.cpu_vec_isa import valid_vec_isa_list as tried\n"
        "for compiler in sys.argv[1:]:\n"
        "    if not os.fork():\n"
        "        config.cpp.cxx = (None, compiler)\n"
        "        prepare('cuda')\n"
        "        print(compiler, tried.cache_info().currsize, flush=True)\n"
        "        os._exit(0)\n"
        "    os.wait()\n"
    )
    command = [torch_python, "-c", program, "g++", "/missing/g++"]
    environment = {**os.environ, "PYTHONPATH": str(ROOT / "src")}
    seen = subprocess.run(command, env=environment, text=True, capture_output=True)
    assert (seen.returncode, seen.stdout.splitlines()) == (0, ["g++ 1", "/missing/g++ 0"]), seen.stderr


def test_missing_library_is_not_a_failure_of_it(plain_python: str, bundle: Path) -> None:
    """What the image does not hold cannot be judged in it."""
    what = plan(installed("not-there"))
    engine(Interpreter(plain_python), what, bundle / "home").run(what.checks)
    assert {(one.verdict, one.reason) for one in outcomes(bundle / "home").values()} == {
        (Verdict.UNSUPPORTED, "not-installed")
    }


def test_a_marker_that_leaves_the_library_out_is_a_skip_of_the_matrix(plain_python: str, bundle: Path) -> None:
    """The library is neither missing nor broken: nobody asks for it here."""
    requires = ("numpy==1.0 ; python_version < '3.0'",)
    what = plan(Cell(image="x", subject="s", version="stack", requires=requires, members=("numpy",)))
    engine(Interpreter(plain_python), what, bundle / "home").run(what.checks)
    found = outcomes(bundle / "home").values()
    assert {(one.verdict, one.reason, one.blame, one.detail) for one in found} == {
        (Verdict.SKIP, "not-applicable", "matrix", "the marker python_version < '3.0' leaves numpy out here")
    }


def test_gpu_demanded_and_absent_is_a_skip(plain_python: str, bundle: Path) -> None:
    """Nothing runs on the CPU in its stead."""
    what = plan(installed(), gpus="required")
    backend = Interpreter(plain_python)
    engine(backend, what, bundle / "home").run(what.checks)
    assert {(one.verdict, one.reason) for one in outcomes(bundle / "home").values()} == {(Verdict.SKIP, "gpu-required")}
    assert backend.launches == []


def test_gpus_that_cannot_be_told_cost_what_may_use_one(plain_python: str, bundle: Path) -> None:
    """A failing nvidia-smi is no reason for the CPU; an image that takes no GPU loses nothing."""

    class Untold(Interpreter):
        def gpus(self) -> tuple[Gpu, ...]:
            raise Trouble("nvidia-smi-failed", "driver gone")

    images = [Image(name=gpus, limits=Limits(gpus=gpus)) for gpus in ("none", "auto", "required")]
    what = Plan(images=tuple(images), cells=tuple(installed(image=image.name) for image in images))
    backend = Untold(plain_python)
    engine(backend, what, bundle / "home").run(what.checks)
    failed = (Verdict.INFRA, "nvidia-smi-failed")
    assert {check: (one.verdict, one.reason) for check, one in outcomes(bundle / "home").items()} == {
        "none/numpy-installed/import": (Verdict.PASS, ""),
        "none/numpy-installed/sample": (Verdict.PASS, ""),
        "auto/numpy-installed/import": failed,
        "auto/numpy-installed/sample": failed,
        "required/numpy-installed/import": failed,
        "required/numpy-installed/sample": failed,
    }
    assert backend.launches == [["none/numpy-installed"]]


def test_an_unusual_launch_is_noted(plain_python: str, bundle: Path) -> None:
    """At each outcome that it brought."""

    class Unusual(Interpreter):
        @contextmanager
        def launch(self, launch: Launch) -> Iterator[processes.ProcessLaunch]:
            with super().launch(launch) as started:
                started.notes = ("the root was writable",)
                yield started

    what = plan(installed())
    engine(Unusual(plain_python), what, bundle / "home").run(what.checks)
    assert [one.notes for one in outcomes(bundle / "home").values()] == [("the root was writable",)] * 2


def test_what_is_done_is_not_done_again(plain_python: str, bundle: Path) -> None:
    """A resumed run launches only for what lacks an outcome."""
    what = plan(installed("networkx"), installed("numpy"))
    backend = Interpreter(plain_python)
    done = frozenset(check.id for check in what.cells[0].checks)
    engine(backend, what, bundle / "home", done=done).run(what.checks)
    assert backend.launches == [["x/numpy-installed"]]


def test_outcome_is_reused_where_nothing_changed(plain_python: str, bundle: Path) -> None:
    """A second run launches nothing; another seed, a known failure, or a crash, and the check runs again."""
    what = plan(installed("networkx"), installed("numpy"))
    home = bundle / "home"
    engine(Interpreter(plain_python), what, home).run(what.checks)
    (home / "runs" / "r").rename(home / "runs" / "20300101T000000-0000")
    history.sync(home)

    def again(**settings: Any) -> list[list[str]]:
        backend = Interpreter(plain_python)
        asked = replace(what, known=settings.pop("known", ()))
        engine(backend, asked, home, settled=partial(history.settled, home), **settings).run(what.checks)
        found = outcomes(home)
        shutil.rmtree(home / "runs" / "r")
        assert len(found) == 4
        reused = {check for check, one in found.items() if one.reused == "20300101T000000-0000"}
        ran = {f"{cell}/{probe}" for launch in backend.launches for cell in launch for probe in ("import", "sample")}
        assert reused | ran == set(found)
        for check in reused:
            assert found[check].environment
        return backend.launches

    assert again() == [["x/networkx-installed"]]  # its sample probe crashed
    assert again(seed=1) == [["x/networkx-installed", "x/numpy-installed"]]
    expected = Known(cells="x/numpy-installed/sample", expect=Verdict.FAIL, reason="was broken")
    assert again(known=(expected,)) == [["x/networkx-installed", "x/numpy-installed"]]


@pytest.mark.parametrize("kept", [True, False])
def test_compile_cache_is_kept_where_it_is_asked_for(plain_python: str, bundle: Path, kept: bool) -> None:
    """One folder an image and device; without being asked nothing stays."""
    what = plan(installed("jinja2"))
    for name in ("first", "second"):
        backend = Interpreter(plain_python)
        backend.home = bundle / "home"
        engine(backend, what, bundle / name, compile_cache=kept).run(what.checks)
        assert {one.verdict for one in outcomes(bundle / name).values()} == {Verdict.PASS}
    (*folders,) = (bundle / "home").glob("compiled/*/inductor/cells/x/jinja2-installed")
    assert len(folders) == (1 if kept else 0)
    assert all(any(folder.iterdir()) for folder in folders)


def test_a_failed_resolution_is_asked_for_again_where_everything_is(plain_python: str, bundle: Path) -> None:
    """What is remembered for the day does not outlive the wish to run every check."""
    cell = replace(installed(probes=("import",)), version="99", requires=("numpy==99",))
    index = Index(options={"no-index": "1"})

    def reason(**settings: Any) -> str:
        run = engine(Interpreter(plain_python), plan(cell), bundle, index=index, **settings)
        run.run(run.plan.cells[0].checks)
        return run.follower.look()["x/numpy-99/import"].reason

    assert reason() == "version-not-found"
    (record,) = (bundle / "resolutions").glob("*.json")
    record.write_text(record.read_text().replace("version-not-found", "no-wheel"))
    assert reason() == "no-wheel"
    assert reason(asked_since=time.time() + 1) == "version-not-found"


def test_what_is_said_of_a_resolution_is_part_of_the_key(plain_python: str, bundle: Path) -> None:
    """A reused outcome would show the drift of another day, or the constraints of another run."""
    prepared = Interpreter(plain_python).prepare(Image(name="x", limits=Limits()))
    work = Work(cell=installed(probes=("import",)))
    seen = [
        keys(piece, prepared, (), {}, "local")["x/numpy-installed/import"]
        for piece in (work, replace(work, drift=("torch 1 -> 2",)), replace(work, notes=("constraint a==1 of f",)))
    ]
    assert len(set(seen)) == 3


def test_what_needs_no_gpu_runs_beside_what_does(bundle: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """One batch holds the only GPU and never ends; the image without one is done meanwhile."""
    uuid = f"GPU-{os.getpid()}"
    card = {"name": "NVIDIA H100", "uuid": uuid, "major": 9, "minor": 0, "total_memory": 1}
    monkeypatch.setenv("PYTHONPATH", str(scripted_torch.write(bundle / "packages", gpus=[card])))
    for name in ("numpy", "sympy"):
        scripted_torch.distribution(bundle / "packages", name)
    gpu = Gpu(uuid=uuid, index=0, name="NVIDIA H100", memory=1, driver="570.1", capability="9.0")
    on_gpu, on_cpu = installed("sympy", image="g"), installed("numpy", image="c")
    whole = Plan(
        images=(Image(name="g"), Image(name="c", limits=Limits(gpus="none"))),
        cells=(on_gpu, on_cpu),
    )
    backend = Interpreter(sys.executable, offered=(gpu,))
    working = engine(backend, whole, bundle / "home")
    thread = threading.Thread(target=working.run, args=(whole.checks,))
    thread.start()
    until = time.monotonic() + 60
    while "c/numpy-installed/sample" not in outcomes(bundle / "home") and time.monotonic() < until:
        time.sleep(0.05)
    working.stop()
    thread.join(20)
    assert outcomes(bundle / "home")["c/numpy-installed/sample"].verdict is Verdict.PASS
    assert dict(zip([launch[0] for launch in backend.launches], backend.leased, strict=True)) == {
        "g/sympy-installed": gpu.uuid,
        "c/numpy-installed": "",
    }


def test_image_that_cannot_run_is_not_pulled(plain_python: str, bundle: Path) -> None:
    """The driver is too old for the CUDA that the tag names: known before the pull."""
    what = plan(installed())
    tagged = replace(what, images=(replace(what.images[0], tag="pytorch/pytorch:2.9.0-cuda13.0-cudnn9-runtime"),))
    gpu = Gpu(uuid="GPU-1", index=0, name="NVIDIA H100", memory=1, driver="535.104.05", capability="9.0")
    backend = Interpreter(plain_python, offered=(gpu,))
    backend.pulls = True
    engine(backend, tagged, bundle / "home").run(tagged.checks)
    found = outcomes(bundle / "home").values()
    assert {(one.verdict, one.reason) for one in found} == {(Verdict.UNSUPPORTED, "driver-too-old")}
    assert all("pull" in one.detail for one in found)
    assert backend.prepared == []


def test_workers_share_the_batches(plain_python: str, bundle: Path) -> None:
    """Two that ask for everything in another order launch nothing twice."""
    what = plan(*(installed("numpy", image=image) for image in "abc"))
    backend = Interpreter(plain_python)
    workers = [Worker(engine(backend, what, bundle / "home"), what.checks) for _ in range(2)]
    answers: list[list[Outcome]] = [[], []]

    def ask(number: int) -> None:
        order = what.checks if number == 0 else what.checks[::-1]
        answers[number] = [workers[number].outcome(check) for check in order]

    threads = [threading.Thread(target=ask, args=(number,)) for number in range(2)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    for worker in workers:
        worker.stop()
    assert {one.verdict for answer in answers for one in answer} == {Verdict.PASS}
    assert sorted(backend.launches) == [["a/numpy-installed"], ["b/numpy-installed"], ["c/numpy-installed"]]


def test_stop_ends_what_runs(plain_python: str, bundle: Path) -> None:
    """An interrupted run leaves no process and records nothing that it has not seen."""
    what = plan(installed("sympy"), installed("numpy"))
    working = engine(Interpreter(plain_python), what, bundle / "home")
    thread = threading.Thread(target=working.run, args=(what.checks,))
    thread.start()
    while not (bundle / "begun").exists():
        time.sleep(0.01)
    working.stop()
    thread.join(20)
    assert not thread.is_alive()
    assert set(outcomes(bundle / "home")) == {"x/sympy-installed/import"}
    listing = subprocess.run(["ps", "ax", "-o", "args"], capture_output=True, text=True, check=True).stdout
    assert str(bundle) not in listing
