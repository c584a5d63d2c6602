"""Real jobs: placed by their GPUs, lost with their nodes, ended at their limits, and found again by another process."""

from __future__ import annotations

import json
import re
import signal
import subprocess
import sys
from collections import Counter
from pathlib import Path

import pytest

from tests.slurm.conftest import ANSWERS, Site, await_
from torch_compat_matrix.runner.backends.slurm_queue import slurm

PROBES = ("import", "sample", "autograd", "compile")


def verdicts(site: Site) -> Counter[tuple[str, str]]:
    """How often each verdict and reason is in the journal."""
    return Counter((outcome["verdict"], outcome.get("reason", "")) for outcome in site.outcomes())


def most_at_once(site: Site) -> int:
    """The most launches that ran at a time."""
    events = sorted((float(line.split()[1]), line.split()[0]) for line in site.log.read_text().splitlines())
    now = most = 0
    for _, what in events:
        now += 1 if what == "start" else -1
        most = max(most, now)
    return most


def finish(running: subprocess.Popen[str], status: int = 0) -> None:
    """Wait for the end of a command, which has to have this status."""
    said = running.communicate(timeout=300)[0]
    assert running.returncode == status, said


def test_gpus_are_counted_by_the_scheduler(site: Site) -> None:
    """Three nodes with two GPUs each run six of eight launches at a time, and each sees its own GPU alone."""
    site.write(images=8, target="gres: gpu, mem: 100m, time: '5'", SLEEP_S=1.5)
    site.compat("run", "--target", "site")
    assert verdicts(site) == {("pass", ""): 32}
    assert most_at_once(site) == 6
    assert {line.split()[2] for line in site.log.read_text().splitlines()} == {"1"}
    assert {outcome["device"] for outcome in site.outcomes()} == {"cuda"}


def test_several_gpus_are_leased_together(site: Site) -> None:
    """An image that demands two GPUs has them; one that demands three is skipped where a node has two."""
    site.write(target="gres: gpu, gpus: 2, mem: 100m, time: '5'", limits="gpus: 2")
    site.compat("run", "--target", "site")
    assert {line.split()[2] for line in site.log.read_text().splitlines()} == {"2"}
    site.write(target="gres: gpu, gpus: 2, mem: 100m, time: '5'", limits="gpus: 3")
    site.compat("run", "--target", "site", status=None)
    assert verdicts(site) == {("skip", "gpu-required"): 4}


def test_a_lost_node_costs_only_what_had_no_answer(site: Site) -> None:
    """The job of a killed node is submitted again with the rest of its checks, and no check is answered twice."""
    site.write(SLEEP_S=4)
    running = site.start("run", "--target", "site")
    await_(lambda: running.poll() is None and site.log.exists() and len(site.outcomes()) >= 2)
    node = next(iter(site.running().values()))
    site.kill(node)
    finish(running)
    assert verdicts(site) == {("pass", ""): 4}
    first, second = site.starts()
    assert len(first) == 4 and len(second) <= 2


def test_a_requeued_job_is_not_begun_again(site: Site) -> None:
    """A job that the site puts back in the queue is given up, and only what is left is submitted."""
    site.write(target="mem: 100m, time: '5', lines: [--requeue]", SLEEP_S=3)
    running = site.start("run", "--target", "site")
    await_(lambda: site.log.exists() and len(site.outcomes()) >= 2)
    (job,) = site.running()
    assert slurm("scontrol", "requeue", job).returncode == 0
    finish(running)
    assert verdicts(site) == {("pass", ""): 4}
    assert len(site.starts()[1]) <= 2


@pytest.mark.slow
def test_time_limit_of_a_job_blames_no_library(site: Site) -> None:
    """A job that its limit ends leaves its answers; the rest is `job-time-limit`."""
    site.write(target="mem: 100m, time: '1'", limits="retries: 0", SLEEP_S=50)
    site.compat("run", "--target", "site", status=5)
    assert verdicts(site)[("infra", "job-time-limit")] == 4 - verdicts(site)[("pass", "")] > 0


