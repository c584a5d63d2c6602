"""Hostile and broken libraries: each ends in its own verdict, in time, and changes no neighbour's.

tests/resources/hostile/README.md says how a kind is written. A run holds an innocent library before the hostile ones
and another after them, in one image, so that one launch works through all; it happens in a sandbox with a stand-in, a
home and a cache of uv of its own, in which everything is compared with what was there before.  On `docker` the image is
the one of the other tests, and each container is a sandbox.  The quick share, `light`, is the one on `local` in a
stand-in whose torch is no more than the innocent need: to build, copy and remove a real one takes minutes.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import re
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest

from tests.docker.conftest import client, tag
from tests.support import ROOT, scripted_torch, tinywheels
from torch_compat_matrix.runner.backends.docker_storage import OVERLAY_VOLUME, WHOLE
from torch_compat_matrix.runner.packages import manifest

__all__ = ["client", "tag"]

FOLDER = ROOT / "tests" / "resources" / "hostile"
BEFORE, AFTER = "innocent-before", "innocent-after"
LIMIT, GRACE = 8, 5  # seconds for a probe, and beyond it
ATTEMPTS = 3  # processes that may be asked for an answer: a fork, a fresh one, and another to confirm it
BATCH = 6  # hostile cells of a run
PROBES = ("import", "sample", "autograd")
TOLD = re.compile(r"^\[\d+/\d+\] (\S+) +(\S+)", re.MULTILINE)  # verdict and check
SECTION = re.compile(r"^# --- (.+)\n", re.MULTILINE)


@dataclass(frozen=True)
class Kind:
    """A hostile library, as its file says."""

    name: str
    body: str
    hook: str
    verdicts: frozenset[str]
    others: frozenset[str]
    flags: frozenset[str]
    ends: int | None = None
    files: dict[str, str] = field(default_factory=dict, hash=False)

    @property
    def distribution(self) -> str:
        """The name on the index."""
        return f"hostile-{self.name}"

    @property
    def probes(self) -> tuple[str, ...]:
        """What the cell is asked."""
        return (*PROBES, "compile") if self.hook == "compile" else PROBES

    def allowed(self, probe: str) -> frozenset[str]:
        """The verdicts that are right for a probe; after a failed import no other has one of its own."""
        return self.verdicts if probe == self.hook or (self.hook == "build" and probe == "import") else self.others


def read_kind(path: Path) -> Kind:
    """A kind from its file: docstring, header of `# key: value`, code, and further files of the wheel."""
    text, *sections = SECTION.split(path.read_text())
    header = dict(re.findall(r"^# (hook|verdicts|also|backend|huge|ends): (.+)$", text, re.MULTILINE))
    flags = set(re.findall(r"^# (alone|share|twice|walled)$", text, re.MULTILINE)) | {header.get("backend", "eager")}
    verdicts = frozenset(header["verdicts"].split())
    first_fails = header["hook"] in ("import", "build") and verdicts != {"pass"}
    files = dict(zip(sections[::2], sections[1::2], strict=True))
    if "huge" in header:
        extras = "".join(f"Provides-Extra: {'e' * 80}{number}\n" for number in range(300_000))
        files[header["huge"]] = f"Metadata-Version: 2.1\nName: hostile-{path.stem}\nVersion: 1.0\n{extras}"
    others = header.get("also", " ".join(verdicts) if first_fails else "pass").split()
    others += ["pass", "skip"] if first_fails else []  # after an import that fails there is nothing to ask
    ends = int(header["ends"]) if "ends" in header else None
    return Kind(path.stem, text, header["hook"], verdicts, frozenset(others), frozenset(flags), ends, files)


KINDS = [read_kind(path) for path in sorted((FOLDER / "kinds").glob("*.txt"))]


def batches() -> Iterator[list[Kind]]:
    """The kinds that may share a run: those of the quick share, those that harm nobody but themselves, each other."""
    shared = [kind for kind in KINDS if "alone" not in kind.flags]
    for group in ([k for k in shared if "share" in k.flags], [k for k in shared if "share" not in k.flags]):
        yield from (group[start : start + BATCH] for start in range(0, len(group), BATCH))
    yield from ([kind] for kind in KINDS if "alone" in kind.flags)


@dataclass
class Result:
    """What a run left."""

    outcomes: dict[str, Any]  # check -> its entry in report.json
    seconds: float
    faults: list[str]  # what is wrong with the run as a whole


class Sandbox:
    """A folder that holds all that a run may touch, and the stand-in that it is judged by; or the image of that tag."""

    def __init__(self, folder: Path, tag: str = "", light: bool = False) -> None:
        self.tag, self.light = tag, light
        self.folder, self.standins, self.pristine = folder, folder / "standins", folder / "pristine"
        self.home = folder / "home"  # of the run at hand: one name, which the scripts and bytecode of a stand-in hold
        self.seen: dict[str, tuple[int, int, int]] = {}
        for name in ("tmp", "user", "wheels", "decoy", "work", "standins"):
            (folder / name).mkdir()
        (folder / "decoy" / "thesis.tex").write_text("ten years of work\n")
        if light:
            scripted_torch.wheel(folder / "wheels", version="2.13.0+cpu", cuda=None, gpus=[], numbers=True)
        self.normal = 900.0  # seconds that a run without hostile cells takes; the first builds the stand-in
        for batch in batches():  # all before the first run: a resolution holds as long as nothing is added
            self.write_wheels(batch, [BEFORE, *(kind.distribution for kind in batch), AFTER])

    def keep(self) -> None:
        """Keep what the first run found out, and a copy of its stand-in, with the bytecode that every process needs."""
        for part in ("facts", "resolutions", "overlays"):
            shutil.copytree(self.folder / "home-clean" / part, self.folder / "known" / part)
        if self.tag:
            return
        [python] = self.standins.glob("*/bin/python")
        modules = "torch" if self.light else "numpy, torch, torch._dynamo"
        subprocess.run([python, "-c", f"import {modules}"], check=True)
        subprocess.run(["cp", "-r", "--preserve=mode,timestamps", self.standins, self.pristine], check=True)
        self.seen = self.stamps()

    def heal(self, damaged: list[str]) -> None:
        """A stand-in without a trace of the last run; one that was being built again comes back with its bytecode."""
        if len(damaged) > 1000:
            subprocess.run(["rm", "-rf", *self.standins.iterdir()], check=True)
            subprocess.run(["cp", "-r", "--preserve=mode,timestamps", f"{self.pristine}/.", self.standins], check=True)
            damaged = []
        for name in damaged:
            target = self.standins / name
            target.unlink(missing_ok=True)
            if os.path.lexists(self.pristine / name):
                target.parent.mkdir(parents=True, exist_ok=True)
                shutil.copy2(self.pristine / name, target, follow_symlinks=False)
        self.seen = self.stamps()

    def stamps(self) -> dict[str, tuple[int, int, int]]:
        """What tells a file that was written to; bytecode and the product's own manifest are left out."""
        stamps = {}
        for path in self.standins.rglob("*"):
            if path.suffix not in (".pyc", ".lock", ".sealed") and (path.is_symlink() or not path.is_dir()):
                status = path.lstat()
                stamp = (status.st_size, status.st_mtime_ns, status.st_ctime_ns)
                stamps[str(path.relative_to(self.standins))] = stamp
        return stamps

    def damage(self) -> list[str]:
        """The stand-in's files whose content is not what it was, and those that came or went."""
        now = self.stamps()
        touched = {name for name in now.keys() | self.seen.keys() if now.get(name) != self.seen.get(name)}
        again = {folder.name for folder in self.standins.glob("*-compiled") if is_sealed(folder)}  # in other bytes
        touched = {name for name in touched if name.partition("/")[0] not in again}
        return sorted(name for name in touched if content(self.standins / name) != content(self.pristine / name))

    def bytecode(self) -> list[str]:
        """The bytecode that was in the stand-in from the first, and is another program now; one built anew has none."""
        known = (path.relative_to(self.pristine) for path in self.pristine.rglob("*.pyc"))
        found = (name for name in known if (self.standins / name).is_file())
        return sorted(str(name) for name in found if program(self.standins / name) != program(self.pristine / name))

    def run(self, name: str, kinds: list[Kind], goes_on: bool = False) -> Result:
        """One run of the real command over the innocent libraries and these, and what it changed that it must not.

        uv's cache is left as it is where another run `goes_on` with it.
        """
        work, home = self.folder / "work" / name, self.folder / f"home-{name}"
        home.mkdir(exist_ok=True)
        if not (home / "standins").exists():
            (home / "standins").symlink_to(self.standins)
        shutil.rmtree(work, ignore_errors=True)
        for folder in ("tmp", "user"):
            open_up(self.folder / folder)
            subprocess.run(["rm", "-rf", self.folder / folder], check=True)  # shutil.rmtree recurses
            (self.folder / folder).mkdir(exist_ok=True)
        work.mkdir()
        self.home.unlink(missing_ok=True)
        self.home.symlink_to(home)
        cells = {BEFORE: PROBES, **{kind.distribution: kind.probes for kind in kinds}, AFTER: PROBES}
        inductor = "inductor" if any("inductor" in kind.flags for kind in kinds) else "eager"
        if inductor == "inductor":
            cells[AFTER] = (*PROBES, "compile")
        if kinds:
            shutil.copytree(self.folder / "known", home, dirs_exist_ok=True)
        product = self.product(f"{name}-product", list(cells), inductor)
        before = tree(self.folder / "decoy") | tree(self.folder / "wheels") | tree(product)
        libraries = "".join(
            f'  {cell}: {{ versions: ["1.0"], probes: [{", ".join(probes)}] }}\n' for cell, probes in cells.items()
        )
        image = 'local: { python: "3.11", requires: ["torch==2.13.0", numpy] }'
        if self.light:
            image = 'local: { python: "3.11", requires: ["torch==2.13.0"] }'
        if self.tag:
            image = f"tag: {self.tag}, limits: {{ memory: 4g, shm: 64m }}"
        (work / "matrix.yaml").write_text(
            f"limits: {{ timeout: {LIMIT}, compile_timeout: {LIMIT if inductor == 'eager' else 60}, gpus: none }}\n"
            f"images:\n  torch: {{ {image} }}\n"
            f"libraries:\n{libraries}"
        )
        asked = sum(1 if kind.allowed(probe) == {"pass"} else ATTEMPTS for kind in kinds for probe in kind.probes)
        most = self.normal + asked * (LIMIT + GRACE)
        ends = next((kind.ends for kind in kinds if not self.tag), None)
        seconds, ended = self.call(product, work, most, statuses=(0, 1, 5) if ends is None else (ends,))
        faults = [] if ended else [f"did not end by itself within {most:.0f} s"]
        told: dict[str, str] = {}
        if ends is not None:  # the runner is not found when it goes on, so that it is left alone
            faults += [f"left processes: {', '.join(left)}"] if (left := self.end_leftovers()) else []
            told = {check: verdict for verdict, check in TOLD.findall((work / "output").read_text())}
            faults += [] if told else ["nothing was told before the end"]
            faults += [] if self.call(product, work, most, "--resume")[1] else ["the resumed run did not end"]
        faults += [f"left processes: {', '.join(left)}"] if (left := self.end_leftovers()) else []
        open_up(self.folder / "decoy")
        after = tree(self.folder / "decoy") | tree(self.folder / "wheels") | tree(product)
        changed = sorted(str(path) for path in before.keys() | after.keys() if before.get(path) != after.get(path))
        faults += [f"changed the user's files: {changed[:5]}"] if changed else []
        if self.seen and (damaged := self.damage() + self.bytecode()):
            faults.append(f"changed the stand-in: {damaged[:5]}")
            self.heal(damaged)
        faults += [] if goes_on else self.poisoned_cache()
        faults += self.leftover_containers(home)
        outcomes, unreadable = read_report(home)
        faults += unreadable
        faults += [
            f"{check} was {verdict} before" for check, verdict in told.items() if outcomes[check]["verdict"] != verdict
        ]
        if not ended or unreadable:
            faults.append(f"the last words: {(work / 'output').read_text(errors='replace')[-1500:]!r}")
        return Result(outcomes, seconds, faults)

    def call(
        self, product: Path, work: Path, most: float, *more: str, statuses: tuple[int, ...] = (0, 1, 5)
    ) -> tuple[float, bool]:
        """Run `compat run` in a session of its own; seconds, and whether it ended by itself with a fitting status."""
        words = {"PYTHONPATH": str(product), "COMPAT_HOME": str(self.home), "TMPDIR": str(self.folder / "tmp")}
        words |= {"HOME": str(self.folder / "user"), "UV_CACHE_DIR": str(self.folder / "uv")}
        words |= {"PIP_NO_INDEX": "1", "PIP_CONFIG_FILE": os.devnull} if self.light else {}
        others = "" if self.light else os.environ.get("PIP_FIND_LINKS", "")
        links = f"{others} {self.folder / 'wheels'}".strip()
        command = [sys.executable, "-m", "torch_compat_matrix", "run", "--jobs", "1", "--out", str(work / "out"), *more]
        command += ["--backend", "docker"] if self.tag and not more else []
        began = time.monotonic()
        with (work / "output").open("wb") as output:
            process = subprocess.Popen(
                command, cwd=work, env={**os.environ, **words, "PIP_FIND_LINKS": links}, stdout=output,
                stderr=subprocess.STDOUT, stdin=subprocess.DEVNULL, start_new_session=True,
            )  # fmt: skip
            if not more:
                (self.folder / "runner.pid").write_text(str(process.pid))
            try:
                status = process.wait(most)
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait()
                return time.monotonic() - began, False
        return time.monotonic() - began, status in statuses

    def end_leftovers(self) -> list[str]:
        """End the processes of the sandbox that are still there two seconds later; their command lines."""
        (self.folder / "runner.pid").unlink(missing_ok=True)
        for path in Path("/dev/shm").glob("hostile-*"):
            path.unlink()
        left: dict[int, str] = {}
        for _ in range(20):
            left = dict(self.processes())
            if not left:
                return []
            time.sleep(0.1)
        for pid in left:
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
        return [f"{pid} {words[:60]}" for pid, words in left.items()]

    def leftover_containers(self, home: Path) -> list[str]:
        """End the containers of the home's runs that are still there; what they are."""
        if not self.tag:
            return []
        command = ["docker", "ps", "-a", "--format", "{{.ID}} {{.Status}}"]
        command += [f"--filter=label=torch-compat-matrix.run={run.name}" for run in (home / "runs").iterdir()]
        left = subprocess.run(command, check=True, capture_output=True, text=True).stdout.splitlines()
        for line in left:
            subprocess.run(["docker", "rm", "-f", line.split()[0]], check=True, stdout=subprocess.DEVNULL)
        return [f"left containers: {left}"] if left else []

    def processes(self) -> Iterator[tuple[int, str]]:
        """Every process whose command line or environment names the sandbox."""
        mark = str(self.folder).encode()
        for entry in Path("/proc").iterdir():
            if entry.name.isdigit() and int(entry.name) != os.getpid():
                try:
                    words = (entry / "cmdline").read_bytes()
                    if mark in words or mark in (entry / "environ").read_bytes():
                        yield int(entry.name), words.replace(b"\0", b" ").decode(errors="replace")
                except OSError:
                    pass

    def write_wheels(self, kinds: list[Kind], cells: list[str]) -> None:
        """The wheels of a run's libraries, in which these cells stand beside theirs."""
        tools = (FOLDER / "tools.txt").read_text().replace("{sandbox}", "" if self.tag else str(self.folder))
        tools = tools.replace("{cells}", " ".join(f"torch/{cell}-1.0" for cell in cells))
        tail = (FOLDER / "library.txt").read_text().partition('"""\n')[2]
        for name in (BEFORE, AFTER):
            if not (self.folder / "wheels" / f"{name.replace('-', '_')}-1.0-py3-none-any.whl").exists():
                package = {f"{name.replace('-', '_')}/__init__.py": f'__version__ = "1.0"\n{tail}'}
                tinywheels.wheel(self.folder / "wheels", name, "1.0", files=package)
        for kind in kinds:
            if kind.hook == "build":
                code = kind.body.partition('"""\n\n')[2]
                tinywheels.sdist(self.folder / "wheels", kind.distribution, "1.0", at_build=code)
                continue
            module = kind.distribution.replace("-", "_")
            code = f'__version__, HOOK = "1.0", "{kind.hook}"\n{kind.body}\n{tail}'
            package = {f"{module}/__init__.py": code, f"{module}/_tools.py": tools, **kind.files}
            tinywheels.wheel(self.folder / "wheels", kind.distribution, "1.0", files=package)

    def product(self, name: str, cells: list[str], backend: str) -> Path:
        """A copy of the product that has probe modules for these libraries; the folder for PYTHONPATH."""
        folder = self.folder / name
        if not folder.exists():
            package = folder / "torch_compat_matrix"
            shutil.copytree(ROOT / "src" / "torch_compat_matrix", package, ignore=shutil.ignore_patterns("__pycache__"))
            text = (FOLDER / "probes.txt").read_text().replace('"eager"', f'"{backend}"')
            for cell in cells:
                module = cell.replace("-", "_")
                filled = text.replace("{distribution}", cell).replace("{module}", module)
                (package / "probes" / "libraries" / f"{module}.py").write_text(filled)
        return folder

    def poisoned_cache(self) -> list[str]:
        """The innocent and hostile modules in uv's cache that are not those of their wheel."""
        right = {path.stem.partition("-")[0]: package_of(path) for path in (self.folder / "wheels").glob("*.whl")}
        found = []
        for path in (self.folder / "uv").rglob("__init__.py"):
            if path.parent.name in right and path.read_bytes() != right[path.parent.name]:
                found.append(str(path.relative_to(self.folder)))
                path.unlink()
        return [f"changed uv's cache: {found[:3]}"] if found else []


