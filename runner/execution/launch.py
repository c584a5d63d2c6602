"""One launch: its frames read, its outcomes recorded, and its end, where it falls silent, brought about."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from torch_compat_matrix.runner.backends.base import Backend, Gpu, Launch, Prepared
from torch_compat_matrix.runner.errors import Trouble
from torch_compat_matrix.runner.execution.collect import Collector
from torch_compat_matrix.runner.execution.protocol import Work, frames, order
from torch_compat_matrix.runner.model import Outcome, digest
from torch_compat_matrix.runner.records.journal import append
from torch_compat_matrix.runner.verdicts.preflight import Prediction, disagreement

SILENCE_S = 60.0
"""How long a probe host may say nothing beyond the time its probe may take (twice: crashes are confirmed)."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Ready:
    """An image that can be launched, with what it holds."""

    prepared: Prepared
    facts: dict[str, Any]


class Running:
    """The launches under way, so that all can be ended from any thread."""

    def __init__(self) -> None:
        self.launches: set[Launch] = set()
        self.guard = threading.Lock()
        self.stopped = False

    @contextmanager
    def hold(self, launch: Launch) -> Iterator[None]:
        """Count the launch as under way; one that begins after `stop` is ended at once."""
        with self.guard:
            self.launches.add(launch)
            stopped = self.stopped
        try:
            if stopped:
                launch.kill()
            yield
        finally:
            with self.guard:
                self.launches.discard(launch)

    def stop(self) -> None:
        """End them all, now and in future."""
        with self.guard:
            self.stopped = True
            launches = list(self.launches)
        for launch in launches:
            launch.kill()


@dataclass(kw_only=True)
class Recorder:
    """Writes outcomes, and once each the environments they were seen in, to the journal."""

    journal: Path
    backend: str
    listen: Callable[[Outcome], None]
    environments: set[str] = field(default_factory=set)
    images: set[str] = field(default_factory=set)
    """Those of which an environment is recorded."""
    keys: dict[str, str] = field(default_factory=dict)
    """Check id -> what its outcome may depend on, for later runs to know it by."""
    predicted: dict[str, Prediction | None] = field(default_factory=dict)
    """Image -> what spoke against it before it was launched."""

    def outcomes(self, outcomes: Iterable[Outcome]) -> None:
        """On disk first, shown second."""
        found = [self._stamped(outcome) for outcome in outcomes]
        append(self.journal, *({"kind": "outcome", **outcome.to_json()} for outcome in found))
        for outcome in found:
            self.listen(outcome)

    def taken_over(self, outcomes: Iterable[Outcome], environments: Iterable[Mapping[str, Any]]) -> None:
        """Outcomes of earlier runs, with the environments that they were seen in."""
        environments = list(environments)
        new = {one["key"]: one for one in environments if one["key"] not in self.environments}
        self.environments |= new.keys()
        self.images |= {record["image"] for record in environments}
        append(self.journal, *({**record, "kind": "environment"} for record in new.values()))
        self.outcomes(outcomes)

    def _stamped(self, outcome: Outcome) -> Outcome:
        more = disagreement(self.predicted[outcome.image], outcome) if outcome.image in self.predicted else ""
        notes = (*outcome.notes, more) if more and not outcome.reused else outcome.notes
        return replace(outcome, key=self.keys.get(outcome.check, ""), notes=notes)

    def environment(self, prepared: Prepared, facts: Mapping[str, Any]) -> str:
        """The key that outcomes name the environment by."""
        record = {
            "image": prepared.image.name,
            "reference": prepared.reference,
            "digest": prepared.digest,
            "stand_in": prepared.stand_in,
            "backend": self.backend,
            "facts": {name: value for name, value in facts.items() if name != "metadata"},
        }
        key = digest(record)
        self.images.add(prepared.image.name)
        if key not in self.environments:
            self.environments.add(key)
            append(self.journal, {"kind": "environment", "key": key, **record})
        return key


