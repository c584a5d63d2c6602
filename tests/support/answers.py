#!/usr/bin/env python3
"""Stands in for an image's interpreter: a probe host without torch, which passes each probe at once, or as told.

`answers.py -m compat_probes ORDER --overlays FOLDER`; a program (`-c`) is Python's.  Variables of the image: SLEEP_S
before each answer; HOG, the MiB that the probe `compile` takes; LOG, a file with a line for the start and the end of
each launch with cells; GPUS, the GPUs that it sees where no CUDA_VISIBLE_DEVICES tells; NOISE_MB of errors.
"""

import json
import os
import sys
import time
from itertools import count
from pathlib import Path

if sys.argv[1] == "-c":
    os.execvp("python3", ["python3", *sys.argv[1:]])
order = json.loads(Path(sys.argv[3]).read_text())
numbers = count(1)
gpus = [name for name in os.environ.get("CUDA_VISIBLE_DEVICES", os.environ.get("GPUS", "")).split(",") if name]
TORCH = {"version": "2.13.0", "cuda": "12.4", "cudnn": 9, "arch_list": ["sm_90"], "cxx11_abi": True, "location": "/"}
FACTS = {
    "python": "3.11.0",
    "implementation": "cpython",
    "abi": "cp311",
    "platform": "linux",
    "machine": "x86_64",
    "glibc": "2.36",
    "os": Path(sys.argv[0]).name,
    "packages": {"torch": "2.13.0", "sympy": "1.0"},
    "metadata": {},
    "tools": {},
    "externally_managed": False,
    "user": "u",
    "uid": 0,
    "cpus": 1,
    "driver": "",
    "hidden": True,
    "services": {},
    "torch": TORCH,
    "gpus": [{"name": "H100", "uuid": name, "capability": "9.0", "memory": 1} for name in gpus],
}


def emit(kind: str, **frame: object) -> None:
    """Write a frame."""
    os.write(1, f"compat/2 {'0' * 32} {next(numbers)} {json.dumps({'kind': kind, **frame})}\n".encode())


def log(what: str) -> None:
    """Add a line to the log: what, time, number of GPUs, checks."""
    checks = [f"{cell['id']}/{probe}" for cell in order["cells"] for probe in cell["probes"]]
    if checks and "LOG" in os.environ:
        with Path(os.environ["LOG"]).open("a") as stream:
            stream.write(" ".join([what, str(time.time()), str(len(gpus)), *checks]) + "\n")


log("start")
emit("hello", pid=os.getpid())
emit("facts", facts=FACTS)
for cell in order["cells"]:
    for probe in cell["probes"]:
        about = {"cell": cell["id"], "probe": probe, "member": cell["members"][0]["distribution"]}
        emit("begin", **about)
        time.sleep(float(os.environ.get("SLEEP_S", "0")))
        if probe == "compile" and "HOG" in os.environ:
            taken = [os.urandom(1 << 20) for _ in range(int(os.environ["HOG"]))]
            time.sleep(60)
        seen = {"isolation": "warm", "installed": "1.0", "device": order["device"], "device_name": "H100", "parts": []}
        emit("observation", **about, status="passed", seconds=0.0, **seen)
if order["cells"]:
    for _ in range(int(os.environ.get("NOISE_MB", "0")) << 4):
        os.write(2, (b"x" * 1023 + b"\n") * 64)
        time.sleep(0.05)
emit("end", state="complete")
log("end")
