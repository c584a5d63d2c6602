"""The gate promotes on sound evidence alone: whoever disarms it, wherever, finds it shut."""

from __future__ import annotations

import datetime as dt
import json
import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import jsonschema
import pytest

from tests.support import ROOT
from torch_compat_matrix.compat.cli import main
from torch_compat_matrix.runner.bundle import asked_by
from torch_compat_matrix.runner.model import Plan, Verdict
from torch_compat_matrix.runner.outcome import Outcome
from torch_compat_matrix.runner.planning import plan_from
from torch_compat_matrix.runner.records.journal import append
from torch_compat_matrix.runner.records.runs import COMPLETE, Run

NOW = dt.datetime.now(dt.timezone.utc)
DIGEST, OTHER = f"sha256:{'a' * 64}", f"sha256:{'b' * 64}"
SAMPLE = "train/captum-0.9.0/sample"
GPU = {"name": "NVIDIA H100 80GB HBM3", "uuid": "GPU-1", "capability": "9.0", "memory": 1}
MATRIX = """
images: { train: { tag: "example/train:1" }, other: { tag: "example/other:1" } }
libraries: { captum: { versions: ["0.9.0"] }, pyro-ppl: { versions: ["1.9.1"] } }
"""
POLICY = """
backend: docker
target: h100
max_age: 7d
required:
  - checks: captum
"""
WAIVER = """
waivers:
  - checks: captum/sample
    owner: team-a
    reason: upstream knows
    expires: 2999-01-01
    version: "==0.9.0"
"""


class Place:
    """A folder with a matrix, a policy and a home in which a complete run passed everything."""

    def __init__(self, folder: Path) -> None:
        self.home, self.policy = folder / "home", folder / "gate.yaml"
        (folder / "matrix.yaml").write_text(MATRIX)
        self.policy.write_text(POLICY)
        self.plan = plan_from(folder / "matrix.yaml", backend="docker")

    def run(
        self,
        change: Callable[[Outcome], Outcome | None] = lambda outcome: outcome,
        *,
        backend: str = "docker",
        digest: str | None = DIGEST,
        stand_in: bool = False,
        gpus: tuple[dict[str, Any], ...] = (GPU,),
        state: str = COMPLETE,
        plan: Plan | None = None,
        before: dt.timedelta = dt.timedelta(hours=1),
    ) -> Run:
        """A run of the plan, each of whose outcomes is a pass that `change` may change or take away."""
        run = Run(self.home / "runs" / f"20260101T00000000{len(Run.all(self.home))}-0000")
        run.folder.mkdir(parents=True)
        head = {"kind": "run", "run": run.id, "started": NOW.isoformat(), "backend": backend}
        records: list[dict[str, Any]] = [{**head, "plan": (plan or self.plan).to_json()}]
        facts = {"python": "3.11.7", "gpus": list(gpus), "machine": "x86_64", "driver": "550.54"}
        environment: dict[str, Any] = {
            "kind": "environment",
            "key": "e",
            "image": "train",
            "reference": "example/train:1",
        }
        if digest is not None:
            records += [{**environment, "digest": digest, "stand_in": stand_in, "facts": facts}]
        for cell in self.plan.cells:
            for check in cell.checks if cell.image == "train" else ():
                passed = Outcome(
                    check=check.id,
                    image=cell.image,
                    subject=cell.subject,
                    version=cell.version,
                    probe=check.probe,
                    verdict=Verdict.PASS,
                    device="" if check.probe == "import" else "cuda",
                    environment="e",
                    installed=cell.version,
                    started=(NOW - before).isoformat(timespec="seconds"),
                    key=f"key of {check.id}",
                    probed_by=asked_by(cell.members),
                )
                outcome = change(passed)
                if outcome is not None:
                    records.append({"kind": "outcome", **outcome.to_json()})
        records += [{"kind": "end", "finished": NOW.isoformat(), "state": state}] if state else []
        append(run.journal, *records)
        return run


