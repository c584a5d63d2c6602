"""What an image and a library say of their launches: variables, mounts, user, time limits and GPUs."""

from __future__ import annotations

from pathlib import Path

import pytest

from torch_compat_matrix.runner.backends import gpus
from torch_compat_matrix.runner.backends.base import Gpu, Prepared, environment_of
from torch_compat_matrix.runner.errors import Trouble
from torch_compat_matrix.runner.execution import protocol, reuse
from torch_compat_matrix.runner.execution.device import check_lease
from torch_compat_matrix.runner.execution.launch import Running
from torch_compat_matrix.runner.execution.protocol import Work
from torch_compat_matrix.runner.matrix.document import MatrixError
from torch_compat_matrix.runner.matrix.expand import expand
from torch_compat_matrix.runner.matrix.load import load
from torch_compat_matrix.runner.model import Image, Limits, Plan

IMAGE = """images:
  one:
    tag: "a:1"
    env: { NCCL_DEBUG: WARN, COMPAT_TOKEN: }
    platform: linux/arm64
    user: "1000:1000"
    mounts: { /data: data }
    limits: { timeout: { sample: 9 }, gpus: 2, retries: 0 }
libraries:
  captum: { versions: ["0.8.0"], timeout: { compile: 600 } }
  pyro-ppl: { versions: ["1.9.1"], timeout: 5 }
  torchbnn: { versions: ["1.2"] }
"""
CARDS = [Gpu(uuid=f"GPU-{number}", index=number, name="L4", memory=1, driver="580") for number in range(3)]


def plan_of(folder: Path, text: str = IMAGE) -> Plan:
    """The plan of this text."""
    (folder / "matrix.yaml").write_text(text)
    return expand(load(folder / "matrix.yaml"), "docker")


def test_keys_come_through(tmp_path: Path) -> None:
    """Into the plan and out of its JSON; a mounted folder lies beside the file."""
    plan = plan_of(tmp_path)
    (image,) = plan.images
    assert (image.env, image.platform, image.user) == (
        {"NCCL_DEBUG": "WARN", "COMPAT_TOKEN": None},
        "linux/arm64",
        "1000:1000",
    )
    assert image.mounts == {"/data": str(tmp_path / "data")}
    assert (image.limits.gpus_demanded, image.limits.retries) == (2, 0)
    assert Plan.from_json(plan.to_json()) == plan


def test_a_library_has_time_limits_of_its_own(tmp_path: Path) -> None:
    """Before those of the image, for the probe host as for the launch that waits for it."""
    plan = plan_of(tmp_path)
    (image,) = plan.images
    captum, pyro, bnn = (cell.limits(image.limits) for cell in plan.cells)
    assert [[limits.seconds(probe) for probe in ("import", "sample", "compile")] for limits in (captum, pyro, bnn)] == [
        [120, 9, 600],
        [5, 5, 5],
        [120, 9, 120],
    ]
    work = [Work(cell=cell) for cell in plan.cells]
    assert protocol.longest_s(image.limits, work) == 600
    order = protocol.order(image, work, device="cpu")
    assert [cell["timeouts"].get("sample") for cell in order["cells"]] == [9, 5, 9]
    assert order["deadline_s"] > 600


@pytest.mark.parametrize(
    ("old", "new", "said"),
    [
        ("NCCL_DEBUG: WARN", "PATH: /x", "'PATH' is set by each launch itself"),
        ("NCCL_DEBUG: WARN", '"A-B": x', "'A-B' is not the name of a variable"),
        ("NCCL_DEBUG: WARN", 'X: "${HOME}"', "write the name alone to pass on the value of the environment"),
        ("/data: data", "data: data", "is no folder for a mount"),
        ("/data: data", "/compat/x: data", "is no folder for a mount"),
        ("/data: data", "/data: /run", "the engine's socket or a folder around it"),
        ("/data: data", "/data: /", "the engine's socket or a folder around it"),
        ("gpus: 2", "gpus: 0", "'0' is not a known value; there are: auto, none, required, or the number of GPUs"),
        ("timeout: 5", "timeout: soon", "unable to parse string as a number"),
        ("compile: 600", "compil: 600", "'compil' is not a known value; did you mean 'compile'?"),
        ("linux/arm64", "arm64", "String should match pattern"),
        ("retries: 0", "retries: -1", "greater than or equal to 0"),
    ],
)
def test_what_cannot_be_heeded_is_refused(tmp_path: Path, old: str, new: str, said: str) -> None:
    """With its place."""
    with pytest.raises(MatrixError) as raised:
        plan_of(tmp_path, IMAGE.replace(old, new))
    (mistake,) = raised.value.mistakes
    assert said in str(mistake)


