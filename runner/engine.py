"""Batches, leases, retries and resume: the one place that schedules."""

from __future__ import annotations

import json
import re
import threading
import time
import traceback
from collections.abc import Callable, Iterable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor, as_completed
from contextlib import ExitStack
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from runner import gpus, overlay, resolve
from runner.backends.base import Backend, Gpu, Prepared, Trouble
from runner.estimate import Estimate
from runner.held import canonical
from runner.index import Index
from runner.journal import Follower
from runner.locks import claimed, locked
from runner.model import INSTALLED, Cell, Check, Image, Outcome, Plan, Verdict, digest
from runner.outcomes import from_reason
from runner.protocol import Work
from runner.rules import reason_for
from runner.session import Ready, Recorder, Running, Session

INFRA_RETRIES = 2


@dataclass(frozen=True, kw_only=True, slots=True)
class Batch:
    """The cells of one image that one launched container works through."""

    image: Image
    cells: tuple[Cell, ...]

    @property
    def key(self) -> str:
        return digest([check.id for check in self.checks])

    @property
    def checks(self) -> tuple[Check, ...]:
        return tuple(check for cell in self.cells for check in cell.checks)


def facts_path(home: Path, backend: str, identity: str) -> Path:
    """Where the facts of an image are kept, once an identity."""
    return home / "facts" / f"{digest([backend, identity])}.json"


