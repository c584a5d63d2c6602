"""GPUs of this host, and the lease that keeps two batches, in whatever process, off the same one."""

from __future__ import annotations

import shutil
import subprocess
import tempfile
import time
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from pathlib import Path

from torch_compat_matrix.runner.backends.base import Gpu
from torch_compat_matrix.runner.files import claimed

FIELDS = "uuid,index,name,memory.total,driver_version,compute_cap"


def visible() -> tuple[Gpu, ...]:
    """The GPUs that nvidia-smi lists; none where there is no nvidia-smi or it cannot talk to the driver."""
    program = shutil.which("nvidia-smi")
    if program is None:
        return ()
    try:
        done = subprocess.run(
            [program, f"--query-gpu={FIELDS}", "--format=csv,noheader,nounits"],
            capture_output=True,
            text=True,
            timeout=30,
            check=False,
        )
    except (OSError, subprocess.TimeoutExpired):
        return ()
    return parse(done.stdout) if done.returncode == 0 else ()


def parse(listing: str) -> tuple[Gpu, ...]:
    """GPUs from nvidia-smi's CSV lines (memory in MiB there, in bytes here)."""
    found = []
    for line in listing.splitlines():
        fields = [field.strip() for field in line.split(",")]
        if len(fields) == 6 and fields[0].startswith("GPU-"):
            uuid, index, name, memory, driver, capability = fields
            size = int(float(memory)) << 20 if memory.replace(".", "").isdigit() else 0
            found.append(Gpu(uuid=uuid, index=int(index), name=name, memory=size, driver=driver, capability=capability))
    return tuple(found)


@contextmanager
def lease(gpus: Sequence[Gpu], folder: Path | None = None) -> Iterator[Gpu]:
    """Exclusive hold of one of the GPUs, waiting until one is free.

    The lock files lie in the machine's temporary folder, one a GPU, so that every run on the machine sees them.
    """
    folder = folder or Path(tempfile.gettempdir()) / "torch-compat-matrix-gpus"
    while True:
        for gpu in gpus:
            with ExitStack() as stack:
                if stack.enter_context(claimed(folder / f"{gpu.uuid}.lock")):
                    yield gpu
                    return
        time.sleep(0.2)