@pytest.fixture
def place(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Place:
    """Where the commands of a test run."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("COMPAT_HOME", str(tmp_path / "home"))
    return Place(tmp_path)


def sample(**more: Any) -> Callable[[Outcome], Outcome]:
    """The change of that one check's outcome."""
    return lambda outcome: replace(outcome, **more) if outcome.check == SAMPLE else outcome


def failed(**more: Any) -> Callable[[Outcome], Outcome]:
    """The change that lets that check fail."""
    return sample(verdict=Verdict.FAIL, reason="wrong-value", **more)


def decided(capsys: pytest.CaptureFixture[str], image: str = f"train@{DIGEST}", *more: str) -> dict[str, Any]:
    """The decision as JSON, which fits its schema and the exit status, and is recorded."""
    capsys.readouterr()
    status = main(["gate", image, "--policy", "gate.yaml", "--json", *more])
    found: dict[str, Any] = json.loads(capsys.readouterr().out)
    jsonschema.validate(found, json.loads((ROOT / "docs" / "schemas" / "gate.json").read_text()))
    assert status == {"promote": 0, "hold": 1, "inconclusive": 5}[found["decision"]]
    recorded = (Path("home") / "gates.jsonl").read_text().splitlines()
    assert json.loads(recorded[-1]) == {"kind": "gate", **found}
    return found


def excuse(found: dict[str, Any], check: str = SAMPLE) -> str:
    """State and excuse of a check."""
    (row,) = (row for row in found["checks"] if row["check"] == check)
    return f"{row['state']}: {row['excuse']}"


@pytest.mark.parametrize("image", ["train", "example/train", "example/train:1"])
def test_sound_evidence_promotes(place: Place, image: str, capsys: pytest.CaptureFixture[str]) -> None:
    """By the image's name or its repository; what the page does not certify is said."""
    run = place.run()
    found = decided(capsys, f"{image}@{DIGEST}")
    assert (found["decision"], excuse(found)) == ("promote", "promote: passed")
    assert {row["run"] for row in found["checks"]} == {run.id}
    said = "; ".join(found["not_certified"])
    assert "a driver other than 550.54; a machine other than x86_64; a GPU other than NVIDIA H100 80GB HBM3" in said
    assert "checks of the image in the matrix that the policy does not require: 4" in said
    assert main(["gate", f"{image}@{DIGEST}", "--policy", "gate.yaml"]) == 0
    assert "| train/captum-0.9.0/sample | promote | passed |" in capsys.readouterr().out


def mutation(name: str, says: str) -> Callable[[Callable[[Place], object]], Callable[[Place], object]]:
    """Enter a way to disarm the gate, with what the gate says of it."""

    def enter(disarm: Callable[[Place], object]) -> Callable[[Place], object]:
        MUTATIONS[name] = disarm, says
        return disarm

    return enter


MUTATIONS: dict[str, tuple[Callable[[Place], object], str]] = {
    "skipped": (lambda place: place.run(sample(verdict=Verdict.SKIP, reason="not-applicable")), "hold: skip"),
    "failed": (lambda place: place.run(failed()), "hold: fail (wrong-value)"),
    "not run": (lambda place: place.run(sample(verdict=Verdict.NOT_RUN)), "hold: not-run"),
    "never asked": (lambda place: None, "hold: no run of the last 7d asked it"),
    "missing": (lambda place: place.run(lambda outcome: None if outcome.check == SAMPLE else outcome), "no outcome"),
    "another digest": (lambda place: place.run(digest=OTHER), "hold: run"),
    "no digest": (lambda place: place.run(digest=""), "an image without a digest"),
    "another backend": (lambda place: place.run(backend="local"), "ran on local"),
    "another target": (lambda place: place.run(gpus=({**GPU, "name": "NVIDIA L4"},)), "was made on l4"),
    "a run without a GPU": (lambda place: place.run(gpus=()), "was made on cpu"),
    "a stand-in": (lambda place: place.run(stand_in=True), "in a stand-in"),
    "the CPU of a host with a GPU": (lambda place: place.run(sample(device="cpu")), "cpu, and cuda is required"),
    "a superficial pass": (lambda place: place.run(sample(grade="superficial")), "hold: superficial"),
    "a flaky pass": (lambda place: place.run(sample(flaky=True)), "hold: flaky"),
    "older probes": (lambda place: place.run(sample(probed_by="0" * 16)), "other probes than today's"),
    "unknown probes": (lambda place: place.run(sample(probed_by="")), "other probes than today's"),
    "a cancelled run": (lambda place: place.run(state="interrupted"), "did not come to its end"),
    "a crashed step": (lambda place: place.run(state=""), "did not come to its end"),
    "stale": (lambda place: place.run(before=dt.timedelta(days=8)), "is older than 7d"),
    "a clock in the future": (lambda place: place.run(before=dt.timedelta(days=-1)), "a clock that is ahead"),
    "no clock": (lambda place: place.run(sample(started="")), "is older than 7d: no time"),
    "no environment": (lambda place: place.run(sample(environment="gone")), "does not say where it passed"),
    "host trouble": (lambda place: place.run(sample(verdict=Verdict.INFRA, reason="disk-full")), "inconclusive: host"),
}


@mutation("a known failure", "hold: fail")
def known_failure(place: Place) -> None:
    (Path("matrix.yaml")).write_text(
        MATRIX + "known: [{ cells: captum/sample, expect: fail, reason: old, link: 'https://example.com' }]\n"
    )
    place.run(failed(), plan=plan_from(Path("matrix.yaml"), backend="docker"))


@mutation("a failure until it is green", "only passed when it was asked again")
def retried(place: Place) -> None:
    place.run(failed())
    place.run()


@mutation("an older pass behind a failure", "hold: fail")
def older_pass(place: Place) -> None:
    place.run()
    place.run(failed())


@mutation("an older pass behind a killed run", "did not come to its end")
def older_pass_and_kill(place: Place) -> None:
    place.run()
    place.run(lambda outcome: None, digest=None, state="")


@mutation("a truncated journal", "did not come to its end")
def truncated(place: Place) -> None:
    place.run()
    journal = place.run(failed()).journal
    journal.write_bytes(journal.read_bytes().partition(SAMPLE.encode())[0])


@mutation("a damaged record", "records that cannot be read")
def damaged(place: Place) -> None:
    place.run()
    journal = place.run(failed()).journal
    journal.write_bytes(journal.read_bytes().replace(b'"verdict":"fail"', b'"verdict":"fine"'))


@mutation("a damaged head", "cannot be read")
def beheaded(place: Place) -> None:
    place.run()
    journal = place.run(failed()).journal
    journal.write_bytes(journal.read_bytes()[20:])


@mutation("a duplicated record", "hold: the run has several verdicts of it: fail, pass")
def duplicated(place: Place) -> None:
    journal = place.run(failed()).journal
    lines = journal.read_text().splitlines(keepends=True)
    (bad,) = (line for line in lines if '"verdict":"fail"' in line)
    journal.write_text("".join([*lines, bad.replace('"verdict":"fail"', '"verdict":"pass"')]))


@mutation("an old run under a new name", "is a copy of run")
def copied(place: Place) -> None:
    first = place.run()
    place.run(failed())
    shutil.copytree(first.folder, first.folder.with_name("99990101T000000000-0000"))


@mutation("a cell that was something else", "asked for something else by this name")
def renamed(place: Place) -> None:
    cells = tuple(replace(cell, requires=("captum",)) for cell in place.plan.cells)
    place.run(plan=replace(place.plan, cells=cells))


@mutation("an expired waiver", "hold: fail (wrong-value); the waiver of team-a ended on 2020-01-01")
def expired(place: Place) -> None:
    place.policy.write_text(POLICY + WAIVER.replace("2999", "2020"))
    place.run(failed())


@mutation("a waiver of another version", "hold: fail (wrong-value); the waiver of team-a is for ==0.8.0")
def waiver_of_another_version(place: Place) -> None:
    place.policy.write_text(POLICY + WAIVER.replace("0.9.0", "0.8.0"))
    place.run(failed())


@mutation("a waiver of another digest", "hold: fail (wrong-value); the waiver of team-a is for sha256:b")
def waiver_of_another_digest(place: Place) -> None:
    place.policy.write_text(POLICY + WAIVER.replace('version: "==0.9.0"', f"digest: {OTHER}"))
    place.run(failed())


@mutation("a waiver of another check", "hold: fail (wrong-value)")
def waiver_of_another_check(place: Place) -> None:
    place.policy.write_text(POLICY + WAIVER.replace("captum/sample", "captum/import"))
    place.run(failed())


@pytest.mark.parametrize("name", MUTATIONS)
def test_disarmed_gate_does_not_promote(place: Place, name: str, capsys: pytest.CaptureFixture[str]) -> None:
    """It says why at the check; only host trouble leaves it inconclusive."""
    disarm, says = MUTATIONS[name]
    disarm(place)
    found = decided(capsys)
    assert found["decision"] == ("inconclusive" if name == "host trouble" else "hold")
    assert says in excuse(found)


@pytest.mark.parametrize(
    ("policy", "says"),
    [
        (POLICY.replace("  - checks: captum", "  []"), "gate.yaml:5:1: List should have at least 1 item"),
        (POLICY.replace("captum", "captun"), "gate.yaml:6:5: 'captun' takes none of the image's checks"),
        (POLICY.replace("captum", "other/captum"), "gate.yaml:6:5: 'other/captum' takes none"),
        (POLICY.replace("captum", "'@run:latest'"), "gate.yaml:6:5: '@run:latest' is a selector by outcome"),
        (POLICY.partition("required")[0], "gate.yaml:2:1: 'required' is missing"),
        (
            POLICY.replace("docker", "local"),
            "gate.yaml:2:1: 'local' is not a known value; there are: docker, kubernetes, slurm",
        ),
        (POLICY.replace("max_age: 7d", "max_age: ever"), "gate.yaml:4:1: String should match"),
        (POLICY.replace("required", "require"), "gate.yaml:5:1: unknown key 'require'; did you mean 'required'?"),
        (POLICY + WAIVER.replace("    owner: team-a\n", ""), "'owner' is missing"),
        (POLICY + WAIVER.replace('    version: "==0.9.0"\n', ""), "a waiver for whatever comes"),
        ("", "'required' is missing"),
    ],
)
def test_mistake_in_a_policy_is_named(place: Place, policy: str, says: str, capsys: pytest.CaptureFixture[str]) -> None:
    """By file, line and column, whatever the records say."""
    place.run()
    place.policy.write_text(policy)
    assert main(["gate", f"train@{DIGEST}", "--policy", "gate.yaml"]) == 2
    assert says in capsys.readouterr().err


@pytest.mark.parametrize(
    ("image", "status"), [("train", 2), ("train:1", 2), ("train@sha256:abc", 2), (f"trian@{DIGEST}", 3), (DIGEST, 3)]
)
def test_image_is_named_by_its_digest(
    place: Place, image: str, status: int, capsys: pytest.CaptureFixture[str]
) -> None:
    """A tag moves; an image that the matrix does not have is a slip, and of several nobody can say which is meant."""
    place.run()
    assert main(["gate", image, "--policy", "gate.yaml"]) == status


def test_digest_is_enough_where_the_matrix_has_one_image(place: Place, capsys: pytest.CaptureFixture[str]) -> None:
    """Which the decision names."""
    place.run()
    Path("matrix.yaml").write_text(MATRIX.replace(', other: { tag: "example/other:1" }', ""))
    found = decided(capsys, DIGEST)
    assert (found["decision"], found["image"]) == ("promote", "train")


@pytest.mark.parametrize("bound", ['version: "==0.9.0"', f"digest: {DIGEST}"])
def test_waiver_excuses_what_it_is_bound_to(place: Place, bound: str, capsys: pytest.CaptureFixture[str]) -> None:
    """The page names its owner and what it covers up."""
    place.policy.write_text(POLICY + WAIVER.replace('version: "==0.9.0"', bound))
    place.run(failed())
    found = decided(capsys)
    assert found["decision"] == "promote"
    assert excuse(found) == "waived: waived by team-a until 2999-01-01: upstream knows (fail (wrong-value))"
    assert "waived checks: 1" in found["not_certified"]


def test_host_trouble_after_a_pass_takes_nothing_away(place: Place, capsys: pytest.CaptureFixture[str]) -> None:
    """Nor does a run of another image, nor a failure that other packages explain."""
    place.run(failed(key="other"))
    place.run()
    place.run(sample(verdict=Verdict.INFRA, reason="disk-full"))
    place.run(failed(), digest=OTHER, state="interrupted")
    assert decided(capsys)["decision"] == "promote"


def test_decision_that_cannot_be_recorded_is_none(place: Place, capsys: pytest.CaptureFixture[str]) -> None:
    """Nothing is printed."""
    place.run()
    (place.home / "gates.jsonl").mkdir()
    assert main(["gate", f"train@{DIGEST}", "--policy", "gate.yaml"]) == 5
    assert capsys.readouterr().out == ""
