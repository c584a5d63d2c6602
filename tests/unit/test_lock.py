"""matrix.lock: its text, what of it is stale, and the expressions by which Renovate updates it."""

from __future__ import annotations

import json
import re
from pathlib import Path

import pytest

from tests.support import ROOT
from torch_compat_matrix.runner.errors import UsageError
from torch_compat_matrix.runner.matrix.draft import drafted
from torch_compat_matrix.runner.matrix.lockfile import Lock, LockedCell, read, read_all, text_of
from torch_compat_matrix.runner.model import Cell, Image, Plan
from torch_compat_matrix.runner.planning import plan_from

A, B, C = (f"sha256:{letter * 64}" for letter in "abc")
TAG = "localhost:5000/acme/train:24.1"


def locked(*adds: str, asked: str = "captum==0.8.0", problem: str = "") -> LockedCell:
    """An entry of a cell."""
    return LockedCell(asked=asked, adds=adds, problem=problem)


@pytest.fixture
def lock() -> Lock:
    """A tag, an image that was built here, and three cells."""
    return Lock(
        moving={"captum latest-2": ("0.8.0", "1.10")},
        images={"train": f"{TAG}@{A}", "own": "own:1"},
        cells={
            "train/captum-0.8.0": locked(f"captum==0.8.0 --hash={A} --hash={B}", f"tqdm==4.67.1 --hash={C}"),
            "train/captum-1.10": locked(asked="captum==1.10", problem="drift"),
            "own/captum-0.8.0": locked(f"captum==0.8.0 --hash={A}"),
        },
    )


def plan(*requires: str, tag: str = TAG, digest: str | None = None) -> Plan:
    """A cell of captum 0.8.0 with these requirements."""
    image = Image(name="train", tag=tag, digest=digest)
    needs = requires or ("captum==0.8.0",)
    cell = Cell(image="train", subject="captum", version="0.8.0", requires=needs, members=("captum",))
    return Plan(images=(image,), cells=(cell,), backend="docker")


def test_text_is_stable_and_read_again(lock: Lock, tmp_path: Path) -> None:
    """Whatever order its entries came in; a version stays text."""
    path = tmp_path / "matrix.lock"
    text = text_of({"local": lock, "docker": lock}, path)
    turned = lock.model_copy(update={"cells": dict(reversed(lock.cells.items()))})
    assert text_of({"docker": turned, "local": turned}, path) == text
    assert not re.search(r"[ \t]$", text, re.MULTILINE)
    path.write_text(text)
    assert read_all(path) == {"docker": lock, "local": lock}


def test_paths_begin_at_the_file(tmp_path: Path) -> None:
    """So that another machine reads its own."""
    here = (tmp_path / "dist/captum-0.8.0-py3-none-any.whl").as_uri()
    cells = {"train/captum-wheel-0.8.0": locked(f"captum @ {here} --hash={A}", asked=f"captum @ {here}")}
    text = text_of({"local": Lock(cells=cells)}, tmp_path / "matrix.lock")
    assert str(tmp_path) not in text
    there = tmp_path / "there"
    there.mkdir()
    (there / "matrix.lock").write_text(text)
    moved = read(there / "matrix.lock", "local").cells["train/captum-wheel-0.8.0"]
    assert moved.asked == f"captum @ {here}".replace(tmp_path.name, f"{tmp_path.name}/there")


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("", "there is no lock"),
        ("docker: {}", "has no cells of the backend local, but of docker"),
        ("local: [", "not a lock: while parsing"),
        ("local: { cells: 1 }", "not a lock: 1 validation error"),
        ("local: { later: 1 }", "not a lock: 1 validation error"),
    ],
)
def test_what_is_no_lock_is_named(text: str, said: str, tmp_path: Path) -> None:
    """With the place and the way to a new one."""
    path = tmp_path / "matrix.lock"
    path.write_text(text)
    with pytest.raises(UsageError, match=f"^{said}") as raised:
        read(path, "local")
    assert (raised.value.place, "`compat lock" in raised.value.remedy) == (str(path), True)


def test_a_folder_in_its_place_is_named(tmp_path: Path) -> None:
    """By its path, not by the number of its descriptor."""
    with pytest.raises(UsageError, match="cannot be read: Is a directory") as raised:
        read_all(tmp_path)
    assert raised.value.place == str(tmp_path)


def test_plan_is_held_to_it(lock: Lock) -> None:
    """By digest, and by packages."""
    held = lock.applied(plan(), Path("matrix.lock"))
    assert [image.reference for image in held.images] == [f"localhost:5000/acme/train@{A}"]
    assert held.cells[0].locked is not None
    assert held.cells[0].locked["adds"] == lock.cells["train/captum-0.8.0"].adds


@pytest.mark.parametrize(
    ("other", "named"),
    [
        (plan("captum==0.8.0", "numpy<2"), "train/captum-0.8.0"),
        (plan(tag="localhost:5000/acme/train:24.2"), "train"),
        (plan(digest=B), "train"),
    ],
)
def test_what_it_does_not_know_is_named(lock: Lock, other: Plan, named: str) -> None:
    """On one line, with the command."""
    with pytest.raises(UsageError, match=rf"for, {named}; run `compat lock`$"):
        lock.applied(other, Path("matrix.lock"))