def test_memory_of_a_job_is_the_checks_limit(site: Site) -> None:
    """The check that takes more than the job has is `oom`; the others keep their passes."""
    site.write(HOG=300)
    site.compat("run", "--target", "site", status=1)
    seen = {outcome["probe"]: outcome["verdict"] for outcome in site.outcomes()}
    assert seen == {"import": "pass", "sample": "pass", "autograd": "pass", "compile": "oom"}


def test_cancelled_jobs_are_not_tried_again(site: Site) -> None:
    """`compat cancel` of a run at work ends it with `job-cancelled`, and a resume asks again."""
    site.write(SLEEP_S=1)
    running = site.start("run", "--target", "site")
    await_(lambda: site.log.exists())
    slurm("scancel", *site.running())
    finish(running, status=5)
    assert ("not-run", "job-cancelled") in verdicts(site)
    site.compat("run", "--resume")
    assert {outcome["check"] for outcome in site.outcomes() if outcome["verdict"] == "pass"} >= {
        f"image-0/sympy-installed/{probe}" for probe in PROBES
    }


def test_detached_run_is_shown_and_collected(site: Site) -> None:
    """Submitted jobs run without us; `status` says why one waits, and a resume collects each answer once."""
    site.write(images=7, target="gres: gpu, mem: 100m, time: '5'", SLEEP_S=1)
    site.compat("run", "--target", "site", "--detach")
    await_(lambda: len(site.running()) == 6)
    shown = site.compat("status")
    assert "6 running" in shown
    assert re.search(r"waiting 0 min: (Resources|Priority)", shown), shown
    site.compat("run", "--resume")
    assert len(site.starts()) == 7
    assert verdicts(site) == {("pass", ""): 28}
    assert json.loads(site.compat("status", "--json")) == []
    assert list((site.folder / "home" / "jobs").iterdir()) == []


def test_cancel_ends_a_detached_run(site: Site) -> None:
    """Its jobs end."""
    site.write(images=2, SLEEP_S=30)
    site.compat("run", "--target", "site", "--detach")
    assert "2 jobs cancelled" in site.compat("cancel")
    await_(lambda: not site.running())
    assert "0 of 8 checks answered, 0 jobs" in site.compat("status")


def test_killed_submitter_and_node_are_made_up_for(site: Site) -> None:
    """After SIGKILL of the submitter and the loss of a node, a resume finds the living jobs and replaces the dead."""
    site.write(images=4, target="gres: gpu, mem: 100m, time: '5'", SLEEP_S=5)
    running = site.start("run", "--target", "site")
    await_(lambda: len(site.starts()) == 4 and len(site.outcomes()) >= 4)
    jobs = site.running()
    running.send_signal(signal.SIGKILL)
    finish(running, status=-9)
    before = len(site.outcomes())
    site.kill(next(iter(jobs.values())))
    site.compat("run", "--resume")
    assert before < 16
    assert verdicts(site) == {("pass", ""): 16}
    again = [check for checks in site.starts()[4:] for check in checks]
    assert 0 < len(site.starts()) - 4 <= 2 and len(again) == len(set(again)) < 8


def test_submitting_the_same_launch_twice_is_submitting_it_once(site: Site) -> None:
    """A submitter that was killed before it wrote the job's number down finds the job by its name."""
    site.write(SLEEP_S=3)
    site.compat("run", "--target", "site", "--detach")
    (number,) = (site.folder / "home" / "jobs").glob("*/*/id")
    number.unlink()
    site.compat("run", "--resume")
    assert len(site.starts()) == 1
    assert verdicts(site) == {("pass", ""): 4}


def test_two_hundred_batches_drain(site: Site) -> None:
    """Far more batches than the cluster runs at a time, each answered once."""
    site.write(images=200, target="mem: 20m, time: '5', max-jobs: 50")
    site.compat("run", "--target", "site", "--probe", "import")
    assert verdicts(site) == {("pass", ""): 200}
    assert len(site.starts()) == 200


