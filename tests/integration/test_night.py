"""The steps of a night, each a script, run as GitHub's runner would run them."""

from __future__ import annotations

import json
import os
import re
import signal
import subprocess
import sys
import time
from collections.abc import Mapping
from functools import partial
from pathlib import Path

import pytest

from tests.integration.test_cli import place as place  # a folder with a matrix, and a home that holds stand-ins
from tests.support import ROOT
from tests.support.environments import HOME
from tests.support.github import REPOSITORY, TOKEN, serving
from tests.support.indexes import Index
from tests.support.journals import records
from tests.support.tinywheels import wheel
from tests.unit.test_outdated import index as index  # an index, and a matrix whose versions move
from tests.unit.test_outdated import night
from torch_compat_matrix.runner.records.journal import append

NIGHT = ROOT / ".ci" / "night"
COMPAT = """#!/bin/sh
exec {python} -m torch_compat_matrix "$@"
"""


class Job:
    """A job on a runner: its variables, its files, and what its steps wrote."""

    def __init__(self, folder: Path, **variables: str) -> None:
        self.folder = folder
        self.temp = folder / "temp"
        self.temp.mkdir(exist_ok=True)
        tools = folder / "bin"
        tools.mkdir(exist_ok=True)
        (tools / "compat").write_text(COMPAT.format(python=sys.executable))
        (tools / "compat").chmod(0o755)
        self.variables = {
            **os.environ,
            "PATH": f"{tools}:{os.environ['PATH']}",
            "PYTHONPATH": str(ROOT / "src"),
            "RUNNER_TEMP": str(self.temp),
            **{f"GITHUB_{name}": str(self.temp / name) for name in ("OUTPUT", "ENV", "PATH", "STEP_SUMMARY")},
            **variables,
        }

    def step(self, script: str, *arguments: str, status: int = 0, **variables: str) -> str:
        """What a script says; its exit status made sure of."""
        command = [str(NIGHT / script), *arguments]
        if script.endswith(".py"):
            command = ["python3", *command]
        environment = {**self.variables, **variables}
        done = subprocess.run(command, cwd=self.folder, env=environment, capture_output=True, text=True, check=False)
        assert done.returncode == status, done.stdout + done.stderr
        return done.stdout + done.stderr

    def written(self, name: str) -> str:
        """The file that GitHub reads after a step."""
        path = self.temp / name
        return path.read_text() if path.exists() else ""

    def outputs(self) -> Mapping[str, str]:
        """GITHUB_OUTPUT, read."""
        return dict(line.split("=", 1) for line in self.written("OUTPUT").splitlines())


def test_a_night_has_a_job_for_each_target_and_shard(tmp_path: Path) -> None:
    """As GitHub's matrix takes them; a slip is one line that says what would be right."""
    job = Job(tmp_path)
    said = job.step("jobs.sh", TARGETS='{"cpu": ["ubuntu-latest"], "h100": ["self-hosted", "gpu"]}', SHARDS="2")
    lines = dict(line.split("=", 1) for line in said.splitlines())
    assert json.loads(lines["targets"]) == ["cpu", "h100"]
    assert [(one["target"], one["runner"], one["shard"]) for one in json.loads(lines["shards"])] == [
        ("cpu", ["ubuntu-latest"], "1/2"),
        ("cpu", ["ubuntu-latest"], "2/2"),
        ("h100", ["self-hosted", "gpu"], "1/2"),
        ("h100", ["self-hosted", "gpu"], "2/2"),
    ]
    for targets, shards in (("{", "1"), ("{}", "1"), ('{"a b": ["x"]}', "1"), ('{"cpu": ["x"]}', "0"), ("[]", "1")):
        assert 'write targets like {"h100": ["self-hosted", "gpu"]}' in job.step(
            "jobs.sh", status=1, TARGETS=targets, SHARDS=shards
        )