def package_of(path: Path) -> bytes:
    """What a wheel holds as the module that bears its name."""
    from zipfile import ZipFile

    with ZipFile(path) as archive:
        return archive.read(f"{path.stem.partition('-')[0]}/__init__.py")


def content(path: Path) -> str:
    """What tells the content of a file or link from another; empty where there is none."""
    if path.is_symlink():
        return str(path.readlink())
    return hashlib.sha1(path.read_bytes()).hexdigest() if path.is_file() else ""


def is_sealed(folder: Path) -> bool:
    """Whether a folder holds what its manifest says, and nothing else."""
    sealed = json.loads(manifest.manifest_of(folder).read_text())
    found = {str(path.relative_to(folder)): path for path in folder.rglob("*") if path.is_symlink() or path.is_file()}
    return {name: manifest.hash_of(path) for name, path in found.items()} == {
        name: entry[0] for name, entry in sealed.items()
    }


def program(path: Path) -> bytes:
    """Bytecode without its head, which holds the time of the source."""
    return path.read_bytes()[16:]


def tree(folder: Path) -> dict[Path, str]:
    """Each file below a folder, bytecode left out, with its content."""
    return {path: content(path) for path in folder.rglob("*") if path.suffix != ".pyc" and not path.is_dir()}


def open_up(folder: Path) -> None:
    """Give back the permissions that a hostile library took."""
    if folder.is_symlink():
        folder.unlink()
    elif folder.is_dir():
        subprocess.run(["chmod", "-R", "u+rwx", folder], check=False)


