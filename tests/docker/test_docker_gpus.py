"""What is asked of an engine for a GPU, and what it answers: this one has none and says so."""

from __future__ import annotations

import json
import socket
import threading
from collections.abc import Iterator
from contextlib import ExitStack, closing, suppress
from pathlib import Path
from typing import Any

import docker
import pytest
from docker.errors import APIError
from docker.models.containers import Container, ContainerCollection

from tests.support.nvidia_smi import H200, lists, put
from torch_compat_matrix.runner.backends.base import Gpu, Launch
from torch_compat_matrix.runner.backends.docker import WRITABLE_ROOT, DockerBackend
from torch_compat_matrix.runner.errors import Trouble
from torch_compat_matrix.runner.model import Image, Limits

GPU = Gpu(uuid="GPU-0", index=0, name="none", memory=0, driver="")
DRIVERLESS = "could not select device driver"

ENGINES: dict[str, dict[str, Any]] = {
    "with a runtime registered": {"Runtimes": {"runc": {}, "nvidia": {}}},
    "with a hook alone": {"Runtimes": {"runc": {}}},
    "with folders for CDI and nothing in them": {"CDISpecDirs": ["/etc/cdi", "/var/run/cdi"]},
    "with a device of CDI": {"DiscoveredDevices": [{"Source": "cdi", "ID": "nvidia.com/gpu=all"}]},
}
"""What engines say of themselves; the first, the third and the fourth would pass for one with GPUs."""


@pytest.fixture(autouse=True)
def no_gpu_of_the_engine(client: docker.DockerClient, tag: str) -> None:
    """These tests know the answer of an engine without GPUs."""
    finding = DockerBackend(client, Path("unused")).engine_gpus.finding()
    if finding.works:
        pytest.skip("the engine has GPUs")
    assert finding.code == "no-nvidia-runtime"
    assert DRIVERLESS in finding.detail


@pytest.mark.parametrize("info", ENGINES.values(), ids=ENGINES)
def test_the_engine_is_tried_not_believed(
    backend: DockerBackend, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, info: dict[str, Any]
) -> None:
    """A host with a GPU that the engine does not hand on is told so, and never tested on the CPU."""
    monkeypatch.setattr(docker.DockerClient, "info", lambda self: info)
    assert backend.gpus() == ()
    put(tmp_path, monkeypatch, lists(H200))
    with pytest.raises(Trouble, match=DRIVERLESS) as raised:
        DockerBackend(backend.client, backend.home).gpus()
    assert raised.value.code == "no-nvidia-runtime"


@pytest.fixture
def tcp(client: docker.DockerClient) -> Iterator[docker.DockerClient]:
    """The engine reached over TCP, as one on another machine is."""

    open_sockets = ExitStack()

    def copy(source: socket.socket, target: socket.socket) -> None:
        with suppress(OSError):
            while data := source.recv(1 << 16):
                target.sendall(data)
            target.shutdown(socket.SHUT_WR)

    def serve() -> None:
        with suppress(OSError):  # the listener is closed
            while True:
                near = open_sockets.enter_context(listener.accept()[0])
                far = open_sockets.enter_context(socket.socket(socket.AF_UNIX))
                far.connect("/var/run/docker.sock")
                for pair in ((near, far), (far, near)):
                    threading.Thread(target=copy, args=pair, daemon=True).start()

    with open_sockets, closing(socket.create_server(("127.0.0.1", 0))) as listener:
        server = threading.Thread(target=serve, daemon=True)
        server.start()
        with closing(docker.DockerClient(f"tcp://127.0.0.1:{listener.getsockname()[1]}")) as remote:
            yield remote
        listener.shutdown(socket.SHUT_RDWR)
        server.join()


