"""Runs on disk: a folder each, with the journal, the locks of batches and the compiled report."""

from __future__ import annotations

import datetime as dt
import json
import platform
import secrets
import shlex
from collections import deque
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from itertools import pairwise
from pathlib import Path
from typing import Any

from torch_compat_matrix.runner import __version__
from torch_compat_matrix.runner.errors import ANOTHER_HOME, CompatError, NothingSelected, did_you_mean, writing
from torch_compat_matrix.runner.files import cores, is_locked, locked, write_private
from torch_compat_matrix.runner.files import home as home
from torch_compat_matrix.runner.model import MATRIX, Module, Plan, target_of, utc_now
from torch_compat_matrix.runner.outcome import Outcome
from torch_compat_matrix.runner.records.journal import Follower, Journal, append
from torch_compat_matrix.runner.records.shapes import SCHEMA, plan_of
from torch_compat_matrix.runner.selector import Checks, Recorded
from torch_compat_matrix.runner.text import redact

COMPLETE = "complete"
"""The only state of a run that came to its end."""

STILL_GOING = "still going"
"""The state of a run that has no end yet, and that a living process works on."""


def again(header: Mapping[str, Any], *selectors: str) -> str:
    """The command that runs these checks again, as the run of that header ran them."""
    settings = header.get("settings", {})
    command = ["compat", "run", "--backend", str(header.get("backend")), "--seed", str(settings.get("seed", 0))]
    command += ["--target", header["target"]] if header.get("target") else []
    command += ["--rerun", *selectors, *(["--full"] if settings.get("full") else [])]
    command += [word for pair in pairwise(header.get("command", ())) if pair[0] == "--set" for word in pair]
    source = header.get("plan", {}).get("source", "")
    command += ["--matrix", source] if source.endswith(".yaml") and source != str(MATRIX) else []
    command += shlex.split(source) if source.startswith("--") else []  # the options that stood in place of a file
    return shlex.join(command)


class NoRun(NothingSelected):
    """The named run does not exist."""


class HomeUnusable(CompatError):
    """The folder for runs and caches cannot be used."""


