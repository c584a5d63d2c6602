"""What newly fails, asked again in runs of their own, which are no baseline of others."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from contextlib import nullcontext, suppress
from dataclasses import replace
from pathlib import Path
from tempfile import TemporaryDirectory

from torch_compat_matrix.runner.backends.base import Backend
from torch_compat_matrix.runner.comparison.confirm import Fall, climb, fallen
from torch_compat_matrix.runner.comparison.noise import quarantined
from torch_compat_matrix.runner.model import Cell, Image, Plan
from torch_compat_matrix.runner.outcome import Outcome
from torch_compat_matrix.runner.records import history
from torch_compat_matrix.runner.records.runs import Run, home, target_in
from torch_compat_matrix.runner.records.since import standings
from torch_compat_matrix.runner.watch import Say, Watch
from torch_compat_matrix.runner.workflow import OpenRun, RunSettings, engine_for


def confirm(opened: OpenRun, say: Say, watch: Watch, given: Callable[[], Iterable[Fall]] | None = None) -> None:
    """Record what is quarantined; ask what newly fails again, as long as the settings allow, and record its level.

    `given`: what is to be confirmed, in place of what newly fails by the history.
    """
    with suppress(history.HistoryUnusable):  # without a history, nothing newly fails
        _confirm(opened, say, watch, given)


def _confirm(opened: OpenRun, say: Say, watch: Watch, given: Callable[[], Iterable[Fall]] | None) -> None:
    until = time.monotonic() + 60 * opened.settings.confirm
    run, outcomes, environments = opened.run, opened.run.outcomes(), opened.run.environments()
    history.sync(home())
    target = target_in(run.header(), environments.values())
    noisy = quarantined(home(), opened.backend.name, target)
    out = {check: replace(outcomes[check], quarantined=words) for check, words in noisy.items() if check in outcomes}
    run.record(out.values())
    outcomes |= out
    if opened.settings.confirm <= 0:
        return
    stands = standings(home(), run.id, opened.backend.name, target, outcomes.values())

    def ask(image: Image, cells: Sequence[Cell]) -> Mapping[str, Outcome]:
        left = until - time.monotonic()
        if left <= 0:
            return {}
        plan = replace(opened.plan, images=(image,), cells=tuple(cells))
        more = f" and {len(plan.checks) - 1} more" if plan.checks[1:] else ""
        say(f"asked again, to confirm what newly fails: {plan.checks[0].id}{more}")
        return aside(
            plan, opened.backend, opened.settings, "confirmations", clean=True, left=left, say=say, watch=watch
        )

    falls = given() if given else fallen(opened.plan, outcomes, environments, stands, opened.backend.pulls)
    for outcome in climb(list(falls), ask):
        run.record([outcome])


def aside(
    plan: Plan,
    backend: Backend,
    settings: RunSettings,
    folder: str,
    *,
    clean: bool,
    left: float | None = None,
    say: Say,
    watch: Watch = lambda phase: None,
) -> Mapping[str, Outcome]:
    """The outcomes of a run of the plan that is no baseline of others; it stops after so many seconds.

    `folder`: where in the home it is kept; `clean`: with new overlays and empty caches.
    """
    settings = replace(settings, rerun=True)
    run = Run.create(home() / folder, plan, backend.name, (), settings.to_json())
    again = OpenRun(run=run, plan=plan, backend=backend, settings=settings)
    (home() / "overlays").mkdir(parents=True, exist_ok=True)
    # a name that a later run removes, should this one be killed
    empty = TemporaryDirectory(prefix=".", suffix=".partial", dir=home() / "overlays")
    with empty if clean else nullcontext(home()) as at:
        engine = engine_for(again, settled=lambda keys: {}, at=Path(at), say=say, watch=watch)
        timer = threading.Timer(left or threading.TIMEOUT_MAX, engine.stop)
        timer.start()
        try:
            engine.run(plan.checks)
        finally:
            timer.cancel()
            engine.stop()
    run.finish("complete")
    return run.outcomes()
