"""What is seen of a run while it works: plain lines, the live view, the time that is left, and the end."""

from __future__ import annotations

import io
import threading
from dataclasses import replace
from typing import Any

import pytest
from rich.console import Console

from torch_compat_matrix.compat import progress
from torch_compat_matrix.compat.progress import QUIET, VERBOSE, Lines, Live, span
from torch_compat_matrix.reports.ending import MOST, ending
from torch_compat_matrix.reports.table import Table
from torch_compat_matrix.runner.backends.docker import bytes_of, count
from torch_compat_matrix.runner.execution.durations import PRIOR_S, Estimate, Remaining
from torch_compat_matrix.runner.model import Cell, Known, Verdict
from torch_compat_matrix.runner.outcome import Outcome
from torch_compat_matrix.runner.watch import Phase, doing, phase, runs

PASSED = Outcome(check="i/l-1/import", image="i", subject="l", version="1", probe="import", verdict=Verdict.PASS)
FAILED = replace(
    PASSED,
    check="i/l-1/sample",
    probe="sample",
    verdict=Verdict.FAIL,
    reason="wrong-value",
    detail="It is wrong.",
    remedy="Mend it.",
)
KNOWN = Known(cells="i/l-1/autograd", expect=Verdict.FAIL, reason="upstream")
CELL = Cell(image="i", subject="l", version="1", requires=(), members=("l",), probes=("import", "sample", "autograd"))


def lines(total: int = 3, loudness: int = 0) -> tuple[Lines, io.StringIO]:
    """Plain lines, and what they are printed to."""
    said = io.StringIO()
    return Lines(total, said, known=[KNOWN], loudness=loudness), said


def test_new_failure_comes_with_message_and_remedy_once() -> None:
    """A known one is a line, and so is another with the same message."""
    shown, said = lines()
    for outcome in (PASSED, FAILED, replace(FAILED, check="i/l-2/sample"), replace(FAILED, check="i/l-1/autograd")):
        shown.outcome(replace(outcome, probe=outcome.check.rpartition("/")[2]))
    assert said.getvalue().splitlines() == [
        "[1/3] pass        i/l-1/import 0.0 s",
        "[2/3] fail        i/l-1/sample 0.0 s wrong-value",
        "      It is wrong.",
        "      -> Mend it.",
        "[3/3] fail        i/l-2/sample 0.0 s wrong-value",
        "[4/3] fail        i/l-1/autograd 0.0 s wrong-value  known",
    ]


def test_reused_passes_are_a_line() -> None:
    """Before the next outcome; a reused failure is shown as any other."""
    shown, said = lines()
    for _ in range(37):
        shown.outcome(replace(PASSED, reused="20260801"))
    assert said.getvalue() == ""
    shown.outcome(replace(FAILED, reused="20260801"))
    first, second, *_ = said.getvalue().splitlines()
    assert first == "[38/3] 37 passes reused from run 20260801"
    assert second.endswith("wrong-value reused from 20260801")


def test_quiet_shows_surprises_alone() -> None:
    """No passes, known failures, remarks or heartbeat."""
    shown, said = lines(loudness=QUIET)
    shown.say("removed a container")
    shown.watch(Phase(job="a", what="prepare", subject="i"))
    for outcome in (
        PASSED,
        replace(PASSED, reused="r"),
        FAILED,
        replace(FAILED, check="i/l-1/autograd", probe="autograd"),
    ):
        shown.outcome(outcome)
    shown.beat()
    assert [text for text in said.getvalue().splitlines() if not text.startswith(" ")] == [
        "[3/3] fail        i/l-1/sample 0.0 s wrong-value"
    ]


def test_verbose_shows_phases_and_commands() -> None:
    """A command without secrets, and a phase with its time when it ends."""
    shown, said = lines(loudness=VERBOSE)
    with doing(shown.watch, "resolve", "i/l-1"):
        runs(["uv", "pip", "compile", "--index-url", "https://me:secret@index/simple"])
        phase("fetch")
    assert said.getvalue().splitlines() == [
        "  $ uv pip compile --index-url https://***@index/simple",
        "  resolve i/l-1: 0.0 s",
        "  fetch i/l-1: 0.0 s",
    ]


