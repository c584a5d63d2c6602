"""Names another process, that of the test, as the one that is to be killed when its time is up."""

import json
import os
import time


def sample(probe):
    for descriptor in range(3, 64):
        try:
            os.write(descriptor, json.dumps({"kind": "started", "pid": RUNNERS[0]}).encode() + b"\n")
        except OSError:
            pass
    time.sleep(1000)
