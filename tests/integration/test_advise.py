"""The advice: only what every probe verified, on this kind of GPU, resolved together, with its limits said plainly."""

from __future__ import annotations

import argparse
import hashlib
import json
import os
from pathlib import Path
from typing import Any

import jsonschema
import pytest

from tests.support import ROOT
from tests.support.environments import HOME
from tests.support.tinywheels import simple_index, wheel
from torch_compat_matrix.compat.cli import main
from torch_compat_matrix.compat.verbs import advise as advise_verb
from torch_compat_matrix.runner.backends import gpus
from torch_compat_matrix.runner.backends.base import Gpu
from torch_compat_matrix.runner.errors import Status
from torch_compat_matrix.runner.matrix.expand import expand
from torch_compat_matrix.runner.matrix.load import load
from torch_compat_matrix.runner.model import PROBES, Cell, Image, Local, Plan, Verdict
from torch_compat_matrix.runner.outcome import Outcome
from torch_compat_matrix.runner.verdicts.reasons import REASONS

DIGEST = "sha256:" + "5" * 64
NEW, OLD = "2.13.0+cu130", "2.9.0+cu128"
LIBRARIES = ("captum", "gpytorch", "pyro-ppl")


STARTED = "2030-01-01T00:00:00+00:00"


class Records:
    """Runs as their journals record them, one after the other."""

    def __init__(self, home: Path) -> None:
        self.home = home
        self.count = 0

    def run(
        self,
        *cells: str,
        torch: str = NEW,
        backend: str = "docker",
        tag: str | None = "example.org/torch",
        gpu: str = "",
        broken: str = "",
        packages: dict[str, str] | None = None,
        known: bool = True,
        digest: str = DIGEST,
        **change: Any,
    ) -> str:
        """A run of cells (`captum-1.0`, or `s: captum==1.0 gpytorch==1.0` for a stack) in one image.

        `broken` is a probe that fails; `change` is put into every outcome; `known` is false where nothing was launched.
        """
        self.count += 1
        name = f"torch-{torch.partition('.0')[0]}"
        stand_in = Local(python="3.11", requires=("torch",)) if backend != "here" else None
        image = Image(name=name, tag=f"{tag}:{torch.partition('+')[0]}" if tag else None, local=stand_in)
        plan = Plan(images=(image,), cells=tuple(self.cell(name, text) for text in cells))
        run = f"20300101T0000{self.count:02}-abcd"
        records: list[dict[str, Any]] = [
            {"kind": "run", "run": run, "started": STARTED, "backend": backend, "settings": {}, "plan": plan.to_json()}
        ]
        if known:
            found = digest if backend == "docker" else ""
            records.append({**self.environment(image, backend, torch, gpu, packages or {}), "digest": found})
        for cell in plan.cells:
            for probe in cell.probes:
                outcome = Outcome(
                    check=f"{cell.id}/{probe}",
                    image=name,
                    subject=cell.subject,
                    version=cell.version,
                    probe=probe,
                    verdict=Verdict.FAIL if probe == broken else Verdict.PASS,
                    reason="wrong-moments" if probe == broken else "",
                    detail=f"{probe} of {cell.subject} is wrong" if probe == broken else "",
                    device="" if probe == "import" else "cuda" if gpu else "cpu",
                    environment="e" if known else "",
                    resolved=cell.requires,
                    started=STARTED,
                )
                records.append({"kind": "outcome", **outcome.to_json(), **change})
        path = self.home / "runs" / run / "journal.jsonl"
        path.parent.mkdir(parents=True)
        path.write_text("".join(json.dumps(record) + "\n" for record in records))
        return run

    @staticmethod
    def cell(image: str, text: str) -> Cell:
        """The cell that the text describes."""
        subject, is_stack, requires = text.partition(": ")
        if is_stack:
            pins = tuple(requires.split())
            members = tuple(pin.partition("==")[0] for pin in pins if pin.partition("==")[0] in LIBRARIES)
            return Cell(image=image, subject=subject, version="stack", requires=pins, members=members)
        (pin, *more) = text.split()
        subject, _, version = pin.rpartition("-")
        requires_all = (f"{subject}=={version}", *more)
        return Cell(image=image, subject=subject, version=version, requires=requires_all, members=(subject,))

    @staticmethod
    def environment(image: Image, backend: str, torch: str, gpu: str, packages: dict[str, str]) -> dict[str, Any]:
        """The record of the image."""
        return {
            "kind": "environment",
            "key": "e",
            "image": image.name,
            "reference": image.tag if backend == "docker" else f"Python 3.11.7 with torch {torch}",
            "stand_in": backend == "local",
            "backend": backend,
            "facts": {
                "python": "3.11.7",
                "abi": "cp311",
                "platform": "linux",
                "machine": "x86_64",
                "glibc": "2.36",
                "os": "Debian GNU/Linux 12",
                "tools": {},
                "packages": {"pip": "25.1", "torch": torch, **packages},
                "torch": {"version": torch},
                "gpus": [{"name": gpu, "uuid": "GPU-1", "capability": "9.0"}] if gpu else [],
            },
        }


