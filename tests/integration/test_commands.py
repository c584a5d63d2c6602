"""An image's own checks run in the image, and what comes back decides."""

from __future__ import annotations

import sys
from dataclasses import replace
from pathlib import Path

from tests.integration.test_engine import Interpreter, engine, outcomes
from torch_compat_matrix.runner.model import Cell, Command, Image, Limits, Plan, Verdict
from torch_compat_matrix.runner.outcome import Outcome


def run(home: Path, *commands: Command) -> dict[str, Outcome]:
    """The outcome of each command, by name, in an image without torch."""
    image = Image(name="x", limits=Limits(timeout_s=60), commands=commands)
    names = tuple(command.name for command in commands)
    cell = Cell(
        image="x", subject="commands", version="", requires=(), members=(), probes=names, timeouts={"endless": 0.5}
    )
    what = Plan(images=(image,), cells=(cell,))
    assert Plan.from_json(what.to_json()) == what
    engine(Interpreter(sys.executable), what, home).run(what.checks)
    return {check.removeprefix("x/commands/"): outcome for check, outcome in outcomes(home).items()}


def shell(name: str, line: str, **wanted: object) -> Command:
    """A command of the shell."""
    return replace(Command(name=name, command=("sh", "-c", line)), **wanted)  # type: ignore[arg-type]


def test_status_output_and_time_decide(tmp_path: Path) -> None:
    """Whatever else comes back fails, with the words of the command, and the others run all the same."""
    found = run(
        tmp_path,
        shell("sound", "echo one; echo two >&2", output="^two$"),
        shell("wanted-status", "exit 3", status=3),
        shell("other-status", "echo no such device; exit 1"),
        shell("other-output", "echo one", output="two"),
        shell("endless", "echo begun; sleep 100"),
        shell("killed", "kill -9 $$"),
        Command(name="absent", command=("no-such-program", "--version")),
        shell("floods", "yes | head -c 5000000; echo the end", output="the end"),
        shell("leaves", "sleep 100 & test -w $HOME && test -w $TMPDIR"),
    )
    assert {name: outcome.detail for name, outcome in found.items() if outcome.verdict is not Verdict.PASS} == {
        "other-status": "its exit status is 1, not 0: no such device",
        "other-output": "its output has no match for 'two'",
        "endless": "it did not end within 0.5 s: begun",
        "killed": "signal 9 ended it",
        "absent": "its exit status is 127, not 0: no-such-program: No such file or directory",
    }
    failed = found["other-status"]
    assert (failed.verdict, failed.reason, failed.blame) == (Verdict.FAIL, "command-failed", "image")
    assert (failed.attempts, failed.output, failed.check) == (("fail",), "no such device\n", "x/commands/other-status")
    assert found["sound"].environment
    assert found["leaves"].notes == ("left 1 processes running, which were killed",)


def test_a_command_that_passes_the_second_time_is_flaky(tmp_path: Path) -> None:
    """A failure counts once a second run has shown it."""
    marker = tmp_path / "ran"
    (outcome,) = run(tmp_path, shell("second", f"test -e {marker} || {{ touch {marker}; exit 1; }}")).values()
    assert (outcome.verdict, outcome.flaky, outcome.attempts) == (Verdict.PASS, True, ("fail",))