@dataclass(frozen=True)
class Run:
    """A run's folder, whose name is the run's id."""

    folder: Path

    @property
    def id(self) -> str:
        return self.folder.name

    @property
    def journal(self) -> Path:
        return self.folder / "journal.jsonl"

    @property
    def compares(self) -> bool:
        """Whether it has two sides, so that it is no run of the matrix."""
        try:
            return "comparison" in self.header()
        except NoRun:
            return False

    @property
    def private_plan(self) -> Path:
        """The plan with the secrets in its URLs, which the journal lacks; there only while a resume may need them."""
        return self.folder / "plan.json"

    def kept(self, module: Module) -> Path:
        """The file with the source of a probe module that our own bundle lacks."""
        return self.folder / "probes" / module.hash[7:23] / f"{module.name}.py"

    @classmethod
    def create(
        cls,
        home: Path,
        plan: Plan,
        backend: str,
        command: Sequence[str],
        settings: dict[str, Any],
        target: str = "",
        comparison: Mapping[str, Any] | None = None,
    ) -> Run:
        """Make a run whose first record holds its plan, backend, command, host and what it calls its device.

        `comparison`: what stands against what, where the run has two sides.
        """
        # to the millisecond, so that two runs of one second keep their order
        stamp = dt.datetime.now(dt.timezone.utc).strftime("%Y%m%dT%H%M%S%f")[:-3]
        run = cls(home / "runs" / f"{stamp}-{secrets.token_hex(2)}")
        with writing(run.folder, ANOTHER_HOME, HomeUnusable):
            run.folder.mkdir(parents=True)
            whole = json.dumps(plan.to_json())
            if redact(whole) != whole:
                write_private(run.private_plan, whole)
            for module in plan.modules:
                run.kept(module).parent.mkdir(parents=True, exist_ok=True)
                run.kept(module).write_text(module.text, encoding="utf-8")
        hashed = replace(plan, modules=tuple(replace(module, text=module.hash) for module in plan.modules))
        head = {"kind": "run", "schema": SCHEMA, "run": run.id, "started": utc_now(), "command": list(command)}
        head |= {"backend": backend, "settings": settings, **({"target": target} if target else {})}
        host = {"python": platform.python_version(), "platform": platform.platform(), "machine": platform.machine()}
        head |= {"comparison": comparison} if comparison else {}
        more = {"host": {**host, "cpus": cores()}, "plan": hashed.to_json(), "version": __version__}
        append(run.journal, head | more)
        return run

    @classmethod
    def open(cls, home: Path, name: str = "latest", compares: bool = False) -> Run:
        """The run of that id or unambiguous beginning of an id; or the latest run, or (`compares`) comparison."""
        every = cls.all(home)
        last = next((run for run in reversed(every) if run.compares == compares), None) if name == "latest" else None
        runs = [last] if last else [run for run in every if name != "latest" and run.id.startswith(name)]
        if not runs or (name != "latest" and len(runs) > 1):
            number = "no run" if not runs else "more than one run"
            near = did_you_mean(name, (run.id for run in every[-12:]))
            wanted = "" if name == "latest" else f" that begins with {name!r}{near}"
            verb = "compare" if compares else "run"
            raise NoRun(
                f"{home / 'runs'}: there is {number}{wanted}; `compat {verb}` makes a run, `compat runs` lists them"
            )
        return runs[-1]

    @classmethod
    def all(cls, home: Path) -> list[Run]:
        """Every run with a journal, oldest first."""
        return [cls(path.parent) for path in sorted((home / "runs").glob("*/journal.jsonl"))]

    def header(self) -> dict[str, Any]:
        """The journal's first record."""
        journal = Journal(self.journal)
        for record in journal:
            if record["kind"] == "run":
                return record
        if journal.unreadable:
            raise NoRun(f"{self.journal}: the run record cannot be read: it is damaged, or of a later compat")
        raise NoRun(f"{self.journal}: no run record; the run was killed before it began, so start a new one")

    def plan(self) -> Plan:
        """The plan of the run."""
        kept = self.private_plan
        try:
            plan = plan_of(json.loads(kept.read_text()) if kept.exists() else self.header()["plan"])
            return replace(plan, modules=tuple(map(self._whole, plan.modules)))
        except (ValueError, OSError) as error:
            raise NoRun(f"{self.journal}: the plan cannot be read: {error}; start a new run") from error

    def _whole(self, module: Module) -> Module:
        """The module with its source."""
        path = self.kept(module)
        whole = replace(module, text=path.read_text(encoding="utf-8")) if module.text == module.hash else module
        if whole.hash != module.hash:
            raise ValueError(f"{path} has changed")
        return whole

    def outcomes(self) -> dict[str, Outcome]:
        """The latest outcome of each check."""
        return Follower(self.journal).look()

    def checks(self, wanted: Recorded) -> Checks:
        """The checks that the selector takes in; one without an outcome was not run."""
        seen = self.outcomes()
        ids = {*seen, *(check.id for check in self.plan().checks)}
        left = {check for check in ids - seen.keys() if wanted.takes(broken=False, final=False, reason="")}
        taken = {
            check
            for check, outcome in seen.items()
            if wanted.takes(broken=outcome.verdict.broken, final=outcome.verdict.final, reason=outcome.reason)
        }
        return Checks(self.id, frozenset(taken | left))

    def environments(self) -> dict[str, dict[str, Any]]:
        """The environment records by their key."""
        return {record["key"]: record for record in Journal(self.journal) if record["kind"] == "environment"}

    def unreadable(self) -> int:
        """The number of records that cannot be read."""
        journal = Journal(self.journal)
        deque(journal, maxlen=0)
        return journal.unreadable

    def ended(self) -> bool:
        """Whether the run is complete."""
        return any(record["kind"] == "end" and record.get("state") == COMPLETE for record in Journal(self.journal))

    def finished(self) -> str:
        """When the run became complete, ISO 8601; empty where it is not."""
        ends = (record for record in Journal(self.journal) if record["kind"] == "end")
        return max((str(end.get("finished", "")) for end in ends if end.get("state") == COMPLETE), default="")

    @contextmanager
    def going(self) -> Iterator[None]:
        """Let other processes see that the run is going, as long as this process lives."""
        with locked(self.folder / "going.lock"):
            yield

    def is_going(self) -> bool:
        """Whether a process on this machine, or on the same file system, works on the run."""
        return is_locked(self.folder / "going.lock")

    def resume(self) -> None:
        """Record that the run continues."""
        append(self.journal, {"kind": "resume", "at": utc_now()})

    def record(self, outcomes: Iterable[Outcome]) -> None:
        """Record outcomes of the run, each of which stands from now on for its check."""
        append(self.journal, *({"kind": "outcome", **outcome.to_json()} for outcome in outcomes))

    def finish(self, state: str) -> None:
        """Record the end of the run: `complete` or `interrupted`."""
        append(self.journal, {"kind": "end", "finished": utc_now(), "state": state})
        kept = self.private_plan
        if kept.exists() and state == COMPLETE and all(each.verdict.final for each in self.outcomes().values()):
            kept.unlink()


def target_in(header: Mapping[str, Any], environments: Iterable[Mapping[str, Any]]) -> str:
    """The kind of device that a run was made on: as its header says, else the first GPU that it saw, else `cpu`."""
    gpus = (gpu["name"] for record in environments for gpu in record["facts"].get("gpus", ()))
    return str(header.get("target") or target_of(next(gpus, "")))


def place_of(environment: Mapping[str, Any]) -> tuple[str, str]:
    """The digest of an environment's image, and the environment's target."""
    return str(environment.get("digest") or ""), target_in({}, [environment])
