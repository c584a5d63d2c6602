"""The engine: schedules batches and leases, retries, reuses and resumes."""

from __future__ import annotations

import threading
import traceback
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor, as_completed
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from torch_compat_matrix.runner.backends.base import Backend, Gpu, Places, WorksAhead, reap
from torch_compat_matrix.runner.backends.gpus import lease, offered
from torch_compat_matrix.runner.errors import Trouble, reason_of
from torch_compat_matrix.runner.execution import reuse
from torch_compat_matrix.runner.execution.collect import Attempts, from_trouble
from torch_compat_matrix.runner.execution.device import BESIDE_A_GPU, uses_gpu, wants_gpu
from torch_compat_matrix.runner.execution.durations import Estimate
from torch_compat_matrix.runner.execution.launch import Launch, LaunchResult, Running
from torch_compat_matrix.runner.execution.prepare import Preparation, Ready
from torch_compat_matrix.runner.execution.protocol import Work
from torch_compat_matrix.runner.execution.recorder import Earlier, Recorder
from torch_compat_matrix.runner.execution.schedule import Batch, batches
from torch_compat_matrix.runner.files import cores, try_lock
from torch_compat_matrix.runner.model import SUITE, Cell, Check, Image, Plan, Verdict, cell_id, check_id
from torch_compat_matrix.runner.outcome import Outcome
from torch_compat_matrix.runner.packages import uv
from torch_compat_matrix.runner.packages.pip_config import Index
from torch_compat_matrix.runner.packages.resolution import Resolution
from torch_compat_matrix.runner.packages.suites import Suite
from torch_compat_matrix.runner.records import history
from torch_compat_matrix.runner.records.journal import Follower
from torch_compat_matrix.runner.selector import Selector
from torch_compat_matrix.runner.verdicts.reasons import reason_for
from torch_compat_matrix.runner.watch import Watch, doing, phase

Settled = Callable[[Iterable[str]], Mapping[str, tuple[Outcome, Mapping[str, Any]]]]
"""Keys -> the outcome of earlier runs under them, with its environment; only where all outcomes under a key agree."""


