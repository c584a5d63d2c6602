"""The `local` backend: a uv virtual environment stands in for the image; no engine and no GPU needed."""

from __future__ import annotations

import os
import shutil
import threading
import time
from collections.abc import Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from torch_compat_matrix.runner.backends import base, gpus
from torch_compat_matrix.runner.backends import process as processes
from torch_compat_matrix.runner.backends.base import Command, Finding, Launch, Launched, Prepared
from torch_compat_matrix.runner.bundle import BUNDLE
from torch_compat_matrix.runner.errors import Trouble
from torch_compat_matrix.runner.files import build_once, locked, scratch
from torch_compat_matrix.runner.model import Image
from torch_compat_matrix.runner.packages import manifest, standin, uv
from torch_compat_matrix.runner.packages.pip_config import Index

COMPILE_S = 300
"""How long it may take on a busy host to compile ahead."""


def _compiled(python: Path) -> Path:
    """The folder of what is compiled ahead for the stand-in of that interpreter."""
    return python.parent.parent.with_name(f"{python.parent.parent.name}-compiled")


def _is_whole(folder: Path, sealed: manifest.Sealed | None) -> bool:
    """Whether a folder is as it was sealed, and by this manifest where that is known: a library may forge both."""
    return not manifest.damage(folder) and sealed in (None, manifest.read(folder))


def connect(home: Path) -> LocalBackend:
    """The backend that keeps its environments under `home`."""
    processes.refuse_long_names()
    return LocalBackend(home)


def described(image: Image, built: standin.StandIn) -> Prepared:
    """The image's stand-in, for a launch."""
    return Prepared(
        image=image,
        identity=built.identity,
        reference=built.description,
        stand_in=True,
        misfits=built.misfits,
        python=str(built.python),
    )


class LocalBackend(processes.ThisMachine):
    """Builds stand-ins and launches the probe host in them as processes of this machine."""

    name = "local"

    def __init__(self, home: Path) -> None:
        super().__init__(home)
        self._compiler = ThreadPoolExecutor(1, "compile")
        self._compiled: dict[Path, Future[manifest.Sealed]] = {}
        """Interpreter of a stand-in -> the manifest of what is compiled ahead for it."""
        self._guard = threading.Lock()

    def prepare(self, image: Image) -> Prepared:
        """Build the stand-in of the image's `local:` entry, once."""
        if image.local is None:
            raise Trouble("no-stand-in", f"{image.name} has no `local:` entry")
        return described(image, standin.build(image.local, self.home, Index.from_pip(), gpu=self._has_gpu(image)))

    def peek(self, image: Image) -> Prepared | None:
        """The stand-in, if it is built."""
        if image.local is None:
            return None
        built = standin.find(image.local, self.home, Index.from_pip(), gpu=self._has_gpu(image))
        return None if built is None else described(image, built)

    def _has_gpu(self, image: Image) -> bool:
        """Whether this machine has a GPU; Trouble where nobody can tell, unless the image takes none."""
        usable, trouble = gpus.offered(self)
        if trouble is not None and image.limits.gpus != "none":
            raise trouble
        return bool(usable)

    @contextmanager
    def launch(self, launch: Launch) -> Iterator[Launched]:
        """Start the probe host as a process; the limits of memory, shm and network apply to containers only.

        A stand-in that a library has changed meanwhile is built again first.
        """
        python, settings = self._settings(launch)
        with self._in_use(launch.prepared):
            ahead = None
            if any("compile" in cell["probes"] for cell in launch.order["cells"]):
                self.ahead(launch.prepared)
                ahead = self._compiled.get(Path(python))
            with processes.launched(python, launch.order, launch.overlays, ahead=ahead, **settings) as started:
                yield started

    def interact(self, launch: Launch, command: Command) -> int:
        """Run a user's command as `launch` starts the probe host."""
        python, settings = self._settings(launch)
        with self._in_use(launch.prepared):
            return processes.interact(python, launch.order, launch.overlays, command, **settings)

    def _settings(self, launch: Launch) -> tuple[str, dict[str, Any]]:
        """Its interpreter, and how the process starts."""
        variables = base.environment_of(launch.prepared.image)
        return launch.prepared.python, {"home": self.home, "gpu": launch.gpu, "variables": variables}

    def ahead(self, prepared: Prepared) -> None:
        """Let g++ make what torch.compile needs on a CPU, where both are there."""
        python, compiler = Path(prepared.python), shutil.which(os.environ.get("CXX", "g++"))
        if compiler and not self._has_gpu(prepared.image) and standin.has_inductor(python):
            self._compile_ahead(python)

    def _compile_ahead(self, python: Path) -> None:
        """Begin once to compile ahead for a stand-in, and again where a library has changed what came of it."""
        with self._guard:
            known = self._compiled.get(python)
            if known is None:
                self._compiled[python] = self._compiler.submit(self._compile, python, None)
            elif known.done() and not known.exception() and not _is_whole(_compiled(python), known.result()):
                self._compiled[python] = self._compiler.submit(self._compile, python, known.result())

    def _compile(self, python: Path, sealed: manifest.Sealed | None) -> manifest.Sealed:
        """Let g++ make once, sealed beside the stand-in, what each process's first torch.compile needs (8 s).

        Where that fails a folder without it keeps the next run from trying again.  `sealed`: what this run has had.
        """

        def fill(partial: Path) -> None:
            with scratch(self.home / "resolutions") as spare:
                environment = {**processes.passed_on((*processes.PASSED_ON, "PATH")), "HOME": spare, "TMPDIR": spare}
                code = f"import sys; sys.path.insert(0, {str(BUNDLE.parent)!r})"
                code += f"; from {BUNDLE.name}.compiling import ahead; ahead({str(partial)!r})"
                ran = uv.finish([str(python), "-I", "-B", "-c", code], environment, timeout_s=COMPILE_S)
            if ran.status < 0:
                raise Trouble("host-error", f"the compiler was ended by signal {-ran.status}")
            (partial / "said.txt").write_text(ran.err)
            manifest.seal(partial, folder)

        folder = _compiled(python)
        build_once(folder, fill, lambda folder: _is_whole(folder, sealed))
        return manifest.read(folder)

    def close(self) -> None:
        """End what is still compiled ahead."""
        with self._guard:
            compiler, self._compiler = self._compiler, ThreadPoolExecutor(1, "compile")
            begun, self._compiled = list(self._compiled.values()), {}
        compiler.shutdown(wait=False, cancel_futures=True)
        while not all(future.done() for future in begun):
            uv.end_all()
            time.sleep(0.02)

    @contextmanager
    def _in_use(self, prepared: Prepared) -> Iterator[None]:
        """Keep others from building the stand-in again; one that a library has changed meanwhile is mended first."""
        self.prepare(prepared.image)
        with locked(standin.users_of(Path(prepared.python)), shared=True):
            yield

    def room(self, images: Sequence[Image]) -> Finding:
        """The free disk space for the stand-ins that are not yet built: 1 GB each, 5 GB with a CUDA build of torch."""
        missing = [image for image in images if image.local is not None and self.peek(image) is None]
        return base.room(self.home, len(missing) * (5e9 if gpus.offered(self)[0] else 1e9))

    def doctor(self) -> Sequence[Finding]:
        """Whether uv works."""
        try:
            return [Finding(what="uv", works=True, detail=uv.version())]
        except Trouble as trouble:
            return [Finding(what="uv", works=False, detail=str(trouble), code=trouble.code)]