def test_heartbeat_names_what_runs() -> None:
    """With bytes where somebody counts them; the cells that are resolved at a time are one of its parts."""
    shown, said = lines()
    shown.outcome(PASSED)
    shown.watch(Phase(job="a", what="pull", subject="busybox", done=1_200_000_000, total=5_300_000_000))
    shown.watch(Phase(job="b", what="pull", subject="alpine", done=1_200_000))
    for number in range(3):
        shown.watch(Phase(job=f"c{number}", what="resolve", subject=f"i/l-{number}"))
    shown.watch(Phase(job="d", what="probe", subject="i/l-1/sample"))
    shown.watch(Phase(job="d", what=""))
    shown.beat()
    assert said.getvalue().splitlines()[-1] == (
        "... 1 of 3 checks: resolve i/l-0 and 2 more (0 s); pull busybox, 1.2 GB of 5.3 GB (0 s);"
        " pull alpine, 1.2 MB (0 s)"
    )


def test_no_line_is_a_command_of_a_ci_service() -> None:
    """Whatever a library, an engine or a path says."""
    shown, said = lines(loudness=VERBOSE)
    shown.outcome(replace(FAILED, detail="::error::x", remedy="\n::error::y"))
    shown.say("::add-mask::z")
    with doing(shown.watch, "::set-env", "::x"):
        runs(["::notice"])
    assert [text for text in said.getvalue().splitlines() if text.lstrip().startswith("::")] == []


def test_heart_beats_in_a_pipe(monkeypatch: pytest.MonkeyPatch) -> None:
    """As long as the run goes on, and no longer."""
    monkeypatch.setattr(progress, "HEARTBEAT_S", 0.01)
    beaten, before = threading.Event(), threading.active_count()
    with progress.progress(3) as shown:
        monkeypatch.setattr(shown, "beat", beaten.set)
        assert type(shown) is Lines
        assert beaten.wait(5)
    assert threading.active_count() == before


@pytest.mark.parametrize("width", [100, 40])
def test_live_view_has_a_row_a_job(width: int) -> None:
    """What it runs and for how long, cut to the terminal; below it the bar, counts and what is left."""
    console = Console(record=True, width=width, file=io.StringIO(), force_terminal=True)
    shown = Live(28, console, remaining=Remaining(Estimate({}), CELL.checks))
    shown.outcome(FAILED)
    shown.outcome(replace(PASSED, reused="r"))
    shown.watch(Phase(job="a", what="probe", subject="torch-2.13/captum-0.9.0/" + "x" * 60))
    shown.watch(Phase(job="b", what="pull", subject="busybox", done=1, total=2_000_000))
    console.print(shown)
    said = console.export_text().splitlines()
    assert said[0].split()[:3] == ["[1/28]", "fail", "i/l-1/sample"]
    rows = [text for text in said if text.startswith(("probe", "pull"))]
    assert len(rows) == 2 and all(text.rstrip().endswith("0 s") and len(text) <= width for text in rows)
    assert "2 of 28 checks" in " ".join(" ".join(said).split())
    assert "\x1b" not in said[0]


def test_live_view_obeys_no_color(monkeypatch: pytest.MonkeyPatch) -> None:
    """https://no-color.org: no colour, though the view may move."""
    monkeypatch.setenv("NO_COLOR", "1")
    file = io.StringIO()
    Live(1, Console(file=file, force_terminal=True)).outcome(FAILED)
    assert "\x1b[31m" not in file.getvalue()


def test_time_left_follows_the_pace() -> None:
    """Expected seconds at first; twice as many where the ended checks took twice as long; fewer as time passes."""
    seconds = {check.id: 1000.0 for check in CELL.checks}
    left = Remaining(Estimate(seconds), CELL.checks)
    assert left.seconds(0.0) == 3000
    left.begin(5.0)
    left.end(CELL.checks[0].id, 2005.0)
    pace = (2000 + PRIOR_S) / (1000 + PRIOR_S)
    assert left.seconds(2005.0) == pytest.approx(2000 * pace)
    assert left.seconds(2105.0) == pytest.approx(2000 * pace - 100)
    assert left.seconds(99999.0) == 0


