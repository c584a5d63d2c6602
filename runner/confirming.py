"""What newly fails, asked again in runs of their own, which are no baseline of others."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from contextlib import nullcontext, suppress
from dataclasses import replace
from functools import cache, partial
from pathlib import Path
from tempfile import TemporaryDirectory

from torch_compat_matrix.runner.backends.base import Backend, Gpu, Places
from torch_compat_matrix.runner.backends.gpus import offered
from torch_compat_matrix.runner.comparison.confirm import Fall, climb, fallen
from torch_compat_matrix.runner.comparison.reference import gpu_of, suspected
from torch_compat_matrix.runner.model import Cell, Image, Plan
from torch_compat_matrix.runner.outcome import Outcome
from torch_compat_matrix.runner.records import history
from torch_compat_matrix.runner.records.runs import Run, home, target_in
from torch_compat_matrix.runner.records.since import Seen, standings
from torch_compat_matrix.runner.verdicts.reasons import reason_for
from torch_compat_matrix.runner.watch import Say, Watch
from torch_compat_matrix.runner.workflow import OpenRun, RunSettings, engine_for


def confirm(opened: OpenRun, say: Say, watch: Watch, given: Callable[[], Iterable[Fall]] | None = None) -> None:
    """Ask what newly fails again, as long as the settings allow, and record its level.

    What fails where the known-good reference fails too is host trouble before that.  `given`: what is to be confirmed,
    in place of what newly fails by the history.
    """
    with suppress(history.HistoryUnusable):  # without a history, nothing newly fails
        if opened.settings.confirm > 0:
            history.sync(home())
            _Ladder(opened, say, watch).climb(given)


class _Ladder:
    """Asks checks of a run again, where they failed, until the time is over."""

    def __init__(self, opened: OpenRun, say: Say, watch: Watch) -> None:
        self.opened, self.say = opened, say
        own = partial(aside, backend=opened.backend, settings=opened.settings, folder="confirmations")
        self.aside = partial(own, say=say, watch=watch)
        self.until = time.monotonic() + 60 * opened.settings.confirm
        self.environments = opened.run.environments()
        self.gpus = cache(lambda: offered(opened.backend)[0])  # nobody is asked where nothing failed

    def climb(self, given: Callable[[], Iterable[Fall]] | None) -> None:
        """Record what is the host's trouble, then the level of each failure."""
        run, plan, backend, known = self.opened.run, self.opened.plan, self.opened.backend, self.environments
        outcomes, target = run.outcomes().values(), target_in(run.header(), known.values())
        stands = standings(home(), run.id, backend.name, target, outcomes)
        if not isinstance(backend, Places):  # nobody can say on which node a scheduler would ask
            found = suspected(run.id, plan, outcomes, known, stands, backend.pulls, self.reference)
            run.record([host_trouble(*each) for each in found])
        falls = given() if given else fallen(plan, run.outcomes(), known, stands, backend.pulls)
        for outcome in climb(list(falls), self.again, self.elsewhere):
            run.record([outcome])

    def reference(self, image: Image, cell: Cell, gpu: str) -> Mapping[str, Outcome]:
        return self._ask("since it passed before", image, [cell], self._named([gpu]), clean=False)

    def again(self, alike: Sequence[Fall], image: Image, cells: Sequence[Cell]) -> Mapping[str, Outcome]:
        return self._ask("to confirm what newly fails", image, cells, self._under(alike))

    def elsewhere(self, alike: Sequence[Fall]) -> tuple[Mapping[str, Outcome], str]:
        here, cells = self._under(alike), [fall.cell for fall in alike]
        others = [gpu for gpu in self.gpus() if gpu not in here]
        if len(here) != 1 or not others:
            return {}, ""
        said = f"on {others[0].name} {others[0].uuid}, and not on {here[0].name} {here[0].uuid}"
        return self._ask("on another GPU", alike[0].image, cells, others[:1]), said

    def _named(self, uuids: Iterable[str]) -> list[Gpu]:
        bare = [uuid.removeprefix("GPU-") for uuid in uuids if uuid]
        return [gpu for uuid in bare for gpu in self.gpus() if uuid in gpu.bare_uuids]

    def _under(self, alike: Iterable[Fall]) -> list[Gpu]:
        """The GPUs on which they failed."""
        return self._named(sorted({gpu_of(self.environments.get(fall.outcome.environment, {})) for fall in alike}))

    def _ask(
        self, words: str, image: Image, cells: Sequence[Cell], gpus: Sequence[Gpu], clean: bool = True
    ) -> Mapping[str, Outcome]:
        """What comes of these cells on one of the GPUs, or on any; empty where the time is over."""
        left, uuids = self.until - time.monotonic(), {gpu.uuid for gpu in gpus}
        if left <= 0:
            return {}
        merged: dict[str, Cell] = {}
        for cell in cells:
            probes = merged[cell.id].probes if cell.id in merged else ()
            merged[cell.id] = replace(cell, probes=(*probes, *cell.probes))
        asked = replace(self.opened.plan, images=(image,), cells=tuple(merged.values()))
        more = f" and {len(asked.checks) - 1} more" if asked.checks[1:] else ""
        self.say(f"asked again, {words}: {asked.checks[0].id}{more}")
        return self.aside(asked, clean=clean, left=left, takes=lambda gpu: not uuids or gpu.uuid in uuids)


def host_trouble(failure: Outcome, good: Seen, found: Outcome) -> Outcome:
    """The failure as trouble of the host, on which what passed before fails now."""
    reason, said = reason_for("host-suspect"), f"{found.verdict.value} ({found.reason})"
    return replace(
        failure,
        verdict=reason.verdict,
        reason=reason.code,
        detail=f"{found.check}, which passed in run {good.run}, is {said} on this host after it",
        evidence=found.evidence,
        blame=reason.blame,
        remedy=reason.remedy,
        guess="",
        signature="",
        notes=(*failure.notes, f"was {failure.verdict.value} ({failure.reason}): {failure.detail}"),
    )


def aside(
    plan: Plan,
    backend: Backend,
    settings: RunSettings,
    folder: str,
    *,
    clean: bool,
    left: float | None = None,
    takes: Callable[[Gpu], bool] = lambda gpu: True,
    say: Say,
    watch: Watch = lambda phase: None,
) -> Mapping[str, Outcome]:
    """The outcomes of a run of the plan that is no baseline of others; it stops after so many seconds.

    `folder`: where in the home it is kept; `clean`: with new overlays and empty caches; `takes`: on which GPUs.
    """
    settings = replace(settings, rerun=True)
    run = Run.create(home() / folder, plan, backend.name, (), settings.to_json())
    again = OpenRun(run=run, plan=plan, backend=backend, settings=settings)
    (home() / "overlays").mkdir(parents=True, exist_ok=True)
    # a name that a later run removes, should this one be killed
    empty = TemporaryDirectory(prefix=".", suffix=".partial", dir=home() / "overlays")
    with empty if clean else nullcontext(home()) as at:
        engine = engine_for(again, settled=lambda keys: {}, at=Path(at), takes=takes, say=say, watch=watch)
        timer = threading.Timer(left or threading.TIMEOUT_MAX, engine.stop)
        timer.start()
        try:
            engine.run(plan.checks)
        finally:
            timer.cancel()
            engine.stop()
    run.finish("complete")
    return run.outcomes()
