"""A launch as a Job of Kubernetes, the files that go with it, and what its pod tells of it."""

from __future__ import annotations

import io
import json
import math
import tarfile
from base64 import b64encode
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from torch_compat_matrix.runner.backends.base import Launch, environment_of
from torch_compat_matrix.runner.backends.docker_errors import code_of
from torch_compat_matrix.runner.backends.owner import owner
from torch_compat_matrix.runner.backends.process import COMPILED, PLACES
from torch_compat_matrix.runner.bundle import BUNDLE, NAME
from torch_compat_matrix.runner.errors import Trouble

OURS = {"app.kubernetes.io/managed-by": "torch-compat-matrix"}
"""The label of all that is made here, by which it is listed, and by which a network policy knows it."""
RUN, BATCH = "torch-compat-matrix/run", "torch-compat-matrix/batch"
QUEUE = "kueue.x-k8s.io/queue-name"
USER = "65534:65534"
WAIT_S = 24 * 3600
"""How long a job may wait for a node, unless the target says otherwise."""
KEPT_S = 7 * 24 * 3600
"""How long an ended job stays to be collected."""
START_S = 300
"""What a pod may take to pull its image and to start, beyond the limit of its checks."""
MOST_BYTES = 1_000_000
"""Bytes of a ConfigMap, which the API limits to 1 MiB with all that surrounds them."""
FILES = "compat.tar.gz"
UNPACK = (
    "import os, sys, tarfile; tarfile.open(sys.argv[1]).extractall('/compat'); list(map(os.makedirs, sys.argv[2:]))"
)

PREEMPTED, LOST, EVICTED, LATE = "job-preempted", "node-lost", "job-evicted", "job-time-limit"
DISRUPTIONS = {
    "PreemptionByScheduler": PREEMPTED,
    "EvictionByEvictionAPI": PREEMPTED,
    "DeletionByTaintManager": LOST,
    "DeletionByPodGC": LOST,
    "TerminationByKubelet": EVICTED,
}
"""The reason of a pod's condition DisruptionTarget -> ours."""
STARTS = frozenset(("ContainerCreating", "PodInitializing", "ImagePullBackOff", ""))
"""Why a container waits that may start yet; ImagePullBackOff alternates with the error, which has the words."""


def job_name(batch: str) -> str:
    """The name of a batch's job, so that a second submission of it is refused."""
    return f"compat-{batch}"