def test_a_remote_engine_does_not_have_this_machines_gpus(
    tcp: docker.DockerClient, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What nvidia-smi lists here is not even looked at."""
    put(tmp_path, monkeypatch, f"touch {tmp_path}/asked; {lists(H200)}")
    assert DockerBackend(tcp, tmp_path / "home").gpus() == ()
    assert not (tmp_path / "asked").exists()


def test_a_remote_engine_that_starts_such_containers_is_asked_in_one(
    tcp: docker.DockerClient, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """An engine that ignores the request, as Podman does, adds no nvidia-smi: that is no answer."""
    without_request(monkeypatch)
    with pytest.raises(Trouble, match=r"nvidia-smi.*not found") as raised:
        DockerBackend(tcp, tmp_path / "home").gpus()
    assert raised.value.code == "nvidia-smi-failed"


def without_request(monkeypatch: pytest.MonkeyPatch) -> list[dict[str, Any]]:
    """Keeps the request for GPUs from the engine; what containers were created with."""
    created: list[dict[str, Any]] = []
    create = ContainerCollection.create

    def ignoring(self: ContainerCollection, image: str, **settings: Any) -> Container:
        created.append(settings)
        return create(self, image, **{**settings, "device_requests": None})

    monkeypatch.setattr(ContainerCollection, "create", ignoring)
    return created


def test_a_gpu_is_asked_for_with_compute_and_utility(
    backend: DockerBackend, tag: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Whatever an image's variables ask for; as the engine has understood it."""
    understood: list[Any] = []
    start = Container.start

    def looked_at(self: Container) -> None:
        self.reload()
        understood.extend(self.attrs["HostConfig"]["DeviceRequests"])
        start(self)

    monkeypatch.setattr(Container, "start", looked_at)
    with pytest.raises(Trouble, match=DRIVERLESS), launched(backend, tag, GPU):
        pass
    (request,) = understood
    assert request["DeviceIDs"] == ["GPU-0"]
    assert request["Capabilities"] == [["gpu", "compute", "utility"]]


def launched(backend: DockerBackend, tag: str, gpu: Gpu | None, **limits: Any) -> Any:
    """A launch of the backend's bundle."""
    prepared = backend.prepare(Image(name="x", tag=tag))
    bounds = Limits(**{"memory": 1 << 30, "shm": 64 << 20, **limits})
    return backend.launch(Launch(prepared=prepared, order={"deadline_s": 60}, limits=bounds, gpu=gpu))


@pytest.fixture
def telling(backend: DockerBackend, tmp_path: Path) -> DockerBackend:
    """The backend with a bundle that tells its environment."""
    bundle = tmp_path / "bundle" / "probes"
    bundle.mkdir(parents=True)
    (bundle / "__init__.py").touch()
    (bundle / "__main__.py").write_text(
        "import json, os, stat\n"
        "home, root = os.environ['HOME'], os.statvfs('/')\n"
        "open(home + '/file', 'w').close()\n"
        "print(json.dumps({**os.environ, 'entries': os.listdir(home), 'closed': bool(root.f_flag & os.ST_RDONLY)}))\n"
    )
    backend.bundle = bundle
    return backend


def test_home_exists_and_nccl_keeps_to_itself(telling: DockerBackend, tag: str) -> None:
    """The driver has a place for its cache beside the others; an image's interface would not be there."""
    with launched(telling, tag, None) as launch:
        seen = json.loads(b"".join(launch.lines()))
        assert launch.exit().status == 0, launch.exit().stderr
    assert (seen["HOME"], seen["entries"], seen["closed"]) == ("/tmp/home", ["file"], True)
    assert seen["NCCL_SOCKET_IFNAME"] == "lo"
    assert Path(seen["CUDA_CACHE_PATH"]).parent == Path(seen["TRITON_CACHE_DIR"]).parent


def test_an_image_with_a_network_chooses_its_interface(telling: DockerBackend, tag: str) -> None:
    """Then the image's own variables hold."""
    with launched(telling, tag, None, network="bridge") as launch:
        assert "NCCL_SOCKET_IFNAME" not in json.loads(b"".join(launch.lines()))


def test_a_hook_that_writes_gets_a_writable_root(
    telling: DockerBackend, tag: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The words are those of crun; the launch is noted, and one without a GPU is not tried again."""
    created = without_request(monkeypatch)
    start = Container.start

    def hooked(self: Container) -> None:
        if created[-1]["read_only"]:
            said = "crun: error executing hook `/usr/bin/nvidia-cdi-hook` (exit code: 1): open /etc/ld.so.cache~: "
            raise APIError("500", explanation=said + "read-only file system")
        start(self)

    monkeypatch.setattr(Container, "start", hooked)
    with launched(telling, tag, GPU) as launch:
        seen = json.loads(b"".join(launch.lines()))
        assert (seen["closed"], launch.notes) == (False, (WRITABLE_ROOT,))
    assert [settings["read_only"] for settings in created] == [True, False]
    with pytest.raises(Trouble, match="read-only") as raised, launched(telling, tag, None):
        pass
    assert raised.value.code == "engine-error"
    assert len(created) == 3
