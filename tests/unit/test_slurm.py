"""What Slurm is asked, without a Slurm: the batch script of each container, targets of a matrix, words of refusal."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest

from torch_compat_matrix.compat.verbs import doctor
from torch_compat_matrix.runner.backends.base import Gpu, Launch, Prepared
from torch_compat_matrix.runner.backends.slurm import SlurmBackend
from torch_compat_matrix.runner.backends.slurm_queue import FAILED, REFUSALS, refusal
from torch_compat_matrix.runner.backends.slurm_script import script
from torch_compat_matrix.runner.errors import CompatError
from torch_compat_matrix.runner.matrix.expand import expand
from torch_compat_matrix.runner.matrix.load import load
from torch_compat_matrix.runner.matrix.targets import chosen
from torch_compat_matrix.runner.model import Image, Limits, Plan
from torch_compat_matrix.runner.verdicts.reasons import REASONS

GPU = Gpu(uuid="", index=0, name="H100", memory=0, driver="")


def made(target: Mapping[str, Any], tag: str = "registry.example.com/team/train:24.1", **env: str) -> str:
    """The script of a launch."""
    image = Image(name="train", tag=tag, env=env, limits=Limits())
    prepared = Prepared(image=image, identity="i", reference=tag, python="/opt/python")
    launch = Launch(
        prepared=prepared, order={}, limits=Limits(), gpu=GPU, overlays={"k": Path("/shared/my home/overlays/k")}
    )
    return script(launch, target, Path("/shared/my home/jobs/r/b"), Path("/shared/bundle"), Path("/shared/my home"))


def test_pyxis_gets_the_image_closed() -> None:
    """By its registry, read-only, with the bundle, the order and the overlays read-only, and no home."""
    text = made({"container": "pyxis"})
    for words in (
        "srun --export=NIL '--container-image=registry.example.com#team/train:24.1' --container-readonly",
        "--no-container-mount-home --container-workdir=/compat/bundle",
        "/shared/bundle:/compat/bundle:ro,/shared/my home/jobs/r/b/order.json:/compat/order.json:ro,"
        "/shared/my home/overlays:/compat/overlays:ro'",
        'env "${words[@]}" /opt/python -m compat_probes /compat/order.json --overlays /compat/overlays',
    ):
        assert words in text
    assert "--container-image=pytorch/pytorch:2.6 " in made({"container": "pyxis"}, "pytorch/pytorch:2.6")


def test_apptainer_gets_the_image_closed() -> None:
    """With the driver's libraries, nothing of the host, and no home."""
    text = made({"container": "apptainer"})
    assert "apptainer exec --nv --containall --no-home --bind=/shared/bundle:/compat/bundle:ro" in text
    assert '--bind="$work":/tmp docker://registry.example.com/team/train:24.1 env "${words[@]}" /opt/python' in text


def test_words_of_others_are_quoted() -> None:
    """No variable, module or path is read by the shell."""
    text = made({"module": "cuda $(touch /tmp/a); rm"}, SAID="it's $HOME\n`id`")
    assert "module load cuda '$(touch' '/tmp/a);' rm >&2" in text
    assert "words+=('SAID=it'\"'\"'s $HOME\n`id`')" in text
    assert "'/shared/my home/jobs/r/b/order.json'" in text


@pytest.mark.parametrize(
    ("words", "code"),
    [
        ("sbatch: error: invalid partition specified: x", "no-partition"),
        ("sbatch: error: Requested node configuration is not available", "job-unsatisfiable"),
        ("sbatch: error: Invalid generic resource (gres) specification", "job-unsatisfiable"),
        ("sbatch: error: Memory specification can not be satisfied", "job-unsatisfiable"),
        ("sbatch: error: Invalid account or account/partition combination specified", "quota-exceeded"),
        ("sbatch: error: QOSMaxSubmitJobPerUserLimit\nJob violates accounting/QOS policy", "quota-exceeded"),
        ("sbatch: error: Unable to contact slurm controller (connect failure)", "scheduler-unreachable"),
        ("sbatch: error: something else", "scheduler-error"),
    ],
)  # fmt: skip
def test_refusal_has_its_reason(words: str, code: str) -> None:
    """By the words of sbatch."""
    assert refusal(words).code == code


def test_reasons_are_in_the_registry() -> None:
    """Each that the scheduler may lead to."""
    assert {*FAILED.values(), *(code for _, code in REFUSALS), "no-scheduler", "scheduler-error"} <= REASONS.keys()


MATRIX = """
images:
  a: {{ tag: "a:1" }}
  b: {{ local: {{ python: host, requires: [torch] }} }}
  c: {{ python: /opt/python }}
libraries: {{ captum: {{ versions: [installed] }} }}
targets: {targets}
"""


def plan(folder: Path, targets: str, name: str | None = None) -> Plan:
    """The plan for Slurm."""
    path = folder / "matrix.yaml"
    path.write_text(MATRIX.format(targets=targets))
    matrix = load(path)
    return expand(matrix, "slurm", target=chosen(matrix, name, "slurm"))


def test_container_decides_which_images_run(tmp_path: Path) -> None:
    """Those with a tag in a container; else stand-ins, and interpreters of the node."""
    assert [image.name for image in plan(tmp_path, "{ x: { slurm: { container: pyxis } } }").images] == ["a"]
    taken = plan(tmp_path, "{ x: { gpu: H100, slurm: { gres: gpu } } }")
    assert [image.name for image in taken.images] == ["b", "c"]
    assert taken.target == {"name": "x", "gpu": "H100", "slurm": {"gres": "gpu"}}
    assert Plan.from_json(taken.to_json()) == taken


@pytest.mark.parametrize(
    ("targets", "name", "words"),
    [
        ("{ x: { slurm: {} }, y: { slurm: {} } }", None, "several targets; those with `slurm:` are x, y"),
        ("{ h100: { slurm: {} } }", "h10", "'h10' is none that slurm can take; did you mean 'h100'"),
        ("{ x: { slurm: { partition: \"a\\nb\" } } }", None, "7:26: 'a\\nb' is empty, or of several lines"),
        ("{ x: { slurm: { lines: [\"-p x\"] } } }", None, "no option of sbatch; write it as --NAME or --NAME=VALUE"),
        ("{ x: { nomad: {} } }", None, "unknown key 'nomad'"),
    ],
)  # fmt: skip
def test_mistakes_of_targets_have_their_place(tmp_path: Path, targets: str, name: str | None, words: str) -> None:
    """And what is right."""
    with pytest.raises(CompatError) as caught:
        plan(tmp_path, targets, name)
    assert words in str(caught.value) and "matrix.yaml" in f"{caught.value.place}{caught.value}"


def test_doctor_of_a_cluster_without_gpus_names_no_program_of_this_host(tmp_path: Path) -> None:
    """A scheduler takes its GPUs from the target."""
    finding = doctor._gpus(SlurmBackend(tmp_path, {}))
    assert not finding.works and "`--target`" in finding.remedy and "nvidia-smi" not in finding.remedy
    assert doctor._gpus(SlurmBackend(tmp_path, {"slurm": {"gres": "gpu"}})).remedy == ""
