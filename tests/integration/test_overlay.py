"""The set that a cell adds, built once."""

from __future__ import annotations

import importlib.metadata
import json
import platform
import subprocess
import sys
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest

from tests.support.tinywheels import sdist, wheel
from torch_compat_matrix.runner.errors import Trouble
from torch_compat_matrix.runner.packages import overlay
from torch_compat_matrix.runner.packages.pip_config import Index

HERE = f"cp{sys.version_info[0]}{sys.version_info[1]}"


@pytest.fixture(autouse=True)
def own_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """uv remembers nothing from one test to the next."""
    monkeypatch.setenv("UV_CACHE_DIR", str(tmp_path / "uv"))


@pytest.fixture
def offered(tmp_path: Path) -> Path:
    """The folder with all the packages there are."""
    folder = tmp_path / "offered"
    wheel(folder, "lib", "1.0", "never-installed")
    wheel(folder, "helper", "2.0")
    return folder


def facts(python: str = platform.python_version(), glibc: str = platform.libc_ver()[1]) -> dict[str, Any]:
    """An image of this Python and platform, or of another one."""
    abi = "cp" + "".join(python.split(".")[:2])
    return {"python": python, "abi": abi, "platform": "linux", "machine": platform.machine(), "glibc": glibc}


def build(offered: Path, *add: str, image: dict[str, Any] | None = None) -> Path:
    """The overlay of these, from the folder alone."""
    index = Index(options={"no-index": "1", "find-links": str(offered)})
    return overlay.build(add, image or facts(), index, offered.parent / "home")


def test_it_holds_exactly_what_was_asked_for(offered: Path) -> None:
    """No dependency comes along: what is missing was resolved before."""
    folder = build(offered, "lib==1.0", "helper==2.0")
    found = {(each.name, each.version) for each in importlib.metadata.distributions(path=[str(folder)])}
    assert found == {("lib", "1.0"), ("helper", "2.0")}
    code = "import lib, helper; print(lib.__version__, helper.__version__)"
    ran = subprocess.run([sys.executable, "-c", code], env={"PYTHONPATH": str(folder)}, capture_output=True, text=True)
    assert ran.stdout.split() == ["1.0", "2.0"]


def test_the_second_use_touches_nothing(offered: Path) -> None:
    """The same set in another order is the same overlay."""
    folder = build(offered, "lib==1.0", "helper==2.0")
    before = folder.stat().st_ino
    assert build(offered, "helper==2.0", "lib==1.0") == folder
    assert folder.stat().st_ino == before


def test_another_python_or_platform_is_another_overlay(offered: Path) -> None:
    """What fits one image need not fit another."""
    images = [facts(), facts(python="3.9.18"), facts(glibc="2.28")]
    assert len({build(offered, "lib==1.0", image=image) for image in images}) == 3


def test_wheels_are_chosen_for_the_image_and_not_for_this_host(offered: Path) -> None:
    """Each image gets the wheel of its own Python."""
    for tag in ("cp39", "cp312"):
        wheel(offered, "native", "1.0", tags=f"{tag}-{tag}-manylinux_2_17_{platform.machine()}")
    folder = build(offered, "native==1.0", image=facts(python="3.12.1"))
    (record,) = folder.glob("native-*.dist-info/WHEEL")
    assert "Tag: cp312-cp312" in record.read_text()


def test_bytecode_is_there_where_this_interpreter_can_write_it(offered: Path) -> None:
    """A read-only mount cannot keep what a container compiles; that no import loads costs no time.

    All of a library is compiled but its tests; of what others bring, what is imported at once.
    """
    core = "from space.part import thing\nimport bare.name\ndef later():\n    import brought\n"
    of_library = {
        "inner/__init__.py": "",
        "inner/core.py": core,
        "inner/tests/test_it.py": "",
        "inner/broken.py": "no(",
    }
    wheel(offered, "tested", "1.0", "brought>=1", files=of_library)
    of_others = ("space/__init__", "space/part/__init__", "space/part/thing", "space/part/other", "bare/name")
    wheel(offered, "brought", "1.0", files={f"{name}.py": "" for name in of_others})
    assert list(build(offered, "lib==1.0").glob("__pycache__/lib.*.pyc"))
    folder = build(offered, "tested==1.0", "brought==1.0")
    compiled = {path.parent.parent / path.name.partition(".")[0] for path in folder.rglob("*.pyc")}
    wanted = ("tested", "inner/__init__", "inner/core", "space/__init__", "space/part/__init__", "space/part/thing")
    assert compiled == {folder / name for name in wanted}
    command = [sys.executable, "-v", "-c", "import inner.core"]
    ran = subprocess.run(command, env={"PYTHONPATH": str(folder)}, text=True, capture_output=True)
    assert f"core.{sys.implementation.cache_tag}.pyc matches" in ran.stderr
    assert not list(build(offered, "lib==1.0", image=facts(python="3.9.18")).glob("__pycache__/*"))


