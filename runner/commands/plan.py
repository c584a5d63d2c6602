"""`compat plan`: what a run would do; nothing is launched, pulled or built."""

from __future__ import annotations

import argparse
import json

from runner.cli import Status
from runner.commands.common import connected, load_plan
from runner.runs import home


def main(options: argparse.Namespace) -> Status:
    """Show what a run would do; nothing is launched, pulled or built."""
    from runner.plan import plan_to_json

    chosen = load_plan(options)
    if options.json is not None:
        options.json.write_text(json.dumps(plan_to_json(chosen), indent=1))
        print(f"plan: {options.json} ({len(chosen.cells)} cells, {len(chosen.checks)} checks)")
        return Status.AS_EXPECTED
    from runner.preview import preview

    print(preview(chosen, connected(options.backend), home()))
    return Status.AS_EXPECTED