def read_report(home: Path) -> tuple[dict[str, Any], list[str]]:
    """The outcomes of the last run by check, and what is wrong with report.json."""
    reports = sorted(home.parent.glob(f"work/{home.name[5:]}/out/report.json"))
    if not reports:
        return {}, ["there is no report.json"]

    def refuse(word: str) -> None:
        raise ValueError(word)

    try:
        report = json.loads(reports[-1].read_text(), parse_constant=refuse)
    except ValueError as error:
        return {}, [f"report.json: {error}"]
    return {outcome["check"]: outcome for outcome in report["outcomes"]}, []


def same(outcome: dict[str, Any]) -> dict[str, Any]:
    """What must not depend on the neighbours."""
    return {name: outcome.get(name) for name in ("verdict", "reason", "blame", "detail", "notes", "device")}


@pytest.fixture(scope="module", params=["light", "local", "docker"])
def sandbox(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Sandbox]:
    """The sandbox of all runs of a backend."""
    tag = request.getfixturevalue("tag") if request.param == "docker" else ""
    place = Sandbox(tmp_path_factory.mktemp("hostile"), tag, light=request.param == "light")
    yield place
    for used in place.folder.glob("home-*/volumes/*") if tag else ():
        words = ["docker", "volume", "rm", "-f", f"{OVERLAY_VOLUME}{used.name}{WHOLE}", f"{OVERLAY_VOLUME}{used.name}"]
        subprocess.run(words, check=True, stdout=subprocess.DEVNULL)
    open_up(place.folder)
    subprocess.run(["rm", "-rf", place.folder], check=True)