@dataclass(kw_only=True)
class Session:
    """What came of one launch: facts, and either a complete end or what ended it."""

    backend: Backend
    prepared: Prepared
    work: Sequence[Work]
    gpu: Gpu | None
    running: Running
    recorder: Recorder
    seed: int
    full: bool
    compile_cache: bool
    threads: int
    warm: bool
    facts: dict[str, Any] | None = None
    trouble: Trouble | None = None
    warm_up_died: bool = False
    stderr: str = ""

    def run(self) -> Session:
        """Launch, and record every outcome as it comes."""
        limits = self.prepared.image.limits
        checks = sum(len(one.cell.probes) * len(one.cell.members) for one in self.work)
        self.silence_s = 2 * limits.timeout_s + SILENCE_S
        self.order = order(
            self.work,
            device="cpu" if limits.gpus == "none" else "auto",
            timeout_s=limits.timeout_s,
            seed=self.seed,
            full=self.full,
            warm=self.warm,
            threads=self.threads,
            deadline_s=(2 * checks + 2) * limits.timeout_s + SILENCE_S,
        )
        expects = self.prepared.image.expects
        self.order["expects"] = {name: list(expects.get(name, ())) for name in ("tools", "services")}
        if self.compile_cache:
            self.order["compile_cache"] = digest([self.prepared.identity, self.gpu.name if self.gpu else "CPU"])
        self.collector = Collector(self.work, limits)
        overlays = {one.overlay.name: one.overlay for one in self.work if one.overlay}
        labels = {"run": self.recorder.journal.parent.name, "batch": self.order["nonce"][:12]}
        try:
            with (
                self.backend.launch(
                    self.prepared, self.order, overlays, limits=limits, labels=labels, gpu=self.gpu
                ) as launch,
                self.running.hold(launch),
            ):
                self._follow(launch)
        except Trouble as trouble:
            self.trouble = trouble
        return self

    def _follow(self, launch: Launch) -> None:
        state, begun, warming = "", None, False
        self.collector.notes = launch.notes
        watch = self._watch(launch)
        for frame in frames(launch.lines(), self.order["nonce"]):
            watch.cancel()
            watch = self._watch(launch)
            kind = frame["kind"]
            warming = kind == "warming"
            if kind == "facts":
                self._enter(frame["facts"])
            elif kind == "begin":
                begun = frame
            elif kind == "observation":
                begun = None
                outcome = self.collector.add(frame)
                if outcome is not None:
                    self.recorder.outcomes([outcome])
            elif kind == "end":
                state = frame["state"]
            if self.trouble is not None:
                launch.kill()
                break
        watch.cancel()
        if self.trouble is None and not self.running.stopped and state != "complete":
            self._ended(launch, begun, warming)

    def _ended(self, launch: Launch, begun: dict[str, Any] | None, warming: bool) -> None:
        """The probe host ended before its work was done: say at what."""
        ended = launch.exit()
        self.stderr = ended.stderr
        if warming:
            self.warm_up_died = True
        elif begun is not None:
            self.recorder.outcomes([self.collector.died(begun, ended)])
        else:
            self.trouble = Trouble(
                "host-error",
                f"the probe host ended with status {ended.status} outside any probe",
                evidence=ended.stderr.strip()[-400:],
            )

    def _enter(self, facts: dict[str, Any]) -> None:
        """Take the facts of the launched environment, and make sure that it sees the GPU leased for it."""
        self.facts = facts
        if self.work or self.prepared.image.expects:
            self.collector.enter(facts, self.recorder.environment(self.prepared, facts))
        built_for_cuda = bool(facts.get("torch") and facts["torch"]["cuda"])
        if self.gpu is not None and built_for_cuda:
            seen = [gpu["uuid"].removeprefix("GPU-") for gpu in facts["gpus"]]
            if len(seen) != 1 or seen[0] not in {*self.gpu.bare_uuids, ""}:  # old torch does not tell the UUID
                what = ", ".join(seen) or "no GPU"
                self.trouble = Trouble(
                    "gpu-mismatch", f"{self.gpu.uuid} was leased, {self.prepared.image.name} sees {what}"
                )

    def _watch(self, launch: Launch) -> threading.Timer:
        """End the launch when nothing is heard for longer than a probe and its confirmation may take."""
        timer = threading.Timer(self.silence_s, launch.kill)
        timer.daemon = True
        timer.start()
        return timer