@pytest.mark.parametrize(
    ("target", "code"),
    [
        ("partition: gone", "No such partition|invalid partition|Invalid partition"),
        ("gres: gpu, gpus: 2, mem: 100g", "Requested node configuration is not available"),
        ("constraint: fast", "Invalid feature"),
    ],
)
def test_impossible_target_is_told_before_anything_runs(site: Site, target: str, code: str) -> None:
    """With what Slurm says, and a remedy."""
    site.write(target=target)
    said = site.compat("run", "--target", "site", status=4)
    assert re.search(code, said) and "of the target" in said


def test_job_that_can_never_start_is_not_waited_for(site: Site) -> None:
    """A time beyond the partition's leaves a job pending for ever."""
    site.write(target="mem: 100m, time: '5:00:00'", limits="retries: 0")
    site.compat("run", "--target", "site", status=5)
    assert verdicts(site) == {("infra", "job-unsatisfiable"): 4}
    assert not slurm("squeue", "-h").stdout


def test_doctor_looks_at_the_scheduler(site: Site) -> None:
    """Commands, controller, accounting, the folder, and a job of the target."""
    site.write()
    said = site.compat("doctor", "--backend", "slurm")
    for what in ("controller", "accounting", "shared folder"):
        assert f"ok  {what}" in said


@pytest.mark.parametrize(("container", "program"), [("apptainer", "apptainer"), ("pyxis", "srun")])
def test_command_line_of_a_container_starts_the_probe_host(site: Site, container: str, program: str) -> None:
    """With the bundle read-only, its own /tmp, and nothing of the user's environment; a stand-in plays the program."""
    (site.folder / program).symlink_to(Path(__file__).with_name("contained"))
    closed = "test ! -w /compat/bundle && touch /tmp/mine && test -z $SLURM_CONF$PYTHONPATH"
    (site.folder / "matrix.yaml").write_text(
        f"""
images: {{ train: {{ tag: "example.com:5000/train:1", python: {sys.executable}, commands: {{ closed: "{closed}" }} }} }}
libraries: {{ tabulate: {{ versions: [installed], probes: [import] }} }}
targets: {{ site: {{ slurm: {{ container: {container}, mem: 200m, time: "5",
  lines: ["--export=PATH={site.folder}:/usr/bin:/bin"] }} }} }}
"""
    )
    site.compat("run", "--target", "site")
    assert verdicts(site) == {("pass", ""): 2}


def test_each_image_tells_its_own_facts(site: Site) -> None:
    """Two images that are asked for their facts at once, by orders that are the same, have a job each."""
    site.write(images=2)
    for name in ("one", "two"):
        (site.folder / name).symlink_to(ANSWERS)
    text = (site.folder / "matrix.yaml").read_text()
    text = text.replace(str(ANSWERS), str(site.folder / "one"), 1).replace(str(ANSWERS), str(site.folder / "two"))
    (site.folder / "matrix.yaml").write_text(text)
    site.compat("run", "--target", "site")
    facts = [json.loads(path.read_text()) for path in (site.folder / "home" / "facts").glob("*.json")]
    assert sorted(each["os"] for each in facts) == ["one", "two"]


@pytest.mark.slow
def test_verdicts_are_those_of_local(site: Site) -> None:
    """The same small matrix with real torch: two stand-ins, six cells."""
    (site.folder / "matrix.yaml").write_text(
        """
limits: { timeout: 300 }
images:
  torch-2.9: { local: { python: "3.11", requires: ["torch==2.9.0", numpy, "setuptools<82"] } }
  torch-2.13: { local: { python: host, requires: ["torch==2.13.0", numpy] } }
libraries:
  captum: { versions: ["0.9.0"], with: [scikit-learn] }
  torchbnn: { versions: ["1.2"] }
  pyro-ppl: { versions: ["1.8.0"] }
targets: { cpu: { slurm: { cpus: 2, mem: 3g, time: "30" } } }
"""
    )
    seen = []
    for where in (("--backend", "local"), ("--target", "cpu")):
        site.compat("run", *where, status=None)
        seen.append({each["check"]: (each["verdict"], each.get("reason", "")) for each in site.outcomes()})
    assert seen[0] == seen[1] and len(seen[0]) == 24