def test_packages_that_are_not_those_asked_for_are_refused(lock: Lock) -> None:
    """As after an update that raised the version of the library itself."""
    cells = {"train/captum-0.8.0": locked("captum==0.9.0")}
    with pytest.raises(UsageError, match=r"for, train/captum-0\.8\.0; run"):
        lock.model_copy(update={"cells": cells}).applied(plan(), Path("matrix.lock"))


def test_secrets_come_from_the_matrix() -> None:
    """The lock has none."""
    url = "captum @ https://me:secret@x.org/captum-0.8.0-py3-none-any.whl"
    hidden = "captum @ https://***@x.org/captum-0.8.0-py3-none-any.whl"
    cells = {"train/captum-0.8.0": locked(f"{hidden} --hash={A}", asked=hidden)}
    held = Lock(images={"train": TAG}, cells=cells).applied(plan(url), Path("matrix.lock"))
    assert held.cells[0].locked is not None
    assert held.cells[0].locked["adds"] == (f"{url} --hash={A}",)


def test_each_stale_entry_is_a_line(lock: Lock) -> None:
    """What, locked, now; the words of a resolver do not count, and with selectors nor does what was not asked."""
    assert not [*lock.stale(lock, whole=True)]
    newer = Lock(
        moving={"captum latest-2": ("1.10", "1.11")},
        images={"train": f"{TAG}@{B}"},
        cells={
            "train/captum-0.8.0": locked(f"captum==0.8.0 --hash={A} --hash={B}", f"tqdm==4.68 --hash={C}"),
            "train/captum-1.10": LockedCell(asked="captum==1.10", problem="drift", detail="in other words"),
        },
    )
    more = Lock(cells={"own/captum-0.8.0": locked(f"captum==0.8.0 --hash={A} --hash={B}")})
    assert not [*lock.stale(more.model_copy(update={"moving": lock.moving}), whole=False)], "a file more is no change"
    other = Lock(moving=lock.moving, cells={"own/captum-0.8.0": locked(f"captum==0.8.0 --hash={B}")})
    assert [*lock.stale(other, whole=False)] == [
        "own/captum-0.8.0: locked captum==0.8.0 --hash=sha256:aaaaaaaa..., now captum==0.8.0 --hash=sha256:bbbbbbbb..."
    ]
    gone = ["own: locked own:1, now nothing", "own/captum-0.8.0: locked asked: captum==0.8.0, captum==0.8.0"]
    lines = [
        "captum latest-2: locked 0.8.0, now 1.11",
        f"train: locked {TAG}@{A}, now {TAG}@{B}",
        "train/captum-0.8.0: locked tqdm==4.67.1 --hash=sha256:cccccccc..., now tqdm==4.68 --hash=sha256:cccccccc...",
    ]
    assert [*lock.stale(newer, whole=False)] == lines
    told = [*lock.stale(newer, whole=True)]
    assert [line for line in told if line not in lines] == [
        gone[0],
        f"{gone[1]} --hash=sha256:aaaaaaaa..., now nothing",
    ]


def test_renovate_updates_it(lock: Lock, tmp_path: Path) -> None:
    """By the documented expressions, which take out the hashes of a package that they replace."""
    path = tmp_path / "matrix.lock"
    (config,) = re.findall(r"```json\n(.*?)```", (ROOT / "docs/lock.md").read_text(), re.DOTALL)
    packages, tags = json.loads(config)["customManagers"]
    text = text_of({"docker": lock}, path)
    assert re.search(packages["managerFilePatterns"][0].strip("/"), "team/matrix.lock")

    def found(manager: dict[str, list[str]]) -> list[re.Match[str]]:
        return [*re.finditer(manager["matchStrings"][0].replace("(?<", "(?P<"), text)]

    assert {(match["depName"], match["currentValue"]) for match in found(packages)} == {
        ("captum", "0.8.0"),
        ("tqdm", "4.67.1"),
    }
    (tag,) = found(tags)
    assert tag.groupdict() == {"depName": TAG.removesuffix(":24.1"), "currentValue": "24.1", "currentDigest": A}
    (tqdm,) = (match for match in found(packages) if match["depName"] == "tqdm")
    template = str(packages["autoReplaceStringTemplate"])
    newer = template.replace("{{{depName}}}", "tqdm").replace("{{{newValue}}}", "4.68")
    path.write_text(text.replace(tqdm[0], newer).replace(A, B).replace("train:24.1@", "train:24.2@"))
    updated = read(path, "docker")
    assert updated.cells["train/captum-0.8.0"].adds[1] == "tqdm==4.68"
    assert updated.images["train"] == f"localhost:5000/acme/train:24.2@{B}"


def test_a_plan_file_has_no_lock(tmp_path: Path) -> None:
    """It is exact already."""
    with pytest.raises(UsageError, match="a plan is exact as it was written"):
        plan_from(tmp_path / "matrix.yaml", backend="here", plan_file=tmp_path / "plan.json", locked=True)


def test_options_have_no_lock() -> None:
    """A lock lies beside a file."""
    with pytest.raises(UsageError, match="--image and --lib have no lock"):
        plan_from(drafted(["own:1"], ["captum"]), backend="docker", locked=True)
