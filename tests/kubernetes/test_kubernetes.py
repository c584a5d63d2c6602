"""Real Jobs: refused, killed, lost with their nodes, and found again by another process."""

from __future__ import annotations

import json
import os
import re
import signal
import time
from pathlib import Path

import pytest
from ruamel.yaml import YAML

from tests.kubernetes.conftest import Site, await_, finish
from tests.support import ROOT

PASSES = {("pass", ""): 4}


def test_gpus_are_counted_by_the_scheduler(site: Site) -> None:
    """Each pod asks for one; more wait than the nodes have, and all are answered."""
    site.write(images=6, target="mem: 100m, resource: nvidia.com/gpu", SLEEP_S=0.5, GPUS="0")
    site.compat("run", "--target", "site")
    assert site.verdicts() == {("pass", ""): 24}
    assert {outcome["device"] for outcome in site.outcomes()} == {"cuda"}


def test_missing_image_is_named_and_not_waited_for(site: Site) -> None:
    """The kubelet would try for ever."""
    site.write(tag=site.cluster.image.partition("/")[0] + "/compat-test/absent:1", limits="retries: 0")
    site.compat("run", "--target", "site", status=None)
    assert {reason for _, reason in site.verdicts()} == {"image-not-found"}


def test_what_no_node_has_is_shown_and_given_up(site: Site) -> None:
    """After `wait:`, with the scheduler's own words."""
    site.write(target="mem: 100m, node-selector: { pool: none }, wait: 5", limits="retries: 0")
    site.compat("run", "--target", "site", status=5)
    assert site.verdicts() == {("infra", "job-unsatisfiable"): 4}
    assert "match Pod's node affinity/selector" in str(site.outcomes())


def test_memory_of_a_pod_is_the_checks_limit(site: Site) -> None:
    """The check that takes more than the pod has is `oom`; the others keep their passes."""
    site.write(HOG=300)
    site.compat("run", "--target", "site", status=1)
    seen = {outcome["probe"]: outcome["verdict"] for outcome in site.outcomes()}
    assert seen == {"import": "pass", "sample": "pass", "autograd": "pass", "compile": "oom"}


def test_time_limit_of_a_pod_blames_no_library(site: Site) -> None:
    """A pod that its limit ends leaves its answers; the rest is `job-time-limit`."""
    site.write(target="mem: 100m, time: 12", limits="retries: 0", SLEEP_S=5)
    site.compat("run", "--target", "site", status=5)
    assert site.verdicts()[("infra", "job-time-limit")] == 4 - site.verdicts()[("pass", "")] > 0


def test_missing_interpreter_is_named(site: Site) -> None:
    """As a container engine names it."""
    site.write()
    path = site.folder / "matrix.yaml"
    path.write_text(path.read_text().replace("/usr/local/bin/answers", "/usr/local/bin/python9"))
    site.compat("run", "--target", "site", status=None)
    assert {reason for _, reason in site.verdicts()} == {"no-python"}


def test_deleted_job_is_cancelled(site: Site) -> None:
    """Its other checks are asked again by a resume alone."""
    site.write(SLEEP_S=2)
    running = site.start("run", "--target", "site")
    await_(lambda: len(site.outcomes()) >= 1)
    site.cluster.batch.delete_collection_namespaced_job(site.cluster.namespace, propagation_policy="Background")
    finish(running, (5,))
    assert ("not-run", "job-cancelled") in site.verdicts()
    site.compat("run", "--resume")
    assert site.verdicts()[("pass", "")] == 4


def test_suspended_job_starts_once_its_queue_admits_it(site: Site) -> None:
    """Until then it has no pod; what Kueue would do, the test does."""
    cluster = site.cluster
    site.write(target="mem: 100m, queue: night")
    running = site.start("run", "--target", "site")
    for _ in ("facts", "checks"):
        await_(lambda: [job for job in cluster.jobs() if job.spec.suspend])
        (job,) = cluster.jobs()
        time.sleep(3)
        assert job.metadata.labels["kueue.x-k8s.io/queue-name"] == "night" and not cluster.pods()
        cluster.batch.patch_namespaced_job(job.metadata.name, cluster.namespace, {"spec": {"suspend": False}})
    finish(running)
    assert site.verdicts() == PASSES


