"""What Kubernetes is asked, without a cluster: the Job by published schemas, its files, and what its pod tells."""

from __future__ import annotations

import io
import socket
import tarfile
from base64 import b64decode
from dataclasses import replace
from pathlib import Path
from typing import Any

import kubernetes_validate
import pytest
from ruamel.yaml import YAML

from tests.support import ROOT
from torch_compat_matrix.probes import facts
from torch_compat_matrix.runner.backends.base import Gpu, Launch, Prepared
from torch_compat_matrix.runner.backends.kubernetes import NEEDS, KubernetesBackend
from torch_compat_matrix.runner.backends.kubernetes_job import FILES, OURS, files, manifest, state_of
from torch_compat_matrix.runner.errors import Trouble
from torch_compat_matrix.runner.matrix.load import load
from torch_compat_matrix.runner.matrix.targets import chosen
from torch_compat_matrix.runner.model import Image, Limits

VERSIONS = ("1.27", "1.30", "1.33", "1.37")
TARGET = """
images: { a: { tag: "a:1" } }
libraries: { captum: { versions: [installed] } }
targets:
  h100: { gpu: H100, kubernetes: { namespace: ml, resource: nvidia.com/gpu, gpus: 8, node-selector: { pool: h100 },
    tolerations: [{ key: nvidia.com/gpu, operator: Exists, effect: NoSchedule }], runtime-class: nvidia, queue: night,
    priority-class: low, service-account: probes, pull-secrets: [login], claim: compat, claim-folder: team/compat,
    mem: 32g, cpus: 8, time: 3600 } }
"""


def launch(**overlays: Path) -> Launch:
    """A launch on a GPU."""
    image = Image(name="train", tag="registry.example.com/train:1", digest=f"sha256:{'a' * 64}", limits=Limits())
    prepared = Prepared(image=image, identity="i", reference=str(image.reference), python="/opt/python")
    gpu = Gpu(uuid="", index=0, name="H100", memory=0, driver="")
    labels = {"run": "r", "batch": "0123456789abcdef-0"}
    order = {"deadline_s": 100.5, "cells": []}
    return Launch(prepared=prepared, order=order, limits=Limits(), labels=labels, gpu=gpu, overlays=overlays)


@pytest.fixture
def target(tmp_path: Path) -> dict[str, Any]:
    """A target that says all that can be said."""
    (tmp_path / "matrix.yaml").write_text(TARGET)
    own: dict[str, Any] = chosen(load(tmp_path / "matrix.yaml"), "h100", "kubernetes")["kubernetes"]
    return own


@pytest.mark.parametrize("version", VERSIONS)
def test_objects_are_those_of_the_published_schemas(version: str, target: dict[str, Any], tmp_path: Path) -> None:
    """With all that a target can say, and with nothing; with files of Role and NetworkPolicy."""
    whole, plain = manifest(launch(k=tmp_path), target), manifest(launch(), {"resource": "x/gpu"})
    made = {**whole, "metadata": {**whole["metadata"], "uid": "u"}}
    policies = [
        each
        for name in ("role", "deny-all")
        for each in YAML(typ="safe").load_all(ROOT / "docs" / "kubernetes" / f"{name}.yaml")
    ]
    for each in (whole, plain, files(launch(), made, with_overlays=True), *policies):
        kubernetes_validate.validate(each, version, strict=True)


def test_pod_is_closed(target: dict[str, Any], tmp_path: Path) -> None:
    """As the level `restricted` demands, by digest, with the GPU as a resource, suspended for its queue."""
    job = manifest(launch(k=tmp_path), target)
    pod = job["spec"]["template"]["spec"]
    assert job["spec"]["suspend"] and job["metadata"]["labels"]["kueue.x-k8s.io/queue-name"] == "night"
    assert pod["automountServiceAccountToken"] is False and pod["securityContext"]["runAsNonRoot"] is True
    assert pod["activeDeadlineSeconds"] == 3600
    for container in (*pod["initContainers"], *pod["containers"]):
        assert container["image"] == f"registry.example.com/train@sha256:{'a' * 64}"
        assert container["securityContext"]["readOnlyRootFilesystem"] is True
        assert container["securityContext"]["capabilities"] == {"drop": ["ALL"]}
    (probes,) = pod["containers"]
    assert probes["resources"]["limits"] == {"memory": str(32 << 30), "cpu": "8", "nvidia.com/gpu": "1"}
    assert probes["command"][1:] == ["-m", "compat_probes", "/compat/order.json", "--overlays", "/overlays"]
    assert probes["volumeMounts"][-1]["subPath"] == "team/compat/overlays"
    hidden = {"name": "NVIDIA_VISIBLE_DEVICES", "value": "void"}
    (without,) = manifest(replace(launch(), gpu=None), {})["spec"]["template"]["spec"]["containers"]
    assert hidden in without["env"] and hidden not in probes["env"]


def test_files_hold_what_the_pod_needs(tmp_path: Path) -> None:
    """Probes, order and small overlays; of large ones the remedy is said."""
    (tmp_path / "module.py").write_text("")
    made = manifest(launch(), {"resource": "x/gpu"})
    made["metadata"]["uid"] = "u"
    config = files(launch(key=tmp_path), made, with_overlays=True)
    with tarfile.open(fileobj=io.BytesIO(b64decode(config["binaryData"][FILES]))) as tar:
        names = tar.getnames()
    assert {"order.json", "overlays/key/module.py", "compat_probes/host.py"} <= set(names)
    assert not [name for name in names if "__pycache__" in name]
    assert config["metadata"]["ownerReferences"][0]["uid"] == "u"
    (tmp_path / "library.so").write_bytes(bytes(9 << 20))
    with pytest.raises(Trouble, match="no room") as caught:
        files(launch(key=tmp_path), made, with_overlays=True)
    assert "claim" in caught.value.remedy


