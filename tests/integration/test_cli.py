"""The command as a person uses it: exit statuses, what is said, and a killed run that goes on."""

from __future__ import annotations

import json
import os
import re
import resource
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from tests.support import ROOT, light_images

MATRIX = """
images:
  small:
    LOCAL
    limits: { timeout: 200 } # no test waits for it
  demanding:
    LOCAL
    limits: { gpus: required }
probes: [import, sample, autograd, ./probes]
libraries:
  torchbnn: { versions: ["1.2", "0.1.99"] }
  pyro-ppl: { versions: ["1.8.0"], probes: [import, sample] }
known:
  - { cells: "*/pyro-ppl-1.8.0/import", expect: unsupported, code: version-assert, reason: wants torch 1 }
""".replace("LOCAL", light_images.LOCAL)


@pytest.fixture
def place(tmp_path: Path) -> Path:
    """A folder with a matrix, whose runs, caches and environments are its own; its probes take a second each."""
    (tmp_path / "matrix.yaml").write_text(MATRIX)
    light_images.put(tmp_path, seconds=1)
    return tmp_path


def compat(place: Path, *arguments: str, status: int = 0, **variables: str) -> str:
    """What `compat` says, its exit status made sure of."""
    environment = {**light_images.variables(place), "PYTHONPATH": str(ROOT / "src")}
    environment.pop("COMPAT_HOME", None)
    environment.update(variables)
    command = [sys.executable, "-m", "torch_compat_matrix", *arguments]
    done = subprocess.run(command, cwd=place, env=environment, capture_output=True, text=True, timeout=280, check=False)
    assert done.returncode == status, done.stdout + done.stderr
    return done.stdout + done.stderr


def journal(place: Path) -> list[dict[str, object]]:
    """The outcomes of the only run."""
    (path,) = (place / ".compat" / "runs").glob("*/journal.jsonl")
    found = []
    for line in path.read_text().splitlines():
        try:
            record = json.loads(line)
        except ValueError:
            continue
        if record["kind"] == "outcome":
            found.append(record)
    return found


def test_run_report_and_show(place: Path) -> None:
    """A run says where its report is; the report compiles again; a cell is shown with what reproduces it."""
    said = compat(place, "run", "torchbnn-1.2/sample", "pyro-ppl-1.8.0", "small/torchbnn-0.1.99/import", status=1)
    assert "pass        small/torchbnn-1.2/sample cpu" in said
    assert "unsupported small/pyro-ppl-1.8.0/import" in said
    assert "skip        demanding/torchbnn-1.2/sample 0.0 s gpu-required" in said
    assert "1 unexpected failure: torchbnn 0.1.99 in small." in said
    report = place / next(line for line in said.splitlines() if line.startswith("report: ")).removeprefix("report: ")
    assert "CPU only" in report.read_text()
    assert (report.parent / "junit.xml").exists()
    assert "1 unexpected failure" in compat(place, "report", "--out", "elsewhere", status=1)
    assert (place / "elsewhere" / "report.md").exists()
    shown = compat(place, "show", "small/torchbnn-1.2")
    assert "compat run --backend local --seed 0 --rerun small/torchbnn-1.2/sample" in shown
    assert "torchbnn==1.2" in shown
    assert "torchbnn-0.1.99" in compat(place, "show", "torchbn-0.1.98", status=3)


def test_nothing_unexpected_is_status_0(place: Path) -> None:
    """A known failure is as expected."""
    assert "Everything is as expected." in compat(place, "run", "small/pyro-ppl-1.8.0")


