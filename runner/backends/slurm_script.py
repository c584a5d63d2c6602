"""The batch script of a job: the probe host in a container of the nodes, or by an interpreter that they see."""

from __future__ import annotations

import shlex
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from torch_compat_matrix.runner.backends.base import Launch, environment_of
from torch_compat_matrix.runner.backends.process import COMPILED, PLACES
from torch_compat_matrix.runner.bundle import NAME
from torch_compat_matrix.runner.model import Image, repository

OF_THE_JOB = ("CUDA_VISIBLE_DEVICES", "CUDA_DEVICE_ORDER", "OMP_NUM_THREADS")
"""What the job decides; all else of its environment, which is the user's own, stays outside."""
OF_A_MODULE = ("PATH", "LD_LIBRARY_PATH", "CUDA_HOME")
"""What an interpreter of the node needs beside that; a container has its own."""
RESTARTED = 75
"""The exit status of a job that Slurm starts a second time, which must not write after what the first has written."""


def container_of(target: Mapping[str, Any]) -> str:
    """`pyxis`, `apptainer`, or `none` for an interpreter that the nodes see."""
    return str(target.get("container") or "none")


def script(launch: Launch, target: Mapping[str, Any], folder: Path, bundle: Path, home: Path) -> str:
    """The batch script, every word of others quoted."""
    container, kept = container_of(target), launch.order.get("compile_cache")
    overlays = next(iter(launch.overlays.values())).parent if launch.overlays else None
    mounts = {bundle: "/compat/bundle", folder / "order.json": "/compat/order.json"}
    mounts |= {overlays: "/compat/overlays"} if overlays else {}
    where = {str(path): str(path) if container == "none" else inside for path, inside in mounts.items()}
    words = [launch.prepared.python, "-m", NAME, where[str(folder / "order.json")]]
    probe_host = shlex.join([*words, "--overlays", where[str(overlays)] if overlays else ""])
    work, handed = ("$work", OF_A_MODULE + OF_THE_JOB) if container == "none" else ("/tmp", OF_THE_JOB)
    start = {
        "none": 'env -i "${words[@]}"',
        "pyxis": f'{_pyxis(launch, mounts)} env "${{words[@]}}"',
        "apptainer": f'{_apptainer(launch, mounts)} env "${{words[@]}}"',
    }[container]
    variables = environment_of(launch.prepared.image)
    compiled = shlex.quote(str(home / "compiled" / str(kept)))
    lines = [
        "#!/bin/bash" + (" -l" if target.get("module") else ""),
        f'[ "${{SLURM_RESTART_COUNT:-0}}" = 0 ] || exit {RESTARTED}',
        *([f"module load {shlex.join(target['module'].split())} >&2 || exit 1"] if target.get("module") else ()),
        'work=$(mktemp -d /tmp/compat-XXXXXX) || exit 1',
        "trap 'rm -rf \"$work\"' EXIT",
        "trap 'kill -TERM $host; wait $host' TERM",
        *([f'mkdir -p {compiled} && ln -s {compiled} "$work/compiled"'] if kept and container == "none" else ()),
        'mkdir -p "$work/home" "$work/tmp" "$work/compiled/nv"',
        'export CUDA_VISIBLE_DEVICES="${CUDA_VISIBLE_DEVICES-}" CUDA_DEVICE_ORDER=PCI_BUS_ID',
        'export OMP_NUM_THREADS="${SLURM_CPUS_PER_TASK:-${SLURM_CPUS_ON_NODE:-1}}"',
        f"cd {shlex.quote(str(bundle))} || exit 1",
        'words=(PYTHONDONTWRITEBYTECODE=1 PYTHONNOUSERSITE=1 LANG=C.UTF-8)',
        *(f"words+=({shlex.quote(f'{name}={value}')})" for name, value in variables.items()),
        f'for name in {" ".join(handed)}; do [ -z "${{!name+x}}" ] || words+=("$name=${{!name}}"); done',
        *(f'words+=({name}="{work}/{place}")' for name, place in PLACES.items()),
        *(f'words+=({name}="{work}/compiled/{place}")' for name, place in COMPILED.items()),
        f"{start} {probe_host} &",
        "host=$!",
        "wait $host",
    ]  # fmt: skip
    return "\n".join([*lines, ""])


def _pyxis(launch: Launch, mounts: Mapping[Path, str]) -> str:
    binds = ",".join(f"{path}:{inside}:ro" for path, inside in mounts.items())
    words = ["srun", "--export=NIL", f"--container-image={_enroot(launch.prepared.image)}", "--container-readonly"]
    words += ["--no-container-mount-home", "--container-workdir=/compat/bundle"]
    return f'{shlex.join(words)} --container-mounts={shlex.quote(binds)},"$work":/tmp'


def _enroot(image: Image) -> str:
    """The reference as pyxis takes it: `REGISTRY#IMAGE:TAG`, a squash file as it is."""
    reference = str(image.reference)
    host, slash, path = reference.partition("/")
    is_registry = bool(slash) and host != "" and ("." in host or ":" in host or host == "localhost")
    return f"{host}#{path}" if is_registry else reference


def _apptainer(launch: Launch, mounts: Mapping[Path, str]) -> str:
    reference = str(launch.prepared.image.reference)
    is_file = reference.startswith("/") or repository(reference).endswith(".sif")
    words = ["apptainer", "exec", *(["--nv"] if launch.gpu else []), "--containall", "--no-home"]
    words += [f"--bind={path}:{inside}:ro" for path, inside in mounts.items()]
    words += ["--pwd=/compat/bundle"]
    return f'{shlex.join(words)} --bind="$work":/tmp {shlex.quote(reference if is_file else f"docker://{reference}")}'