def pod(phase: str = "Pending", container: dict[str, Any] | None = None, **status: Any) -> dict[str, Any]:
    """A pod as the API gives it."""
    statuses = [{"name": "probes", "state": container}] if container else []
    return {"spec": {"nodeName": "node1"}, "status": {"phase": phase, "containerStatuses": statuses, **status}}


def waits(reason: str, message: str = "") -> dict[str, Any]:
    """The state of a container that waits."""
    return {"waiting": {"reason": reason, "message": message}}


def ended(code: int, reason: str = "Error", message: str = "") -> dict[str, Any]:
    """The state of a container that has ended."""
    return {"terminated": {"exitCode": code, "reason": reason, "message": message}}


def because(kind: str, reason: str, status: str = "True") -> list[dict[str, str]]:
    """A condition of a pod or a job."""
    return [{"type": kind, "status": status, "reason": reason, "message": reason}]


NOT_FOUND = 'failed to resolve reference "a:1": a:1: not found'
NO_PROGRAM = 'exec: "python9": executable file not found in $PATH'


@pytest.mark.parametrize(
    ("given", "word", "code"),
    [
        (pod(container=waits("ErrImagePull", NOT_FOUND)), "WAITING", "image-not-found"),
        (pod(container=waits("ErrImagePull", "dial tcp: lookup a: no such host")), "WAITING", "registry-unreachable"),
        (pod(container=waits("ErrImagePull", "401 unauthorized")), "WAITING", "registry-refused"),
        (pod(container=waits("InvalidImageName")), "WAITING", "image-not-found"),
        (pod(container=waits("ImagePullBackOff")), "WAITING", ""),
        (pod(container=waits("ContainerCreating")), "WAITING", ""),
        (pod(container=waits("CreateContainerConfigError")), "WAITING", "scheduler-error"),
        (pod(conditions=because("PodScheduled", "Unschedulable", "False")), "WAITING", ""),
        (pod("Failed", ended(128, "StartError", NO_PROGRAM)), "ENDED", "no-python"),
        (pod("Failed", ended(137, "OOMKilled")), "ENDED", ""),
        (pod("Running", {"running": {}}), "RUNNING", ""),
        (pod("Failed", reason="Evicted", message="low on memory"), "ENDED", "job-evicted"),
        (pod("Failed", reason="DeadlineExceeded"), "ENDED", "job-time-limit"),
        (pod("Running", {"running": {}}, conditions=because("DisruptionTarget", "DeletionByTaintManager")), "ENDED",
         "node-lost"),
        (pod("Failed", ended(143), conditions=because("DisruptionTarget", "PreemptionByScheduler")), "ENDED",
         "job-preempted"),
        (None, "WAITING", ""),
    ],
)  # fmt: skip
def test_trouble_of_a_pod_has_its_reason(given: dict[str, Any] | None, word: str, code: str) -> None:
    """By what the API was seen to say."""
    state = state_of({"status": {}, "spec": {}}, given)
    assert (state.word, state.code) == (word, code)


def test_end_of_a_job_is_told() -> None:
    """Its deadline, its suspension; exit status and memory of its pod."""
    late = {"status": {"conditions": because("FailureTarget", "DeadlineExceeded")}, "spec": {}}
    assert state_of(late, None).code == "job-time-limit"
    assert state_of({"status": {}, "spec": {"suspend": True}}, None).reason == "Suspended"
    assert state_of({"status": {"conditions": because("Complete", "")}, "spec": {}}, None).code == "job-lost"
    done = state_of({"status": {}, "spec": {}}, pod("Succeeded", ended(0, "OOMKilled")))
    assert done.over and done.oom_killed and done.status == 0


def test_user_needs_a_number(tmp_path: Path) -> None:
    """The API takes no name, which only the image could tell."""
    backend = KubernetesBackend(tmp_path, {})
    assert backend.prepare(Image(name="a", tag="a:1", user="1000:100")).reference == "a:1"
    with pytest.raises(Trouble, match="by name"):
        backend.prepare(Image(name="a", tag="a:1", user="jovyan"))


def test_role_grants_what_is_used() -> None:
    """And nothing else; the policy shuts the pods that are made here, and no other."""
    role, *_ = YAML(typ="safe").load_all(ROOT / "docs" / "kubernetes" / "role.yaml")
    granted = {(rule["apiGroups"][0], rule["resources"][0]): tuple(rule["verbs"]) for rule in role["rules"]}
    assert granted == NEEDS
    (policy,) = YAML(typ="safe").load_all(ROOT / "docs" / "kubernetes" / "deny-all.yaml")
    assert policy["spec"] == {"podSelector": {"matchLabels": OURS}, "policyTypes": ["Ingress", "Egress"]}


def test_a_pod_tells_whether_it_can_connect(monkeypatch: pytest.MonkeyPatch) -> None:
    """To the API of its cluster, whose address each pod is told; what is no pod tells nothing."""
    monkeypatch.delenv("KUBERNETES_SERVICE_HOST", raising=False)
    assert facts._network() == {}
    with socket.create_server(("127.0.0.1", 0)) as api:
        monkeypatch.setenv("KUBERNETES_SERVICE_HOST", "127.0.0.1")
        monkeypatch.setenv("KUBERNETES_SERVICE_PORT", str(api.getsockname()[1]))
        assert facts._network() == {"network": True}
    assert facts._network() == {"network": False}