def test_a_manifest_beside_it_says_what_it_is(offered: Path) -> None:
    """For a person who wonders what may be deleted."""
    manifest = json.loads(build(offered, "lib==1.0").with_suffix(".json").read_text())
    assert (manifest["add"], manifest["python"]) == (["lib==1.0"], platform.python_version())


def test_nothing_to_add_is_an_empty_overlay(offered: Path) -> None:
    """uv is not asked at all."""
    assert list(build(offered).iterdir()) == []


def test_a_source_distribution_in_pure_python_is_built_here(offered: Path) -> None:
    """Whatever the image's Python."""
    sdist(offered, "pure", "1.0")
    assert (build(offered, "pure==1.0", image=facts(python="3.12.1")) / "pure.py").exists()


@pytest.mark.parametrize(
    ("image", "refused"),
    [(facts(), False), (facts(python="3.9.18"), True), (facts(glibc="2.17"), True), (facts(glibc="2.99"), False)],
    ids=["as here", "another Python", "older glibc", "newer glibc"],
)
def test_what_was_compiled_here_must_fit_the_image(offered: Path, image: dict[str, Any], refused: bool) -> None:
    """Else it belongs into the image, where its torch is, too."""
    sdist(offered, "native", "1.0", tags=f"{HERE}-{HERE}-linux_{platform.machine()}")
    if not refused:
        assert (build(offered, "native==1.0", image=image) / "native.py").exists()
        return
    with pytest.raises(Trouble) as raised:
        build(offered, "native==1.0", image=image)
    assert raised.value.code == "needs-in-image"


@pytest.mark.parametrize(("pin", "code"), [("missing==1.0", "version-not-found"), ("extension==1.0", "needs-in-image")])
def test_a_failure_leaves_nothing_behind(offered: Path, pin: str, code: str) -> None:
    """Half an overlay would look like a broken library."""
    sdist(offered, "extension", "1.0", at_build="import torch")
    with pytest.raises(Trouble) as raised:
        build(offered, "lib==1.0", pin)
    assert raised.value.code == code
    assert [path.suffix for path in (offered.parent / "home" / "overlays").iterdir()] == [".lock"]


def test_the_remains_of_a_killed_build_do_no_harm(offered: Path) -> None:
    """The next build starts afresh."""
    folder = build(offered, "lib==1.0")
    remains = folder.rename(folder.with_name(f".{folder.name}.0123.partial"))
    (remains / "stray.py").touch()
    assert not (build(offered, "lib==1.0") / "stray.py").exists()
    assert not remains.exists()


def test_many_may_build_at_once(offered: Path) -> None:
    """One builds, the others wait and find it."""
    with ThreadPoolExecutor(4) as pool:
        folders = set(pool.map(lambda _: build(offered, "lib==1.0"), range(4)))
    assert len(folders) == 1
    assert (folders.pop() / "lib.py").exists()


@pytest.mark.slow
def test_deepspeed_is_built_without_torch(tmp_path: Path) -> None:
    """It is on the index as a source distribution only."""
    folder = overlay.build(["deepspeed==0.14.5"], facts(), Index.from_pip(), tmp_path)
    assert (folder / "deepspeed" / "__init__.py").exists()
    assert not list(folder.rglob("*.so"))


@pytest.mark.parametrize("harm", [lambda path: path.write_text("0 / 0\n"), Path.unlink], ids=["changed", "removed"])
def test_a_changed_cache_of_uv_is_not_taken(offered: Path, harm: Callable[[Path], object]) -> None:
    """A library may write there, as the same user: its packages come from the index again, and so does the cache."""
    sound = (build(offered, "lib==1.0") / "lib.py").read_text()
    [cached] = (offered.parent / "uv").rglob("lib.py")
    harm(cached)
    folder = build(offered, "lib==1.0", "helper==2.0")
    assert (folder / "lib.py").read_text() == sound
    assert [path.read_text() for path in (offered.parent / "uv").rglob("lib.py")] == [sound]
