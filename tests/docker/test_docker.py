"""The docker backend on a real engine: containers as DESIGN has them, named troubles, and nothing left behind."""

from __future__ import annotations

import io
import json
import os
import resource
import signal
import subprocess
import sys
import tarfile
import threading
import time
from pathlib import Path
from typing import Any

import docker
import pytest

from tests.support import ROOT
from tests.support.registries import Registry
from torch_compat_matrix.runner.backends.base import Exit, Gpu, Launch
from torch_compat_matrix.runner.backends.docker import DockerBackend
from torch_compat_matrix.runner.backends.docker_gpus import LABEL
from torch_compat_matrix.runner.errors import Trouble
from torch_compat_matrix.runner.model import Image, Limits
from torch_compat_matrix.runner.verdicts.reasons import REASONS

STAND_IN = """
import json, os, sys
order = json.load(open(sys.argv[1]))
def say(**words):
    print(json.dumps(words), flush=True)
exec(order["code"])
"""


@pytest.fixture
def scripted(backend: DockerBackend, tmp_path: Path) -> DockerBackend:
    """The backend with a bundle that runs the code it is ordered to."""
    bundle = tmp_path / "bundle" / "probes"
    bundle.mkdir(parents=True)
    (bundle / "__init__.py").touch()
    (bundle / "__main__.py").write_text(STAND_IN)
    backend.bundle = bundle
    return backend


def run(
    backend: DockerBackend, tag: str, code: str, overlays: dict[str, Path] | None = None, **limits: Any
) -> tuple[list[bytes], Exit]:
    """The lines and the end of a launch that runs this code."""
    prepared = backend.prepare(Image(name="x", tag=tag))
    order = {"code": code, "deadline_s": 60}
    bounds = Limits(**{"memory": 1 << 30, "shm": 64 << 20, **limits})
    asked = Launch(prepared=prepared, order=order, overlays=overlays or {}, limits=bounds, labels={"run": "test"})
    with backend.launch(asked) as launch:
        return list(launch.lines()), launch.exit()


def test_container_is_closed(scripted: DockerBackend, tag: str) -> None:
    """No root, no network, no capability, nothing writable but /tmp, and that one may be executed from."""
    code = """
import resource, socket, subprocess
status = open("/proc/self/status").read()
mounts = {line.split()[1]: line.split()[3].split(",") for line in open("/proc/mounts")}
def writable(path):
    try:
        open(path + "/x", "w").close(); return True
    except OSError:
        return False
shm = os.statvfs("/dev/shm")
open("/tmp/run", "w").write("#!/bin/sh\\nexit 7\\n"); os.chmod("/tmp/run", 0o755)
say(uid=os.getuid(), caps=[l.split()[1] for l in status.splitlines() if l.startswith(("CapEff", "CapBnd"))],
    privileges=[l.split()[1] for l in status.splitlines() if l.startswith("NoNewPrivs")],
    interfaces=sorted(name for _, name in socket.if_nameindex()), root=writable("/"), usr=writable("/usr"),
    shm=shm.f_frsize * shm.f_blocks, ran=subprocess.call(["/tmp/run"]), pid=os.getpid(),
    leaked=[name for name in os.environ if name.startswith("PIP_")])
"""
    lines, ended = run(scripted, tag, code)
    assert ended.status == 0, ended.stderr
    assert json.loads(lines[0]) == {
        "uid": 65534,
        "caps": ["0000000000000000", "0000000000000000"],
        "privileges": ["1"],
        "interfaces": ["lo"],
        "root": False,
        "usr": False,
        "shm": 64 << 20,
        "ran": 7,
        "pid": 1,
        "leaked": [],
    }


