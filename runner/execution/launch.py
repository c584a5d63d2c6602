"""A launch: reads its frames, records its outcomes, and ends it where it falls silent."""

from __future__ import annotations

import random
import threading
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from torch_compat_matrix.runner.backends import base
from torch_compat_matrix.runner.backends.base import Backend, Exit, Gpu, Launched, Places, Prepared
from torch_compat_matrix.runner.backends.gpus import recent_use
from torch_compat_matrix.runner.errors import Trouble
from torch_compat_matrix.runner.execution import protocol
from torch_compat_matrix.runner.execution.collect import Attempts, Collector
from torch_compat_matrix.runner.execution.device import check_lease
from torch_compat_matrix.runner.execution.protocol import SILENCE_S, Work
from torch_compat_matrix.runner.execution.recorder import Recorder
from torch_compat_matrix.runner.model import Module, check_id, digest
from torch_compat_matrix.runner.outcome import Outcome
from torch_compat_matrix.runner.verdicts.classify import GPU_AT_LIMIT
from torch_compat_matrix.runner.watch import phase

if TYPE_CHECKING:
    from torch_compat_matrix.probes.contract import BeginFrame, Facts, Frame, WorkOrder


PAUSES_S = (1.0, 2.0, 4.0, 8.0)
"""The pauses before another try after host trouble; a container engine that restarts is away for some 10 s.

A bare host of the `here` backend has the standard library alone, so no library for retries can serve here.
"""


LOST = (
    "Let nothing remove `overlays/` of the home, or the engine's volumes `compat-overlay-*`, while a run goes on;"
    " `compat clean --all` removes what is left of them."
)


class Running:
    """The running launches, so that any thread can end all of them, also while it waits for the host to recover."""

    def __init__(self, pauses: Sequence[float] = PAUSES_S) -> None:
        self.launches: set[Launched] = set()
        self.guard = threading.Lock()
        self.pauses = pauses
        self.ending = threading.Event()

    @property
    def stopped(self) -> bool:
        """Whether nothing more may begin."""
        return self.ending.is_set()

    def pause(self, tries: int, most: int | None = None) -> bool:
        """Wait after that many tries in vain; return whether to try again, at most so often.

        The pause varies by a quarter, so that launches which failed together do not return together.
        """
        if tries > (len(self.pauses) if most is None else most):
            return False
        pause_s = (*self.pauses, PAUSES_S[-1])[min(tries, len(self.pauses) + 1) - 1]
        return not self.ending.wait(pause_s * random.uniform(0.75, 1.25))

    @contextmanager
    def hold(self, launched: Launched) -> Iterator[None]:
        """Count the launch as running; after `stop`, end it at once."""
        with self.guard:
            self.launches.add(launched)
            stopped = self.stopped
        try:
            if stopped:
                launched.kill()
            yield
        finally:
            with self.guard:
                self.launches.discard(launched)

    def stop(self) -> None:
        """End all launches, now and in future."""
        with self.guard:
            self.ending.set()
            launches = list(self.launches)
        for launched in launches:
            launched.kill()


@dataclass(frozen=True, kw_only=True, slots=True)
class LaunchResult:
    """The result of a launch beside its recorded outcomes: without trouble or death where all went well."""

    facts: Facts | None = None
    """The facts of the environment; None where the probe host ended before it told them."""
    trouble: Trouble | None = None
    warm_up_died: bool = False
    """The probe host died in its warm-up: launch again with `warm` off."""
    died: Outcome | None = None
    """The probe host died during this check; the outcome is not yet recorded."""
    ended: Trouble | None = None
    """The probe host ended outside any probe, before its work was done."""
    stderr: str = ""


@dataclass(kw_only=True, slots=True)
class _Heard:
    """The state that a probe host has told so far."""

    facts: Facts | None = None
    warming: bool = False
    begun: BeginFrame | None = None
    """The running probe."""
    complete: bool = False