@pytest.fixture
def records(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Records:
    """An empty home, a machine without a GPU, and an index with two versions of each library."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(gpus, "visible", tuple)
    for name in [name for name in os.environ if name.startswith(("PIP_", "UV_"))]:
        monkeypatch.delenv(name)
    variables = {"PIP_CONFIG_FILE": os.devnull, "PIP_NO_INDEX": "1", "PIP_FIND_LINKS": str(tmp_path / "offered")}
    for name, value in {**variables, "UV_CACHE_DIR": str(tmp_path / "uv"), "COMPAT_HOME": str(tmp_path)}.items():
        monkeypatch.setenv(name, value)
    for library in LIBRARIES:
        for version in ("1.0", "2.0"):
            wheel(tmp_path / "offered", library, version, "torch>=2")
    return Records(tmp_path)


@pytest.fixture
def advise(records: Records, capsys: pytest.CaptureFixture[str]) -> Any:
    """What `compat advise` says, its exit status made sure of."""

    def ask(*arguments: str, status: int = 0) -> str:
        capsys.readouterr()
        found = main(["advise", *arguments])
        said = capsys.readouterr()
        assert found == status, said
        return said.out + said.err

    return ask


def written(name: str) -> str:
    """A file of the advice."""
    return Path("advice", name).read_text()


def pinned() -> list[str]:
    """The pins of the requirements file."""
    return [line.split()[0] for line in written("requirements.txt").splitlines() if "==" in line and line[0] != "#"]


def test_the_newest_image_and_versions(records: Records, advise: Any, tmp_path: Path) -> None:
    """An older image and older versions give way, and the files pin what was seen, byte for byte."""
    records.run("captum-2.0", "gpytorch-1.0", "gpytorch-2.0")
    records.run("captum-2.0", "gpytorch-2.0", torch=OLD)
    said = advise("captum", "gpytorch")
    assert "torch-2.13 on the CPU" in said
    assert pinned() == ["captum==2.0", "gpytorch==2.0"]
    found = hashlib.sha256((tmp_path / "offered" / "captum-2.0-py3-none-any.whl").read_bytes()).hexdigest()
    assert f"captum==2.0 \\\n    --hash=sha256:{found}\n" in written("requirements.txt")
    lines = written("Dockerfile").splitlines()
    assert f"FROM example.org/torch@{DIGEST}" in lines
    assert "pip install --no-deps --require-hashes -r /opt/advice/requirements.txt" in lines[-1]
    assert f"torch=={NEW}" in written("constraints.txt")


def test_the_answer_as_json(records: Records, advise: Any) -> None:
    """Fits its schema, and names what the files pin."""
    records.run("captum-2.0")
    answer = json.loads(advise("captum", "--json"))
    schema = json.loads((ROOT / "docs" / "schemas" / "advise.json").read_text())
    jsonschema.Draft202012Validator(schema).validate(answer)
    assert answer["advice"]["versions"] == {"captum": "2.0"}
    assert sorted(f"{name}=={version}" for name, version in answer["advice"]["added"].items()) == sorted(pinned())


def test_the_command_that_installs_it_is_told(records: Records, advise: Any) -> None:
    """It keeps the image's packages by the constraints that are written beside it."""
    records.run("captum-1.0", "gpytorch-1.0")
    assert "install: pip install -c advice/constraints.txt captum==1.0 gpytorch==1.0\n" in advise("captum", "gpytorch")


def test_what_passed_with_replaced_packages_says_nothing_of_the_image(records: Records, advise: Any) -> None:
    """It is shown, and advised only where the packages that replaced the image's are asked for as well."""
    held = {"helper": "2.4"}
    change: dict[str, Any] = {"replaced": ["helper 2.4 -> 1.0"], "resolved": ["captum==2.0", "helper==1.0"]}
    wheel(records.home / "offered", "helper", "1.0")
    records.run("captum-2.0", packages=held, **change)
    assert "2.0 with packages of the image replaced (helper 1.0 captum 2.0): verified" in advise("captum", status=3)
    records.run("captum-1.0", packages=held)
    advise("captum")
    assert pinned() == ["captum==1.0"]
    advise("captum", "helper")
    assert pinned() == ["captum==2.0", "helper==1.0"]


def test_what_the_answer_does_not_say_is_said(records: Records, advise: Any) -> None:
    """No GPU, and never run together: in the answer and in each file."""
    records.run("captum-1.0", "gpytorch-1.0")
    said = advise("captum", "gpytorch")
    for text in (said, *map(written, ("Dockerfile", "requirements.txt", "constraints.txt", "matrix.yaml"))):
        assert "Nothing was verified on a GPU." in text
        assert "Never run together" in text
        assert "stand-in" not in text


def test_the_matrix_beside_it_is_the_proof(records: Records, advise: Any) -> None:
    """It is a matrix: the image by its digest and one stack of exactly the pins."""
    records.run("captum-1.0", "gpytorch-1.0")
    assert "compat run --matrix advice/matrix.yaml --backend docker" in advise("captum", "gpytorch")
    (cell,) = expand(load(Path("advice/matrix.yaml")), "docker").cells
    assert (cell.id, cell.members) == ("torch-2.13/advice-stack", ("captum", "gpytorch"))
    assert cell.requires == ("captum==1.0", "gpytorch==1.0")
    (image,) = load(Path("advice/matrix.yaml")).model_images()
    assert (image.reference, image.local) == (f"example.org/torch@{DIGEST}", None)


@pytest.mark.parametrize("probe", PROBES)
def test_a_broken_probe_speaks_against_a_version(records: Records, advise: Any, probe: str) -> None:
    """The next older version is advised, whichever probe it was."""
    records.run("captum-2.0", broken=probe)
    records.run("captum-1.0")
    advise("captum")
    assert pinned() == ["captum==1.0"]


def test_the_newest_outcome_counts(records: Records, advise: Any) -> None:
    """A later failure, also one that nothing had to be launched for, takes a pass back; host trouble does not."""
    records.run("captum-2.0", "captum-1.0", "gpytorch-2.0")
    records.run("captum-2.0", known=False, verdict="unsupported", reason="drift")
    records.run("gpytorch-2.0", known=False, verdict="infra", reason="engine-unreachable")
    advise("captum", "gpytorch")
    assert pinned() == ["captum==1.0", "gpytorch==2.0"]
    records.run("captum-2.0")
    advise("captum")
    assert pinned() == ["captum==2.0"]


def test_a_skip_is_fine_only_where_the_question_makes_no_sense(records: Records, advise: Any) -> None:
    """Skipped for want of a GPU, nothing was verified."""
    records.run("captum-1.0", verdict="skip", reason="gpu-required")
    assert "import: skip (gpu-required)" in advise("captum", status=3)
    records.run("captum-1.0")
    path = next((records.home / "runs").glob("*02-abcd/journal.jsonl"))
    lines = [json.loads(line) for line in path.read_text().splitlines()]
    sample = next(line for line in lines if line.get("probe") == "sample")
    sample.update(verdict="skip", reason="not-applicable")
    path.write_text("".join(json.dumps(line) + "\n" for line in lines))
    assert "import, autograd, compile passed" in advise("captum")


def test_a_probe_that_never_ran_is_missing(records: Records, advise: Any) -> None:
    """A run of one probe verifies nothing, unless the matrix wants no other of the library."""
    run = records.run("captum-1.0")
    path = records.home / "runs" / run / "journal.jsonl"
    kept = [line for line in path.read_text().splitlines() if json.loads(line).get("probe") in (None, "import")]
    path.write_text("\n".join(kept) + "\n")
    assert "sample: never ran" in advise("captum", status=3)
    Path("matrix.yaml").write_text(
        "images: { x: { tag: 'x:1' } }\nlibraries: { captum: { versions: ['1.0'], probes: [import] } }\n"
    )
    advise("captum")
    assert pinned() == ["captum==1.0"]


def test_a_flaky_result_is_not_advised(records: Records, advise: Any) -> None:
    """Neither one that passed at the second attempt, nor one that another run saw differently under the same key."""
    records.run("captum-2.0", flaky=True)
    records.run("captum-1.0", key="k", verdict="fail", reason="wrong-moments")
    records.run("captum-1.0", key="k")
    assert advise("captum", status=3).count("flaky") == 2


def test_the_image_goes_before_a_newer_stand_in(records: Records, advise: Any) -> None:
    """What stood in for an image is named as that, and taken only where there is nothing else."""
    records.run("captum-1.0", torch=NEW, backend="local")
    said = advise("captum")
    assert "torch-2.13 (a stand-in, not the image)" in said
    dockerfile = written("Dockerfile")
    assert "FROM example.org/torch:2.13.0\n" in dockerfile
    assert "example.org/torch:2.13.0 itself was never run" in dockerfile
    assert "--backend docker" in said
    records.run("captum-1.0", torch=OLD)
    assert "torch-2.9 on the CPU" in advise("captum")
    assert f"@{DIGEST}" in written("Dockerfile")


def test_a_tag_that_moved_is_another_image(records: Records, advise: Any) -> None:
    """What fails in the new one takes nothing back from the old one, which its digest still names."""
    moved = "sha256:" + "6" * 64
    records.run("captum-2.0")
    records.run("captum-1.0", digest=moved)
    records.run("captum-2.0", digest=moved, broken="compile")
    advise("captum")
    assert (pinned(), f"@{moved}" in written("Dockerfile")) == (["captum==1.0"], True)
    advise("captum==2.0")
    assert f"@{DIGEST}" in written("Dockerfile")


def test_without_a_tag_there_is_no_dockerfile(records: Records, advise: Any) -> None:
    """And none of an earlier answer stays behind."""
    records.run("captum-1.0", torch=OLD, backend="local")
    advise("captum==1.0")
    assert Path("advice/Dockerfile").exists()
    records.run("captum-2.0", backend="local", tag=None)
    assert "No Dockerfile" in advise("captum==2.0")
    assert not Path("advice/Dockerfile").exists()
    assert load(Path("advice/matrix.yaml")).images["torch-2.13"].local is not None


def test_a_gpu_of_this_name(records: Records, advise: Any) -> None:
    """What passed on the CPU, or on another GPU, is no answer for this one."""
    records.run("captum-2.0")
    records.run("captum-2.0", gpu="NVIDIA L4")
    said = advise("captum", "--gpu", "H200", status=3)
    assert "No combination of captum was verified on a GPU named H200." in said
    assert "on NVIDIA L4, 2.0: verified" in said
    records.run("captum-1.0", gpu="NVIDIA H200")
    said = advise("captum", "--gpu", "H200")
    assert "torch-2.13 on NVIDIA H200" in said
    assert "Nothing was verified on a GPU" not in said
    assert pinned() == ["captum==1.0"]


def test_the_gpu_of_the_machine_is_the_default(records: Records, advise: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    """A CPU result is no answer on a machine with a GPU, unless it is asked for; nor one that ran beside the GPU."""
    card = Gpu(uuid="GPU-1", index=0, name="NVIDIA H200", memory=1, driver="570")
    monkeypatch.setattr(gpus, "visible", lambda: (card,))
    records.run("captum-1.0")
    advise("captum", status=3)
    advise("captum", "--gpu", "none")
    records.run("captum-1.0", gpu="NVIDIA H200", device="cpu")
    assert "ran on the CPU" in advise("captum", status=3)


def test_a_conflict_is_explained_and_stepped_around(records: Records, advise: Any, tmp_path: Path) -> None:
    """uv's words say why, and the next older version of what is in the way is taken."""
    for number in ("1.0", "2.0"):
        wheel(tmp_path / "offered", "helper", number)
    wheel(tmp_path / "offered", "captum", "2.0", "helper==2.0")
    wheel(tmp_path / "offered", "gpytorch", "2.0", "helper==1.0")
    records.run("captum-2.0 helper==2.0", "captum-1.0", "gpytorch-2.0 helper==1.0", "pyro-ppl-2.0", "pyro-ppl-1.0")
    said = advise("pyro-ppl", "captum", "gpytorch")
    assert "pyro-ppl 2.0, captum 2.0, gpytorch 2.0: Because" in said
    assert said.count("not advised in") == 1
    assert "gpytorch>=2.0 depends on helper==1.0 and captum>=2.0 depends on helper==2.0" in said
    assert pinned() == ["captum==1.0", "gpytorch==2.0", "helper==1.0", "pyro-ppl==2.0"]


def test_an_image_that_would_drift_gives_way_to_the_next(records: Records, advise: Any, tmp_path: Path) -> None:
    """Nothing is advised that replaces what the image holds."""
    wheel(tmp_path / "offered", "numpy", "1.26")
    wheel(tmp_path / "offered", "captum", "2.0", "numpy<2")
    records.run("captum-2.0", packages={"numpy": "2.4"})
    records.run("captum-2.0", torch=OLD, packages={"numpy": "1.26"})
    said = advise("captum")
    assert "not advised in torch-2.13: captum 2.0: an install would replace numpy 2.4 -> 1.26" in said
    assert "torch-2.9 on the CPU" in said
    assert pinned() == ["captum==2.0"]
    assert "numpy==1.26" in written("constraints.txt")


def test_what_was_withdrawn_is_not_advised(
    records: Records, advise: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A version yanked since it was verified gives way to the one before."""
    (tmp_path / "offered" / "captum-2.0-py3-none-any.whl").unlink()
    url = simple_index(tmp_path, wheel(tmp_path / "files", "captum", "2.0"), yanked="broken upload")
    monkeypatch.delenv("PIP_NO_INDEX")
    monkeypatch.setenv("PIP_INDEX_URL", url)
    records.run("captum-2.0", "captum-1.0")
    assert "`captum==2.0` is yanked" in advise("captum")
    assert pinned() == ["captum==1.0"]


def test_without_a_hash_there_is_no_advice(
    records: Records, advise: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """pip would refuse the file, and an unhashed one must not be written."""
    (tmp_path / "offered" / "captum-2.0-py3-none-any.whl").unlink()
    monkeypatch.delenv("PIP_NO_INDEX")
    monkeypatch.setenv("PIP_INDEX_URL", simple_index(tmp_path, wheel(tmp_path / "files", "captum", "2.0")))
    records.run("captum-2.0")
    assert "no hash of captum 2.0" in advise("captum", status=3)


def test_dependencies_stay_as_they_were_verified(records: Records, advise: Any, tmp_path: Path) -> None:
    """A newer helper on the index is not taken; where two libraries were verified with different ones, that is said."""
    for library in ("captum", "gpytorch"):
        wheel(tmp_path / "offered", library, "2.0", "helper")
    for number in ("1.0", "2.0", "3.0"):
        wheel(tmp_path / "offered", "helper", number)
    records.run("captum-2.0 helper==1.0", "gpytorch-2.0 helper==2.0")
    advise("captum")
    assert pinned() == ["captum==2.0", "helper==1.0"]
    said = advise("captum", "gpytorch")
    assert pinned() == ["captum==2.0", "gpytorch==2.0", "helper==3.0"]
    assert "helper 3.0, but captum was verified with 1.0; helper 3.0, but gpytorch was verified with 2.0" in said


def test_what_the_images_own_packages_need_counts(records: Records, advise: Any, tmp_path: Path) -> None:
    """Journals do not repeat it; it is kept once an image, beside them."""
    for number in ("1.0", "2.0"):
        wheel(tmp_path / "offered", "helper", number)
    wheel(tmp_path / "offered", "captum", "2.0", "torch>=2", "helper")
    records.run("captum-2.0")
    image = Image(name="torch-2.13")
    (tmp_path / "facts").mkdir()
    for name, need in (("a", "helper==2.0"), ("b", "helper==1.0")):
        facts = Records.environment(image, "docker", NEW if name == "b" else OLD, "", {})["facts"]
        facts["metadata"] = {"torch": {"requires": [need], "extras": []}}
        (tmp_path / "facts" / f"{name}.json").write_text(json.dumps(facts))
    advise("captum")
    assert pinned() == ["captum==2.0", "helper==1.0"]


def test_a_stack_that_passed_is_named(records: Records, advise: Any) -> None:
    """Then they were run together, also where one of them never ran alone."""
    records.run("captum-1.0")
    run = records.run("s: captum==1.0 gpytorch==1.0")
    said = advise("captum", "gpytorch")
    assert f"together: import, sample, autograd, compile passed (run {run})" in said
    assert "Never run together" not in said
    assert pinned() == ["captum==1.0", "gpytorch==1.0"]


def test_a_stack_with_another_helper_is_no_proof(records: Records, advise: Any, tmp_path: Path) -> None:
    """What ran together was not what is advised."""
    wheel(tmp_path / "offered", "captum", "1.0", "helper")
    wheel(tmp_path / "offered", "helper", "2.0")
    records.run("captum-1.0 helper==2.0", "gpytorch-1.0")
    records.run("s: captum==1.0 gpytorch==1.0 helper==1.0")
    assert "Never run together" in advise("captum", "gpytorch")


def test_what_failed_together_is_not_advised(records: Records, advise: Any) -> None:
    """Though each passed alone; the next older version is."""
    records.run("captum-2.0", "captum-1.0", "gpytorch-2.0")
    records.run("s: captum==2.0 gpytorch==2.0", broken="compile")
    said = advise("captum", "gpytorch")
    assert "captum 2.0 gpytorch 2.0 did not work: compile: fail (wrong-moments)" in said
    assert pinned() == ["captum==1.0", "gpytorch==2.0"]
    records.run("s: captum==1.0 gpytorch==2.0", broken="import")
    assert "captum 1.0 gpytorch 2.0 did not work" in advise("captum", "gpytorch", status=3)


def test_what_failed_with_a_dependency_is_not_advised(records: Records, advise: Any, tmp_path: Path) -> None:
    """A library that another brings along was asked for by nobody, and still failed together with it."""
    wheel(tmp_path / "offered", "captum", "2.0", "gpytorch")
    records.run("captum-2.0 gpytorch==2.0")
    records.run("s: captum==2.0 gpytorch==2.0", broken="compile")
    assert "captum 2.0 gpytorch 2.0 did not work" in advise("captum", status=3)


def test_what_a_dependency_does_wrong_alone_is_no_conflict(records: Records, advise: Any, tmp_path: Path) -> None:
    """The stack failed by it, not by the libraries together: that is said, and older versions would not help."""
    wheel(tmp_path / "offered", "captum", "2.0", "gpytorch==2.0")
    records.run("captum-2.0 gpytorch==2.0", "captum-1.0", "pyro-ppl-2.0", "pyro-ppl-1.0")
    records.run("s: captum==2.0 gpytorch==2.0 pyro-ppl==2.0")
    records.run("s: captum==2.0 gpytorch==2.0 pyro-ppl==2.0", broken="compile", detail="gpytorch: it is wrong")
    advise("captum", "pyro-ppl")
    assert pinned() != ["captum==2.0", "gpytorch==2.0", "pyro-ppl==2.0"]
    records.run("gpytorch-2.0", broken="compile")
    said = advise("captum", "pyro-ppl")
    assert pinned() == ["captum==2.0", "gpytorch==2.0", "pyro-ppl==2.0"]
    assert "did not work: compile: fail (wrong-moments) gpytorch: it is wrong" in said
    advise("captum", "gpytorch", "pyro-ppl", status=3)


def test_a_version_asked_for_is_kept(records: Records, advise: Any) -> None:
    """Also written in another form, and by another spelling of the name; never another version in its place."""
    records.run("pyro-ppl-1.0", "pyro-ppl-2.0")
    advise("Pyro_PPL==1.0.0")
    assert pinned() == ["pyro-ppl==1.0"]
    said = advise("pyro-ppl==1.5", status=3)
    assert "No combination of pyro-ppl 1.5" in said
    assert "does not list pyro-ppl 1.5: add it under `libraries:`" in said
    assert "verify: compat run --backend docker pyro-ppl-1.5" in said


def test_what_the_image_holds_is_not_added(records: Records, advise: Any) -> None:
    """Then there is nothing to install, and the stack still names it."""
    records.run("captum-installed", packages={"captum": "1.0"}, resolved=[])
    said = advise("captum")
    assert "adds nothing to the image" in said
    assert "RUN" not in written("Dockerfile")
    assert "captum==1.0" in written("constraints.txt")
    (cell,) = expand(load(Path("advice/matrix.yaml")), "docker").cells
    assert cell.requires == ("captum==1.0",)


def test_what_the_image_holds_gives_way_only_to_what_was_asked_for(records: Records, advise: Any) -> None:
    """And that it does is said."""
    records.run("captum-2.0", packages={"captum": "1.0"})
    assert "Replaces packages of the image, as requested: captum 1.0 -> 2.0." in advise("captum")
    assert "captum==2.0" in written("constraints.txt")
    assert "captum==1.0" not in written("constraints.txt")


def test_the_newest_is_what_it_was_when_it_ran(records: Records, advise: Any) -> None:
    """`latest` is advised as the version that was seen."""
    records.run("captum-latest", resolved=["captum==1.0"], installed="1.0")
    advise("captum")
    assert pinned() == ["captum==1.0"]


def test_an_interpreter_is_no_image(records: Records, advise: Any) -> None:
    """What ran under the interpreter of some machine is named as that."""
    records.run("captum-1.0", backend="here", tag=None)
    assert "Verified under an interpreter only" in advise("captum")
    records.run("captum-1.0", torch=OLD)
    assert "torch-2.9 on the CPU" in advise("captum")


def test_only_one_backend(records: Records, advise: Any) -> None:
    """Where one is named, what others saw is no answer."""
    records.run("captum-1.0")
    assert "by local" in advise("captum", "--backend", "local", status=3)


def test_an_index_that_does_not_answer_is_no_conflict(
    records: Records, advise: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It says nothing about the versions, so none is passed over for it."""
    records.run("captum-2.0", "captum-1.0")
    monkeypatch.delenv("PIP_NO_INDEX")
    monkeypatch.setenv("PIP_INDEX_URL", "http://127.0.0.1:9/simple")
    monkeypatch.setenv("UV_HTTP_RETRIES", "0")
    assert REASONS["index-unreachable"].remedy in advise("captum", status=5)
    assert not Path("advice").exists()


@pytest.mark.parametrize(
    ("asked", "words"),
    [
        (["captmu"], "there are no probes for 'captmu'"),
        (["captum>=1"], "neither a `name` nor a `name==version`"),
        (["captum==1.0", "captum==2.0"], "named twice"),
    ],
)
def test_a_wrong_question_is_refused(records: Records, advise: Any, asked: list[str], words: str) -> None:
    """With what would be right."""
    assert words in advise(*asked, status=2)


def test_runs_of_another_version_are_passed_over(records: Records, advise: Any) -> None:
    """A journal that cannot be read is named, and the others still count."""
    run = records.run("captum-2.0")
    path = records.home / "runs" / run / "journal.jsonl"
    path.write_text(path.read_text().replace('"requires"', '"needs"', 1))
    records.run("captum-1.0")
    assert f"written by another version of compat: {run}" in advise("captum")
    assert pinned() == ["captum==1.0"]


@pytest.mark.parametrize(("broken", "words"), [("", "  together: "), ("sample", "The combination failed: ")])
def test_what_came_of_running_it_is_said(
    records: Records, advise: Any, monkeypatch: pytest.MonkeyPatch, broken: str, words: str
) -> None:
    """In the answer and in the files; a failure is not answered by another combination."""
    records.run("captum-2.0", "captum-1.0", "gpytorch-2.0")
    records.run("captum-2.0", "gpytorch-2.0", torch=OLD)

    def verify(folder: Path, choice: Any, backend: str) -> Status:
        assert backend == "docker"
        assert expand(load(folder / "matrix.yaml"), backend).cells[0].requires == ("captum==2.0", "gpytorch==2.0")
        records.run("advice: captum==2.0 gpytorch==2.0", broken=broken)
        return Status.SURPRISES if broken else Status.AS_EXPECTED

    monkeypatch.setattr(advise_verb, "_run", verify)
    assert words in advise("captum", "gpytorch", "--run", status=1 if broken else 0)
    assert ("The combination failed" in written("Dockerfile")) == bool(broken)
    assert "Never run together" not in written("Dockerfile")
    assert "captum==2.0" in pinned()
    assert "example.org/torch:2.13.0" in written("Dockerfile")


def test_run_in_the_image_makes_a_stand_in_needless(
    records: Records, advise: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What was verified in a stand-in and then run in the image itself is advised by the image's digest."""
    records.run("captum-1.0", "gpytorch-1.0", backend="local")
    monkeypatch.setattr(advise_verb, "connect", lambda name, home: argparse.Namespace(gpus=tuple))

    def verify(folder: Path, choice: Any, backend: str) -> Status:
        records.run("advice: captum==1.0 gpytorch==1.0", backend=backend)
        return Status.AS_EXPECTED

    monkeypatch.setattr(advise_verb, "_run", verify)
    advise("captum", "gpytorch", "--run", "--backend", "docker")
    assert f"@{DIGEST}" in written("Dockerfile")


OWN = """
DISTRIBUTION = "torchbnn"
MODULE = "torchbnn"
NEEDS = ("torch",)

def sample(probe):
    print("own sample")
"""


@pytest.mark.share(minutes=1)
def test_a_stack_is_run_for_real(
    torch_python: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """From real runs of each alone, by a real run of both, to the answer that they work together.

    The written matrix names the user's folder of probe modules.
    """
    assert torch_python
    (tmp_path / "home").mkdir()
    (tmp_path / "home" / "standins").symlink_to(HOME.absolute() / "standins")
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("COMPAT_HOME", str(tmp_path / "home"))
    Path("probes").mkdir()
    Path("probes", "torchbnn.py").write_text(OWN)
    Path("matrix.yaml").write_text(
        "probes: [import, sample, ./probes]\n"
        'images: { small: { tag: "example.org/t:1", local: { python: "3.11", requires: ["torch==2.13.0", numpy] } } }\n'
        'libraries: { torchbnn: { versions: ["1.2"] }, pyro-ppl: { versions: ["1.9.1"] } }\n'
    )
    assert main(["run", "--backend", "local"]) == 0
    assert main(["advise", "torchbnn", "pyro-ppl", "--run"]) == 0
    said = capsys.readouterr().out
    assert "together: import, sample passed" in said
    assert "Never run together" not in said
    assert "example.org/t:1 itself was never run" in written("Dockerfile")
    entry = load(Path("advice", "matrix.yaml"), {}).catalogue.entries["torchbnn"]
    assert entry.module is not None and entry.module.text == OWN
