"""An image made on this machine alone, since none may be had from a registry: Debian's Python with the real torch."""

from __future__ import annotations

import fcntl
import hashlib
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path

import docker
from docker.errors import ImageNotFound

from torch_compat_matrix.runner.packages.pip_config import Index
from torch_compat_matrix.runner.packages.uv import run

REQUIRES = ("torch==2.13.0", "numpy<2.4", "sympy")
TAG = "compat-test/torch:2.13.0"
LABEL = "torch-compat-matrix.recipe"


def recipe(*more: str) -> str:
    """What the image depends on: this file, and what is asked of it."""
    return hashlib.sha256(Path(__file__).read_bytes() + repr(more).encode()).hexdigest()[:16]


def build(
    client: docker.DockerClient, tag: str = TAG, requires: Sequence[str] = REQUIRES, debian: Sequence[str] = ()
) -> str:
    """The image's tag; it is made once, in about a minute, and again only when its recipe changes.

    `requires` is what pip would be told, torch first; `debian` names further packages of the distribution.
    """
    made_of = recipe(tag, *requires, *debian)
    with Path(tempfile.gettempdir(), "compat-test-image.lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        try:
            if client.images.get(tag).labels.get(LABEL) == made_of:
                return tag
        except ImageNotFound:
            pass
        with tempfile.TemporaryDirectory(prefix="compat-test-image-") as folder:
            _fill(Path(folder), requires, debian)
            _import(Path(folder), tag, made_of)
    return tag


def _fill(root: Path, requires: Sequence[str], debian: Sequence[str]) -> None:
    """Debian's base system with Python, by debootstrap, and torch with numpy put where that Python looks."""
    if shutil.which("debootstrap") is None:
        subprocess.run(["apt-get", "install", "-y", "-qq", "--no-install-recommends", "debootstrap"], check=True)
    release = dict(line.split("=", 1) for line in Path("/etc/os-release").read_text().splitlines() if "=" in line)
    suite = release["VERSION_CODENAME"].strip('"')
    include = f"--include={','.join(['python3', 'ca-certificates', *debian])}"
    subprocess.run(
        ["debootstrap", "--variant=minbase", include, suite, str(root)], check=True, stdout=subprocess.DEVNULL
    )
    shutil.rmtree(root / "var/cache/apt/archives", ignore_errors=True)
    python = next((root / "usr/bin").glob("python3.*[0-9]")).name
    target = root / "usr/local/lib" / python / "dist-packages"
    index = Index.from_pip()
    flags = ("--target", str(target), "--python-version", python.removeprefix("python"), *index.uv_flags())
    cpu = (f"{requires[0]}+cpu", *requires[1:])
    # a CPU build where the find-links have one, else PyTorch's own, else what the index has
    for more, wanted in (((), cpu), (("--torch-backend", "cpu"), requires), ((), requires)):
        ran = run(("pip", "install", *flags, *more, "-r", "-"), index.uv_environment(), stdin="\n".join(wanted))
        if ran.status == 0:
            inside = f"/{target.relative_to(root)}"  # as pip leaves an image: without bytecode torch imports slowly
            subprocess.run(["chroot", str(root), "python3", "-m", "compileall", "-q", "-j0", inside], check=False)
            return
    raise RuntimeError(ran.err)


def _import(root: Path, tag: str, made_of: str) -> None:
    change = ["--change", f"LABEL {LABEL}={made_of}", "--change", 'CMD ["/bin/sh"]']
    with subprocess.Popen(["tar", "-C", str(root), "-c", "."], stdout=subprocess.PIPE) as tar:
        subprocess.run(["docker", "import", *change, "-", tag], stdin=tar.stdout, check=True, stdout=sys.stderr)
