"""The `kubernetes` backend: each launch is a Job, whose frames come by the log of its pod."""

from __future__ import annotations

import json
import logging
import re
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import suppress
from functools import cached_property
from pathlib import Path
from typing import Any

from kubernetes import client, config
from kubernetes.client import ApiException
from kubernetes.config import ConfigException
from urllib3.exceptions import HTTPError

from torch_compat_matrix.runner.backends import base
from torch_compat_matrix.runner.backends.base import Exit, Finding, Launch, Prepared
from torch_compat_matrix.runner.backends.kubernetes_job import (
    BATCH,
    OURS,
    RUN,
    WAIT_S,
    State,
    files,
    job_name,
    manifest,
    state_of,
)
from torch_compat_matrix.runner.backends.placed import LAST, Placed, Waiting, id_of
from torch_compat_matrix.runner.errors import Trouble
from torch_compat_matrix.runner.model import Image, digest
from torch_compat_matrix.runner.streams import Kept as Said
from torch_compat_matrix.runner.streams import whole_lines

logging.getLogger("urllib3").setLevel(logging.ERROR)  # it would tell each connection beyond ten, and each retry
POLL_S = 2.0
"""Seconds between two questions for all jobs and pods of a namespace, or ten times what the last one took."""
AWAY_S = 300.0
"""How long the API may be away."""
PATIENCE_S = (20, 30)
"""Seconds to connect, and without a word: then a pod is looked at, and its log read anew."""
END_S = 60.0
"""How long the end of a pod may stay unknown after that of its log."""
OF_A_QUOTA = r"\b(?:exceeded|failed) quota: "
"""The API's words for a pod that asks for more than a quota leaves, or that does not say how much it asks for."""
CONFLICT, GONE, PASSING = 409, 404, (0, 429, 500, 502, 503, 504)
"""Statuses of the API."""
CASCADE = {"propagationPolicy": "Background"}
"""Whatever a job owns goes with it."""
NEEDS = {
    ("batch", "jobs"): ("create", "get", "list", "delete", "deletecollection"),
    ("", "pods"): ("list",),
    ("", "pods/log"): ("get",),
    ("", "configmaps"): ("create",),
    ("", "events"): ("list",),
}
"""(API group, resource) -> the verbs that are used; docs/kubernetes/role.yaml grants them."""


def connect(home: Path) -> KubernetesBackend:
    """The backend for the cluster that KUBECONFIG names, or in which this pod runs."""
    return KubernetesBackend(home, {})