@dataclass(kw_only=True)
class Engine:
    """Runs the batches of one run; safe to use from several threads, and beside engines of other processes."""

    plan: Plan
    backend: Backend
    home: Path
    folder: Path
    """The run's folder: journal and claims."""
    index: Index
    jobs: int = 1
    seed: int = 0
    full: bool = False
    listen: Callable[[Outcome], None] = lambda outcome: None
    say: Callable[[str], None] = lambda text: None
    done: frozenset[str] = frozenset()
    """Checks whose outcome from before a resume is kept."""
    _ready: dict[str, Ready | Trouble] = field(default_factory=dict)
    _locks: dict[str, threading.Lock] = field(default_factory=dict)
    _guard: threading.Lock = field(default_factory=threading.Lock)
    running: Running = field(default_factory=Running)

    def __post_init__(self) -> None:
        self.journal = self.folder / "journal.jsonl"
        self.follower = Follower(self.journal)
        self.follower.offset = self.journal.stat().st_size if self.journal.exists() else 0
        self.recorder = Recorder(journal=self.journal, backend=self.backend.name, listen=self.listen)
        self.estimate = Estimate.load(self.home)
        self.gpus = tuple(self.backend.gpus())

    def batches(self, checks: Iterable[Check]) -> tuple[Batch, ...]:
        """The checks grouped by image, an image's cells split as far as there are jobs to share, longest first."""
        wanted: dict[str, list[str]] = {}
        for check in checks:
            wanted.setdefault(check.cell.id, []).append(check.probe)
        cells = {
            image.name: [
                replace(cell, probes=tuple(probe for probe in cell.probes if probe in wanted[cell.id]))
                for cell in self.plan.cells_of(image)
                if cell.id in wanted
            ]
            for image in self.plan.images
        }
        busy = [image for image in self.plan.images if cells[image.name]]
        share = max(1, self.jobs // len(busy)) if busy else 1
        batches = [Batch(image=image, cells=part) for image in busy for part in self._split(cells[image.name], share)]
        return tuple(sorted(batches, key=lambda batch: -sum(map(self.estimate.cell, batch.cells))))

    def _split(self, cells: Sequence[Cell], parts: int) -> list[tuple[Cell, ...]]:
        """The cells in at most `parts` groups of about equal expected time (longest processing time first)."""
        groups: list[list[Cell]] = [[] for _ in range(min(parts, len(cells)))]
        for cell in sorted(cells, key=self.estimate.cell, reverse=True):
            min(groups, key=lambda group: sum(map(self.estimate.cell, group))).append(cell)
        return [tuple(group) for group in groups]

    def run(self, checks: Iterable[Check]) -> None:
        """Work through all the checks; returns when each has an outcome in the journal."""
        with ThreadPoolExecutor(max_workers=self.jobs, thread_name_prefix="batch") as pool:
            futures = [pool.submit(self.work, batch) for batch in self.batches(checks)]
            try:
                for future in as_completed(futures):
                    future.result()
            except BaseException:
                self.stop()
                for future in futures:
                    future.cancel()
                raise

    def stop(self) -> None:
        """End what is running; what was recorded stays."""
        self.running.stop()

    def work(self, batch: Batch) -> bool:
        """Run a batch unless another process is at it; whether it was ours."""
        with claimed(self.folder / "claims" / batch.key) as ours:
            if ours:
                try:
                    self._run(batch)
                except Exception as error:  # one batch's misfortune must not take the others along
                    said = traceback.format_exc(limit=-3)
                    self._all(
                        self._open(batch.cells),
                        Trouble("host-error", f"{type(error).__name__}: {error}", evidence=said),
                    )
            return ours

    def outcome(self, check: Check) -> Outcome | None:
        """The check's outcome so far in this session, from whichever process."""
        with self._guard:
            return self.follower.look().get(check.id)

    def _run(self, batch: Batch) -> None:
        cells = self._open(batch.cells)
        if not cells:
            return
        if batch.image.limits.gpus == "required" and not self.gpus:
            self._all(cells, Trouble("gpu-required", f"{batch.image.name} demands a GPU and this host offers none"))
            return
        try:
            ready = self._prepare(batch.image)
        except Trouble as trouble:
            self._all(cells, trouble)
            return
        work: list[Work] = []
        overlays: dict[str, Path] = {}
        for cell in cells:
            try:
                one = self._resolved(cell, ready, overlays)
            except Trouble as trouble:
                self._all([cell], trouble)
            else:
                if one is not None:
                    work.append(one)
        self._launch_all(ready, work, overlays)

    def _open(self, cells: Iterable[Cell]) -> list[Cell]:
        """The cells with the probes that have no outcome yet."""
        with self._guard:
            known = {*self.done, *self.follower.look()}
        rest = [
            replace(cell, probes=tuple(check.probe for check in cell.checks if check.id not in known)) for cell in cells
        ]
        return [cell for cell in rest if cell.probes]

    def _prepare(self, image: Image) -> Ready:
        """The image ready to launch, prepared once a run and process; a Trouble is remembered too."""
        with self._guard:
            lock = self._locks.setdefault(image.name, threading.Lock())
        with lock:
            if image.name not in self._ready:
                self.say(f"preparing {image.name}")
                for attempt in range(1 + INFRA_RETRIES):
                    time.sleep(attempt)
                    try:
                        prepared = self.backend.prepare(image)
                        self._ready[image.name] = Ready(prepared=prepared, facts=self._facts(prepared))
                        break
                    except Trouble as trouble:
                        self._ready[image.name] = trouble
                        if reason_for(trouble.code).verdict is not Verdict.INFRA:
                            break
            ready = self._ready[image.name]
        if isinstance(ready, Trouble):
            raise ready
        return ready

    def _facts(self, prepared: Prepared) -> dict[str, Any]:
        """What the image holds: read from it once an identity, by a launch without cells."""
        path = facts_path(self.home, self.backend.name, prepared.identity)
        with locked(path.with_suffix(".lock")):
            if path.exists():
                facts: dict[str, Any] = json.loads(path.read_text())
                return facts
            seen = self._session(prepared, [], {}, None, warm=False).run()
            if seen.facts is None:
                raise seen.trouble or Trouble(
                    "no-answer", "the image ended before it said what it holds", evidence=seen.stderr[-400:]
                )
            partial = path.with_suffix(".partial")
            partial.write_text(json.dumps(seen.facts))
            partial.replace(path)
            return seen.facts

    def _resolved(self, cell: Cell, ready: Ready, overlays: dict[str, Path]) -> Work | None:
        """The cell with its overlay; None where its resolution is already the answer."""
        facts = ready.facts
        if cell.version == INSTALLED:
            missing = [name for name in cell.members if name not in facts["packages"]]
            if missing:
                raise Trouble("not-installed", f"the image does not hold {', '.join(missing)}")
            return Work(cell=cell)
        resolution = resolve.resolve(cell.requires, facts, self.index, self.home / "resolutions")
        if resolution.problem:
            self.recorder.outcomes(
                from_reason(
                    check,
                    resolution.problem,
                    resolution.detail,
                    evidence=resolution.evidence,
                    drift=resolution.drift,
                )
                for check in cell.checks
            )
            return None
        names = [canonical(re.split(r"==| @ ", pin)[0]) for pin in resolution.add]
        work = Work(
            cell=cell,
            added={name: resolution.versions.get(name, "") for name in names},
            versions={name: resolution.versions.get(canonical(name), "") for name in cell.members},
            drift=resolution.drift,
            notes=resolution.notes,
        )
        if not resolution.add:
            return work
        path = overlay.build(resolution.add, facts, self.index, self.home)
        overlays[path.name] = path
        return replace(work, overlay=path.name)

    def _launch_all(self, ready: Ready, work: list[Work], overlays: dict[str, Path]) -> None:
        """Launch until every check is answered: again without what ended a launch, and on host trouble twice more."""
        for left in self.backend.reap():  # a process that shared this run may have died and left its container
            self.say(f"removed what a dead owner left behind: {left}")
        troubles, warm = 0, True
        while work and not self.running.stopped:
            with ExitStack() as stack:
                gpu = self._gpu(ready.prepared.image, stack)
                seen = self._session(ready.prepared, work, overlays, gpu, warm).run()
            work = [replace(one, cell=cell) for one in work for cell in self._open([one.cell])]
            if seen.warm_up_died and warm:
                warm = False
            elif seen.trouble is not None:
                troubles += 1
                if troubles > INFRA_RETRIES:
                    self._all([one.cell for one in work], seen.trouble, attempts=("infra",) * INFRA_RETRIES)
                    return

    def _session(
        self, prepared: Prepared, work: Sequence[Work], overlays: Mapping[str, Path], gpu: Gpu | None, warm: bool
    ) -> Session:
        return Session(
            backend=self.backend,
            prepared=prepared,
            work=work,
            overlays=overlays,
            gpu=gpu,
            running=self.running,
            recorder=self.recorder,
            seed=self.seed,
            full=self.full,
            warm=warm,
        )

    def _gpu(self, image: Image, stack: ExitStack) -> Gpu | None:
        if image.limits.gpus == "none" or not self.gpus:
            return None
        return stack.enter_context(gpus.lease(self.gpus))

    def _all(self, cells: Iterable[Cell], trouble: Trouble, attempts: tuple[str, ...] = ()) -> None:
        """The same named outcome for every check of the cells."""
        if self.running.stopped:
            return
        self.recorder.outcomes(
            replace(
                from_reason(check, trouble.code, str(trouble), evidence=trouble.evidence, remedy=trouble.remedy),
                attempts=attempts,
            )
            for cell in cells
            for check in cell.checks
        )