def test_places_have_names_that_github_takes(tmp_path: Path) -> None:
    """An artifact's name may hold no slash; the history is one for all shards of a target."""
    job = Job(tmp_path)
    job.step("places.sh", MATRIX="ci/team matrix.yaml", TARGET="h100", SHARD="2/4", PERSISTENT="")
    found = job.outputs()
    assert found["name"] == "compat-ci-team-matrix.yaml-h100-shard-2-of-4"
    assert found["key"] == "compat-history-ci-team-matrix.yaml-h100"
    assert found["home"] == f"{job.temp}/compat-home"
    assert not Path(found["history"]).is_absolute()  # or another runner would not find the cache again
    job.step("places.sh", MATRIX="matrix.yaml", TARGET="h100", SHARD="", PERSISTENT=f"{tmp_path}/kept/home")
    assert (job.outputs()["home"], job.outputs()["name"]) == (f"{tmp_path}/kept/home", "compat-matrix.yaml-h100")
    assert (tmp_path / "kept" / "home").is_dir()


def test_failures_are_shown_on_the_page_of_the_job(tmp_path: Path) -> None:
    """Ten of them; a message cannot become a further command."""
    job = Job(tmp_path)
    cases = [f'<testcase name="i/l-{n}/import"><failure message="a&#10;::set-env x%"/></testcase>' for n in range(12)]
    known = '<testcase name="k"><skipped message="known"/></testcase>'
    (tmp_path / "junit.xml").write_text(f"<testsuites><testsuite>{known}{''.join(cases)}</testsuite></testsuites>")
    said = job.step("annotate.py", "junit.xml").splitlines()
    assert said[0] == "::error title=i/l-0/import::a%0A::set-env x%25"
    assert said[10:] == ["::notice::2 more failures: the summary and report.md have all"]


@pytest.fixture
def job(place: Path) -> Job:
    """A runner's job in a folder with a matrix, on a machine without a GPU."""
    paths = {"HISTORY": f"{place}/history", "OUT": f"{place}/artifacts/one", "COMPAT_HOME": f"{place}/.compat"}
    plain = {"MATRIX": "matrix.yaml", "BACKEND": "local", "SHARD": "", "ARGUMENTS": "", "SELECTOR": "", "TARGET": "cpu"}
    return Job(place, **plain, **paths, NAME="cpu", ARTIFACTS=f"{place}/artifacts")


def home(folder: Path) -> str:
    """The home of a further machine, which has the packages already."""
    folder.mkdir()
    for name in ("standins", "overlays", "resolutions", "facts"):
        (folder / name).symlink_to(HOME.absolute() / name)
    return str(folder)


def test_shards_run_on_their_machines_and_report_as_one(job: Job) -> None:
    """The history of the night serves the next one, on a machine that has nothing else; a dead shard is no pass."""
    assert "no nvidia-smi" in job.step("check.sh") or "NVIDIA-SMI" in job.step("check.sh")
    selector = "small/pyro-ppl-1.8.0/import small/torchbnn-1.2/import"
    for number in (1, 2):
        out = str(job.folder / "artifacts" / f"shard-{number}")
        machine = home(job.folder / f"home-{number}")
        said = job.step("run.sh", SHARD=f"{number}/2", SELECTOR=selector, COMPAT_HOME=machine, OUT=out)
        assert "1 checks on local" in said
    said = job.step("merge.sh", OUT=f"{job.folder}/report")
    assert "taken of 2 shards: complete" in said
    assert "Everything is as expected. (2 checks: " in job.written("STEP_SUMMARY")
    assert (job.folder / "report" / "runs" / job.outputs()["run"] / "journal.jsonl").exists()
    assert "fresh: the last complete run" in job.step("watch.sh", STALE="36h", COMPAT_HOME=f"{job.folder}/watching")

    machine = home(job.folder / "home-3")
    job.step("run.sh", SHARD="1/2", SELECTOR=selector, COMPAT_HOME=machine, OUT=f"{job.folder}/later")
    assert '"reused":"2' in "".join(path.read_text() for path in (job.folder / "later").rglob("journal.jsonl"))
    said = job.step("merge.sh", status=5, ARTIFACTS=f"{job.folder}/later", OUT=f"{job.folder}/half")
    assert "only the shards 1/2 are here" in said
    assert "The run was stopped (only the shards 1/2 are here)" in job.written("STEP_SUMMARY")


