"""How processes that really died are classified: by signal, exit status and last words."""

from __future__ import annotations

import signal
import subprocess
import sys
from typing import Any

import pytest

from tests.unit.test_classify import raised
from torch_compat_matrix.probes.worker import death
from torch_compat_matrix.runner.model import Limits, Verdict
from torch_compat_matrix.runner.verdicts.classify import Classified, classify

DEATHS = {
    signal.SIGSEGV: "segfault",
    signal.SIGABRT: "abort",
    signal.SIGBUS: "bus-error",
    signal.SIGILL: "illegal-instruction",
    signal.SIGFPE: "floating-point-exception",
    signal.SIGKILL: "killed",
    signal.SIGTERM: "killed",
    signal.SIGUSR1: "unclassified-death",
}


def died(code: str, **more: Any) -> Classified:
    """What a process comes to that really ends like this."""
    ended = subprocess.run(
        [sys.executable, "-S", "-c", f"import os\n{code}"], capture_output=True, text=True, check=False
    )
    seen: dict[str, Any] = {
        "status": "died",
        "output": ended.stderr,
        "message": "",
        "member": "library",
        "signal": None,
        "exit": None,
    }
    seen["signal" if ended.returncode < 0 else "exit"] = abs(ended.returncode)
    return classify({**seen, **more}, {}, Limits())


@pytest.mark.parametrize(("number", "reason"), DEATHS.items(), ids=[number.name for number in DEATHS])
def test_a_signal_names_the_death(number: signal.Signals, reason: str) -> None:
    """Also where a shell has made an exit status of it."""
    found = died(f"os.kill(os.getpid(), {int(number)})")
    assert (found.reason, found.evidence) == (reason, number.name)
    assert died(f"os._exit({128 + number})").reason == reason


def test_a_real_time_signal_has_no_name() -> None:
    """And ends the process alone, not the probe host that tells of it."""
    assert death(40, 0.0)["message"] == "killed by signal 40 (real-time)"
    assert death(signal.SIGKILL, 0.0)["message"] == "killed by signal 9 (SIGKILL)"
    assert died("os.kill(os.getpid(), 40)").reason == "unclassified-death"


def test_an_exit_without_an_answer_is_no_pass() -> None:
    """Whatever its status."""
    for status in (0, 3):
        found = died(f"os._exit({status})")
        assert (found.reason, found.verdict) == ("no-answer", Verdict.CRASH)
        assert found.evidence == f"exit status {status}"


def test_a_kill_for_memory_is_told_from_any_other() -> None:
    """By what the control group has counted, even where the exit status is 0."""
    assert died("os.kill(os.getpid(), 9)", oom_kills=1).reason == "out-of-memory"
    assert died("os._exit(0)", oom_kills=1).reason == "out-of-memory"
    assert raised(RuntimeError("DataLoader worker (pid 7) exited unexpectedly"), oom_kills=1).reason == "out-of-memory"
    assert raised(RuntimeError("DataLoader worker (pid 7) exited unexpectedly")).reason == "unclassified"


def test_a_process_that_always_ends_by_a_signal_ends_itself() -> None:
    """Where a second process died too, and the kernel certainly killed none for memory."""
    kills = "os.kill(os.getpid(), 9)"
    assert died(kills, oom_kills=0, attempts=["died"]).reason == "kills-itself"
    assert died("os._exit(137)", oom_kills=0, attempts=["died"]).verdict is Verdict.CRASH
    assert died(kills, attempts=["died"]).verdict is Verdict.INFRA
    assert died(kills, oom_kills=0).verdict is Verdict.INFRA


def test_a_crash_names_the_line_of_python() -> None:
    """The innermost of the stack that faulthandler prints, after the words of the program itself."""
    crash = "import faulthandler; faulthandler.enable()\ndef act(): {}\nact()"
    assert died(crash.format("os.kill(os.getpid(), 11)")).evidence == 'SIGSEGV: File "<string>", line 3 in act'
    found = died(crash.format("os.write(2, b'free(): invalid pointer\\n'); os.kill(os.getpid(), 6)"))
    assert found.evidence == 'SIGABRT: free(): invalid pointer: File "<string>", line 3 in act'


def test_the_last_words_count_and_not_the_life_before() -> None:
    """A process that once printed of an error need not have died of it."""
    dying = "import sys; sys.stderr.write({!r}); sys.stderr.flush(); os.kill(os.getpid(), 6)"
    words = "terminate called after throwing an instance of 'c10::Error'\n  what():  device-side assert triggered\n"
    frames = "".join(f"frame #{number}: f() + 0x1\n" for number in range(40))
    assert died(dying.format(words + frames)).reason == "device-side-assert"
    assert died(dying.format("device-side assert triggered\n" + frames)).reason == "abort"