def manifest(launch: Launch, target: Mapping[str, Any]) -> dict[str, Any]:
    """The Job: one pod, tried once, closed as the Pod Security level `restricted` demands."""
    image, name = launch.prepared.image, job_name(launch.labels["batch"])
    labels = {**OURS, RUN: launch.labels["run"], BATCH: launch.labels["batch"]}
    limit_s = int(target.get("time") or math.ceil(launch.order["deadline_s"]) + START_S)
    queue, claim = target.get("queue"), target.get("claim") if launch.overlays else None
    asked: dict[str, Any] = {"memory": str(target.get("mem") or launch.limits.memory)}
    cpus = target.get("cpus") or launch.limits.cpus
    if cpus:
        asked["cpu"] = str(cpus)
    gpus = {target["resource"]: str(len(launch.gpu.all))} if launch.gpu else {}
    places = {variable: f"/tmp/{place}" for variable, place in (PLACES | COMPILED).items()}
    environment = {
        **environment_of(image),
        **places,
        **({"OMP_NUM_THREADS": str(math.ceil(cpus))} if cpus else {}),
        **({} if launch.gpu else {"NVIDIA_VISIBLE_DEVICES": "void"}),  # an image may say `all`, and a runtime heed it
        "USER": "compat",
        "LOGNAME": "compat",
    }
    volumes: dict[str, dict[str, Any]] = {
        "files": {"configMap": {"name": name}},
        "compat": {"emptyDir": {}},
        "tmp": {"emptyDir": {}},
        "shm": {"emptyDir": {"medium": "Memory", "sizeLimit": str(launch.limits.shm)}},
    }
    mounts = [
        {"name": "compat", "mountPath": "/compat", "readOnly": True},
        {"name": "tmp", "mountPath": "/tmp"},
        {"name": "shm", "mountPath": "/dev/shm"},
    ]
    if claim:
        volumes["overlays"] = {"persistentVolumeClaim": {"claimName": claim, "readOnly": True}}
        place = f"{target.get('claim_folder') or '.'}/overlays".removeprefix("./")
        mounts.append({"name": "overlays", "mountPath": "/overlays", "subPath": place, "readOnly": True})
    container = {
        "image": str(image.reference),
        "imagePullPolicy": "Always" if image.pull == "always" and not image.digest else "IfNotPresent",
        "securityContext": {
            "allowPrivilegeEscalation": False,
            "readOnlyRootFilesystem": True,
            "capabilities": {"drop": ["ALL"]},
        },
        "env": [{"name": variable, "value": value} for variable, value in environment.items()],
    }
    order = ["-m", NAME, "/compat/order.json", "--overlays", "/overlays" if claim else "/compat/overlays"]
    unpacks = {
        **container,
        "name": "unpack",
        "command": [launch.prepared.python, "-c", UNPACK, f"/files/{FILES}", *places.values()],
        "volumeMounts": [
            {"name": "files", "mountPath": "/files", "readOnly": True},
            {"name": "compat", "mountPath": "/compat"},
            {"name": "tmp", "mountPath": "/tmp"},
        ],
        "resources": {"requests": asked, "limits": asked},
    }
    probes = {
        **container,
        "name": "probes",
        "workingDir": "/compat",
        "command": [launch.prepared.python, *order],
        "volumeMounts": mounts,
        "resources": {"requests": {**asked, **gpus}, "limits": {**asked, **gpus}},
    }
    user, _, group = (image.user or USER).partition(":")
    pod = {
        "restartPolicy": "Never",
        "activeDeadlineSeconds": limit_s,  # of the pod: a job's own counts the time that it waits for a node
        "terminationGracePeriodSeconds": 5,
        "automountServiceAccountToken": False,
        "enableServiceLinks": False,
        "securityContext": {
            "runAsNonRoot": True,
            "runAsUser": int(user),
            "runAsGroup": int(group or user),
            "seccompProfile": {"type": "RuntimeDefault"},
        },
        "initContainers": [unpacks],
        "containers": [probes],
        "volumes": [{"name": volume, **source} for volume, source in volumes.items()],
        "imagePullSecrets": [{"name": secret} for secret in target.get("pull_secrets", ())],
        "nodeSelector": dict(target.get("node_selector", {})),
        "tolerations": list(target.get("tolerations", ())),
    }
    for key, own in (("runtime_class", "runtimeClassName"), ("service_account", "serviceAccountName"),
                     ("priority_class", "priorityClassName")):  # fmt: skip
        pod |= {own: target[key]} if target.get(key) else {}
    return {
        "apiVersion": "batch/v1",
        "kind": "Job",
        "metadata": {
            "name": name,
            "labels": {**labels, **({QUEUE: queue} if queue else {})},
            "annotations": {"torch-compat-matrix/owner": owner(), "torch-compat-matrix/image": image.name},
        },
        "spec": {
            "backoffLimit": 0,
            "activeDeadlineSeconds": limit_s + math.ceil(target.get("wait") or WAIT_S),
            "ttlSecondsAfterFinished": KEPT_S,
            "suspend": bool(queue),  # until the queue admits it
            "podFailurePolicy": {
                "rules": [{"action": "FailJob", "onPodConditions": [{"type": "DisruptionTarget", "status": "True"}]}]
            },
            "template": {"metadata": {"labels": labels}, "spec": pod},
        },
    }


def files(launch: Launch, job: Mapping[str, Any], with_overlays: bool) -> dict[str, Any]:
    """The ConfigMap that the job's pod unpacks, which goes with the job: probes, order, and small overlays."""
    archive = io.BytesIO()
    overlays = launch.overlays if with_overlays else {}
    sizes = (path.lstat().st_size for folder in overlays.values() for path in folder.rglob("*"))
    if sum(sizes) > 8 * MOST_BYTES:
        raise _too_large("the packages of its cells")
    with tarfile.open(fileobj=archive, mode="w:gz", compresslevel=6) as tar:
        tar.add(BUNDLE, NAME, filter=_readable)
        for key, folder in overlays.items():
            tar.add(folder, f"overlays/{key}", filter=_readable)
        order = json.dumps(launch.order).encode()
        entry = tarfile.TarInfo("order.json")
        entry.size, entry.mode = len(order), 0o444
        tar.addfile(entry, io.BytesIO(order))
    if archive.tell() > MOST_BYTES:
        raise _too_large("what its pod needs")
    about = job["metadata"]
    return {
        "apiVersion": "v1",
        "kind": "ConfigMap",
        "immutable": True,
        "metadata": {
            "name": about["name"],
            "labels": {name: value for name, value in about["labels"].items() if name != QUEUE},
            "ownerReferences": [{"apiVersion": "batch/v1", "kind": "Job", "name": about["name"], "uid": about["uid"]}],
        },
        "binaryData": {FILES: b64encode(archive.getvalue()).decode()},
    }