@dataclass(frozen=True, kw_only=True, slots=True)
class Launch:
    """An image launched once on some work; without work, it tells only its facts."""

    backend: Backend
    prepared: Prepared
    recorder: Recorder
    running: Running
    work: Sequence[Work] = ()
    gpu: Gpu | None = None
    seed: int = 0
    full: bool = False
    compile_cache: bool = False
    threads: int = 1
    """Its share of the cores."""
    warm: bool = True
    modules: Sequence[Module] = ()
    """The probe modules that our own bundle lacks."""
    attempts: Attempts = field(default_factory=dict)
    keep_facts: bool = False
    """Record the environment even without work."""
    number: int = 0
    """Tells launches of the same work apart."""
    leaves: bool = False
    """Submit it to the scheduler, and do not wait for its answer."""
    done: frozenset[str] = frozenset()
    """Checks that are not recorded again, though a job of an earlier session is read from its beginning."""

    def run(self) -> LaunchResult:
        """Launch, and record every outcome at once."""
        order = self._order()
        overlays = {key: folder for piece in self.work for key, folder in piece.folders.items()}
        run = self.recorder.journal.parent.name
        same = [run, self.prepared.image.name, self.prepared.identity, order]
        labels = {"run": run, "batch": f"{digest(same)}-{self.number}"}
        limits = self.prepared.image.limits
        collector = Collector(
            self.work,
            limits,
            backend=self.backend.name,
            stand_in=self.prepared.stand_in,
            misfits=bool(self.prepared.misfits),
            attempts=self.attempts,
        )
        launch = base.Launch(
            prepared=self.prepared, order=order, overlays=overlays, limits=limits, labels=labels, gpu=self.gpu
        )
        heard, ended = _Heard(), None
        try:
            if self.leaves and isinstance(self.backend, Places):
                self.backend.submit(launch)
                return LaunchResult()
            with (
                self.backend.launch(launch) as launched,
                self.running.hold(launched),
            ):
                collector.notes = launched.notes
                for frame in self._frames(launched):
                    self._take(frame, heard, collector)
                if not heard.complete and not self.running.stopped:
                    ended = launched.exit()
        except Trouble as trouble:
            return LaunchResult(facts=heard.facts, trouble=trouble)
        return LaunchResult(facts=heard.facts) if ended is None else self._cut_short(ended, heard, collector)

    def _order(self) -> WorkOrder:
        name = self.gpu.name if self.gpu else "CPU"
        return protocol.order(
            self.prepared.image,
            self.work,
            device="cuda" if self.gpu else "cpu",
            seed=self.seed,
            full=self.full,
            warm=self.warm,
            threads=self.threads,
            modules=self.modules,
            compile_cache=digest([self.prepared.identity, name]) if self.compile_cache else "",
        )

    def _frames(self, launched: Launched) -> Iterator[Frame]:
        """The frames as they come; a launch that is silent for longer than a probe and its confirmation is ended."""
        watch = None if isinstance(self.backend, Places) else self._watch(launched)  # a job waits for its turn first
        try:
            for frame in protocol.frames(launched.lines()):
                if watch is not None:
                    watch.cancel()
                watch = self._watch(launched)
                yield frame
        finally:
            if watch is not None:
                watch.cancel()

    def _watch(self, launched: Launched) -> threading.Timer:
        longest_s = protocol.longest_s(self.prepared.image.limits, self.work)
        timer = threading.Timer(3 * longest_s + SILENCE_S, launched.kill)
        timer.daemon = True
        timer.start()
        return timer

    def _take(self, frame: Frame, heard: _Heard, collector: Collector) -> None:
        """Act on a frame; Trouble where the launched environment does not have the leased GPU."""
        heard.warming = frame["kind"] == "warming"
        if frame["kind"] == "facts":
            heard.facts = frame["facts"]
            if self.work or self.keep_facts:
                collector.enter(heard.facts, self.recorder.environment(self.prepared, heard.facts))
            check_lease(self.prepared.image, self.gpu, heard.facts)
        elif frame["kind"] == "begin":
            heard.begun = frame
            phase("probe", check_id(frame["cell"], frame["probe"]))
        elif frame["kind"] == "observation":
            heard.begun = None
            use = recent_use(self.gpu) if self.gpu and frame["status"] == "timeout" else None
            if use is not None:
                frame["metrics"] = {**frame.get("metrics", {}), GPU_AT_LIMIT: {"value": use, "unit": "%"}}
            outcome = collector.add(frame)
            if outcome is not None and outcome.check not in self.done:
                self.recorder.outcomes([outcome])
        elif frame["kind"] == "end":
            heard.complete = frame["state"] == "complete"
            if frame["state"] == "lost":
                raise Trouble("host-error", "the packages of a cell were removed meanwhile", LOST, blame="host")

    def _cut_short(self, ended: Exit, heard: _Heard, collector: Collector) -> LaunchResult:
        """The result of a probe host that ended before its work was done."""
        if heard.warming:
            return LaunchResult(facts=heard.facts, warm_up_died=True, stderr=ended.stderr)
        if heard.begun is not None:
            died = collector.died(heard.begun, ended)
            return LaunchResult(facts=heard.facts, died=died, stderr=ended.stderr)
        trouble = Trouble(
            "host-error",
            f"the probe host ended with status {ended.status} outside any probe",
            evidence=ended.stderr.strip()[-400:],
        )
        return LaunchResult(facts=heard.facts, ended=trouble, stderr=ended.stderr)
