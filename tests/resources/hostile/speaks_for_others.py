"""Writes answers and frames for another cell to each of its own descriptors."""

import json
import os


def sample(probe):
    passed = {"kind": "result", "status": "passed", "seconds": 0.0, "cell": "x/victim-1.0", "member": "victim"}
    for kind in ("result", "imported", "ended", "observation"):
        for descriptor in range(3, 64):
            try:
                os.write(descriptor, json.dumps(dict(passed, kind=kind)).encode() + b"\n")
            except OSError:
                pass
    os._exit(0)
