"""Leases of GPUs by processes of two users that are killed at random: never two holders of a GPU at a time."""

from __future__ import annotations

import multiprocessing
import os
import random
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.support import ROOT
from torch_compat_matrix.runner.backends import gpus
from torch_compat_matrix.runner.backends.base import Gpu
from torch_compat_matrix.runner.errors import Trouble

NOBODY = 65534
CARDS = [Gpu(uuid=f"GPU-{number}", index=number, name="card", memory=0, driver="") for number in range(2)]


def hold(place: Path, log: Path, number: int) -> None:
    """Lease and release until killed; every other process is another user's, with a umask and a TMPDIR of its own."""
    os.umask(0o077 if number % 2 else 0o022)
    os.environ["TMPDIR"] = f"/tmp/none-{number}"
    if number % 2:
        os.setgid(NOBODY)
        os.setuid(NOBODY)
    gpus.PLACE = place
    chance = random.Random(number)
    descriptor = os.open(log, os.O_WRONLY | os.O_APPEND)
    while True:
        with gpus.lease(CARDS) as gpu:
            os.write(descriptor, f"+ {gpu.uuid} {os.getpid()}\n".encode())
            time.sleep(chance.random() * 0.002)
            os.write(descriptor, f"- {gpu.uuid} {os.getpid()}\n".encode())
        time.sleep(chance.random() * 0.002)


@pytest.fixture
def place(monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """The folder of the leases, in a folder that both users can reach."""
    folder = Path(tempfile.mkdtemp(prefix="leases-", dir="/tmp"))
    folder.chmod(0o1777)
    monkeypatch.setattr(gpus, "PLACE", folder / "gpus")
    yield folder / "gpus"
    shutil.rmtree(folder)


def two_users() -> None:
    """Skip where this is not root: in CI that is a failure."""
    if os.geteuid():
        (pytest.fail if os.environ.get("CI") else pytest.skip)("only root can become another user")


def overlaps(log: str) -> tuple[int, int]:
    """The number of leases in the log, and of those that began while another living process held the GPU."""
    holder: dict[str, str] = {}
    leases = wrong = 0
    for line in log.splitlines():
        sign, *rest = line.split()
        if sign == "x":  # a process that was killed, and has been waited for
            holder = {gpu: pid for gpu, pid in holder.items() if pid != rest[0]}
            continue
        gpu, pid = rest
        if sign == "+":
            leases += 1
            wrong += gpu in holder
            holder[gpu] = pid
        else:
            wrong += holder.pop(gpu, "") != pid
    return leases, wrong


def kill(process: Any, log: int) -> None:
    """Kill the process; its death is in the log before the next lease of its GPU, since it is stopped first."""
    os.kill(process.pid, signal.SIGSTOP)
    while Path(f"/proc/{process.pid}/stat").read_text().rpartition(")")[2].split()[0] != "T":
        time.sleep(0.001)
    os.write(log, f"x {process.pid}\n".encode())
    process.kill()
    process.join()


def run(place: Path, wanted: int) -> tuple[int, int, int]:
    """Lease as often with six processes of two users, of which one is killed now and then."""
    log = place.parent / "log"
    log.touch()
    log.chmod(0o666)
    chance, kills, number = random.Random(6), 0, 0
    holders: list[Any] = []
    context = multiprocessing.get_context("fork")
    descriptor = os.open(log, os.O_WRONLY | os.O_APPEND)
    while log.read_bytes().count(b"+") < wanted:
        while len(holders) < 6:
            number += 1
            holders.append(context.Process(target=hold, args=(place, log, number)))
            holders[-1].start()
        time.sleep(chance.uniform(0.05, 0.3))
        dying = holders.pop(chance.randrange(len(holders)))
        assert dying.is_alive(), "a holder ended by itself"
        kill(dying, descriptor)
        kills += 1
    for holder in holders:
        kill(holder, descriptor)
    os.close(descriptor)
    return (*overlaps(log.read_text()), kills)


@pytest.mark.parametrize(
    "wanted", [pytest.param(500, marks=pytest.mark.share), pytest.param(10_000, marks=pytest.mark.slow)]
)
def test_leases_of_two_users_never_overlap(place: Path, wanted: int) -> None:
    """However their holders end, whatever their umask and TMPDIR are."""
    two_users()
    leases, wrong, kills = run(place, wanted)
    print(f"{leases} leases of two users on two GPUs, {kills} kills, {wrong} overlaps")
    assert wrong == 0
    assert leases >= wanted
    users = Counter(path.stat().st_uid for path in place.iterdir())
    assert {path.stat().st_mode & 0o777 for path in place.iterdir()} == {0o666}, users


def test_a_lease_is_not_free_while_the_launched_process_lives(place: Path) -> None:
    """Though its owner was killed."""
    code = f"""
import subprocess, sys, time
from torch_compat_matrix.runner.backends import gpus
from torch_compat_matrix.runner.backends.base import Gpu
gpus.PLACE = gpus.Path({str(place)!r})
with gpus.lease([{CARDS[0]!r}]) as gpu:
    with gpus.launch_lock(gpu) as lock:
        sleeper = subprocess.Popen(["sleep", "1000"], pass_fds=[lock])
    print(sleeper.pid, flush=True)
    time.sleep(1000)
"""
    with subprocess.Popen([sys.executable, "-c", code], cwd=ROOT, stdout=subprocess.PIPE, text=True) as owner:
        assert owner.stdout is not None
        sleeper = int(owner.stdout.readline())
        owner.kill()
    with gpus.lease(CARDS) as free:
        assert free == CARDS[1]
    os.kill(sleeper, signal.SIGKILL)
    with gpus.lease(CARDS[:1]):
        pass


def _lease_as_nobody(place: Path, answers: multiprocessing.SimpleQueue[str]) -> None:
    os.setgid(NOBODY)
    os.setuid(NOBODY)
    gpus.PLACE = place
    try:
        with gpus.lease(CARDS):
            answers.put("leased")
    except Trouble as trouble:
        answers.put(f"{trouble}\n{trouble.remedy}")


def test_a_place_that_cannot_be_written_is_named(place: Path) -> None:
    """With what to do about it."""
    two_users()
    place.mkdir(mode=0o700)
    answers: multiprocessing.SimpleQueue[str] = multiprocessing.SimpleQueue()
    child = multiprocessing.get_context("fork").Process(target=_lease_as_nobody, args=(place, answers))
    child.start()
    said = answers.get()
    child.join()
    assert said.startswith("GPUs cannot be leased: ")
    assert "Permission denied" in said
    assert "`chmod 1777` it as its owner, or remove it" in said


def test_a_stopped_run_does_not_wait_for_a_lease(place: Path) -> None:
    """Another run may hold the GPU for hours."""

    class Stopped:
        stopped = True

    with gpus.lease(CARDS[:1]), pytest.raises(Trouble, match="stopped"), gpus.lease(CARDS[:1], Stopped()):
        pass
