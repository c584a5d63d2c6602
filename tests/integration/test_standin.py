"""The environment that stands in for an image."""

from __future__ import annotations

import os
import platform
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest

from tests.support.tinywheels import linked_to, simple_index, torch_for, wheel
from torch_compat_matrix.runner.backends.local import LocalBackend
from torch_compat_matrix.runner.errors import Trouble
from torch_compat_matrix.runner.model import Local
from torch_compat_matrix.runner.packages import buildline, manifest, overlay, standin
from torch_compat_matrix.runner.packages.pip_config import Index
from torch_compat_matrix.runner.packages.standin import StandIn

PYTHON = f"{sys.version_info[0]}.{sys.version_info[1]}"


@pytest.fixture(autouse=True)
def alone(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """uv remembers nothing, and no index outside answers: PyTorch's own is unreachable."""
    monkeypatch.setenv("UV_CACHE_DIR", str(tmp_path / "uv"))
    for name in ("HTTP_PROXY", "HTTPS_PROXY", "http_proxy", "https_proxy"):
        monkeypatch.setenv(name, "http://127.0.0.1:9")


@pytest.fixture
def index(tmp_path: Path) -> Index:
    """An index with a torch for GPUs and one library."""
    files = tmp_path / "files"
    torch = wheel(files, "torch", "2.1"), wheel(files, "torch", "2.0")
    return Index(options={"index-url": simple_index(tmp_path, *torch, wheel(files, "lib", "1.0", "torch"))})


def with_cpu_build(index: Index, tmp_path: Path) -> Index:
    """The index, and a folder with a CPU build of an older torch."""
    wheel(tmp_path / "wheels", "torch", "2.0+cpu")
    return Index(options={**index.options, "find-links": str(tmp_path / "wheels")})


def build(tmp_path: Path, index: Index, *requires: str, python: str = PYTHON, gpu: bool = False) -> StandIn:
    """The stand-in with these requirements."""
    return standin.build(Local(python=python, requires=requires), tmp_path / "home", index, gpu)


def test_it_runs_and_says_what_it_is(tmp_path: Path, index: Index, monkeypatch: pytest.MonkeyPatch) -> None:
    """Python, torch and where torch came from; no path.  It holds torch's bytecode, which no launch writes."""
    monkeypatch.setenv("PYTHONDONTWRITEBYTECODE", "1")
    built = build(tmp_path, index, "lib")
    assert list(built.python.parent.parent.rglob("__pycache__/torch.*.pyc"))
    code = "import lib, torch; print(torch.__version__)"
    ran = subprocess.run([built.python, "-c", code], capture_output=True, text=True, check=True)
    assert ran.stdout.strip() == "2.1"
    assert built.description == f"Python {platform.python_version()} with torch 2.1 (as pip would choose it)"


def test_one_without_bytecode_gets_it(tmp_path: Path) -> None:
    """Nothing else of it is built again."""
    offered = wheel(tmp_path / "files", "torch", "2.1", files={"torch/__init__.py": ""})
    index = Index(options={"index-url": simple_index(tmp_path, offered)})
    built = build(tmp_path, index, "torch")
    folder = built.python.parent.parent
    (compiled,) = folder.glob("lib/*/site-packages/torch/__pycache__/__init__.*")
    compiled.unlink()
    manifest.seal(folder)
    inode = folder.stat().st_ino
    assert build(tmp_path, index, "torch") == built
    assert compiled.exists() and folder.stat().st_ino == inode
    assert manifest.damage(folder) == ""


@pytest.mark.parametrize("requires", ["torch", "torch>=2", "torch==2.0", "lib"])
def test_without_a_gpu_a_cpu_build_from_find_links_comes_first(tmp_path: Path, index: Index, requires: str) -> None:
    """Even where the index has a newer torch, with gigabytes of CUDA."""
    built = build(tmp_path, with_cpu_build(index, tmp_path), requires)
    assert built.description.endswith("with torch 2.0+cpu (CPU build from find-links)")


@pytest.mark.parametrize(("requires", "gpu"), [("torch==2.1", False), ("torch", True)])
def test_otherwise_the_plain_index_is_taken(tmp_path: Path, index: Index, requires: str, gpu: bool) -> None:
    """On a host with a GPU, and where there is no CPU build of that version and PyTorch's index cannot be reached."""
    built = build(tmp_path, with_cpu_build(index, tmp_path), requires, gpu=gpu)
    assert built.description.endswith("with torch 2.1 (as pip would choose it)")


def test_a_wheel_that_is_here_is_linked_to_no_cache(index: Index, tmp_path: Path) -> None:
    """Neither is its content copied once more, nor could a library change a cache through it."""
    folder = build(tmp_path, with_cpu_build(index, tmp_path), "torch", "lib").python.parent.parent
    (code,) = folder.glob("lib/*/site-packages/torch*/METADATA")
    assert code.stat().st_nlink == 1
    assert not [*(tmp_path / "uv").rglob("torch-2.0+cpu*"), *(tmp_path / "home" / "resolutions" / "scratch").iterdir()]


def test_torch_that_nobody_asks_for_is_not_taken(index: Index, tmp_path: Path) -> None:
    """Though it lies in the find-links."""
    wheel(tmp_path / "wheels", "other", "1.0")
    built = build(tmp_path, with_cpu_build(index, tmp_path), "other")
    assert not list(built.python.parent.parent.glob("lib/*/site-packages/torch*"))


def test_a_build_that_is_named_is_not_second_guessed(tmp_path: Path, index: Index) -> None:
    """`+cpu` in the matrix says it all."""
    built = build(tmp_path, with_cpu_build(index, tmp_path), "torch==2.0+cpu")
    assert built.description.endswith("with torch 2.0+cpu (as pip would choose it)")


def test_the_second_use_builds_nothing(tmp_path: Path, index: Index) -> None:
    """The same requirements are the same stand-in; a GPU makes it another."""
    first = build(tmp_path, index, "torch", "lib")
    inode = first.python.parent.parent.stat().st_ino
    assert build(tmp_path, index, "lib", "torch") == first
    assert first.python.parent.parent.stat().st_ino == inode
    assert build(tmp_path, index, "lib", "torch", gpu=True).python != first.python


def test_the_same_packages_have_the_same_identity(tmp_path: Path, index: Index) -> None:
    """However they were asked for: what is known of one is true of the other."""
    assert build(tmp_path, index, "torch", "lib").identity == build(tmp_path, index, "lib==1.0").identity
    assert build(tmp_path, index, "torch").identity != build(tmp_path, index, "torch==2.0").identity


def test_an_interrupted_build_is_built_again(tmp_path: Path, index: Index) -> None:
    """Without its marker an environment is not whole."""
    built = build(tmp_path, index, "lib")
    (built.python.parent.parent / "complete.json").unlink()
    (built.python.parent.parent / "stray").touch()
    assert build(tmp_path, index, "lib") == built
    assert not (built.python.parent.parent / "stray").exists()


def test_many_may_build_at_once(tmp_path: Path, index: Index) -> None:
    """One builds, the others wait and find it."""
    with ThreadPoolExecutor(3) as pool:
        assert len(set(pool.map(lambda _: build(tmp_path, index, "torch"), range(3)))) == 1


@pytest.mark.parametrize(
    ("python", "requires", "code", "said"),
    [
        ("3.99", "lib", "python-not-found", "Python 3.99"),
        (PYTHON, "lib==7", "version-not-found", "lib==7"),
        (PYTHON, "torch<1", "version-not-found", "torch"),
        (PYTHON, "lib=7", "bad-requirement", "lib"),
    ],
)
def test_what_cannot_be_built_says_why_and_leaves_nothing(
    tmp_path: Path, index: Index, python: str, requires: str, code: str, said: str
) -> None:
    """uv's own explanation, under a stable code."""
    with pytest.raises(Trouble) as raised:
        build(tmp_path, index, requires, python=python)
    assert raised.value.code == code
    assert said in str(raised.value)
    if code != "python-not-found":
        assert (raised.value.blame, raised.value.remedy) == ("matrix", "Correct `requires` of `local:` of the image.")
        with pytest.raises(Trouble) as foreseen:
            standin.foresee(Local(python=python, requires=(requires,)), index)
        assert foreseen.value.code == code
    assert sorted(path.suffix for path in (tmp_path / "home" / "standins").iterdir()) == [".lock", ".users"]


def test_an_unreachable_index_is_named(tmp_path: Path) -> None:
    """Without its secrets."""
    unreachable = Index(options={"index-url": "http://user:secret@127.0.0.1:9/simple"}, uv={"UV_HTTP_RETRIES": "0"})
    with pytest.raises(Trouble) as raised:
        build(tmp_path, unreachable, "lib")
    assert (raised.value.code, raised.value.blame) == ("index-unreachable", "")
    standin.foresee(Local(python=PYTHON, requires=("lib",)), unreachable)  # nothing is known to be wrong
    assert "secret" not in str(raised.value) + raised.value.evidence


def shim(folder: Path, name: str, script: str) -> None:
    """A program on its own in a folder."""
    folder.mkdir(parents=True)
    (folder / name).write_text(f"#!/bin/sh\n{script}\n")
    (folder / name).chmod(0o755)


REFUSES = """cat >&2 <<'END'
pyenv: python3.98: command not found

The `python3.98' command exists in these Python versions:
  3.98.7

Note: See 'pyenv help global' for tips on allowing multiple
END
exit 127"""


@pytest.mark.parametrize(
    ("variable", "folder"),
    [
        ("PYENV_ROOT", "versions/3.98.7"),
        ("ASDF_DATA_DIR", "installs/python/3.98.7"),
        ("MISE_DATA_DIR", "installs/python/3.98.7"),
        ("RYE_HOME", "py/cpython@3.98.7"),
    ],
)
def test_a_python_behind_a_shim_is_found(
    tmp_path: Path, index: Index, monkeypatch: pytest.MonkeyPatch, variable: str, folder: str
) -> None:
    """A version manager's shim refuses what is installed but not chosen."""
    shim(tmp_path / "shims", "python3.98", REFUSES)
    monkeypatch.setenv("PATH", f"{tmp_path / 'shims'}:{os.environ['PATH']}")
    monkeypatch.setenv(variable, str(tmp_path / "manager"))
    shim(tmp_path / "manager" / folder / "bin", "python3", f'exec {sys.executable} "$@"')
    shim(tmp_path / "manager" / folder.replace("98.7", "9.8") / "bin", "python3", "exit 1")
    assert build(tmp_path, index, "lib", python="3.98").description.startswith("Python 3.")


def test_what_a_shim_hides_is_the_evidence(tmp_path: Path, index: Index, monkeypatch: pytest.MonkeyPatch) -> None:
    """Where it lies beyond our knowledge, its own words tell what to choose."""
    shim(tmp_path / "shims", "python3.98", REFUSES)
    monkeypatch.setenv("PATH", f"{tmp_path / 'shims'}:{os.environ['PATH']}")
    with pytest.raises(Trouble) as raised:
        build(tmp_path, index, "lib", python="3.98")
    assert (raised.value.code, raised.value.blame) == ("python-not-found", "")
    assert "pyenv" in raised.value.remedy
    assert raised.value.evidence == (
        "pyenv: python3.98: command not found The `python3.98' command exists in these Python versions: 3.98.7"
    )


CUDA_12 = ("libtorch.so", "libtorch_cuda.so", "libcudart.so.12")


def with_companion(tmp_path: Path, *libraries: str, index_has_torch: bool = True) -> Index:
    """An index with a CUDA build of torch and a package linked to these libraries; find-links with a CPU build."""
    files = tmp_path / "companions"
    companion = linked_to(files, "vision", "1.0", *libraries)
    torch = (torch_for(files, "2.1", "12.4"),) if index_has_torch else ()
    torch_for(tmp_path / "wheels", "2.1+cpu", None)
    url = simple_index(tmp_path / "companion-index", *torch, companion)
    return Index(options={"index-url": url, "find-links": str(tmp_path / "wheels")})


@pytest.mark.parametrize(
    ("libraries", "source"),
    [
        (CUDA_12, "torch 2.1 (as the index has it)"),
        (("libtorch.so", "libc10.so"), "torch 2.1+cpu (CPU build from find-links)"),
        (("libcudart.so.12",), "torch 2.1+cpu (CPU build from find-links)"),  # CUDA, but not by way of torch
    ],
)
def test_torch_and_what_is_built_against_it_are_of_one_line(
    tmp_path: Path, libraries: tuple[str, ...], source: str
) -> None:
    """A CPU build of torch cannot load a companion that is built for CUDA."""
    built = build(tmp_path, with_companion(tmp_path, *libraries), "torch==2.1", "vision")
    assert built.description.endswith(source)
    assert built.misfits == {}


def test_what_has_no_common_line_is_named(tmp_path: Path) -> None:
    """The stand-in serves all cells that do without it."""
    built = build(tmp_path, with_companion(tmp_path, *CUDA_12, index_has_torch=False), "torch==2.1", "vision")
    assert set(built.misfits) == {"vision"}
    assert "torch 2.1+cpu is built for the CPU, vision for CUDA 12" in built.misfits["vision"]


@pytest.mark.parametrize(
    ("cuda", "stand_in", "fits"),
    [(None, True, False), (None, False, True), ("12.1", True, True), ("13.0", True, False)],
)
def test_a_cell_of_a_stand_in_gets_no_package_of_another_line(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, cuda: str | None, stand_in: bool, fits: bool
) -> None:
    """In an image it is what pip would install, whatever comes of it.  What is compiled is read once."""
    facts: dict[str, Any] = {
        "python": platform.python_version(),
        "abi": f"cp{PYTHON.replace('.', '')}",
        "platform": sys.platform,
    }
    facts |= {"machine": platform.machine(), "glibc": platform.libc_ver()[1], "packages": {}}
    torch = {"torch": {"version": "2.1", "cuda": cuda}}
    index = with_companion(tmp_path, *CUDA_12)
    for _ in range(2):
        try:
            overlay.build(("vision==1.0",), {**facts, **torch}, index, tmp_path, stand_in=stand_in)
        except Trouble as trouble:
            assert (trouble.code, fits) == ("no-stand-in", False)
        else:
            assert fits
        monkeypatch.delattr(buildline, "cuda_needed", raising=False)


def test_what_is_still_compiled_ends_with_the_run(torch_python: str, tmp_path: Path) -> None:
    """It leaves nothing that the next run would take for headers, and the backend can be used again."""
    stand_in = tmp_path / "standins" / "key"
    stand_in.parent.mkdir()
    stand_in.symlink_to(Path(torch_python).parents[1])
    backend = LocalBackend(tmp_path)
    python = stand_in / "bin" / "python"
    for _ in range(2):
        backend._compile_ahead(python)
        compiling = backend._compiled[python]
        assert not compiling.done()
        backend.close()
        assert compiling.done()
    assert [path.name for path in stand_in.parent.iterdir() if not path.name.endswith(".lock")] == ["key"]
