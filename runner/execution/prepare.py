"""Prepares images and cells ahead of their turn: pulls, resolution and downloads overlap probing."""

from __future__ import annotations

import itertools
import threading
from collections.abc import Callable, Iterable, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor, wait
from contextlib import suppress
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

from torch_compat_matrix.runner.backends.base import Backend, Gpu, Prepared, WorksAhead
from torch_compat_matrix.runner.errors import Trouble
from torch_compat_matrix.runner.execution.device import wants_gpu
from torch_compat_matrix.runner.execution.launch import Launch, Running
from torch_compat_matrix.runner.execution.protocol import Work
from torch_compat_matrix.runner.execution.recorder import Recorder
from torch_compat_matrix.runner.execution.schedule import Batch
from torch_compat_matrix.runner.files import locked, to_json, write_whole
from torch_compat_matrix.runner.model import INSTALLED, SUITE, Cell, Image, Verdict, digest
from torch_compat_matrix.runner.packages import overlay, standin, suites
from torch_compat_matrix.runner.packages.manifest import damage
from torch_compat_matrix.runner.packages.pip_config import Index
from torch_compat_matrix.runner.packages.resolution import Resolution
from torch_compat_matrix.runner.packages.suites import Suite
from torch_compat_matrix.runner.pins import canonical, left_out, name_of
from torch_compat_matrix.runner.records.shapes import kept_facts
from torch_compat_matrix.runner.verdicts.preflight import Prediction, build_of, predict
from torch_compat_matrix.runner.verdicts.reasons import reason_for
from torch_compat_matrix.runner.watch import Watch, doing, phase

if TYPE_CHECKING:
    from torch_compat_matrix.probes.contract import Facts, ImageFacts

Made = TypeVar("Made")

FACTS_SCHEMA = 2
"""Facts of the first schema hold the GPUs of the launch that they came from, or lack torch because of one."""

OF_A_LAUNCH = ("user", "uid", "cpus", "driver", "hidden", "gpus", "network")
"""Facts that are read at each launch, and never kept."""


def facts_path(home: Path, backend: str, prepared: Prepared) -> Path:
    """The file of an image's facts, one per identity and what surrounds it."""
    key = [FACTS_SCHEMA, backend, prepared.identity, *prepared.image.surroundings]
    return home / "facts" / f"{digest(key)}.json"


def known_facts(image: Image, backend: Backend, home: Path) -> Mapping[str, Any] | None:
    """The facts that an earlier launch found in the image as it is here now; None where it was never launched."""
    prepared = backend.peek(image)
    return None if prepared is None else kept_facts(facts_path(home, backend.name, prepared))


@dataclass(frozen=True, kw_only=True, slots=True)
class Ready:
    """An image that can be launched, with its facts and a prediction."""

    prepared: Prepared
    facts: ImageFacts
    prediction: Prediction | None
    """Why its checks cannot run on this host; None where they may run."""