def test_an_image_may_say_more_of_its_container(scripted: DockerBackend, tag: str, tmp_path: Path) -> None:
    """Variables, user and a folder that is read-only; what the launch sets itself stays."""
    (tmp_path / "data").mkdir()
    (tmp_path / "data" / "words").write_text("from the host")
    tmp_path.chmod(0o755)
    code = """
try:
    open("/data/x", "w"); closed = False
except OSError:
    closed = True
say(uid=os.getuid(), gid=os.getgid(), words=open("/data/words").read(), closed=closed, flag=os.environ["FLAG"])
"""
    image = Image(name="x", tag=tag, env={"FLAG": "up"}, user="1234:5678", mounts={"/data": str(tmp_path / "data")})
    order = {"code": code, "deadline_s": 60}
    with scripted.launch(
        Launch(prepared=scripted.prepare(image), order=order, limits=Limits(memory=1 << 30))
    ) as launch:
        (line,) = launch.lines()
    assert json.loads(line) == {"uid": 1234, "gid": 5678, "words": "from the host", "closed": True, "flag": "up"}
    machine = {"x86_64": "amd64"}.get(scripted.machine, scripted.machine)
    own, other = (Image(name="x", tag=tag, platform=f"linux/{name}") for name in (machine, "riscv64"))
    assert scripted.peek(own) is not None
    assert scripted.peek(other) is None


def test_compile_cache_is_kept_where_it_is_asked_for(scripted: DockerBackend, tag: str) -> None:
    """A volume by its name, which nobody's user may write to; without a name nothing stays."""
    code = """
path = os.environ["TORCHINDUCTOR_CACHE_DIR"] + "/seen"
say(there=os.path.exists(path)); os.makedirs(os.path.dirname(path), exist_ok=True); open(path, "w").close()
"""
    found = []
    for kept in ("", "", "one", "one", "two"):
        prepared = scripted.prepare(Image(name="x", tag=tag))
        order = {"code": code, "deadline_s": 60, "compile_cache": kept}
        with scripted.launch(Launch(prepared=prepared, order=order, limits=Limits(memory=1 << 30))) as launch:
            found += [json.loads(line)["there"] for line in launch.lines()]
            assert launch.exit().status == 0, launch.exit().stderr
    assert found == [False, False, False, True, False]


def test_output_streams_stay_apart(scripted: DockerBackend, tag: str) -> None:
    """Lines are standard output alone, whole, however many megabytes; standard error keeps its tail."""
    code = "for n in range(20000): say(n=n, pad='x' * 200)\nprint('on stderr', file=sys.stderr); sys.exit(3)"
    lines, ended = run(scripted, tag, code)
    assert [json.loads(line)["n"] for line in lines] == list(range(20000))
    assert (ended.status, ended.stderr, ended.oom_killed) == (3, "on stderr\n", False)


def test_a_flood_is_read_in_little_memory_and_not_kept_by_the_engine(scripted: DockerBackend, tag: str) -> None:
    """A line without end is left out, the ends of standard error are kept, and the engine's log turns over."""
    code = """
for descriptor in (1, 2):
    for _ in range(100):
        left = memoryview(b"x" * (1 << 20))
        while left: left = left[os.write(descriptor, left):]
print(flush=True); say(after=1)
"""
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    prepared = scripted.prepare(Image(name="x", tag=tag))
    order = {"code": code, "deadline_s": 60}
    with scripted.launch(Launch(prepared=prepared, order=order, limits=Limits(memory=1 << 30))) as launch:
        launch.container.reload()
        assert launch.container.attrs["HostConfig"]["LogConfig"] == {
            "Type": "json-file",
            "Config": {"max-size": "32m", "max-file": "2"},
        }
        assert [json.loads(line) for line in launch.lines()] == [{"after": 1}]
        assert f"[... {(100 << 20) - (20 << 10)} bytes left out ...]" in launch.exit().stderr
    assert (resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before) << 10 < 100_000_000


def test_lines_come_while_it_runs_and_kill_ends_it(scripted: DockerBackend, tag: str) -> None:
    """From any thread."""
    prepared = scripted.prepare(Image(name="x", tag=tag))
    order = {"code": "say(ready=1)\nimport time; time.sleep(1000)", "deadline_s": 60}
    with scripted.launch(Launch(prepared=prepared, order=order, limits=Limits(memory=1 << 30))) as launch:
        lines = launch.lines()
        assert json.loads(next(lines)) == {"ready": 1}
        threading.Thread(target=launch.kill).start()
        assert list(lines) == []
        assert launch.exit().status == 137


