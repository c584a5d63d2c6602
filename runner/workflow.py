"""The work of every face, typed: open or resume a run of a plan, execute its checks, run a command in a cell."""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from contextlib import suppress
from dataclasses import asdict, dataclass, field
from functools import cache, partial
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING, Any

from torch_compat_matrix.runner import storage
from torch_compat_matrix.runner.advice import suspects
from torch_compat_matrix.runner.backends import gpus
from torch_compat_matrix.runner.backends.base import Backend, Command, Finding, Launch, Places, Shells, connect
from torch_compat_matrix.runner.comparison.noise import quarantined
from torch_compat_matrix.runner.errors import BackendUnusable, CompatError, NothingSelected, Trouble, UsageError
from torch_compat_matrix.runner.execution import protocol
from torch_compat_matrix.runner.execution.engine import Engine, Settled
from torch_compat_matrix.runner.files import cores
from torch_compat_matrix.runner.model import Check, Image, Plan, Verdict
from torch_compat_matrix.runner.outcome import Outcome
from torch_compat_matrix.runner.packages.pip_config import Index
from torch_compat_matrix.runner.packages.resolution import Resolution
from torch_compat_matrix.runner.records import history
from torch_compat_matrix.runner.records.runs import Run, home
from torch_compat_matrix.runner.text import SECRET
from torch_compat_matrix.runner.verdicts.reasons import reason_for
from torch_compat_matrix.runner.watch import Say, Watch

if TYPE_CHECKING:
    from torch_compat_matrix.probes.contract import ImageFacts

LONGEST_S = 7 * 24 * 3600.0
"""Seconds until other hosts may take a user's container for a leftover; on its own host, its owner decides."""


@dataclass(frozen=True, kw_only=True, slots=True)
class RunSettings:
    """The settings of a run; its journal keeps them, so that a resumed run continues as it began."""

    jobs: int | None = None
    """Batches at a time; None: as many as there are GPUs, or up to four on the CPU."""
    seed: int = 0
    full: bool = False
    """The articles' own step counts."""
    rerun: bool = False
    """Run every check, even where nothing changed."""
    compile_cache: bool = False
    """Keep the code that torch.compile made for the next run."""
    confirm: float = 0
    """Minutes in which new failures are asked again."""

    def to_json(self) -> dict[str, Any]:
        """Plain data; journals have always called `rerun` `fresh`."""
        plain = asdict(self)
        return {**plain, "fresh": plain.pop("rerun")}

    @classmethod
    def from_json(cls, data: dict[str, Any]) -> RunSettings:
        """The settings in a journal's header; unknown ones, of later versions, are ignored."""
        known = {name: data[name] for name in cls.__slots__ if name in data}
        return cls(**{**known, "rerun": bool(data.get("fresh", False))})


@dataclass(frozen=True, kw_only=True, slots=True)
class OpenRun:
    """A run whose checks can be executed."""

    run: Run
    plan: Plan
    backend: Backend
    settings: RunSettings
    done: frozenset[str] = frozenset()
    """Checks that had a final outcome before the resume."""
    holds: storage.InUse = field(default_factory=lambda: storage.InUse(home()))
    """Keeps `compat clean` from the home while the run is open."""

    @property
    def checks(self) -> list[Check]:
        """The checks without a final outcome."""
        return [check for check in self.plan.checks if check.id not in self.done]


def make_room(plan: Plan, backend: Backend, say: Say = lambda text: None) -> None:
    """Remove what killed runs left and what is beyond COMPAT_HOME_LIMIT, then refuse to begin without enough disk.

    What the engine keeps for this home counts; the plan's own images, which would be pulled again at once, stay.
    Raises BackendUnusable where the plan's images need more than is free.
    """
    limit = os.environ.get("COMPAT_HOME_LIMIT")
    most = storage.parsed_size(limit, "COMPAT_HOME_LIMIT=") if limit else None
    sweep(say, list if most is None else lambda: _beyond(most, plan, backend))
    finding = backend.room(plan.images)
    if not finding.works:
        raise BackendUnusable(finding.detail, remedy_of(finding, backend.name), f"--backend {backend.name}")


