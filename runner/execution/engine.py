"""Batches, leases, retries, reuse and resume: the one place that schedules."""

from __future__ import annotations

import threading
import traceback
from collections.abc import Callable, Iterable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor, as_completed
from contextlib import ExitStack
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from torch_compat_matrix.runner.backends import gpus
from torch_compat_matrix.runner.backends.base import Backend, Gpu, Prepared
from torch_compat_matrix.runner.errors import Trouble
from torch_compat_matrix.runner.execution import reuse
from torch_compat_matrix.runner.execution.collect import from_reason
from torch_compat_matrix.runner.execution.durations import Estimate
from torch_compat_matrix.runner.execution.launch import Ready, Recorder, Running, Session
from torch_compat_matrix.runner.execution.prepare import Preparation
from torch_compat_matrix.runner.execution.protocol import Work
from torch_compat_matrix.runner.execution.schedule import Batch, batches
from torch_compat_matrix.runner.files import claimed, cores
from torch_compat_matrix.runner.model import Cell, Check, Image, Outcome, Plan
from torch_compat_matrix.runner.packages.pip_config import Index
from torch_compat_matrix.runner.packages.resolve import Resolution
from torch_compat_matrix.runner.records.journal import Follower
from torch_compat_matrix.runner.verdicts.preflight import Prediction, build_of, predict

INFRA_RETRIES = 2

