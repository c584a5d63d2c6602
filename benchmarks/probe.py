"""`python -m benchmarks.probe LIBRARY PROBE`: one probe in a plain process, as a user's own script would ask it."""

from __future__ import annotations

import sys
from importlib import import_module

from torch_compat_matrix.probes.child import answer, probe_module


def main(library: str, probe: str) -> int:
    """Import the library and, unless that was all, ask the probe; status 1 where it does not pass."""
    import_module(probe_module(library).MODULE)
    if probe == "import":
        return 0
    seen = answer(probe, library, {"device": "cpu", "seed": 0})
    if seen["status"] not in ("passed", "skipped"):
        print(seen.get("message"), file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main(*sys.argv[1:3]))