@pytest.fixture(scope="module")
def clean(sandbox: Sandbox) -> Result:
    """A run without hostile cells, whose outcomes are those that the innocent must always have."""
    result = sandbox.run("clean", [])
    assert result.faults == []
    assert {outcome["verdict"] for outcome in result.outcomes.values()} == {"pass"}
    sandbox.keep()
    began = time.monotonic()
    result = sandbox.run("normal", [])
    sandbox.normal = 30 + 3 * (time.monotonic() - began)
    return result


@pytest.fixture(scope="module")
def result_of(sandbox: Sandbox, clean: Result) -> Callable[[Kind], Result]:
    """A function that gives the run that holds a kind; after a batch that went wrong as a whole, each has its own."""
    results: dict[str, Result] = {}

    def once(name: str, kinds: list[Kind]) -> Result:
        twice = any("twice" in kind.flags for kind in kinds)
        result = sandbox.run(name, kinds, goes_on=twice)
        if twice:  # and a third time without them, which takes from the index what they changed in uv's cache
            again, after = sandbox.run(f"{name}-again", kinds, goes_on=True), sandbox.run(f"{name}-after", [])
            result.faults += [f"a later run: {fault}" for fault in again.faults + after.faults]
            result.faults += [f"the second run: {fault}" for fault in differences(result.outcomes, again.outcomes)]
            result.faults += [f"the third run: {fault}" for fault in differences(clean.outcomes, after.outcomes)]
        result.faults += differences(clean.outcomes, result.outcomes)
        return result

    def run(kind: Kind) -> Result:
        if kind.name not in results:
            [batch] = [batch for batch in batches() if kind in batch]
            result = once(batch[0].name, batch)
            for each in batch:
                results[each.name] = result
                if result.faults and len(batch) > 1:
                    results[each.name] = once(f"{each.name}-alone", [each])
        return results[kind.name]

    return run