def test_killed_run_goes_on_and_loses_nothing(place: Path) -> None:
    """kill -9 in the middle: what was recorded stays, no process stays, and only the rest is run."""
    command = [sys.executable, "-m", "torch_compat_matrix", "run", "--jobs", "1", "small/torchbnn-1.2"]
    process = subprocess.Popen(
        command,
        cwd=place,
        env={**light_images.variables(place), "PYTHONPATH": str(ROOT / "src"), "COMPAT_HOME": ""},
        stderr=subprocess.DEVNULL,
    )
    until = time.monotonic() + 100
    while time.monotonic() < until:
        if any((place / ".compat" / "runs").glob("*/journal.jsonl")) and len(journal(place)) >= 2:
            break
        time.sleep(0.02)
    process.send_signal(signal.SIGSTOP)
    assert f"The run is still going: {len(journal(place))} of 3 checks are done." in compat(place, "report", status=5)
    process.send_signal(signal.SIGKILL)
    process.wait()
    assert "3 checks" in compat(place, "report", status=5)
    before = journal(place)
    assert 2 <= len(before) < 3
    said = compat(place, "run", "--resume")
    assert f"{3 - len(before)} checks on local" in said
    after = journal(place)
    assert after[: len(before)] == before
    assert sorted(str(record["check"]) for record in after) == sorted({str(record["check"]) for record in after})
    assert len(after) == 3


def test_mistakes_have_their_status(place: Path) -> None:
    """Each with a message that says what to do."""
    assert "'smal' selects nothing; did you mean 'small'" in compat(place, "run", "smal", status=3)
    assert "there is no probe 'smaple'" in compat(place, "run", "--probe", "smaple", status=3)
    assert "invalid choice: 'dokcer'" in compat(place, "run", "--backend", "dokcer", status=2)
    assert "no run" in compat(place, "report", status=3)
    (place / "matrix.yaml").write_text("images: {}\nlibaries: {}\n")
    assert "matrix.yaml:2:1: unknown key 'libaries'; did you mean 'libraries'?" in compat(place, "run", status=2)
    assert "cannot be read" in compat(place, "plan", "--matrix", "absent.yaml", status=2)
    (place / "plan.json").write_text("[]")
    assert "not a plan" in compat(place, "run", "--plan", "plan.json", status=2)


