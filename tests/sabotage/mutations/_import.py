"""(reason code or exception, what is wrong) -> a broken installation or import, which each library's import must show.

Each runs in a child of its own before the library's import, and gets the cell as the probe host would get it: the
library in an overlay, a copy of its files as they lie in this environment; torch as a package of the image.
"""

from __future__ import annotations

import shutil
import sys
import tempfile
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from importlib import metadata
from importlib.machinery import ModuleSpec
from pathlib import Path
from types import ModuleType
from typing import Any

from torch_compat_matrix.probes.child import probe_module
from torch_compat_matrix.probes.facts import canonical

Cell = dict[str, Any]


@contextmanager
def installed(library: str) -> Iterator[Cell]:
    """The cell of a sound library: in an overlay of its own, unless it is torch, which is the image's."""
    distribution = metadata.distribution(library)
    packages = {canonical(one.metadata["Name"]): one.version for one in metadata.distributions()}
    with tempfile.TemporaryDirectory(prefix="compat-sabotage-") as folder:
        added = [] if library == "torch" else [library]
        if added:
            del packages[canonical(library)]
            for file in distribution.files or ():
                if ".." not in file.parts and "__pycache__" not in file.parts:
                    target = Path(folder) / file
                    target.parent.mkdir(parents=True, exist_ok=True)
                    shutil.copyfile(str(distribution.locate_file(file)), target)
        member = {"distribution": library, "version": distribution.version}
        cell = {"id": "image/cell", "members": [member], "overlay": folder, "added": added, "replaces": {}}
        yield {**cell, "image_packages": packages}


def _renamed(cell: Cell) -> None:
    """Another version is installed than the one asked for."""
    cell["members"][0]["version"] = "0.0.1"


def _lies(module: ModuleType) -> None:
    vars(sys.modules[module.__name__])["__version__"] = "99.0"  # a lazy module has put itself in the first one's place


def _of_the_image(cell: Cell) -> None:
    """The overlay holds the library's metadata alone, so that Python imports the image's copy."""
    cell["added"] = [cell["members"][0]["distribution"]]
    for path in Path(cell["overlay"]).iterdir():
        if not path.name.endswith(".dist-info"):
            shutil.rmtree(path) if path.is_dir() else path.unlink()


def _hides_numpy(cell: Cell) -> None:
    """The overlay brings another NumPy than the image's."""
    folder = Path(cell["overlay"]) / "numpy-99.0.dist-info"
    folder.mkdir()
    (folder / "METADATA").write_text("Metadata-Version: 2.1\nName: numpy\nVersion: 99.0\n")


def _other_torch(module: ModuleType) -> None:
    sys.modules["torch"] = ModuleType("torch")
    vars(sys.modules["torch"])["__version__"] = "1.0"


def _missing(module: ModuleType) -> None:
    raise ImportError("libcudart.so.12: cannot open shared object file: No such file or directory")


def _leaves(module: ModuleType) -> None:
    raise SystemExit("this GPU is not supported")


class _Afterwards:
    """Finds the library's module as ever, and does something once its code has run."""

    def __init__(self, name: str, action: Callable[[ModuleType], None]) -> None:
        self.name = name
        self.action = action

    def find_spec(self, name: str, path: Sequence[str] | None = None, target: Any = None) -> ModuleSpec | None:
        """The spec that the finders after this one give."""
        if name != self.name:
            return None
        for finder in sys.meta_path[1:]:
            spec = finder.find_spec(name, path, target)
            if spec is not None and spec.loader is not None:
                self.then(spec.loader)
                return spec
        return None

    def then(self, loader: Any) -> None:
        """The loader's last step is followed by the action."""
        sound = loader.exec_module
        loader.exec_module = lambda module: (sound(module), self.action(module))


def _after_import(action: Callable[[ModuleType], None]) -> Callable[[Cell], None]:
    def apply(cell: Cell) -> None:
        name = probe_module(cell["members"][0]["distribution"]).MODULE
        sys.meta_path.insert(0, _Afterwards(name, action))

    return apply


IMPORTS: dict[tuple[str, str], Callable[[Cell], None]] = {
    ("wrong-version", "another version than the one asked for"): _renamed,
    ("wrong-version", "the version string lies"): _after_import(_lies),
    ("wrong-location", "the image's copy is imported"): _of_the_image,
    ("environment-changed", "another NumPy stands in front of the image's"): _hides_numpy,
    ("ImportError", "a shared library is missing"): _after_import(_missing),
    ("SystemExit", "the import ends the process"): _after_import(_leaves),
}

OF_OTHERS: dict[tuple[str, str], Callable[[Cell], None]] = {
    ("environment-changed", "the import replaces torch"): _after_import(_other_torch),
}
"""What can happen to torch only by another library."""