class KubernetesBackend(Placed):
    """Submits Jobs, and follows the logs of their pods."""

    name = "kubernetes"
    heeds: Sequence[str] = ("user",)
    counts = "resource"

    @cached_property
    def cluster(self) -> Cluster:
        """The cluster of the target."""
        return Cluster(self.target.get("context"), self.target.get("namespace"))

    def prepare(self, image: Image) -> Prepared:
        """The image's reference, which the nodes pull."""
        if image.reference is None:
            raise Trouble("image-not-found", f"{image.name} has no `tag:`")
        if not image.user.replace(":", "").isdigit() and image.user:
            number = "write `user:` as UID or UID:GID"
            raise Trouble("job-unsatisfiable", f"a pod takes no user by name, as {image.user} of {image.name}", number)
        return Prepared(
            image=image,
            identity=image.digest or digest(image.reference),
            reference=image.reference,
            digest=image.digest or "",
            python=image.python,
        )

    def peek(self, image: Image) -> Prepared | None:
        """The same: nothing is pulled here."""
        return self.prepare(image)

    def room(self, images: Sequence[Image]) -> Finding:
        """Whether the API takes a job for the first image; whether a node can ever run it, is seen when it waits."""
        try:
            for image in images[:1]:
                self.cluster.create(self._manifest(image), dry_run="All")
        except Trouble as trouble:
            return Finding(what="a job", works=False, detail=str(trouble), code=trouble.code, remedy=trouble.remedy)
        return base.room(self.home, 0)

    def doctor(self) -> Sequence[Finding]:
        """The API, and what this user may do with it."""
        try:
            version = self.cluster.ask(client.VersionApi(self.cluster.api).get_code, patience_s=0)["gitVersion"]
            needs = ((*what, verb) for what, verbs in NEEDS.items() for verb in verbs)
            lacking = [need for need in needs if not self.cluster.may(*need)]
        except Trouble as trouble:
            return [Finding(what="API", works=False, detail=str(trouble), code=trouble.code)]
        return [
            Finding(what="API", works=True, detail=f"{version}, namespace {self.cluster.namespace}"),
            Finding(
                what="permissions",
                works=not lacking,
                detail="; ".join(f"may not {verb} {resource}" for _, resource, verb in lacking) or "all that is needed",
                code="not-permitted" if lacking else "",
            ),
        ]

    def _manifest(self, image: Image) -> dict[str, Any]:
        launch = Launch(
            prepared=self.prepare(image),
            order={"deadline_s": 60},
            limits=image.limits,
            labels={"run": "doctor", "batch": "doctor"},
            gpu=next(iter(self.gpus()), None),
        )
        return manifest(launch, self.target)

    def _submit(self, launch: Launch, folder: Path, begun: bool) -> str:
        job = self.cluster.create(manifest(launch, self.target))
        try:
            self.cluster.create(files(launch, job, with_overlays="claim" not in self.target))  # its pod waits for them
        except Trouble:
            self.cluster.delete(job["metadata"]["name"])
            raise
        return str(job["metadata"]["name"])

    def _follow(self, folder: Path) -> KubernetesLaunch:
        return KubernetesLaunch(folder, self.cluster, float(self.target.get("wait") or WAIT_S))

    def _states(self, folders: Sequence[Path]) -> Mapping[Path, tuple[str, str, bool]]:
        states = {folder: self.cluster.state(job_name(folder.name)) for folder in folders}
        return {folder: (state.word, state.reason, state.word == "WAITING") for folder, state in states.items()}

    def _end(self, run: str, ids: Sequence[str]) -> None:
        selector = f"{RUN}={run}"
        batch = self.cluster.batch
        self.cluster.ask(
            batch.delete_collection_namespaced_job, self.cluster.namespace, label_selector=selector, body=CASCADE
        )


