"""A real cluster, that of KUBECONFIG, an image in its registry, and a home and a matrix for each test."""

from __future__ import annotations

import io
import json
import os
import secrets
import subprocess
import sys
import tarfile
import time
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import docker
import pytest
from kubernetes import client, config

from tests.support.baseimage import build
from torch_compat_matrix.runner.backends.kubernetes_job import OURS

REGISTRY = os.environ.get("COMPAT_TEST_REGISTRY", "127.0.0.1:5005")
"""Where this machine pushes to, and the nodes pull from."""
ANSWERS = "/usr/local/bin/answers"
"""The file of tests/support/answers.py in the image."""
OUR_PODS = ",".join(f"{name}={value}" for name, value in OURS.items())


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Mark the tests of this folder."""
    for item in items:
        if item.path.is_relative_to(Path(__file__).parent):
            item.add_marker(pytest.mark.kubernetes)


@dataclass
class Cluster:
    """The cluster, and a namespace in it."""

    namespace: str
    image: str
    """The image by its digest: Debian with torch 2.13, and an interpreter that answers at once."""

    def __post_init__(self) -> None:
        self.core, self.batch, self.rbac = client.CoreV1Api(), client.BatchV1Api(), client.RbacAuthorizationV1Api()

    @property
    def state(self) -> Path:
        """The folder of a cluster whose nodes are processes of this machine: NAME.pid is that of a node."""
        folder = Path(os.environ["KUBECONFIG"]).parent
        if not (folder / "node2.pid").exists():
            pytest.skip("no pid files of nodes beside KUBECONFIG")
        return folder

    def pods(self) -> list[Any]:
        """The pods in the namespace."""
        return list(self.core.list_namespaced_pod(self.namespace, label_selector=OUR_PODS).items)

    def jobs(self) -> list[Any]:
        """The jobs in the namespace."""
        return list(self.batch.list_namespaced_job(self.namespace).items)

    def running(self) -> dict[str, str]:
        """Pod -> node of the pods that run."""
        return {pod.metadata.name: pod.spec.node_name for pod in self.pods() if pod.status.phase == "Running"}

    def kill(self, node: str) -> None:
        """A power cut of the node."""
        os.kill(int((self.state / f"{node}.pid").read_text()), 9)

    def mend(self) -> None:
        """All nodes are up again."""
        for node in ("node1", "node2"):
            subprocess.run([os.environ["COMPAT_TEST_NODES"], "--node", node, self.state], check=True)


@pytest.fixture(scope="session")
def image() -> str:
    """The image, pushed to the registry, by its digest."""
    engine = docker.from_env()
    script = (Path(__file__).parents[1] / "support" / "answers.py").read_bytes()
    archive = io.BytesIO()
    with tarfile.open(fileobj=archive, mode="w") as tar:
        entry = tarfile.TarInfo(ANSWERS[1:])
        entry.size, entry.mode = len(script), 0o755
        tar.addfile(entry, io.BytesIO(script))
    container = engine.containers.create(build(engine), "true")
    try:
        container.put_archive("/", archive.getvalue())
        made = container.commit(f"{REGISTRY}/compat-test/train", "1")
    finally:
        container.remove()
    pushed = engine.images.push(f"{REGISTRY}/compat-test/train", "1", stream=True, decode=True)
    (digest,) = [line["aux"]["Digest"] for line in pushed if "aux" in line]
    engine.images.remove(str(made.id), force=True)
    return f"{REGISTRY}/compat-test/train:1@{digest}"


@pytest.fixture(scope="session")
def cluster(image: str) -> Iterator[Cluster]:
    """The cluster with a namespace of its own, at the Pod Security level `restricted`."""
    config.load_kube_config()
    made = Cluster(f"compat-{secrets.token_hex(4)}", image)
    labels = {"pod-security.kubernetes.io/enforce": "restricted"}
    made.core.create_namespace({"metadata": {"name": made.namespace, "labels": labels}})
    await_(lambda: made.core.list_namespaced_service_account(made.namespace).items)
    yield made
    made.core.delete_namespace(made.namespace)


@dataclass
class Site:
    """A user's folder with a matrix, and the cluster."""

    folder: Path
    cluster: Cluster
    started: list[subprocess.Popen[str]] = field(default_factory=list)

    def write(self, images: int = 1, target: str = "", limits: str = "", tag: str = "", **env: object) -> None:
        """A matrix with so many images, whose probe host answers by itself."""
        variables = json.dumps({name: str(value) for name, value in env.items()})
        reference, _, digest = self.cluster.image.partition("@")
        which = f"tag: {tag or reference}" + ("" if tag else f", digest: {digest}")
        lines = [f"  image-{number}: {{ {which}, python: {ANSWERS}, env: {variables} }}" for number in range(images)]
        self.write_all("\n".join(lines), "  sympy: { versions: [installed] }", target, limits)

    def write_all(self, images: str, libraries: str, target: str = "", limits: str = "") -> None:
        """A matrix of these entries."""
        about = f"namespace: {self.cluster.namespace}, {target or 'mem: 100m'}"
        Path(self.folder / "matrix.yaml").write_text(
            f"limits: {{ memory: 2g, shm: 64m, {limits} }}\nimages:\n{images}\nlibraries:\n{libraries}\n"
            f"targets:\n  site: {{ gpu: H100, arch: '9.0', kubernetes: {{ {about} }} }}\n"
        )

    def start(self, *words: str) -> subprocess.Popen[str]:
        """Start the command."""
        command = [sys.executable, "-m", "torch_compat_matrix", *words]
        environment = {**os.environ, "COMPAT_HOME": str(self.folder / "home")}
        pipes: dict[str, Any] = {"stdout": subprocess.PIPE, "stderr": subprocess.STDOUT, "text": True}
        self.started.append(subprocess.Popen(command, cwd=self.folder, env=environment, **pipes))
        return self.started[-1]

    def compat(self, *words: str, status: int | None = 0) -> str:
        """Run the command, and return what it prints."""
        started = self.start(*words)
        said = started.communicate(timeout=900)[0]
        assert status in (None, started.returncode), said
        return said

    def outcomes(self) -> list[dict[str, Any]]:
        """Every outcome in the journal of the latest run."""
        journals = list((self.folder / "home" / "runs").glob("*/journal.jsonl"))
        lines = max(journals).read_text().splitlines() if journals else []
        records = [json.loads(line) for line in lines if line.endswith("}")]
        return [record for record in records if record["kind"] == "outcome"]

    def verdicts(self) -> Counter[tuple[str, str]]:
        """How often each verdict and reason is in the journal."""
        return Counter((outcome["verdict"], outcome.get("reason", "")) for outcome in self.outcomes())


@pytest.fixture
def site(cluster: Cluster, tmp_path: Path) -> Iterator[Site]:
    """A folder of its own; nothing of a run stays in the namespace."""
    made = Site(tmp_path, cluster)
    yield made
    for process in made.started:
        process.kill()
        process.communicate()
    cluster.batch.delete_collection_namespaced_job(cluster.namespace, propagation_policy="Background")
    await_(lambda: not cluster.pods())
    await_(lambda: len(cluster.core.list_namespaced_config_map(cluster.namespace).items) <= 2)


def await_(there: Callable[[], object], seconds: float = 180) -> None:
    """Wait until it is there."""
    until = time.monotonic() + seconds
    while not there():
        assert time.monotonic() < until
        time.sleep(0.3)


def finish(running: subprocess.Popen[str], statuses: Sequence[int] = (0,)) -> str:
    """Wait for the end of a command, which has to have one of these statuses."""
    said = running.communicate(timeout=600)[0]
    assert running.returncode in statuses, said
    return said