def test_reused_outcomes_do_not_set_the_pace() -> None:
    """They take no time."""
    left = Remaining(Estimate(dict.fromkeys((check.id for check in CELL.checks), 100.0)), CELL.checks, jobs=2)
    for check in CELL.checks[:2]:
        left.end(check.id, 1.0, reused=True)
    assert left.seconds(1.0) == pytest.approx(50)


@pytest.mark.parametrize(("seconds", "said"), [(3.4, "3 s"), (89, "89 s"), (120, "2 min"), (4800, "1 h 20 min")])
def test_span(seconds: float, said: str) -> None:
    """As a person says it."""
    assert span(seconds) == said


def test_job_that_breaks_off_ends() -> None:
    """Its row goes; outside a job nobody is told."""
    heard: list[Phase] = []
    with pytest.raises(ValueError), doing(heard.append, "prepare", "i"):
        phase("pull", "busybox", done=3)
        raise ValueError
    phase("pull", "nobody")
    runs(["nobody"])
    assert [(event.what, event.subject, event.done) for event in heard] == [
        ("prepare", "i", 0),
        ("pull", "busybox", 3),
        ("", "", 0),
    ]


def test_bytes_of_a_pull() -> None:
    """The total is not known before the engine has told the size of each layer; layers at hand do not count."""
    layers: dict[str, tuple[int, int]] = {}
    events: list[tuple[dict[str, Any], tuple[int, int]]] = [
        ({"status": "Pulling from library/busybox", "id": "latest"}, (0, 0)),
        ({"status": "Pulling fs layer", "id": "a"}, (0, 0)),
        ({"status": "Pulling fs layer", "id": "b"}, (0, 0)),
        ({"status": "Downloading", "id": "a", "progressDetail": {"current": 5, "total": 10}}, (5, 0)),
        ({"status": "Downloading", "id": "b", "progressDetail": {"current": 1, "total": 90}}, (6, 100)),
        ({"status": "Download complete", "id": "a", "progressDetail": {}}, (11, 100)),
        ({"status": "Extracting", "id": "a", "progressDetail": {"current": 3, "total": 10}}, (11, 100)),
        ({"status": "Already exists", "id": "b"}, (10, 10)),
    ]
    for event, expected in events:
        count(event, layers)
        assert bytes_of(layers) == expected


def table(*outcomes: Outcome) -> Table:
    """A run with these outcomes."""
    return Table(header={}, outcomes={outcome.check: outcome for outcome in outcomes}, environments={}, known=(KNOWN,))


def test_end_has_a_block_a_surprise() -> None:
    """Failures first, those of the most cells before all; equal messages share a block, known failures have none."""
    passes = replace(PASSED, check="i/l-1/autograd", probe="autograd")
    crash = replace(
        FAILED, check="i/l-3/sample", version="3", verdict=Verdict.CRASH, reason="segfault", evidence="SIGSEGV"
    )
    more = replace(FAILED, check="i/l-2/sample", version="2")
    assert list(ending(table(passes, FAILED, more, crash), "20260801")) == [
        "unexpected failure: i/l-1/sample: fail (wrong-value), and 1 more like it",
        "  It is wrong.",
        "  remedy: Mend it.",
        "  compat show i/l-1/sample --run 20260801",
        "",
        "unexpected failure: i/l-3/sample: crash (segfault)",
        "  It is wrong.",
        "  evidence: SIGSEGV",
        "  remedy: Mend it.",
        "  compat show i/l-3/sample --run 20260801",
        "",
        "unexpected pass: i/l-1/autograd: pass",
        "  known: i/l-1/autograd: upstream",
        "  compat show i/l-1/autograd --run 20260801",
        "",
    ]
    assert list(ending(table(PASSED, replace(FAILED, check="i/l-1/autograd", probe="autograd")))) == []


def test_end_is_capped() -> None:
    """With a count of the rest."""
    failures = [replace(FAILED, check=f"i/l-{number}/sample", detail="no" * number) for number in range(MOST + 5)]
    said = list(ending(table(*failures)))
    assert sum(text.startswith("unexpected failure") for text in said) == MOST
    assert said[-2].startswith("and 5 more surprises: report.md has all, and `compat show '@failed'`")