class Cluster:
    """The API of a namespace, its jobs and pods asked for all together, and seldom; several threads may use it."""

    def __init__(self, context: str | None, namespace: str | None) -> None:
        self.api, usual = _connected(context)
        self.namespace = namespace or usual
        self.batch, self.core = client.BatchV1Api(self.api), client.CoreV1Api(self.api)
        self.guard = threading.Lock()
        self.looked = self.took_s = 0.0
        self.heard = time.monotonic()
        self.jobs: dict[str, Mapping[str, Any]] = {}
        self.pods: dict[str, Mapping[str, Any]] = {}
        """Name of a job -> the newest of its pods."""
        self.watched: dict[str, float] = {}
        """Name of a job -> when it was first asked for."""
        self.seen: set[str] = set()
        """The jobs that were listed once."""

    def ask(self, call: Callable[..., Any], *words: Any, patience_s: float = AWAY_S, **more: Any) -> Any:
        """The answer as plain data, asked for again while the API is away; Trouble otherwise, caused by its error."""
        until = time.monotonic() + patience_s
        while True:
            try:
                return json.loads(call(*words, _preload_content=False, _request_timeout=PATIENCE_S, **more).data)
            except (ApiException, HTTPError) as error:
                trouble = _refusal(error)
                if trouble.code != "scheduler-unreachable" or time.monotonic() > until:
                    raise trouble from error
            time.sleep(POLL_S)

    def create(self, thing: Mapping[str, Any], **more: Any) -> Mapping[str, Any]:
        """The object, which is made unless it is there."""
        name, is_job = thing["metadata"]["name"], thing["kind"] == "Job"
        make = self.batch.create_namespaced_job if is_job else self.core.create_namespaced_config_map
        try:
            made: Mapping[str, Any] = self.ask(make, self.namespace, thing, **more)
        except Trouble as trouble:
            if getattr(trouble.__cause__, "status", 0) != CONFLICT:
                raise
            made = self.ask(self.batch.read_namespaced_job, name, self.namespace) if is_job else thing
            if made["metadata"].get("labels", {}).get(RUN) != thing["metadata"]["labels"][RUN]:
                raise Trouble("scheduler-error", f"there is another job {name} in {self.namespace}") from trouble
        return made

    def delete(self, name: str, patience_s: float = AWAY_S) -> None:
        """Delete the job with its pod and files, unless it is gone."""
        try:
            self.ask(self.batch.delete_namespaced_job, name, self.namespace, body=CASCADE, patience_s=patience_s)
        except Trouble as trouble:
            if getattr(trouble.__cause__, "status", 0) != GONE:
                raise

    def may(self, group: str, resource: str, verb: str) -> bool:
        """Whether this user has a permission in the namespace."""
        resource, _, part = resource.partition("/")
        asked = {"namespace": self.namespace, "group": group, "resource": resource, "subresource": part, "verb": verb}
        review = {"spec": {"resourceAttributes": asked}}
        api = client.AuthorizationV1Api(self.api)
        return bool(self.ask(api.create_self_subject_access_review, review)["status"]["allowed"])

    def state(self, name: str) -> State:
        """The state of a job; Trouble where the API has not answered for long."""
        with self.guard:
            self.watched.setdefault(name, time.monotonic())
            if time.monotonic() - self.looked > max(POLL_S, 10 * self.took_s):
                self._look()
            if name in self.jobs:
                return state_of(self.jobs[name], self.pods.get(name))
            if self.heard < self.watched[name]:
                return State(word="WAITING", reason="the API has not been heard yet")
            code = "job-cancelled" if name in self.seen else "job-lost"
            return State(word="ENDED", reason="the job is gone", code=code)

    def pod(self, name: str) -> str:
        """The name of the job's pod."""
        return str(self.pods[name]["metadata"]["name"])

    def why_no_pod(self, name: str) -> str:
        """What the events of a job without a pod say."""
        selector = f"involvedObject.kind=Job,involvedObject.name={name},type=Warning"
        events = self.ask(self.core.list_namespaced_event, self.namespace, field_selector=selector)["items"]
        return str(events[-1]["message"]) if events else ""

    def _look(self) -> None:
        """List all jobs and pods of ours; what is known stays where the API does not answer."""
        begun = time.monotonic()
        selector = ",".join(f"{name}={value}" for name, value in OURS.items())
        try:
            lists = (self.batch.list_namespaced_job, self.core.list_namespaced_pod)
            jobs, pods = (
                self.ask(each, self.namespace, label_selector=selector, patience_s=0)["items"] for each in lists
            )
        except Trouble as trouble:
            if trouble.code != "scheduler-unreachable" or begun - self.heard > AWAY_S:
                raise
        else:
            self.heard = begun
            self.jobs = {each["metadata"]["name"]: each for each in jobs}
            self.seen |= self.jobs.keys()
            pods.sort(key=lambda pod: pod["metadata"]["creationTimestamp"])
            self.pods = {job_name(pod["metadata"]["labels"].get(BATCH, "")): pod for pod in pods}
        self.looked = time.monotonic()
        self.took_s = self.looked - begun


def _connected(context: str | None) -> tuple[client.ApiClient, str]:
    """The API's client, and the namespace that is usual there."""
    try:
        contexts, active = config.list_kube_config_contexts()
        chosen = next((each for each in contexts if each["name"] == context), active)
        return config.new_client_from_config(context=context), chosen["context"].get("namespace", "default")
    except ConfigException as error:
        settings = client.Configuration()
        try:
            config.load_incluster_config(client_configuration=settings)
        except ConfigException:
            raise Trouble("no-scheduler", f"no cluster is configured: {error}") from error
        return client.ApiClient(settings), Path("/var/run/secrets/kubernetes.io/serviceaccount/namespace").read_text()


