"""Several ranks of a process group on this host: a function of a probe module runs in a process for each of them.

On a CPU they are forks, which bring what is imported.  CUDA does not survive a fork: there each is a fresh interpreter
on the same bundle (`python -m probes --rank TASK RANK`).  They meet through a file, talk over loopback, and end with
this process at the latest.
"""

import builtins
import datetime
import importlib
import json
import os
import signal
import subprocess
import sys
import tempfile
import time
from typing import Any, Callable, Dict, List

from .child import die_with_parent
from .evidence import Broken, LeftOut
from .probe import Probe

LIMIT_S = 90
"""Seconds until ranks that have not answered are ended."""

Results = Dict[str, Any]
"""Name -> tensor, or what else torch.load takes from a file that it does not trust."""


def run(probe: Probe, function: Callable[[Probe, int, int], Results], backend: str, count: int = 2) -> List[Results]:
    """What `function(probe, rank, count)`, at the head of its module, returns in each rank of a group by that backend.

    By gloo all compute on the CPU; by NCCL each has a GPU of its own, and the part is left out where they are too few.
    Raises the error of the first rank that failed, TimeoutError after LIMIT_S.
    """
    import torch

    if backend == "nccl" and torch.cuda.device_count() < count:
        here = torch.cuda.device_count()
        raise LeftOut(f"needs {count} GPUs, here is {here}: `gpus: {count}` under an image's `limits` asks for them")
    probe.collectives()  # the interface of gloo and NCCL
    with tempfile.TemporaryDirectory() as folder:
        task = {"function": [function.__module__, function.__name__], "backend": backend, "count": count}
        task.update(seed=probe.seed, full=probe.full, folder=folder, path=sys.path)
        begin = _start if probe.device.type == "cuda" else _fork
        pids = [begin(task, rank) for rank in range(count)]
        try:
            _wait(pids, folder)
        finally:
            for pid in pids:
                if pid:
                    os.kill(pid, signal.SIGKILL)
                    os.waitpid(pid, 0)
        return [torch.load(os.path.join(folder, f"{rank}.pt")) for rank in range(count)]


def _wait(pids: List[int], folder: str) -> None:
    """Wait for all, and put 0 in the place of those that ended; the error that was the first is raised."""
    until = time.monotonic() + LIMIT_S
    while any(pids):
        for rank, pid in enumerate(pids):
            ended, status = os.waitpid(pid, os.WNOHANG) if pid else (0, 0)
            if ended:
                pids[rank] = 0
                if not any(os.path.exists(os.path.join(folder, f"{rank}.{kind}")) for kind in ("pt", "json")):
                    raise RuntimeError(f"rank {rank} of {len(pids)} ended with wait status {status} and no answer")
        failed = [os.path.join(folder, name) for name in os.listdir(folder) if name.endswith(".json")]
        if failed:
            with open(min(failed, key=lambda path: os.stat(path).st_mtime_ns)) as file:
                kind, code, message = json.load(file)
            raise Broken(code, message) if code else getattr(builtins, kind, RuntimeError)(message)
        if time.monotonic() > until:
            raise TimeoutError(f"{len(pids)} ranks on this host gave no answer within {LIMIT_S} s")
        time.sleep(0.01)


def _fork(task: Dict[str, Any], rank: int) -> int:
    sys.stdout.flush()
    pid = os.fork()
    if pid == 0:
        try:
            import torch

            torch.set_num_threads(1)  # the pool of OpenMP did not survive the fork
            _work(task, rank)
        finally:
            os._exit(0)
    return pid


def _start(task: Dict[str, Any], rank: int) -> int:
    bundle = os.path.abspath(__file__)
    for _ in __name__.split("."):
        bundle = os.path.dirname(bundle)
    path = os.pathsep.join([bundle, *filter(None, [os.environ.get("PYTHONPATH")])])
    command = [sys.executable, "-m", str(__package__), "--rank", json.dumps(task), str(rank)]
    popen = subprocess.Popen(command, stdin=subprocess.DEVNULL, env=dict(os.environ, PYTHONPATH=path))
    popen.returncode = 0  # we wait for it ourselves
    return popen.pid


def main(text: str, rank: int) -> int:
    """A fresh process as a rank."""
    task = json.loads(text)
    sys.path[:] = task["path"]
    _work(task, rank)
    return 0


def _work(task: Dict[str, Any], rank: int) -> None:
    """Join the group, call the function, and leave its results, or the error's type, code and message."""
    die_with_parent()
    place = os.path.join(task["folder"], str(rank))
    try:
        import torch
        import torch.distributed as dist

        cuda, (module, name) = task["backend"] == "nccl", task["function"]
        if cuda:
            torch.cuda.set_device(rank)
        count = str(task["count"])  # as torchrun would say it
        os.environ.update(RANK=str(rank), LOCAL_RANK=str(rank), WORLD_SIZE=count, LOCAL_WORLD_SIZE=count)
        os.environ.update(MASTER_ADDR="127.0.0.1", MASTER_PORT="29500")
        limit = datetime.timedelta(seconds=LIMIT_S)
        meeting = f"file://{task['folder']}/meeting"
        dist.init_process_group(task["backend"], meeting, limit, rank=rank, world_size=task["count"])
        probe = Probe(f"cuda:{rank}" if cuda else "cpu", task["seed"], task["full"])
        found = getattr(importlib.import_module(module), name)(probe, rank, task["count"])
        torch.save({what: x.detach().cpu() if hasattr(x, "detach") else x for what, x in found.items()}, f"{place}.tmp")
        dist.barrier()  # none leaves while another needs it
        dist.destroy_process_group()
        os.rename(f"{place}.tmp", f"{place}.pt")
    except BaseException as error:
        with open(f"{place}.tmp", "w") as file:
            said = f"{error} (in rank {rank} of {task['count']})"
            json.dump([type(error).__name__, getattr(error, "code", ""), said], file)
        os.rename(f"{place}.tmp", f"{place}.json")