def test_drained_pod_costs_only_what_had_no_answer(site: Site) -> None:
    """Eviction by the API, as `kubectl drain` asks for it, and the rest in another pod."""
    site.write(SLEEP_S=4)
    running = site.start("run", "--target", "site")
    await_(lambda: len(site.outcomes()) >= 2)
    (pod,) = site.cluster.running()
    eviction = {"metadata": {"name": pod, "namespace": site.cluster.namespace}}
    site.cluster.core.create_namespaced_pod_eviction(pod, site.cluster.namespace, eviction)
    await_(lambda: set(site.cluster.running()) - {pod})
    finish(running)
    assert site.verdicts() == PASSES


def test_detached_run_is_shown_and_collected(site: Site) -> None:
    """Submitted jobs run without us; a resume collects each answer once, and nothing stays."""
    site.write(images=3, target="mem: 100m, node-selector: { kubernetes.io/hostname: node1 }", SLEEP_S=15)
    site.compat("run", "--target", "site", "--detach")
    await_(lambda: len(site.cluster.running()) == 3)
    assert "3 running" in site.compat("status")
    site.compat("run", "--resume")
    assert site.verdicts() == {("pass", ""): 12}
    assert json.loads(site.compat("status", "--json")) == []


def test_submitting_the_same_launch_twice_is_submitting_it_once(site: Site) -> None:
    """A submitter that was killed before it noted the job finds it by its name."""
    site.write(SLEEP_S=2)
    site.compat("run", "--target", "site", "--detach")
    (noted,) = (site.folder / "home" / "jobs").glob("*/*/id")
    noted.unlink()
    running = site.start("run", "--resume")
    await_(lambda: len(site.outcomes()) >= 1)
    assert len(site.cluster.jobs()) == 1
    finish(running)
    assert site.verdicts() == PASSES


def test_cancel_ends_a_detached_run(site: Site) -> None:
    """Its jobs end, and their pods and files with them."""
    site.write(images=2, SLEEP_S=30)
    site.compat("run", "--target", "site", "--detach")
    assert "2 jobs cancelled" in site.compat("cancel")
    await_(lambda: not site.cluster.pods())
    assert "0 of 8 checks answered, 0 jobs" in site.compat("status")


def test_killed_submitter_and_node_are_made_up_for(site: Site) -> None:
    """After SIGKILL of the submitter and the loss of a node, a resume finds the living jobs and replaces the dead."""
    site.write(images=4, target="mem: 100m, resource: nvidia.com/gpu", SLEEP_S=8, GPUS="0")
    running = site.start("run", "--target", "site")
    await_(lambda: len(site.cluster.running()) == 4 and len(site.outcomes()) >= 4)
    running.send_signal(signal.SIGKILL)
    finish(running, (-9,))
    before = len(site.outcomes())
    site.cluster.kill("node2")
    try:
        site.compat("run", "--resume")
    finally:
        site.cluster.mend()
    assert before < 16
    assert site.verdicts() == {("pass", ""): 16}


def test_log_that_a_node_has_cut_is_noticed(site: Site) -> None:
    """Nobody followed the pod while it printed more than a node keeps: its checks run again."""
    site.write(NOISE_MB=24, SLEEP_S=8)
    site.compat("run", "--target", "site", "--detach")
    await_(lambda: [pod for pod in site.cluster.pods() if pod.status.phase == "Succeeded"])
    (first,) = (pod.metadata.name for pod in site.cluster.pods())
    running = site.start("run", "--resume")
    await_(lambda: [pod for pod in site.cluster.pods() if pod.metadata.name != first])
    finish(running)
    assert site.verdicts() == PASSES


@pytest.mark.parametrize("number", [50, pytest.param(200, marks=pytest.mark.slow)])
def test_batches_drain(site: Site, number: int) -> None:
    """More batches than the cluster runs at a time, each answered once."""
    site.write(images=number, target="mem: 40m, max-jobs: 16")
    site.compat("run", "--target", "site", "--probe", "import")
    assert site.verdicts() == {("pass", ""): number}