def test_unreachable_engine_is_status_4(place: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """With what to do about it."""
    monkeypatch.setenv("DOCKER_HOST", f"unix://{place}/no.sock")
    (place / "matrix.yaml").write_text(MATRIX.replace("  small:", "  small:\n    tag: example/torch:1"))
    assert "point DOCKER_HOST at another" in compat(place, "run", "--backend", "docker", status=4)


def test_run_in_a_pipe_tells_what_it_does(place: Path) -> None:
    """A heartbeat with what runs; a known failure in one line, a new one with its remedy; a block at the end."""
    script = "import sys; from torch_compat_matrix.compat import cli, progress; progress.HEARTBEAT_S = 0.3; "
    checks = ["small/pyro-ppl-1.8.0/import", "small/torchbnn-0.1.99/import"]
    done = subprocess.run(
        [sys.executable, "-c", f"{script}sys.exit(cli.main(['run', *{checks}]))"],
        cwd=place,
        env={**light_images.variables(place), "PYTHONPATH": str(ROOT / "src"), "COMPAT_HOME": ""},
        capture_output=True,
        text=True,
        timeout=280,
        check=False,
    )
    assert done.returncode == 1, done.stderr
    assert re.search(
        r"^\.\.\. \d of 2 checks.*: (launch small|read the facts small|probe small/pyro)", done.stderr, re.M
    )
    assert re.search(r"^\[\d/2\] unsupported small/pyro-ppl-1.8.0/import .*version-assert  known$", done.stderr, re.M)
    assert re.search(r"torchbnn-0.1.99/import .*version-not-found\n      \S.*\n      -> Correct the ver", done.stderr)
    block = done.stdout.partition("\n\n")[0].splitlines()
    assert block[0] == "unexpected failure: small/torchbnn-0.1.99/import: unsupported (version-not-found)"
    assert block[-1] == "  compat show small/torchbnn-0.1.99/import"
    assert done.stdout.splitlines()[-1].startswith("report: ")


def test_plan_launches_nothing(place: Path) -> None:
    """Cells, what is cached, and the time it takes."""
    said = compat(place, "plan", "small")
    assert "small/torchbnn-1.2" in said
    assert "8 checks" in said
    assert not (place / ".compat" / "runs").exists()


def test_doctor_says_what_to_do(place: Path) -> None:
    """For whatever does not work."""
    said = compat(place, "doctor", "--backend", "local")
    assert "ok  uv: uv" in said
    assert "GB free" in said


def test_help_imports_nothing_heavy() -> None:
    """And torch never on the host side."""
    heavy = "docker pydantic torch ruamel requests sqlite3 tabulate rich"
    imports = "import sys; from torch_compat_matrix.compat import cli, options; options.parser().format_help()"
    script = f"{imports}; print([name for name in {heavy.split()} if name in sys.modules])"
    said = subprocess.run([sys.executable, "-c", script], cwd=ROOT, capture_output=True, text=True, check=True).stdout
    assert said == "[]\n"


YARDSTICK = "import argparse, asyncio, email.parser, http.client, unittest, xml.dom.minidom"
"""A program that takes 0.09 s of an idle machine, and longer where it is busy, as the command does."""


def processor_s(command: list[str], home: Path) -> float:
    """Seconds of processor time that a program of this interpreter takes, with the programs that it runs."""
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    environment = {**os.environ, "COMPAT_HOME": str(home), "PYTHONPATH": str(ROOT / "src")}
    subprocess.run([sys.executable, *command], cwd=ROOT, env=environment, capture_output=True, check=True)
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    return after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime


@pytest.mark.parametrize(("verb", "most"), [("--help", 2.5), ("plan", 12)])
def test_a_verb_answers_at_once(verb: str, most: float, tmp_path: Path) -> None:
    """Within so many times the yardstick, each the best of four in turns; `plan` of the shipped matrix, from nothing.

    They take 1.1 to 1.7 and 8.5 to 9.3 times as long, on an idle machine as beside fifteen other processes.
    """
    commands = ["-c", YARDSTICK], ["-m", "torch_compat_matrix", verb]
    yardstick, took = map(min, zip(*([processor_s(command, tmp_path) for command in commands] for _ in range(4))))
    assert took < most * yardstick


@pytest.mark.parametrize(
    ("arguments", "environment", "status", "said"),
    [
        (["plan", "--json", "matrix.yaml/plan.json"], {}, 2, "plan.json: cannot be written: Not a directory"),
        (["run", "small/torchbnn-0.1.99"], {"COMPAT_HOME": "/dev/null/home"}, 5, "set COMPAT_HOME to a folder"),
        (["run", "--plan", "matrix.yaml"], {}, 2, "matrix.yaml: not a plan"),
        (["run", "--backend", "here", "--matrix", "absent.yaml"], {}, 2, "absent.yaml"),
        (["report", "nonesuch"], {}, 3, "begins with 'nonesuch'"),
        (["advise", "pyro-ppl==!"], {}, 2, "neither a `name` nor"),
    ],
)
def test_a_mistake_is_one_message(
    place: Path, arguments: list[str], environment: dict[str, str], status: int, said: str
) -> None:
    """With place and remedy, the exit status of its kind, and never a traceback."""
    told = compat(place, *arguments, status=status, **environment)
    assert said in told
    assert "Traceback" not in told


def test_a_report_folder_that_is_a_file(place: Path) -> None:
    """Is one message too; what was recorded stays, and the report can be compiled elsewhere."""
    compat(place, "run", "small/torchbnn-0.1.99", status=1)
    told = compat(place, "report", "--out", "matrix.yaml", status=2)
    assert "matrix.yaml: cannot be written" in told
    assert "Traceback" not in told


def test_an_invalid_image_reference_is_told_by_plan(place: Path) -> None:
    """Where an engine answers it says so; where none does, that is the message."""
    (place / "matrix.yaml").write_text(
        "images: { a: { tag: 'UPPER/Case:1' } }\nlibraries: { torch: { versions: [installed] } }\n"
    )
    command = [sys.executable, "-m", "torch_compat_matrix", "plan", "--backend", "docker"]
    done = subprocess.run(command, cwd=place, capture_output=True, text=True, timeout=100, check=False)
    assert "Traceback" not in done.stdout + done.stderr
    assert "UPPER/Case:1" in done.stdout or "no container engine answers" in done.stderr