def pretending(job: Job, run: str) -> None:
    """Put in compat's place a command that records a run `r` and then does this."""
    (job.folder / "bin" / "compat").write_text(
        f"""#!/bin/sh
echo "$@" >>{job.folder}/calls
case "$*" in
    "runs "*) if [ -e {job.folder}/ran ]; then echo '[{{"run": "r"}}]'; else echo '[]'; fi ;;
    "run --resume"*) exit 1 ;;
    "run "*) touch {job.folder}/ran; {run} ;;
esac
"""
    )
    (job.folder / ".compat" / "runs" / "r").mkdir(parents=True)
    (job.folder / ".compat" / "runs" / "r" / "journal.jsonl").write_text("what was recorded\n")
    (job.folder / ".compat" / "runs" / "r" / "plan.json").write_text("a secret\n")


def left(job: Job) -> list[str]:
    """The files of the artifact."""
    return [path.name for path in (job.folder / "artifacts").rglob("*") if path.is_file()]


def test_a_second_try_is_for_host_trouble_alone(job: Job) -> None:
    """Status 5 is resumed once; a mistake of the matrix is not, and leaves nothing that could be taken for a result."""
    pretending(job, "exit $STATUS")
    job.step("run.sh", STATUS="5")
    assert "run --resume" in (job.folder / "calls").read_text()
    assert (job.outputs()["status"], left(job)) == ("1", ["journal.jsonl"])
    (job.folder / "calls").unlink()
    job.step("run.sh", STATUS="2", status=2)
    assert "--resume" not in (job.folder / "calls").read_text()


def test_a_cancelled_run_leaves_what_it_recorded(job: Job) -> None:
    """GitHub interrupts the step, and takes the artifact all the same."""
    pretending(job, "sleep 60")
    heeding = partial(signal.signal, signal.SIGINT, signal.SIG_DFL)  # which a shell's background jobs ignore
    process = subprocess.Popen(
        [NIGHT / "run.sh"], cwd=job.folder, env=job.variables, start_new_session=True, preexec_fn=heeding
    )
    until = time.monotonic() + 60
    while not (job.folder / "ran").exists() and time.monotonic() < until:
        time.sleep(0.02)
    os.killpg(process.pid, signal.SIGINT)
    assert process.wait(timeout=30) != 0
    assert left(job) == ["journal.jsonl"]


def test_a_night_without_any_result_says_so(job: Job) -> None:
    """In the summary, with status 5: every runner may have died."""
    job.step("merge.sh", status=5, OUT=f"{job.folder}/report")
    assert "**cpu: no runner left a result. Nothing was shown.**" in job.written("STEP_SUMMARY")


def test_history_is_handed_on_within_bounds(job: Job) -> None:
    """The newest runs only, and their journals only."""
    for day in range(1, 5):
        run = f"2030010{day}T000000-abcd"
        folder = job.folder / "artifacts" / run
        folder.mkdir(parents=True)
        append(folder / "journal.jsonl", {**records()[0], "run": run}, *records()[1:])
    job.step("merge.sh", status=1, OUT=f"{job.folder}/report", KEEP="2")
    handed = sorted(str(path.relative_to(job.folder / "history")) for path in (job.folder / "history").rglob("*.*"))
    assert [re.sub(r".*(\d)T000000-abcd/", r"\1 ", name) for name in handed] == [
        "durations.json",
        "3 journal.jsonl",
        "4 journal.jsonl",
    ]