@pytest.mark.slow
def test_api_may_be_away_for_a_minute(site: Site) -> None:
    """The pods go on, and what they said meanwhile is read afterwards."""
    site.write(images=2, SLEEP_S=20)
    running = site.start("run", "--target", "site")
    await_(lambda: len(site.outcomes()) >= 2)
    server = int((site.cluster.state / "kube-apiserver.pid").read_text())
    os.kill(server, signal.SIGSTOP)
    try:
        time.sleep(60)
    finally:
        os.kill(server, signal.SIGCONT)
    finish(running)
    assert site.verdicts() == {("pass", ""): 8}


def test_role_is_enough_and_least(site: Site) -> None:
    """A run by a token that is bound to the role of docs/kubernetes/role.yaml; each permission left out is missed."""
    cluster, (role, account, binding) = (
        site.cluster,
        YAML(typ="safe").load_all(ROOT / "docs" / "kubernetes" / "role.yaml"),
    )
    cluster.rbac.create_namespaced_role(cluster.namespace, role)
    cluster.core.create_namespaced_service_account(cluster.namespace, account)
    cluster.rbac.create_namespaced_role_binding(cluster.namespace, binding)
    name = account["metadata"]["name"]
    token = cluster.core.create_namespaced_service_account_token(name, cluster.namespace, {"spec": {}}).status.token
    file = Path(os.environ["KUBECONFIG"])
    settings = YAML(typ="safe").load(file)
    settings["users"][0]["user"] = {"token": token}
    own = site.folder / "kubeconfig"
    own.write_text(json.dumps(settings))
    site.write()
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("KUBECONFIG", str(own))
        assert "ok  permissions" in site.compat("doctor", "--backend", "kubernetes", status=None)
        site.compat("run", "--target", "site")
        site.compat("cancel")
        assert site.verdicts() == PASSES
        role["rules"][2]["verbs"] = ["list"]
        with pytest.MonkeyPatch.context() as admin:
            admin.setenv("KUBECONFIG", str(file))
            cluster.rbac.replace_namespaced_role(name, cluster.namespace, role)
        assert "may not get pods/log" in site.compat("doctor", "--backend", "kubernetes", status=None)


def test_verdicts_are_those_of_docker(site: Site) -> None:
    """The same small matrix with real torch, two images and six cells, whose packages come by a volume."""
    home = site.folder / "home"
    about = {"accessModes": ["ReadOnlyMany"], "storageClassName": "", "volumeName": site.cluster.namespace}
    size = {"storage": "1Gi"}
    volume = {key: about[key] for key in ("accessModes", "storageClassName")}
    site.cluster.core.create_persistent_volume(
        {
            "metadata": {"name": site.cluster.namespace},
            "spec": {**volume, "capacity": size, "hostPath": {"path": str(site.folder)}},
        }
    )
    site.cluster.core.create_namespaced_persistent_volume_claim(
        site.cluster.namespace,
        {"metadata": {"name": "home"}, "spec": {**about, "resources": {"requests": size}}},
    )
    reference, _, digest = site.cluster.image.partition("@")
    site.write_all(
        f"  plain: {{ tag: {reference}, digest: {digest} }}\n"
        f"  single: {{ tag: {reference}, digest: {digest}, env: {{ OMP_NUM_THREADS: '1' }} }}",
        "  captum: { versions: ['0.9.0'] }\n  torchbnn: { versions: ['1.2'] }\n  pyro-ppl: { versions: ['1.8.0'] }",
        f"mem: 2g, claim: home, claim-folder: {home.name}, max-jobs: 2",
        "timeout: 300",
    )
    seen = []
    try:
        for where in (("--backend", "docker", "--jobs", "1"), ("--target", "site")):
            site.compat("run", *where, status=None)
            seen.append({each["check"]: (each["verdict"], each.get("reason", "")) for each in site.outcomes()})
    finally:
        site.cluster.core.delete_persistent_volume(site.cluster.namespace)
    assert seen[0] == seen[1] and len(seen[0]) == 24
    assert re.search("pass", str(seen))