Settled = Callable[[Iterable[str]], Mapping[str, tuple[Outcome, Mapping[str, Any]]]]
"""Keys -> what earlier runs saw under them, and in which environment; only where they always saw the same."""


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
    """Batches at a time on the CPU, and on GPUs as far as there are so many."""
    seed: int = 0
    full: bool = False
    compile_cache: bool = False
    """Keep what torch.compile compiled for the next run."""
    settled: Settled = lambda keys: {}
    listen: Callable[[Outcome], None] = lambda outcome: None
    say: Callable[[str], None] = lambda text: None
    done: frozenset[str] = frozenset()
    """Checks whose outcome from before a resume is kept."""
    running: Running = field(default_factory=Running)
    _guard: threading.Lock = field(default_factory=threading.Lock)

    def __post_init__(self) -> None:
        self.journal = self.folder / "journal.jsonl"
        self.follower = Follower(self.journal)
        self.follower.offset = self.journal.stat().st_size if self.journal.exists() else 0
        self.recorder = Recorder(journal=self.journal, backend=self.backend.name, listen=self.listen)
        self.estimate = Estimate.load(self.home)
        self.gpus, self.no_gpus = gpus.offered(self.backend)
        self.gpu_jobs = max(1, min(self.jobs, len(self.gpus)))
        self.threads = self._share(self.jobs)
        self.preparation = Preparation(
            backend=self.backend,
            home=self.home,
            index=self.index,
            say=self.say,
            foresee=self._foresee,
            look=self._look,
        )

    def batches(self, checks: Iterable[Check]) -> tuple[Batch, ...]:
        """The checks grouped by image, an image's cells split as far as that shortens the run, longest first."""
        wanted: dict[str, set[str]] = {}
        for check in checks:
            wanted.setdefault(check.cell.id, set()).add(check.probe)
        cells: dict[str, list[Cell]] = {}
        for cell in self.plan.cells:
            if cell.id in wanted:
                probes = tuple(probe for probe in cell.probes if probe in wanted[cell.id])
                cells.setdefault(cell.image, []).append(replace(cell, probes=probes))
        images = [(image, cells.get(image.name, [])) for image in self.plan.images]
        on_gpu = [pair for pair in images if self._wants_gpu(pair[0])]
        on_cpu = [pair for pair in images if not self._wants_gpu(pair[0])]
        return (
            *batches(on_gpu, self.gpu_jobs, self.estimate.cell),
            *batches(on_cpu, self.jobs, self.estimate.cell),
        )

    def run(self, checks: Iterable[Check]) -> None:
        """Work through all the checks; returns when each has an outcome in the journal.

        What needs no GPU has threads of its own, so that it runs beside what waits for a lease.
        """
        found = self.batches(checks)
        self.threads = self._share(min(len(found), self.jobs))
        self.preparation.ahead(found)
        with (
            ThreadPoolExecutor(self.gpu_jobs, "gpu-batch") as on_gpu,
            ThreadPoolExecutor(self.jobs, "batch") as on_cpu,
        ):
            futures = [(on_gpu if self._wants_gpu(one.image) else on_cpu).submit(self.work, one) for one in found]
            try:
                for future in as_completed(futures):
                    future.result()
            except BaseException:
                self.stop()
                for future in futures:
                    future.cancel()
                raise
        self.preparation.stop()

    @staticmethod
    def _share(launches: int) -> int:
        """Threads for each of so many launches at a time: torch takes every core it finds, and OpenMP waits by turning.

        Two probes on two cores took up to seven times as long with two threads each as with one.
        """
        return max(1, cores() // max(1, launches))

    def _wants_gpu(self, image: Image) -> bool:
        return bool(self.gpus) and image.limits.gpus != "none"

    def stop(self) -> None:
        """End what is running; what was recorded stays."""
        self.running.stop()
        self.preparation.stop()

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
        if batch.image.limits.gpus != "none" and self.no_gpus is not None:
            self._all(cells, self.no_gpus)
            return
        if batch.image.limits.gpus == "required" and not self.gpus:
            self._all(cells, Trouble("gpu-required", f"{batch.image.name} demands a GPU and this host offers none"))
            return
        self.preparation.ahead([batch])  # all its cells at once, where nobody has begun with them
        try:
            ready = self.preparation.image(batch.image)
        except Trouble as trouble:
            self._all(cells, trouble)
            return
        work = self._fresh(ready, [one for cell in cells for one in self._resolved(cell, ready)])
        if not work and batch.image.expects and batch.image.name not in self.recorder.images:
            self._look(ready.prepared)
        self._launch_all(ready, work)

    def _foresee(self, image: Image) -> None:
        """Spare the pull of an image that cannot run on any GPU here; Trouble with what speaks against it."""
        if not self.backend.pulls or self.backend.peek(image) is not None:
            return
        found = self._prediction(image, None)
        if found is not None:
            raise Trouble(found.code, f"{found.detail} Known before the pull, which was spared.", "", found.evidence)

    def _prediction(self, image: Image, facts: Mapping[str, Any] | None) -> Prediction | None:
        """Why the image cannot run on this host, by its tag or by what it holds; None if nothing speaks against it."""
        build = build_of(image, facts)
        if not self._wants_gpu(image):
            return predict(build, machine=self.backend.machine)
        found = [
            predict(build, machine=self.backend.machine, gpu=gpu.name, driver=gpu.driver, capability=gpu.capability)
            for gpu in self.gpus
        ]
        return None if None in found else found[0]

    def _resolved(self, cell: Cell, ready: Ready) -> list[Work]:
        """The cell with its overlay; nothing where its resolution is already the answer."""
        try:
            found = self.preparation.cell(cell, ready)
        except Trouble as trouble:
            self._all([cell], trouble)
            return []
        if not isinstance(found, Resolution):
            return [replace(found, cell=cell)]
        self.recorder.outcomes(
            from_reason(check, found.problem, found.detail, evidence=found.evidence, drift=found.drift)
            for check in cell.checks
        )
        return []

    def _fresh(self, ready: Ready, work: Sequence[Work]) -> list[Work]:
        """What must really run; the rest is recorded as earlier runs saw it under the same key."""
        settings = {"seed": self.seed, "full": self.full}
        for one in work:
            self.recorder.keys |= reuse.keys(one, ready.prepared, self.gpus, settings, self.backend.name)
        keys = {check.id: self.recorder.keys.get(check.id, "") for one in work for check in one.cell.checks}
        known = self.settled(filter(None, keys.values()))
        found = [known[key] for key in keys.values() if key in known and reuse.reusable(known[key][0], self.plan.known)]
        if found:
            self.recorder.taken_over((outcome for outcome, _ in found), (record for _, record in found if record))
        return [replace(one, cell=cell) for one in work for cell in self._open([one.cell])]

    def _open(self, cells: Iterable[Cell]) -> list[Cell]:
        """The cells with the probes that have no outcome yet."""
        with self._guard:
            known = {*self.done, *self.follower.look()}
        rest = [
            replace(cell, probes=tuple(check.probe for check in cell.checks if check.id not in known)) for cell in cells
        ]
        return [cell for cell in rest if cell.probes]

    def _look(self, prepared: Prepared) -> dict[str, Any]:
        seen = self._session(prepared, [], None, warm=False).run()
        if seen.facts is None:
            raise seen.trouble or Trouble(
                "no-answer", "the image ended before it said what it holds", evidence=seen.stderr[-400:]
            )
        return seen.facts

    def _launch_all(self, ready: Ready, work: list[Work]) -> None:
        """Launch until every check is answered: again without what ended a launch, and on host trouble twice more."""
        self.recorder.predicted[ready.prepared.image.name] = self._prediction(ready.prepared.image, ready.facts)
        troubles, warm = 0, True
        while work and not self.running.stopped:
            with ExitStack() as stack:
                gpu = self._gpu(ready.prepared.image, stack)
                for left in self.backend.reap():  # a dead owner's lock is free at once, its container is not gone
                    self.say(f"removed what a dead owner left behind: {left}")
                seen = self._session(ready.prepared, work, gpu, warm).run()
            work = [replace(one, cell=cell) for one in work for cell in self._open([one.cell])]
            if seen.warm_up_died and warm:
                warm = False
            elif seen.trouble is not None:
                troubles += 1
                if troubles > INFRA_RETRIES:
                    self._all([one.cell for one in work], seen.trouble, attempts=("infra",) * INFRA_RETRIES)
                    return

    def _session(self, prepared: Prepared, work: Sequence[Work], gpu: Gpu | None, warm: bool) -> Session:
        return Session(
            backend=self.backend,
            prepared=prepared,
            work=work,
            gpu=gpu,
            running=self.running,
            recorder=self.recorder,
            seed=self.seed,
            full=self.full,
            compile_cache=self.compile_cache,
            threads=self.threads,
            warm=warm,
        )

    def _gpu(self, image: Image, stack: ExitStack) -> Gpu | None:
        return stack.enter_context(gpus.lease(self.gpus)) if self._wants_gpu(image) else None

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