@dataclass(frozen=True, kw_only=True, slots=True)
class State:
    """What became of a job so far."""

    word: str
    """WAITING, RUNNING or ENDED, as `compat status` shows it."""
    reason: str = ""
    code: str = ""
    """The reason code of what ended it, or keeps it from ever starting, without a probe's doing."""
    status: int = 0
    """The exit status of the probe host."""
    oom_killed: bool = False

    @property
    def over(self) -> bool:
        """Whether nothing more comes of it."""
        return self.word == "ENDED" or bool(self.code)


def state_of(job: Mapping[str, Any], pod: Mapping[str, Any] | None) -> State:
    """The state that a job and its only pod tell, as the API gives them."""
    ends = [
        each
        for each in job["status"].get("conditions", ())
        if each["type"] in ("Failed", "FailureTarget", "Complete") and each["status"] == "True"
    ]
    if any(each.get("reason") == "DeadlineExceeded" for each in ends):
        return State(word="ENDED", reason="DeadlineExceeded", code=LATE)
    if pod is None:
        if ends:
            return State(word="ENDED", reason=ends[0].get("message") or "its pod is gone", code="job-lost")
        return State(word="WAITING", reason="Suspended" if job["spec"].get("suspend") else "")
    status = pod["status"]
    conditions = {each["type"]: each for each in status.get("conditions", ())}
    disrupted = conditions.get("DisruptionTarget", {})
    if status.get("reason") == "DeadlineExceeded":
        return State(word="ENDED", reason="DeadlineExceeded", code=LATE)
    if disrupted.get("status") == "True" or status.get("reason"):
        reason = disrupted.get("reason") or status["reason"]
        words = f"{reason}: {disrupted.get('message') or status.get('message', '')}"
        return State(word="ENDED", reason=words, code=DISRUPTIONS.get(reason, EVICTED))
    containers = [*status.get("initContainerStatuses", ()), *status.get("containerStatuses", ())]
    for each in containers:
        ended, waits = each["state"].get("terminated"), each["state"].get("waiting", {})
        failed = ended and ended.get("reason") in ("StartError", "ContainerCannotRun")
        if failed or waits.get("reason", "") not in STARTS:
            words = (ended or waits).get("message", "")
            doing = "no-python" if failed else "image-not-found" if "Image" in waits["reason"] else "scheduler-error"
            return State(
                word="ENDED" if failed else "WAITING",
                reason=f"{(ended or waits)['reason']}: {words}",
                code=code_of(words, doing),
            )
        if ended and each["name"] == "unpack" and ended["exitCode"]:
            why = f"the files of the launch were not unpacked: exit status {ended['exitCode']}"
            return State(
                word="ENDED", reason=why, code="job-evicted" if ended["reason"] == "OOMKilled" else "scheduler-error"
            )
        if ended and each["name"] == "probes":
            return State(word="ENDED", status=ended["exitCode"], oom_killed=ended.get("reason") == "OOMKilled")
    if status["phase"] == "Running":
        return State(word="RUNNING", reason=pod["spec"].get("nodeName", ""))
    unplaced = conditions.get("PodScheduled", {})
    waiting = [each["state"]["waiting"]["reason"] for each in containers if "waiting" in each["state"]]
    reason = unplaced.get("message", "") if unplaced.get("status") == "False" else ", ".join(dict.fromkeys(waiting))
    return State(word="WAITING", reason=reason)


def _too_large(what: str) -> Trouble:
    return Trouble(
        "job-unsatisfiable",
        f"a ConfigMap has no room for the launch: {what} takes more than {MOST_BYTES} bytes",
        "Give the target a `claim:` on a volume that has COMPAT_HOME, or make smaller batches with `--jobs`.",
    )


def _readable(entry: tarfile.TarInfo) -> tarfile.TarInfo | None:
    """The entry made readable for any user; None for a cache of bytecode."""
    entry.mode = 0o755 if entry.isdir() else 0o644
    return None if "__pycache__" in entry.name else entry