def test_shards_run_what_was_decided_to_be_new(tmp_path: Path, index: Index) -> None:
    """Once, by the history of the nights before: a release that appears meanwhile waits for the next night."""
    places = {"HISTORY": f"{tmp_path}/history", "OUT": f"{tmp_path}/out", "COMPAT_HOME": f"{tmp_path}/deciding"}
    job = Job(tmp_path, MATRIX="matrix.yaml", BACKEND="local", SELECTOR="one", TARGET="cpu", **places)
    night(tmp_path / "history", "1.2")
    assert "(0 cells, 0 checks)" in job.step("decide.sh")
    plan = {"PLAN": f"{tmp_path}/out/plan.json", "ARGUMENTS": "--new --pull always"}
    job.variables |= {**plan, "SHARD": "1/2"}
    job.step("run.sh")
    job.step("merge.sh", ARTIFACTS=f"{tmp_path}/out", OUT=f"{tmp_path}/report", NAME="cpu")
    assert "**cpu: nothing new was published; nothing was run.**" in job.written("STEP_SUMMARY")

    index.add(wheel(tmp_path / "wheels", "torchbnn", "1.3"), "2099-01-01")
    assert "(2 cells, 2 checks)" in job.step("decide.sh")
    index.add(wheel(tmp_path / "wheels", "torchbnn", "1.4"), "2099-01-02")
    command = [sys.executable, "-m", "torch_compat_matrix", "plan", "--plan", plan["PLAN"], "--json", "--shard"]
    for shard, version in (("1/2", "1.3"), ("2/2", "latest")):
        done = subprocess.run([*command, shard], env=job.variables, capture_output=True, text=True, check=True)
        assert [cell["version"] for cell in json.loads(done.stdout)["cells"]] == [version]
    (tmp_path / ".compat").mkdir()
    pretending(job, "exit 1")
    job.step("run.sh")
    (call,) = (line for line in (tmp_path / "calls").read_text().splitlines() if line.startswith("run "))
    assert call == f"run --plan {plan['PLAN']} --backend local --target cpu --shard 1/2 --pull always"
    job.step("decide.sh", BACKEND="", status=2)


def test_people_are_told_where_they_want_it(job: Job) -> None:
    """By an issue of the repository that the job runs in; by nothing where nothing is asked for."""
    folder = job.folder / ".compat" / "runs" / records()[0]["run"]
    folder.mkdir(parents=True)
    append(folder / "journal.jsonl", *records())
    with serving() as github:
        job.variables |= {"GITHUB_API_URL": github.url, "GITHUB_TOKEN": TOKEN, "GITHUB_REPOSITORY": REPOSITORY}
        assert job.step("tell.sh", ISSUE="false", WEBHOOK="", RUN=folder.name) == ""
        assert "issue 1: " in job.step("tell.sh", ISSUE="true", WEBHOOK="", RUN=folder.name)
        said = job.step("tell.sh", ISSUE="false", WEBHOOK="http://127.0.0.1:9/x", RUN=folder.name, status=5)
    assert "127.0.0.1: no answer" in said
    assert "(cpu)" in github.issues[0]["title"]


@pytest.mark.parametrize("targets", [("cpu",), ("cpu", "h100")])
def test_sites_of_targets_are_one_site(tmp_path: Path, targets: tuple[str, ...]) -> None:
    """The only one at its root; of several each in a folder that the root leads to."""
    for target in targets:
        (tmp_path / "site" / f"compat-site-{target}").mkdir(parents=True)
        (tmp_path / "site" / f"compat-site-{target}" / "index.html").write_text(f"of {target}")
    Job(tmp_path).step("pages.sh", SITES="site")
    root = (tmp_path / "site" / "index.html").read_text()
    assert (root == "of cpu") == (len(targets) == 1)
    for target in targets if len(targets) > 1 else ():
        assert f'<a href="{target}/index.html">{target}</a>' in root
        assert (tmp_path / "site" / target / "index.html").read_text() == f"of {target}"


@pytest.mark.slow
def test_the_tool_installs_itself_from_its_checkout(tmp_path: Path) -> None:
    """Into an environment of its own, which the next steps find; it needs the index."""
    job = Job(tmp_path)
    assert "compat 0." in job.step("install.sh", PYTHONPATH="")
    assert (Path(job.written("PATH").strip()) / "compat").exists()
    assert job.written("ENV").strip() == f"COMPAT_NIGHT={NIGHT}"
