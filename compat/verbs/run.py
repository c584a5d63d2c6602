"""`compat run`: launch every image of the plan, probe, and compile the report."""

from __future__ import annotations

import argparse
import sys
from dataclasses import replace

from torch_compat_matrix.compat.verbs.common import compiled, connected, load_plan, make_engine, opened
from torch_compat_matrix.runner.errors import Status
from torch_compat_matrix.runner.records.runs import Run, home


def main(options: argparse.Namespace) -> Status:
    """Launch every image of the plan, probe, and compile the report."""
    from torch_compat_matrix.compat.progress import progress

    if options.resume:
        current = opened(options.resume)
        header, plan = current.header(), current.plan()
        settings, name = header.get("settings", {}), header["backend"]
    else:
        plan, name = load_plan(options), options.backend
        if options.isolation:
            plan = replace(plan, cells=tuple(replace(cell, isolation=options.isolation) for cell in plan.cells))
        settings = {name: getattr(options, name) for name in ("jobs", "seed", "full", "fresh", "compile_cache")}
        current = None
    backend = connected(name)
    for left in backend.reap():
        print(f"removed what a dead run left behind: {left}", file=sys.stderr)
    if current is None:
        current = Run.create(home(), plan, name, ["compat", *options.arguments], settings)
        done = {}
    else:
        done = {check: outcome for check, outcome in current.outcomes().items() if outcome.verdict.final}
        current.resume()
    checks = [check for check in plan.checks if check.id not in done]
    print(f"run {current.id}: {len(checks)} checks on {name}", file=sys.stderr)
    with progress(len(checks)) as shown:
        engine = make_engine(
            current, plan, backend, settings, listen=shown.outcome, say=shown.say, done=frozenset(done)
        )
        try:
            engine.run(checks)
        except KeyboardInterrupt:
            engine.stop()
            current.finish("interrupted")
            compiled(current, options)
            raise
        engine.estimate.save(home(), engine.follower.look().values())
    current.finish("complete")
    return compiled(current, options)
