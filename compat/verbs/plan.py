"""`compat plan`: what a run would do; nothing is launched, pulled or built."""

from __future__ import annotations

import argparse
import json

from torch_compat_matrix.compat.verbs.common import connected, load_plan
from torch_compat_matrix.runner.errors import Status
from torch_compat_matrix.runner.records.runs import home


def main(options: argparse.Namespace) -> Status:
    """Show what a run would do; nothing is launched, pulled or built."""
    chosen = load_plan(options)
    if options.json is not None:
        options.json.write_text(json.dumps(chosen.to_json(), indent=1))
        print(f"plan: {options.json} ({len(chosen.cells)} cells, {len(chosen.checks)} checks)")
        return Status.AS_EXPECTED
    from torch_compat_matrix.compat.preview import preview

    print(preview(chosen, connected(options.backend), home()))
    return Status.AS_EXPECTED