def sweep(say: Say, more: Callable[[], list[storage.Kept]] = list) -> None:
    """Remove what killed runs left in the home, and `more`, unless a run is at work in it."""
    with storage.unused(home()) as unused:
        doomed = [*storage.leftovers(home()), *more()] if unused else []
        for entry, trouble in storage.remove(doomed):
            done = f"could not remove, {trouble}:" if trouble else "removed"
            say(f"{done} {entry.kind}/{entry.name} ({storage.shown_size(entry.size)})")


def _beyond(most: int, plan: Plan, backend: Backend) -> list[storage.Kept]:
    """The longest unused of what this home and the engine keep for it, beyond so many bytes, without what is needed."""
    needed = {image.reference for image in plan.images}
    kept = [*storage.contents(home()), *(entry for entry in backend.kept() if not entry.shared)]
    return [entry for entry in storage.superfluous(kept, to_size=most) if entry.name not in needed]


def open_run(
    plan: Plan,
    backend: Backend,
    settings: RunSettings,
    command: Sequence[str],
    target: str = "",
    comparison: Mapping[str, Any] | None = None,
) -> OpenRun:
    """Open a new run of the plan; `target` is what the user calls its device, `comparison` what its two sides are."""
    run = Run.create(home(), plan, backend.name, command, settings.to_json(), target, comparison)
    return OpenRun(run=run, plan=plan, backend=backend, settings=settings)


def resume_run(name: str, compares: bool = False) -> OpenRun:
    """Open the run of that name with the rest of its plan; checks that host trouble stopped run again."""
    run = Run.open(home(), name, compares)
    if run.compares != compares:
        verb = "compare" if run.compares else "run"
        raise UsageError("it is of another kind", f"`compat {verb} --resume {run.id}` goes on", f"run {run.id}")
    if run.is_going():
        raise UsageError("the run is still going", "wait for its end, or end it first", f"run {run.id}")
    header, plan = run.header(), run.plan()
    done = frozenset(check for check, outcome in run.outcomes().items() if outcome.verdict.final)
    opened = OpenRun(
        run=run,
        plan=plan,
        backend=connect(header["backend"], home(), plan.target),
        settings=RunSettings.from_json(header.get("settings", {})),
        done=done,
    )
    asked = [requirement for check in opened.checks for requirement in check.cell.requires]
    asked += [requirement for image in opened.plan.images if image.local for requirement in image.local.requires]
    if opened.checks and any(SECRET in requirement for requirement in asked):
        why = "the secrets in the URLs of its plan are not kept in a journal, and the file that had them is gone"
        raise UsageError(why, "start a new run with `compat run`", str(run.private_plan))
    run.resume()
    return opened


def jobs_of(opened: OpenRun) -> int:
    """Batches at a time; a few where no GPU sets the number.

    Each launch may take the memory limit, and torch every core it finds.
    """
    if isinstance(opened.backend, Places):
        return opened.settings.jobs or opened.backend.max_jobs
    return opened.settings.jobs or max(len(gpus.offered(opened.backend)[0]), min(4, cores()))


def engine_for(
    opened: OpenRun, *, index: Index | None = None, settled: Settled | None = None, at: Path | None = None, **more: Any
) -> Engine:
    """The engine of a run; `index` defaults to pip's, `settled` to the history's, and `at` with the caches to home."""
    if settled is None and not opened.settings.rerun:
        history.sync(home())
        settled = partial(history.settled, home())
    if settled is not None:
        more["settled"] = settled
    settings = opened.settings

    def earlier(outcome: Outcome) -> tuple[str, Outcome] | None:
        with suppress(history.HistoryUnusable):
            synced()
            return history.comparable(home(), opened.run.id, opened.backend.name, outcome)
        return None

    synced = cache(lambda: history.sync(home()))
    return Engine(
        plan=opened.plan,
        backend=opened.backend,
        home=at or home(),
        folder=opened.run.folder,
        index=index or Index.from_pip(),
        jobs=jobs_of(opened),
        seed=settings.seed,
        full=settings.full,
        compile_cache=settings.compile_cache,
        noisy=quarantined(home(), opened.backend.name),
        earlier=earlier,
        target=str(opened.run.header().get("target", "")),
        asked_since=time.time() if settings.rerun else 0,
        done=opened.done,
        **more,
    )