@dataclass(kw_only=True)
class Engine:
    """Runs the batches of a run; safe to use from several threads, and beside engines of other processes."""

    plan: Plan
    backend: Backend
    home: Path
    folder: Path
    """The run's folder: journal and batch locks."""
    index: Index
    jobs: int = 1
    """Batches at a time on the CPU, and at most on as many GPUs."""
    seed: int = 0
    full: bool = False
    compile_cache: bool = False
    """Keep the code that torch.compile made for the next run."""
    asked_since: float = 0
    """Resolutions that are older (seconds since the epoch) are asked for again."""
    settled: Settled = lambda keys: {}
    noisy: Mapping[str, Mapping[str, str]] = field(default_factory=dict)
    """Check -> target -> why it does not count there, and is not reused."""
    earlier: Earlier = lambda outcome: None
    listen: Callable[[Outcome], None] = lambda outcome: None
    say: Callable[[str], None] = lambda text: None
    watch: Watch = lambda phase: None
    done: frozenset[str] = frozenset()
    """Checks that had a final outcome before the resume."""
    target: str = ""
    """What the user calls the device of the run."""
    leaves: bool = False
    """Submit every batch to the scheduler, and wait for none."""
    joins: bool = False
    """Other processes work on the same run: the outcomes that the journal already holds count."""
    takes: Callable[[Gpu], bool] = lambda gpu: True
    """Which of the backend's GPUs it may lease."""
    running: Running = field(default_factory=Running)
    gpus: tuple[Gpu, ...] = field(init=False)
    no_gpus: Trouble | None = field(init=False)
    """The trouble that keeps the backend from listing its GPUs."""
    gpu_jobs: int = field(init=False)
    threads: int = field(init=False)
    """Each launch's share of the cores."""
    follower: Follower = field(init=False)
    recorder: Recorder = field(init=False)
    estimate: Estimate = field(init=False)
    preparation: Preparation = field(init=False)
    _guard: threading.Lock = field(default_factory=threading.Lock)

    def __post_init__(self) -> None:
        journal = self.folder / "journal.jsonl"
        found, self.no_gpus = offered(self.backend)
        self.gpus = tuple(filter(self.takes, found))
        placed = isinstance(self.backend, Places)
        self.gpu_jobs = self.jobs if placed else max(1, min(self.jobs, len(self.gpus)))
        self.threads = 0 if placed else _share(self.jobs)
        self.follower = Follower(journal) if self.joins else Follower.at_end(journal)
        self.recorder = Recorder(
            journal=journal,
            backend=self.backend.name,
            listen=self.listen,
            cells=self.plan.cells_by_id,
            modules=self.plan.modules,
            earlier=self.earlier,
            target=self.target,
            noisy=self.noisy,
        )
        self.estimate = Estimate.load(self.home)
        self.preparation = Preparation(
            backend=self.backend,
            home=self.home,
            index=self.index,
            watch=self.watch,
            gpus=self.gpus,
            recorder=self.recorder,
            running=self.running,
            asked_since=self.asked_since,
        )

    def batches(self, checks: Iterable[Check]) -> tuple[Batch, ...]:
        """The checks grouped by image, an image's cells split where that shortens the run, longest first."""
        plan = self.plan.only(check.id for check in checks)
        images = [(image, plan.cells_of(image)) for image in plan.images]
        on_gpu = [pair for pair in images if wants_gpu(pair[0], self.gpus)]
        on_cpu = [pair for pair in images if not wants_gpu(pair[0], self.gpus)]
        return (
            *batches(on_gpu, self.gpu_jobs, self.estimate.cell),
            *batches(on_cpu, self.jobs, self.estimate.cell),
        )

    def run(self, checks: Iterable[Check]) -> None:
        """Run all the checks; return when each has an outcome in the journal.

        Batches without a GPU have threads of their own, so that they run beside batches that wait for a lease.
        """
        checks = list(checks)
        submitted = self._submitted(checks)
        known = {check.id for batch in submitted for check in batch.checks}
        batches = (*submitted, *self.batches(check for check in checks if check.id not in known))
        if not isinstance(self.backend, Places):
            self.threads = _share(min(len(batches), self.jobs))
        for image in {batch.image.name: batch.image for batch in batches}.values():
            asked = [name for name in ("platform", "user", "mounts") if getattr(image, name)]
            unheeded = [name for name in asked if name not in self.backend.heeds]
            if unheeded:
                self.say(f"{image.name}: {self.backend.name} goes without {', '.join(unheeded)}")
        self.preparation.ahead(batches)
        references = {(cell.suite or {}).get("reference") for cell in self.plan.cells}  # the others are judged by them
        with (
            ThreadPoolExecutor(self.gpu_jobs, "gpu-batch") as on_gpu,
            ThreadPoolExecutor(self.jobs, "batch") as on_cpu,
        ):
            futures: list[Future[bool]] = []
            try:
                for first in (True, False):
                    for batch in (batch for batch in batches if (batch.image.name in references) == first):
                        pool = on_gpu if wants_gpu(batch.image, self.gpus) else on_cpu
                        futures.append(pool.submit(self.work, batch))
                    for future in as_completed(futures):
                        future.result()
            except BaseException:
                self.stop()
                for future in futures:
                    future.cancel()
                raise
        self._finish()

    def _submitted(self, checks: Iterable[Check]) -> tuple[Batch, ...]:
        """The batches that jobs of an earlier session work through, where one of the checks is among theirs."""
        if not isinstance(self.backend, Places):
            return ()
        wanted = {check.id for check in checks}
        cells, images = self.plan.cells_by_id, self.plan.images_by_name
        found = []
        for job in self.backend.jobs(self.folder.name):
            own = tuple(replace(cells[cell["id"]], probes=tuple(cell["probes"])) for cell in job.order["cells"])
            if own and not wanted.isdisjoint(check.id for cell in own for check in cell.checks):
                image = images[own[0].image]
                found.append(Batch(image=image, cells=own, submitted=job.name, warm=job.order["warm"]))
        return tuple(found)

    def stop(self) -> None:
        """End the running launches; the recorded outcomes stay."""
        self.running.stop()
        self._finish()
        uv.end_all()

    def _finish(self) -> None:
        """End what nobody waits for any more."""
        self.preparation.stop()
        if isinstance(self.backend, WorksAhead):
            self.backend.close()

    def work(self, batch: Batch) -> bool:
        """Run a batch unless another process runs it; return whether this process ran it."""
        with try_lock(self.folder / "batches" / batch.key) as ours:
            if ours:
                try:
                    self._run(batch)
                except Trouble as trouble:
                    self._settle(self._open(batch.cells), trouble)
                except Exception as error:  # the failure of a batch must not end the others
                    trace = traceback.format_exc(limit=-3)
                    unforeseen = Trouble(reason_of(error), f"{type(error).__name__}: {error}", evidence=trace)
                    self._settle(self._open(batch.cells), unforeseen)
            return ours

    def outcome(self, check: Check) -> Outcome | None:
        """The check's outcome in this session so far, from any process."""
        with self._guard:
            return self.follower.look().get(check.id)

    def _run(self, batch: Batch) -> None:
        """Prepare the batch's image and cells, reuse settled outcomes, launch the rest; Trouble of the image."""
        image, cells = batch.image, list(batch.cells) if batch.submitted else self._open(batch.cells)
        if not cells:
            return
        self.require_gpus(image)
        self.preparation.ahead([batch])  # all its cells at once, unless they are in preparation
        ready = self.preparation.image(image)
        work = [piece for cell in cells for piece in self._resolved(cell, ready)]
        if wants_gpu(image, self.gpus) and not uses_gpu(image, self.gpus, ready.facts):
            work = [replace(piece, notes=(*piece.notes, BESIDE_A_GPU)) for piece in work]
        else:
            work = self._unsettled(ready, work, asked=bool(batch.submitted))
        if work:
            self._launch_until_answered(ready, work, batch.warm, batch.number)
        elif image.expects and image.name not in self.recorder.images:
            self.preparation.look(ready.prepared, keep=True)

    def require_gpus(self, image: Image) -> None:
        """Raise Trouble where the GPUs that the image may or must have cannot be had."""
        if self.no_gpus is not None and image.limits.gpus != "none":
            raise self.no_gpus
        demanded = image.limits.gpus_demanded
        if demanded > len(self.gpus):
            some = "a GPU" if demanded == 1 else f"{demanded} GPUs"
            raise Trouble(
                "gpu-required", f"{image.name} demands {some} and this host offers {len(self.gpus) or 'none'}"
            )

    @contextmanager
    def device(self, ready: Ready) -> Iterator[Gpu | None]:
        """A leased GPU where the image wants one, and leftovers of dead runs out of the way."""
        image = ready.prepared.image
        number = max(1, image.limits.gpus_demanded)
        on_gpu = uses_gpu(image, self.gpus, ready.facts)
        with (
            doing(self.watch, "wait for a GPU" if on_gpu else "launch", image.name),
            lease(self.gpus, self.running, number) if on_gpu else nullcontext() as gpu,
        ):
            reap(self.backend, self.say)  # a dead owner's lock is free at once, but its container remains
            phase("launch")
            yield gpu

    def _resolved(self, cell: Cell, ready: Ready) -> list[Work]:
        """The cell with its overlay; empty where its resolution is already the answer."""
        try:
            prepared = self.preparation.cell(cell, ready)
        except Trouble as trouble:
            self._settle([cell], trouble)
            return []
        if not isinstance(prepared, Resolution):
            cell = replace(prepared.cell, probes=cell.probes)
            if SUITE in cell.probes and isinstance(prepared.suite, Trouble):
                self._settle([replace(cell, probes=(SUITE,))], prepared.suite)
                cell = replace(cell, probes=tuple(probe for probe in cell.probes if probe != SUITE))
            elif isinstance(prepared.suite, Suite):
                prepared = replace(prepared, suite=self._judged_by(prepared.suite, cell))
            return [replace(prepared, cell=cell)] if cell.probes else []
        name, why, drift = self.backend.name, prepared.trouble(), prepared.drift
        self.recorder.outcomes(from_trouble(check, why, name, drift=drift) for check in cell.checks)
        return []

    def _judged_by(self, suite: Suite, cell: Cell) -> Suite:
        """The suite with the tests that fail in the last run of the reference image, of this run or of the history."""
        image = (cell.suite or {}).get("reference", cell.image)
        if image == cell.image:
            return suite
        check = check_id(cell_id(image, cell.subject, cell.variant), SUITE)
        with self._guard:
            told = self.follower.look().get(check)
        if told is None:
            told = next((runs[-1][1] for runs in history.timelines(self.home, Selector(check), 1).values()), None)
        if told is None or not (told.verdict is Verdict.PASS or told.reason == "suite-failed"):
            return suite
        known = tuple(part["name"] for part in told.parts if part["status"] == "failed")
        return replace(suite, reference=image, known=known)

    def _unsettled(self, ready: Ready, work: Sequence[Work], asked: bool) -> list[Work]:
        """The work that must run; the rest, unless it is asked already, is reused from runs under the same key."""
        settings = {"seed": self.seed, "full": self.full}
        keys: dict[str, str] = {}
        for piece in work:
            keys |= reuse.keys(piece, ready.prepared, self.gpus, settings, self.backend.name, self.plan.modules)
        self.recorder.know(keys)
        if asked:
            return list(work)
        known = self.settled(keys.values())
        reused = [
            known[key]
            for check, key in keys.items()
            if key in known and check not in self.noisy and reuse.reusable(known[key][0], self.plan.known)
        ]
        if reused:
            self.recorder.reused((outcome for outcome, _ in reused), (record for _, record in reused if record))
        return self._unanswered(work)

    def _unanswered(self, work: Iterable[Work]) -> list[Work]:
        return [replace(piece, cell=cell) for piece in work for cell in self._open([piece.cell])]

    def _open(self, cells: Iterable[Cell]) -> list[Cell]:
        """The cells with the probes that have no outcome yet."""
        with self._guard:
            known = {*self.done, *self.follower.look()}
        rest = [
            replace(cell, probes=tuple(check.probe for check in cell.checks if check.id not in known)) for cell in cells
        ]
        return [cell for cell in rest if cell.probes]

    def _launch_until_answered(self, ready: Ready, work: Sequence[Work], warm: bool, number: int) -> None:
        """Launch until every check is answered; `number` counts the launches.

        Host trouble is tried again after a pause.  A probe host that dies may have been killed by any cell of its
        launch: the check of that moment is asked again alone, and a launch that ends without an answer is halved until
        the cell that ends it stands alone.
        """
        limits = ready.prepared.image.limits
        self.recorder.expect(ready.prepared.image.name, ready.prediction)
        groups, troubles, answered = [list(work)], 0, False
        attempts: dict[str, tuple[str, ...]] = {}
        while groups and not self.running.stopped:
            group = groups.pop()
            result = self._launch(ready, group, warm, attempts, number)
            if self.leaves and result.trouble is None:
                return
            number += 1
            left = self._unanswered(group)
            progress = _checks(left) < _checks(group)
            answered |= progress
            troubles = 0 if progress else troubles
            if result.warm_up_died and warm:
                warm = False
                groups.append(left)
            elif result.died is not None and _apart(left, result.died.check)[0]:
                alone, others = _apart(left, result.died.check)
                if _checks(group) == 1:
                    self.recorder.outcomes([replace(result.died, attempts=attempts.get(result.died.check, ()))])
                else:
                    attempts[result.died.check] = (result.died.verdict.value,)
                groups += [others, alone]
            elif result.trouble is not None:
                passing = reason_for(result.trouble.code).verdict is Verdict.INFRA
                if passing and self.running.pause(troubles + 1, limits.retries):
                    troubles += 1
                    groups.append(left)
                else:
                    self._settle([piece.cell for piece in left], result.trouble, attempts=("infra",) * troubles)
            elif progress:
                groups.append(left)
            elif len(left) > 1:
                groups += [left[len(left) // 2 :], left[: len(left) // 2]]
            elif left:
                self._settle([left[0].cell], _ender(result, answered))
            groups = [group for group in map(self._unanswered, groups) if group]

    def _launch(self, ready: Ready, work: Sequence[Work], warm: bool, attempts: Attempts, number: int) -> LaunchResult:
        """Launch once, on a leased GPU where the image wants a GPU."""
        with self.device(ready) as gpu:
            try:
                self.preparation.mend(work)
            except Trouble as trouble:
                return LaunchResult(trouble=trouble)
            return Launch(
                backend=self.backend,
                prepared=ready.prepared,
                recorder=self.recorder,
                running=self.running,
                work=work,
                gpu=gpu,
                seed=self.seed,
                full=self.full,
                compile_cache=self.compile_cache,
                threads=self.threads,
                warm=warm,
                modules=self.plan.modules,
                attempts=attempts,
                number=number,
                leaves=self.leaves,
                done=self.done,
            ).run()

    def _settle(self, cells: Iterable[Cell], trouble: Trouble, attempts: tuple[str, ...] = ()) -> None:
        """Record the same named outcome for every check of the cells."""
        if not self.running.stopped:
            name, checks = self.backend.name, (check for cell in cells for check in cell.checks)
            self.recorder.outcomes(from_trouble(check, trouble, name, attempts=attempts) for check in checks)


def _checks(work: Iterable[Work]) -> int:
    return sum(len(piece.cell.probes) for piece in work)


def _apart(work: Sequence[Work], check: str) -> tuple[list[Work], list[Work]]:
    """The work of one check, and the rest."""
    alone, others = [], []
    for piece in work:
        own = tuple(probe for probe in piece.cell.probes if check_id(piece.cell.id, probe) == check)
        rest = tuple(probe for probe in piece.cell.probes if probe not in own)
        alone += [replace(piece, cell=replace(piece.cell, probes=own))] if own else []
        others += [replace(piece, cell=replace(piece.cell, probes=rest))] if rest else []
    return alone, others


def _ender(result: LaunchResult, others_answered: bool) -> Trouble:
    """The trouble of a cell that gets no answer in a launch of its own: its own doing where other cells get theirs."""
    died = result.died  # at the import, which has its outcome already
    if died is not None:
        return Trouble(died.reason, died.detail, evidence=died.evidence)
    ended = result.ended or Trouble("host-error", "the probe host ended in peace, and without an answer")
    return Trouble("ends-launch", str(ended), evidence=ended.evidence) if others_answered else ended


def _share(launches: int) -> int:
    """Threads for each of so many launches at a time: torch takes every core it finds, and OpenMP waits by turning.

    Two probes on two cores took up to seven times as long with two threads each as with one.
    """
    return max(1, cores() // max(1, launches))