def _refusal(error: ApiException | HTTPError) -> Trouble:
    """The trouble that the API tells."""
    if isinstance(error, HTTPError):
        return Trouble("scheduler-unreachable", f"the API does not answer: {error}")
    words = str(error.reason)
    with suppress(ValueError, TypeError):
        words = json.loads(error.body)["message"]
    if error.status in PASSING:
        return Trouble("scheduler-unreachable", f"the API does not answer: {words}")
    code = {401: "not-permitted", 403: "not-permitted", GONE: "no-partition"}.get(error.status, "scheduler-error")
    return Trouble("quota-exceeded" if re.search(OF_A_QUOTA, words) else code, words)


class KubernetesLaunch:
    """A probe host in the pod of a job."""

    over = False

    def __init__(self, folder: Path, cluster: Cluster, wait_s: float) -> None:
        self.name = id_of(folder)
        self.notes: tuple[str, ...] = ()
        self.folder = folder
        self.cluster = cluster
        self.wait_s = wait_s
        self.killed = False
        self.state = State(word="WAITING")
        self.said = Said()
        """What the log has beside frames: its standard error."""

    def lines(self) -> Iterator[bytes]:
        """The frames as they are logged; after a break from the log's start, where their numbers tell them apart."""
        waiting, complete = Waiting(self.folder), False
        while not self.killed and not complete:
            self.state = self.cluster.state(self.name)
            if self.state.word == "WAITING":
                self.state = self._stays(waiting) if not self.state.code else self.state
                if self.state.code:
                    return
                waiting.tell(self.state.reason)
                time.sleep(POLL_S)
                continue
            try:
                for line in self._logged():
                    complete = complete or LAST in line
                    yield line
            except (ApiException, HTTPError, KeyError):  # the node or the API is away, or there is no log any more
                time.sleep(POLL_S)
            if self.state.over:
                return

    def _logged(self) -> Iterator[bytes]:
        """The frames of the log, to its end, or to its silence."""
        self.said = Said()
        asked = {"container": "probes", "follow": True, "_preload_content": False, "_request_timeout": PATIENCE_S}
        stream = self.cluster.core.read_namespaced_pod_log(self.cluster.pod(self.name), self.cluster.namespace, **asked)
        try:
            for line in whole_lines(stream.stream(64 << 10)):
                if line.startswith(b"compat/2 "):
                    yield line
                else:
                    self.said.add(line)
        finally:
            stream.close()

    def _stays(self, waiting: Waiting) -> State:
        """The state of a job that waits: with a reason code where it waits for what will not be."""
        reason, waited_s = self.state.reason, time.time() - waiting.since
        if not reason and waited_s > 2 * POLL_S:
            reason = self.cluster.why_no_pod(self.name)
        of_a_quota = re.search(OF_A_QUOTA, reason)
        code = "not-permitted" if "forbidden" in reason and not of_a_quota else ""
        if waited_s > self.wait_s and reason != "Suspended":
            code = "quota-exceeded" if of_a_quota else "job-unsatisfiable"
        return State(word="WAITING", reason=reason, code=code)

    def kill(self) -> None:
        """Delete the job."""
        if not self.killed:
            self.killed = True
            with suppress(Trouble):  # it ends at its own deadline
                self.cluster.delete(self.name, patience_s=30)

    def exit(self) -> Exit:
        """How the probe host ended; Trouble where that is the cluster's own doing."""
        until = time.monotonic() + END_S
        while not (self.killed or self.state.over or time.monotonic() > until):
            time.sleep(POLL_S / 2)
            self.state = self.cluster.state(self.name)
        words = self.said.text()
        if not self.killed and (self.state.code or not self.state.over):
            told = f"job {self.name}: {self.state.reason}"
            raise Trouble(self.state.code or "node-lost", told, evidence=words.strip()[-400:])
        oom_killed = self.state.oom_killed
        return Exit(status=-9 if self.killed or oom_killed else self.state.status, oom_killed=oom_killed, stderr=words)