def test_memory_is_limited(scripted: DockerBackend, tag: str) -> None:
    """The kernel's kill is told, of the probe host itself and of a child of it: exit status 0 proves nothing."""
    _, whole = run(scripted, tag, "x = bytearray(10 ** 9)", memory=128 << 20)
    assert (whole.status, whole.oom_killed) == (137, True)
    code = "import subprocess; subprocess.call([sys.executable, '-c', 'bytearray(10 ** 9)'])"
    _, child = run(scripted, tag, code, memory=128 << 20)
    assert (child.status, child.oom_killed) == (0, True)


def test_processes_are_limited(scripted: DockerBackend, tag: str) -> None:
    """A fork bomb ends at the limit."""
    code = """
count = 0
try:
    while True:
        if os.fork() == 0:
            import time; time.sleep(1000)
        count += 1
except OSError as error:
    say(count=count, error=error.errno)
os._exit(0)
"""
    lines, _ = run(scripted, tag, code, pids=64)
    found = json.loads(lines[0])
    assert found["count"] < 64
    assert found["error"] == 11


def test_overlay_is_filled_once_and_read_only(scripted: DockerBackend, tag: str, tmp_path: Path) -> None:
    """Two processes that need it at once fill one volume; a container cannot change it."""
    overlay = tmp_path / "overlays" / "0123456789abcdef"
    (overlay / "package").mkdir(parents=True)
    (overlay / "package" / "data").write_text("whole")
    code = """
path = sys.argv[3] + "/0123456789abcdef/package/data"
try:
    open(path, "a"); changed = True
except OSError:
    changed = False
say(data=open(path).read(), changed=changed)
"""
    found: list[Any] = []
    threads = [
        threading.Thread(target=lambda: found.append(run(scripted, tag, code, {overlay.name: overlay})))
        for _ in range(2)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert [json.loads(lines[0]) for lines, _ in found] == [{"data": "whole", "changed": False}] * 2


def test_container_goes_whatever_happens(scripted: DockerBackend, tag: str) -> None:
    """Also when the caller fails in the middle (the fixture looks for what is left)."""
    prepared = scripted.prepare(Image(name="x", tag=tag))
    order = {"code": "import time; time.sleep(1000)", "deadline_s": 60}
    with (
        pytest.raises(ZeroDivisionError),
        scripted.launch(Launch(prepared=prepared, order=order, limits=Limits(memory=1 << 30))),
    ):
        raise ZeroDivisionError


def test_container_of_a_killed_owner_is_reaped(backend: DockerBackend, client: docker.DockerClient, tag: str) -> None:
    """And that of a living one is not."""
    code = f"""
import sys, time
from pathlib import Path
from torch_compat_matrix.runner.backends.base import Launch
from torch_compat_matrix.runner.backends.docker import connect
from torch_compat_matrix.runner.model import Image, Limits
backend = connect(Path({str(backend.home)!r}))
bundle = Path({str(backend.home)!r}) / "sleeper" / "probes"
bundle.mkdir(parents=True)
(bundle / "__init__.py").touch()
(bundle / "__main__.py").write_text("import time; time.sleep(1000)")
backend.bundle = bundle
prepared = backend.prepare(Image(name="x", tag={tag!r}))
with backend.launch(Launch(prepared=prepared, order={{"deadline_s": 600}}, limits=Limits(memory=1 << 30))) as launch:
    print(launch.name, flush=True)
    time.sleep(1000)
"""
    with subprocess.Popen([sys.executable, "-c", code], cwd=ROOT, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        name = process.stdout.readline().strip()
        assert backend.reap() == []
        os.kill(process.pid, signal.SIGKILL)
    assert client.containers.get(name).status == "running"
    assert backend.reap() == [f"container {name}"]


def test_a_gpu_is_not_free_while_a_container_holds_it(
    scripted: DockerBackend, client: docker.DockerClient, tag: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Though its owner, whom this process cannot see, has left the lease; the container is not ended either."""
    monkeypatch.setattr("torch_compat_matrix.runner.backends.docker.GPU_PATIENCE_S", 2)
    gpu = Gpu(uuid="GPU-0", index=0, name="card", memory=0, driver="")
    labels = {f"{LABEL}.gpu": gpu.uuid, f"{LABEL}.owner": "another-host/boot/1/2/pid:[3]"}
    holder = client.containers.create(tag, entrypoint=["sleep"], command=["100"], labels=labels)
    try:
        assert scripted.reap() == []
        prepared = scripted.prepare(Image(name="x", tag=tag))
        with (
            pytest.raises(Trouble, match=str(holder.name)) as raised,
            scripted.launch(Launch(prepared=prepared, order={"deadline_s": 9}, limits=Limits(), gpu=gpu)),
        ):
            pass
        assert raised.value.code == "gpu-busy"
    finally:
        holder.remove(force=True)


def trouble(backend: DockerBackend, image: Image) -> Trouble:
    """What preparing the image runs into."""
    with pytest.raises(Trouble) as raised:
        backend.prepare(image)
    assert raised.value.code in REASONS
    return raised.value


def empty_image(name: str = "empty") -> bytes:
    """An image of one empty file: a push of torch takes a minute."""
    archive = io.BytesIO()
    with tarfile.open(fileobj=archive, mode="w") as tar:
        tar.addfile(tarfile.TarInfo(name))
    return archive.getvalue()


def test_absent_images_are_named(backend: DockerBackend, registry: Registry, client: docker.DockerClient) -> None:
    """A missing tag, a refusal and an unreachable registry are three different things."""
    auth = {"username": registry.user, "password": registry.password}
    name = f"{registry.host}/test/torch"
    client.api.import_image_from_data(empty_image(), repository=name, tag="here")
    identity = client.images.get(f"{name}:here").id
    try:
        pushed = client.images.push(name, tag="here", auth_config=auth, stream=True, decode=True)
        digest = next(line["aux"]["Digest"] for line in pushed if "aux" in line)
        client.images.remove(f"{name}:here")
        assert trouble(backend, Image(name="x", tag=f"{name}:here")).code == "registry-refused"
        client.login(registry.user, registry.password, registry=f"http://{registry.host}")
        assert trouble(backend, Image(name="x", tag=f"{name}:absent")).code == "image-not-found"
        prepared = backend.prepare(Image(name="x", tag=f"{name}:here", digest=digest))
        assert (prepared.digest, prepared.reference) == (digest, f"{name}@{digest}")
        assert prepared.identity == identity
    finally:
        for held in client.images.list(name):
            for reference in [*held.tags, *(held.attrs.get("RepoDigests") or [])]:
                if reference.startswith(name):
                    client.images.remove(reference)
    gone = f"127.0.0.1:9/test/torch:{time.time_ns()}"
    assert trouble(backend, Image(name="x", tag=gone)).code == "registry-unreachable"


def test_what_cannot_start_is_named(backend: DockerBackend, tag: str) -> None:
    """An image without the interpreter, and a GPU on a host without the NVIDIA runtime."""
    image = Image(name="x", tag=tag, python="python9")
    with (
        pytest.raises(Trouble) as raised,
        backend.launch(Launch(prepared=backend.prepare(image), order={"deadline_s": 9}, limits=Limits())) as launch,
    ):
        assert list(launch.lines()) == []
        launch.exit()
    assert raised.value.code == "no-python"
    if backend.gpus():
        return
    gpu = Gpu(uuid="GPU-0", index=0, name="none", memory=0, driver="")
    prepared = backend.prepare(Image(name="x", tag=tag))
    with (
        pytest.raises(Trouble) as raised,
        backend.launch(Launch(prepared=prepared, order={"deadline_s": 9}, limits=Limits(), gpu=gpu)),
    ):
        pass
    assert raised.value.code == "no-nvidia-runtime"
