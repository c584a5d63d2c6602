"""Slurm's commands, and what they say of jobs: asked for all jobs at once, and seldom."""

from __future__ import annotations

import os
import re
import subprocess
import threading
import time
from collections.abc import Mapping
from typing import Any

from torch_compat_matrix.runner.errors import Trouble

POLL_S = 2.0
"""Seconds between two questions to the controller, however many jobs there are."""
UNKNOWN_S = 60.0
"""How long a job may be known to neither squeue nor sacct, which is told with delay."""
PATIENCE_S = 60.0
"""How long a command may take."""

PENDING = ("PENDING", "CONFIGURING", "REQUEUED", "REQUEUE_FED", "REQUEUE_HOLD", "SPECIAL_EXIT", "RESV_DEL_HOLD")
RUNNING = ("RUNNING", "COMPLETING", "SUSPENDED", "STOPPED", "SIGNALING", "STAGE_OUT", "RESIZING")

FAILED = {
    "NODE_FAIL": "node-lost",
    "BOOT_FAIL": "node-lost",
    "TIMEOUT": "job-time-limit",
    "DEADLINE": "job-time-limit",
    "PREEMPTED": "job-preempted",
    "REQUEUED": "job-preempted",
    "CANCELLED": "job-cancelled",
    "REVOKED": "job-cancelled",
    "NEVER": "job-unsatisfiable",
    "UNKNOWN": "job-lost",
}
"""The state in which the cluster ended a job -> the reason."""

NEVER = frozenset(
    (
        *("BadConstraints", "PartitionTimeLimit", "PartitionNodeLimit", "PartitionConfig", "DependencyNeverSatisfied"),
        *("InvalidAccount", "InvalidQOS", "AccountNotAllowed", "QOSNotAllowed"),
        *("AssocMaxCpuPerJobLimit", "AssocMaxMemPerJob", "AssocMaxGRESPerJob", "AssocMaxWallDurationPerJobLimit"),
        *("QOSMaxCpuPerJobLimit", "QOSMaxMemoryPerJob", "QOSMaxGRESPerJob", "QOSMaxWallDurationPerJobLimit"),
    )
)
"""Reasons of pending that no waiting ends."""

REFUSALS = (
    (r"invalid partition", "no-partition"),
    (r"unable to contact|connection|timed out|authentication|munge|configuration (?:file|source)|zero bytes|res_nsearch"
     r"|unknown host|slurmctld", "scheduler-unreachable"),
    (r"configuration (?:is )?not available|than permitted|can not be satisfied|generic resource|invalid feature"
     r"|requested time limit is|node count specification|cpu count|memory specification|invalid constraint",
     "job-unsatisfiable"),
    (r"account|qos|policy|limit|not permitted|access", "quota-exceeded"),
)  # fmt: skip
"""What sbatch says where it refuses -> the reason; the first that fits."""


def slurm(*words: str) -> subprocess.CompletedProcess[str]:
    """Run a command of Slurm."""
    environment = {**os.environ, "LC_ALL": "C"}
    for name in [name for name in environment if name.startswith(("SBATCH_", "SQUEUE_", "SACCT_", "SLURM_EXPORT"))]:
        del environment[name]  # settings of a user's shell, or of the job in which this runs
    took: dict[str, Any] = {"capture_output": True, "text": True, "errors": "replace", "stdin": subprocess.DEVNULL}
    try:
        return subprocess.run(words, env=environment, timeout=PATIENCE_S, check=False, **took)
    except (OSError, subprocess.TimeoutExpired) as error:
        return subprocess.CompletedProcess(words, 127, "", str(error))


def refusal(words: str) -> Trouble:
    """The trouble that sbatch tells."""
    lines = [line.removeprefix("sbatch: ").removeprefix("error: ") for line in words.splitlines()]
    said = [line for line in lines if line.strip()]
    code = next((code for pattern, code in REFUSALS if re.search(pattern, words, re.IGNORECASE)), "scheduler-error")
    return Trouble(code, said[-1] if said else "sbatch refused without a word", evidence=words.strip()[-400:])


class Queue:
    """The states of this user's jobs; safe to use from several threads."""

    def __init__(self) -> None:
        self.guard = threading.Lock()
        self.asked = self.heard = float("-inf")
        """When squeue was asked, and when it answered."""
        self.listed: dict[str, tuple[str, str, int]] = {}
        """Job -> state, reason and wait status, as squeue lists it."""
        self.ended: dict[str, tuple[str, str, int]] = {}
        """The jobs that squeue lists no more, as the accounting knows them."""
        self.watched: dict[str, float] = {}
        """Job -> when it was first asked for, or submitted."""

    def expect(self, *numbers: str) -> None:
        """Ask for these jobs too, the next time; they may have been submitted just now."""
        with self.guard:
            for number in numbers:
                self.watched.setdefault(number, time.monotonic())

    def state(self, number: str) -> tuple[str, str]:
        """State and reason of a job that is followed."""
        with self.guard:
            if time.monotonic() - self.asked > POLL_S:
                self._refresh()
            found = self.listed.get(number) or self.ended.get(number)
            if found is not None:
                return found[:2]
            lost = self.heard - self.watched.setdefault(number, time.monotonic()) > UNKNOWN_S
            return ("UNKNOWN", "neither squeue nor sacct knows it") if lost else ("PENDING", "Submitted")

    def status(self, number: str) -> int:
        """The exit status of a job that has ended; negative is a signal."""
        with self.guard:
            wait = (self.listed.get(number) or self.ended.get(number) or ("", "", 0))[2]
        return -(wait & 127) if wait & 127 else wait >> 8

    @staticmethod
    def is_over(state: str) -> bool:
        """Whether a job of that state will write no more."""
        return state not in PENDING and state not in RUNNING

    def _refresh(self) -> None:
        """Ask squeue for all jobs, and sacct for those that it lists no more; what they know stays if they fail."""
        answer = slurm("squeue", "--me", "-h", "-t", "all", "-O", "JobID:|,State:|,exit_code:|,Reason:|")
        self.asked = time.monotonic()
        if answer.returncode:
            return
        self.heard = self.asked
        rows = (line.split("|") for line in answer.stdout.splitlines())
        self.listed = {row[0]: (row[1], row[3], _number(row[2])) for row in rows if len(row) >= 4}
        missing = [job for job in self.watched if job not in self.listed and job not in self.ended]
        for start in range(0, len(missing), 1000):
            self.ended.update(_accounted(",".join(missing[start : start + 1000])))


def _accounted(jobs: str) -> Mapping[str, tuple[str, str, int]]:
    """What the accounting knows of jobs that have ended; `CANCELLED by 1000` is its own way to write."""
    answer = slurm("sacct", "-X", "-n", "-P", "-j", jobs, "--format=JobIDRaw,State,ExitCode")
    found = {}
    for row in (line.split("|") for line in answer.stdout.splitlines()):
        if len(row) == 3 and Queue.is_over(row[1].partition(" ")[0]):
            status, _, signal = row[2].partition(":")
            state, _, by = row[1].partition(" ")
            found[row[0]] = (state, by, (_number(status) << 8) | (_number(signal) & 127))
    return found


def _number(text: str) -> int:
    return int(text) if text.strip().isdigit() else 0
