"""The messages between the runner and a probe host: the work order and the frames, as JSON carries them.

docs/protocol.md explains each key; tests compare both with real frames.  The runner imports this module for its type
checker only.
"""

from __future__ import annotations

from typing import Dict, List, Literal, Optional, TypedDict, Union


class MemberOrder(TypedDict):
    """A library of a cell."""

    distribution: str
    version: str


class CommandOrder(TypedDict):
    """A command of an image, and what must come back."""

    name: str
    command: List[str]
    status: int
    output: str
    timeout_s: float


class SuiteOrder(TypedDict):
    """Upstream's own tests: the keys of their folder and of pytest's, the files, and what the reference told."""

    source: str
    tests: str
    packages: str
    select: List[str]
    reference: str
    known: List[str]


class CellOrder(TypedDict):
    """A cell: its libraries, its probes and how to run them; or an image's own commands."""

    id: str
    overlay: Optional[str]
    added: List[str]
    replaces: Dict[str, str]
    members: List[MemberOrder]
    probes: List[str]
    commands: List[CommandOrder]
    suite: Optional[SuiteOrder]
    isolation: str
    timeout_s: float
    compile_timeout_s: float
    timeouts: Dict[str, float]


class Expects(TypedDict):
    """The expectations that only the image itself can confirm."""

    tools: List[str]
    services: List[str]


class WorkOrder(TypedDict):
    """All the work of a launch."""

    device: Literal["cpu", "cuda"]
    seed: int
    full: bool
    warm: bool
    timeout_s: float
    deadline_s: float
    threads: int
    compile_cache: str
    modules: Dict[str, str]
    expects: Expects
    cells: List[CellOrder]


class Requirements(TypedDict):
    """The requirements in a distribution's metadata."""

    requires: List[str]
    extras: List[str]


class ServiceAnswer(TypedDict):
    """Whether a service starts and answers."""

    answers: bool
    detail: str


class TorchFacts(TypedDict):
    """How the image's torch was built."""

    version: str
    cuda: Optional[str]
    cudnn: Optional[int]
    arch_list: List[str]
    cxx11_abi: bool
    location: str


class GpuFacts(TypedDict):
    """A GPU, as torch sees it."""

    name: str
    uuid: str
    capability: str
    memory: int


class Link(TypedDict):
    """An exception of a chain: the error itself, one of its causes, or one that was being handled meanwhile."""

    type: str
    message: str
    is_cause: bool
    """Whether it is the error itself or was named as a cause (`raise ... from`) on the way to it."""
    raised_in: str
    """`name==version` of the distribution whose code raised it; empty where that is Python or the probe."""
    lacking: str
    """`name==version` of the installed distribution that lacks the name or submodule asked for, else empty."""


class _Raised(TypedDict):
    message: str


class Raised(_Raised, total=False):
    """An exception, or the death of the child that should answer."""

    status: Literal["raised", "failed", "skipped"]
    code: str
    exception: List[str]
    chain: List[Link]
    traceback: str
    output: str


class ImageFacts(TypedDict):
    """The facts of the image, wherever it is launched."""

    python: str
    implementation: str
    abi: str
    platform: str
    machine: str
    glibc: str
    os: str
    packages: Dict[str, str]
    metadata: Dict[str, Requirements]
    tools: Dict[str, str]
    externally_managed: bool
    torch: Optional[TorchFacts]


class LaunchFacts(TypedDict):
    """The facts of this launch: user, processors, driver, GPUs."""

    user: str
    uid: int
    cpus: int
    driver: str
    hidden: bool
    gpus: List[GpuFacts]


class _Facts(ImageFacts, LaunchFacts):
    services: Dict[str, ServiceAnswer]


class Facts(_Facts, total=False):
    """The facts of the environment."""

    torch_error: Raised
    cuda_error: Raised
    network: bool


class Metric(TypedDict):
    """A measured number."""

    value: float
    unit: str


class _Part(TypedDict):
    name: str
    status: Literal["passed", "failed", "skipped"]
    seconds: float


class Part(_Part, total=False):
    """A named step of a probe."""

    code: str
    message: str


class Numbers(TypedDict):
    """At most 64 numbers that stand for a result."""

    dtype: str
    shape: List[int]
    values: List[float]


class _Answer(TypedDict):
    kind: Literal["imported", "result"]
    status: Literal["passed", "failed", "raised", "skipped"]
    seconds: float


class Answer(_Answer, total=False):
    """A child's answer, all that it says itself; the probe host checks it."""

    code: str
    message: str
    exception: List[str]
    chain: List[Link]
    traceback: str
    installed: str
    device: str
    metrics: Dict[str, Metric]
    notes: List[str]
    parts: List[Part]
    numerics: Dict[str, Numbers]
    spoils_forks: bool


class _Observation(TypedDict):
    status: Literal["passed", "failed", "raised", "skipped", "died", "timeout"]
    isolation: Literal["fork", "fresh", ""]
    installed: str
    device_name: str


class Observation(_Observation, total=False):
    """The observation of a probe on a member."""

    device: str
    code: str
    message: str
    exception: List[str]
    chain: List[Link]
    traceback: str
    signal: Optional[int]
    exit: Optional[int]
    oom_kills: int
    output: str
    output_bytes: int
    seconds: float
    metrics: Dict[str, Metric]
    notes: List[str]
    parts: List[Part]
    numerics: Dict[str, Numbers]
    attempts: List[str]
    flaky: bool
    spoils_forks: bool


class HelloFrame(TypedDict):
    """The probe host has started."""

    kind: Literal["hello"]
    pid: int


class WarmingFrame(TypedDict):
    """The warm-up for all children begins; a crash before the next frame belongs to it."""

    kind: Literal["warming"]


class WarmFrame(TypedDict):
    """The warm-up succeeded."""

    kind: Literal["warm"]
    seconds: float


class ColdFrame(Raised):
    """The warm-up raised; each child will do its work itself."""

    kind: Literal["cold"]


class FactsFrame(TypedDict):
    """The facts of the environment, before any probe."""

    kind: Literal["facts"]
    facts: Facts


class BeginFrame(TypedDict):
    """A probe begins; a death of the probe host from here on belongs to it."""

    kind: Literal["begin"]
    cell: str
    probe: str
    member: str


class ObservationFrame(Observation):
    """The answer to a probe."""

    kind: Literal["observation"]
    cell: str
    probe: str
    member: str


class EndFrame(TypedDict):
    """The last frame of the probe host."""

    kind: Literal["end"]
    state: Literal["complete", "deadline", "changed", "lost", "no-device"]


Frame = Union[HelloFrame, WarmingFrame, WarmFrame, ColdFrame, FactsFrame, BeginFrame, ObservationFrame, EndFrame]