def differences(right: dict[str, Any], found: dict[str, Any]) -> list[str]:
    """The checks of `right` that were answered otherwise."""
    pairs = [(check, same(outcome), same(found.get(check, {}))) for check, outcome in right.items()]
    return [f"{check}: {now}, alone it is {before}" for check, before, now in pairs if before != now]


@pytest.mark.parametrize(
    ("sandbox", "kind"),
    [
        pytest.param(
            backend,
            kind,
            id=f"{backend}-{kind.name}",
            marks=pytest.mark.share if backend == "light" else pytest.mark.slow,
        )
        for backend in ("light", "local", "docker")
        for batch in batches()
        for kind in batch
        if backend != "light" or "share" in kind.flags
        if backend != "docker" or not (kind.hook == "build" or "inductor" in kind.flags)  # builds happen on the host
    ],
    indirect=["sandbox"],
    scope="module",
)
def test_kind(sandbox: Sandbox, kind: Kind, result_of: Callable[[Kind], Result]) -> None:
    """The library's own verdicts are right, and nothing else is different from a run without it."""
    result = result_of(kind)
    wrong = list(result.faults)
    walled = frozenset(("infra", "skip") if sandbox.tag and "walled" in kind.flags else ())
    for probe in kind.probes:
        outcome = result.outcomes.get(f"torch/{kind.distribution}-1.0/{probe}", {"verdict": "absent"})
        if outcome["verdict"] not in kind.allowed(probe) | walled:
            cause = f"{outcome.get('reason')}: {str(outcome.get('detail'))[:200]!r}"
            wrong.append(f"{probe}: {outcome['verdict']} ({cause})")
        if outcome.get("seconds") and outcome["seconds"] > ATTEMPTS * (LIMIT + GRACE):
            wrong.append(f"{probe}: {outcome['seconds']:.0f} s for a limit of {LIMIT} s")
    for check, outcome in result.outcomes.items():
        if outcome.get("device") == "cuda" or "H100" in str(outcome.get("device_name")):
            wrong.append(f"{check} says that it ran on a GPU")
    assert wrong == [], "\n".join(wrong)