@dataclass(kw_only=True)
class Preparation:
    """Prepares each image once and resolves each cell once, whoever asks first; safe to use from several threads."""

    backend: Backend
    home: Path
    index: Index
    watch: Watch
    gpus: Sequence[Gpu]
    recorder: Recorder
    running: Running
    asked_since: float = 0
    """Resolutions that are older (seconds since the epoch) are asked for again."""
    _images: dict[str, Future[Ready]] = field(default_factory=dict)
    _cells: dict[str, Future[Work | Resolution]] = field(default_factory=dict)
    _overlays: dict[Path, Callable[[], object]] = field(default_factory=dict)
    """The overlays of this run, each with what builds it."""
    _fetched: set[str] = field(default_factory=set)
    """The batches whose packages are fetched while their image is prepared."""
    _guard: threading.Lock = field(default_factory=threading.Lock)
    _pullers: ThreadPoolExecutor = field(default_factory=lambda: ThreadPoolExecutor(2, "prepare"))
    _resolvers: ThreadPoolExecutor = field(default_factory=lambda: ThreadPoolExecutor(4, "resolve"))

    def ahead(self, batches: Iterable[Batch]) -> None:
        """Begin to prepare the batches, in the order in which they will run."""
        for batch in batches:
            self._prepare(batch)

    def image(self, image: Image) -> Ready:
        """The prepared image, once it is ready; Trouble where it cannot be prepared."""
        return self._awaited(self._image(image))

    def cell(self, cell: Cell, ready: Ready) -> Work | Resolution:
        """The cell with its overlay, or the resolution that is its answer; Trouble where there is neither."""
        return self._awaited(self._cell(cell, ready))

    def _awaited(self, future: Future[Made]) -> Made:
        """The result, unless the run is stopped meanwhile: a pull is not waited for then."""
        while not wait([future], timeout=0.2).done:
            if self.running.stopped:
                raise Trouble("host-error", "the run is interrupted")
        return future.result()

    def mend(self, work: Sequence[Work]) -> None:
        """Build again each folder of theirs that a library has changed since it was built."""
        for folder in {folder for piece in work for folder in piece.folders.values()} & self._overlays.keys():
            self._overlays[folder]()

    def look(self, prepared: Prepared, keep: bool = False) -> Facts:
        """The facts of the image, launched without cells and without a GPU; Trouble where it does not tell them.

        `keep` records the environment, for an image without a check to run.
        """
        seen = Launch(
            backend=self.backend,
            prepared=prepared,
            recorder=self.recorder,
            running=self.running,
            warm=False,
            keep_facts=keep,
        ).run()
        if seen.facts is None:
            raise seen.trouble or Trouble(
                "no-answer", "the image ended before it told its facts", evidence=seen.stderr[-400:]
            )
        return seen.facts

    def stop(self) -> None:
        """Begin nothing more."""
        self._pullers.shutdown(wait=False, cancel_futures=True)
        self._resolvers.shutdown(wait=False, cancel_futures=True)

    def _prepare(self, batch: Batch) -> None:
        def resolve_all(image: Future[Ready]) -> None:
            with suppress(BaseException):  # whoever asks for the image is told
                ready = image.result()
                if isinstance(self.backend, WorksAhead) and any("compile" in cell.probes for cell in batch.cells):
                    self.backend.ahead(ready.prepared)
                for cell in batch.cells:
                    self._cell(cell, ready)

        image = self._image(batch.image)
        if not image.done():
            self._fetch(batch)
        image.add_done_callback(resolve_all)

    def _fetch(self, batch: Batch) -> None:
        """Let uv fetch the cells' packages while it fetches those of the stand-in, whose torch takes longest."""
        image, asked = batch.image, [cell.requires for cell in batch.cells if cell.requires]
        with self._guard, suppress(Trouble):
            if image.local is None or self.backend.pulls or self.backend.peek(image) is not None:
                return
            if asked and batch.key not in self._fetched:
                self._fetched.add(batch.key)
                self._resolvers.submit(standin.fetch, image.local, asked, self.home, self.index)

    def _image(self, image: Image) -> Future[Ready]:
        with self._guard:
            if image.name not in self._images:
                self._images[image.name] = self._pullers.submit(self._made_ready, image)
            return self._images[image.name]

    def _cell(self, cell: Cell, ready: Ready) -> Future[Work | Resolution]:
        with self._guard:
            if cell.id not in self._cells:
                self._cells[cell.id] = self._resolvers.submit(self._resolved, cell, ready)
            return self._cells[cell.id]

    def _made_ready(self, image: Image) -> Ready:
        with doing(self.watch, "prepare", image.name):
            for tries in itertools.count(1):
                try:
                    self._spare_pull(image)
                    prepared = self.backend.prepare(image)
                    facts = self._facts(prepared)
                    return Ready(prepared=prepared, facts=facts, prediction=self._predict(image, facts))
                except Trouble as trouble:
                    passing = reason_for(trouble.code).verdict is Verdict.INFRA
                    passing &= trouble.code != "index-unreachable"  # uv has tried that several times itself
                    if not (passing and self.running.pause(tries, image.limits.retries)):
                        raise
                    phase(f"try again after {trouble.code}")
        raise AssertionError("the last try returns or raises")

    def _spare_pull(self, image: Image) -> None:
        """Raise Trouble for an image that is not yet pulled and, by its tag, cannot run on any GPU here."""
        if not self.backend.pulls or self.backend.peek(image) is not None:
            return
        prediction = self._predict(image, None)
        if prediction is not None:
            detail = f"{prediction.detail} Known before the pull, which was spared."
            raise Trouble(prediction.code, detail, evidence=prediction.evidence)

    def _predict(self, image: Image, facts: ImageFacts | None) -> Prediction | None:
        """Why the image cannot run on this host, by its tag or its facts; None where it may run."""
        build, machine = build_of(image, facts), "" if image.platform else self.backend.machine
        if not wants_gpu(image, self.gpus):
            return predict(build, machine=machine)
        predictions = [
            predict(build, machine=machine, gpu=gpu.name, driver=gpu.driver, capability=gpu.capability)
            for gpu in self.gpus
        ]
        return None if None in predictions else predictions[0]

    def _facts(self, prepared: Prepared) -> ImageFacts:
        """The facts of the image: read once per identity, by a launch without cells.

        Facts without torch, because it raised, are not kept.
        """
        path = facts_path(self.home, self.backend.name, prepared)
        with locked(path.with_suffix(".lock")):
            known = kept_facts(path)
            if known is not None:
                return known
            phase("read the facts")
            facts = self.look(prepared)
            if "torch_error" not in facts:
                write_whole(path, [to_json({name: fact for name, fact in facts.items() if name not in OF_A_LAUNCH})])
            return facts

    def _resolved(self, cell: Cell, ready: Ready) -> Work | Resolution:
        with doing(self.watch, "resolve", cell.id):
            return self._resolve(cell, ready)

    def _resolve(self, cell: Cell, ready: Ready) -> Work | Resolution:
        facts = ready.facts
        if not cell.members:  # the image's own commands
            return Work(cell=cell)
        if cell.version == INSTALLED:
            missing = [name for name in cell.members if name not in facts["packages"]]
            if missing:
                raise Trouble("not-installed", f"the image does not hold {', '.join(missing)}")
            _refuse_misfits(cell.members, ready.prepared)
            return Work(cell=cell, suite=self._suite(cell, ready, {}, self.index))
        absent = left_out(cell.requires, facts)
        left = [absent[name] for name in cell.members if name in absent]
        cell = replace(cell, members=tuple(name for name in cell.members if name not in absent))
        if left and not cell.members:
            raise Trouble("not-applicable", "; ".join(left))
        index = self.index.beside(cell)
        stand_in = ready.prepared.stand_in
        build = partial(overlay.build, facts=facts, index=index, home=self.home, stand_in=stand_in)
        resolution = Resolution.of_lock(cell, facts)
        folder = build(resolution.add) if resolution and resolution.add else None
        if resolution is None:
            install = partial(overlay.install, cell.requires, facts, index, self.home, stand_in=stand_in)
            resolution, folder = install(newest=cell.newest, since=self.asked_since, how=cell.install)
        if resolution.problem:
            return resolution
        if folder is not None:
            self._overlays[folder] = partial(build, resolution.add)
        _refuse_misfits(resolution.versions, ready.prepared)
        held = {canonical(name): version for name, version in facts["packages"].items()}
        added = {name: resolution.versions.get(name, "") for name in map(name_of, resolution.add)}
        return Work(
            suite=self._suite(cell, ready, added, index),
            cell=cell,
            overlay=folder,
            added=added,
            versions={name: resolution.versions.get(canonical(name), "") for name in cell.members},
            replaces={name: held[name] for name in added if name in held},
            drift=resolution.drift,
            notes=(*left, *resolution.notes),
        )

    def _suite(self, cell: Cell, ready: Ready, added: Mapping[str, str], index: Index) -> Suite | Trouble | None:
        """Upstream's own tests of the cell's library, where they are asked for, or what keeps them from being run."""
        if cell.suite is None or SUITE not in cell.probes:
            return None
        packages = {**ready.facts["packages"], **added}
        held = {**ready.facts, "packages": packages}
        versions = {canonical(name): version for name, version in packages.items()}
        name, stand_in = cell.members[0], ready.prepared.stand_in
        wanted = (cell.suite, name, versions[canonical(name)], held, index, self.home)
        fetch = partial(suites.fetch, *wanted, stand_in=stand_in)
        try:
            suite = fetch()
        except Trouble as trouble:  # the other probes run all the same
            return trouble
        for folder in filter(None, (suite.tests, suite.packages)):
            self._overlays.setdefault(folder, partial(_mend, folder, fetch))
        return suite


def _mend(folder: Path, fetch: Callable[[], object]) -> None:
    """Fetch a suite again where a file of this folder of it was changed; the index is asked then alone."""
    if damage(folder):
        fetch()


def _refuse_misfits(needed: Iterable[str], prepared: Prepared) -> None:
    """Raise Trouble where a needed package of the stand-in is built for another torch than the stand-in's."""
    for name in needed:
        if name in prepared.misfits:
            raise Trouble("no-stand-in", prepared.misfits[name])
