"""What newly fails, asked again in runs of their own, which are no baseline of others."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from contextlib import nullcontext, suppress
from dataclasses import replace
from functools import cache
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
            _confirm(opened, say, watch, given)


def _confirm(opened: OpenRun, say: Say, watch: Watch, given: Callable[[], Iterable[Fall]] | None) -> None:
    until = time.monotonic() + 60 * opened.settings.confirm
    run, plan, backend = opened.run, opened.plan, opened.backend
    outcomes, environments = run.outcomes(), run.environments()
    history.sync(home())
    target = target_in(run.header(), environments.values())
    stands = standings(home(), run.id, backend.name, target, outcomes.values())

    @cache
    def known() -> tuple[Gpu, ...]:
        return offered(backend)[0]  # nobody is asked where nothing failed

    def on(words: str, image: Image, cells: Sequence[Cell], gpus: Sequence[Gpu], clean: bool) -> Mapping[str, Outcome]:
        left = until - time.monotonic()
        if left <= 0:
            return {}
        asked = replace(plan, images=(image,), cells=tuple(cells))
        more = f" and {len(asked.checks) - 1} more" if asked.checks[1:] else ""
        say(f"asked again, {words}: {asked.checks[0].id}{more}")
        folder, settings, uuids = "confirmations", opened.settings, {gpu.uuid for gpu in gpus}
        takes = lambda gpu: not uuids or gpu.uuid in uuids  # noqa: E731
        return aside(asked, backend, settings, folder, clean=clean, left=left, takes=takes, say=say, watch=watch)

    def own(uuid: str) -> list[Gpu]:
        return [gpu for gpu in known() if uuid and uuid.removeprefix("GPU-") in gpu.bare_uuids]

    def reference(image: Image, cell: Cell, gpu: str) -> Mapping[str, Outcome]:
        return on("since it passed before", image, [cell], own(gpu), clean=False)

    def ask(alike: Sequence[Fall], image: Image, cells: Sequence[Cell]) -> Mapping[str, Outcome]:
        return on("to confirm what newly fails", image, cells, where(alike), clean=True)

    def where(alike: Sequence[Fall]) -> list[Gpu]:
        """The GPUs on which they failed."""
        seen = {gpu_of(environments.get(fall.outcome.environment, {})) for fall in alike}
        return [gpu for uuid in sorted(seen) for gpu in own(uuid)]

    def elsewhere(alike: Sequence[Fall]) -> tuple[Mapping[str, Outcome], str]:
        here, cells = where(alike), [fall.cell for fall in alike]
        others = [gpu for gpu in known() if gpu not in here]
        if len(here) != 1 or not others:
            return {}, ""
        said = f"on {others[0].name} {others[0].uuid}, and not on {here[0].name} {here[0].uuid}"
        return on("on another GPU", alike[0].image, cells, others[:1], clean=True), said

    if not isinstance(backend, Places):  # nobody can say on which node a scheduler would ask
        suspects = suspected(run.id, plan, outcomes.values(), environments, stands, backend.pulls, reference)
        if changed := [host_trouble(*found) for found in suspects]:
            run.record(changed)
            outcomes = run.outcomes()
    falls = given() if given else fallen(plan, outcomes, environments, stands, backend.pulls)
    for outcome in climb(list(falls), ask, elsewhere):
        run.record([outcome])


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