def _bare_engine(plan: Plan, backend: Backend, folder: Path, say: Say) -> Engine:
    """An engine without a run, of which nothing is kept."""
    return Engine(plan=plan, backend=backend, home=home(), folder=folder, index=Index.from_pip(), say=say)


def facts_of(image: Image, backend: Backend, say: Say) -> ImageFacts:
    """The facts of the image, which is pulled where it is not yet there; Trouble where it does not tell them."""
    with TemporaryDirectory() as folder:
        engine = _bare_engine(Plan(images=(image,), cells=()), backend, Path(folder), say)
        try:
            return engine.preparation.image(image).facts
        finally:
            engine.stop()


def execute(
    opened: OpenRun,
    *,
    listen: Callable[[Outcome], None],
    say: Say,
    watch: Watch,
    then: Callable[[], None],
    rounds: Iterable[Sequence[Check]] = (),
    settled: Settled | None = None,
) -> None:
    """Run the remaining checks, then what asks more about them; an interruption ends the launches and is recorded.

    `rounds`: which checks, one round after the other; the next one is asked for when a round has its outcomes.
    """
    engine = None
    with opened.run.going():
        try:
            for checks in rounds or (opened.checks,):
                engine = engine_for(opened, settled=settled, listen=listen, say=say, watch=watch)
                engine.run(checks)
                engine.estimate.save(home(), engine.follower.look().values())
            then()
        except KeyboardInterrupt:
            if engine is not None:
                engine.stop()
            opened.run.finish("interrupted")
            raise
        if isinstance(opened.backend, Places):  # a job whose checks another one has answered
            opened.backend.cancel(opened.run.id)
        conclude(opened.run, "complete")


def conclude(run: Run, state: str) -> None:
    """Record second thoughts on failures (what a pass contradicts, first suspects), and the end of the run."""
    run.record((*suspects.contradicted(run.outcomes()), *suspects.guessed(home(), run)))
    run.finish(state)


def run_command(plan: Plan, backend: Backend, command: Command, say: Say) -> int:
    """Run a user's command in the environment of the plan's only cell, and return its exit status.

    Raises NothingSelected where that environment cannot exist, Trouble where it cannot be had now.
    """
    if not isinstance(backend, Shells):
        raise UsageError("it cannot run a command of yours", "take another backend", f"--backend {backend.name}")
    holds = storage.InUse(home())
    engine = _bare_engine(plan, backend, home() / "shell", say)  # nothing is recorded
    try:
        return _interact(engine, backend, command)
    except Trouble as trouble:
        if reason_for(trouble.code).verdict is Verdict.INFRA:
            raise
        raise NothingSelected(f"no such environment: {trouble}", trouble.remedy, code=trouble.code) from trouble
    finally:
        engine.stop()
        holds.close()


def _interact(engine: Engine, backend: Shells, command: Command) -> int:
    """Run the command in the plan's only cell, which is prepared, leased and launched as for a probe host."""
    (image,), (cell,) = engine.plan.images, engine.plan.cells
    engine.require_gpus(image)
    ready = engine.preparation.image(image)
    work = engine.preparation.cell(cell, ready)
    if isinstance(work, Resolution):
        raise work.trouble(f"{cell.id}: ")
    with engine.device(ready) as gpu:
        engine.preparation.mend([work])
        order = protocol.order(image, [work], device="cuda" if gpu else "cpu", threads=engine.threads)
        order["deadline_s"] = LONGEST_S
        overlays = {work.overlay.name: work.overlay} if work.overlay else {}
        labels = {"run": "shell"}
        launch = Launch(
            prepared=ready.prepared, order=order, overlays=overlays, limits=image.limits, labels=labels, gpu=gpu
        )
        return backend.interact(launch, command)


def remedy_of(problem: CompatError | Finding, backend: str = "") -> str:
    """The problem's own remedy, else that of its reason."""
    return problem.remedy or (reason_for(problem.code).text("remedy", {"backend": backend}) if problem.code else "")


def tell(error: CompatError) -> str:
    """Place, message and remedy of an error, for a person."""
    message = f"{error.place}: {error}" if error.place else str(error)
    return f"{message}\n{remedy_of(error)}".rstrip()