def test_a_variable_without_a_value_is_that_of_the_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    """One that is not set is trouble of the matrix, with a name."""
    image = Image(name="one", env={"A": "1", "COMPAT_TOKEN": None})
    monkeypatch.setenv("COMPAT_TOKEN", "t")
    assert environment_of(image) == {"A": "1", "COMPAT_TOKEN": "t"}
    monkeypatch.delenv("COMPAT_TOKEN")
    with pytest.raises(Trouble, match="one takes COMPAT_TOKEN from the environment") as raised:
        environment_of(image)
    assert raised.value.code == "variable-not-set"


def test_what_surrounds_a_launch_is_part_of_the_key(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Variables, user and time limits; a mounted folder may hold anything, so that nothing is reused."""
    monkeypatch.setenv("COMPAT_TOKEN", "t")
    cell = plan_of(tmp_path).cells[0]

    def key(image: Image) -> str:
        prepared = Prepared(image=image, identity="i", reference="r")
        return reuse.keys(Work(cell=cell), prepared, [], {}, "docker").get(cell.checks[0].id, "")

    plain = key(Image(name="one"))
    others = [
        key(Image(name="one", env={"A": "1"})),
        key(Image(name="one", env={"A": "2"})),
        key(Image(name="one", user="1")),
        key(Image(name="one", limits=Limits(timeouts={"sample": 3}))),
    ]
    assert len({plain, *others}) == 5
    assert key(Image(name="one", limits=Limits(retries=1))) == plain
    assert key(Image(name="one", mounts={"/data": "/data"})) == ""


def test_several_gpus_are_leased_at_once_or_not_at_all(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """What cannot be had whole is left to others."""
    monkeypatch.setattr(gpus, "PLACE", tmp_path)

    class Stopping:
        asked = 0

        @property
        def stopped(self) -> bool:
            self.asked += 1
            return self.asked > 2

    with gpus.lease(CARDS, None, 2) as pair:
        assert [card.uuid for card in pair.all] == ["GPU-0", "GPU-1"]
        with pytest.raises(Trouble, match="stopped"), gpus.lease(CARDS, Stopping(), 2):
            pass
        with gpus.lease(CARDS) as third:
            assert third.uuid == "GPU-2"
    with gpus.lease(CARDS, None, 3) as every:
        assert len(every.all) == 3


def test_a_launch_sees_all_gpus_of_its_lease(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Fewer, or others, are a mismatch."""
    monkeypatch.setattr(gpus, "PLACE", tmp_path)
    with gpus.lease(CARDS, None, 2) as pair:
        check_lease(Image(name="one"), pair, {"gpus": [{"uuid": "GPU-1"}, {"uuid": "GPU-0"}]})  # type: ignore[typeddict-item]
        for seen in (["GPU-0"], ["GPU-0", "GPU-2"]):
            with pytest.raises(Trouble, match="GPU-0, GPU-1 was leased"):
                check_lease(Image(name="one"), pair, {"gpus": [{"uuid": uuid} for uuid in seen]})  # type: ignore[typeddict-item]


@pytest.mark.parametrize(("most", "tries"), [(None, 2), (0, 0), (1, 1), (3, 3)])
def test_retries_are_as_many_as_the_limits_say(most: int | None, tries: int) -> None:
    """As many as there are pauses where they say nothing."""
    running = Running(pauses=(0.0, 0.0))
    running.ending.wait = lambda timeout=None: False  # type: ignore[method-assign]
    assert [running.pause(tried, most) for tried in range(1, 5)] == [tried <= tries for tried in range(1, 5)]
