"""What the host says to a probe host and what it answers: the work order and the frames, as JSON carries them.

docs/protocol.md says what each key means; tests hold both to real frames.  The host side imports this module for its
type checker alone.
"""

from __future__ import annotations

from typing import Dict, List, Literal, Optional, TypedDict, Union


class MemberOrder(TypedDict):
    """One library of a cell."""

    distribution: str
    version: str


class CellOrder(TypedDict):
    """One cell: which probes to ask of which libraries, and how."""

    id: str
    overlay: Optional[str]
    added: List[str]
    members: List[MemberOrder]
    probes: List[str]
    isolation: str
    timeout_s: float


class Expects(TypedDict):
    """What the image is said to offer, as far as only the image can tell."""

    tools: List[str]
    services: List[str]


class WorkOrder(TypedDict):
    """All that one launch is to do."""

    nonce: str
    device: Literal["cpu", "cuda", "auto"]
    seed: int
    full: bool
    warm: bool
    timeout_s: float
    deadline_s: float
    threads: int
    compile_cache: str
    expects: Expects
    cells: List[CellOrder]


class Requirements(TypedDict):
    """What a distribution's metadata says of its requirements."""

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
    """One GPU, as torch sees it."""

    name: str
    uuid: str
    capability: str
    memory: int


class _Raised(TypedDict):
    message: str


class Raised(_Raised, total=False):
    """An exception, or the end of the child that was asked."""

    status: Literal["raised", "failed", "skipped"]
    code: str
    exception: List[str]
    traceback: str
    output: str


class ImageFacts(TypedDict):
    """What the image holds, wherever it is launched."""

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
    """What this launch gives the image: processors, driver, GPUs."""

    cpus: int
    driver: str
    gpus: List[GpuFacts]


class _Facts(ImageFacts, LaunchFacts):
    services: Dict[str, ServiceAnswer]


class Facts(_Facts, total=False):
    """What the environment is."""

    torch_error: Raised


class Metric(TypedDict):
    """A measured number."""

    value: float
    unit: str


class _Part(TypedDict):
    name: str
    status: Literal["passed", "failed", "skipped"]
    seconds: float


class Part(_Part, total=False):
    """One named step of a probe."""

    code: str
    message: str


class _Observation(TypedDict):
    status: Literal["passed", "failed", "raised", "skipped", "died", "timeout"]
    isolation: Literal["fork", "fresh", ""]
    installed: str
    device_name: str


class Observation(_Observation, total=False):
    """What one probe saw of one member."""

    device: str
    code: str
    message: str
    exception: List[str]
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
    attempts: List[str]
    cuda_initialised: bool


class HelloFrame(TypedDict):
    """The probe host has started."""

    kind: Literal["hello"]
    pid: int


class WarmingFrame(TypedDict):
    """Something is imported once for all children; a crash from here on, until another frame comes, is its crash."""

    kind: Literal["warming"]


class WarmFrame(TypedDict):
    """It was imported."""

    kind: Literal["warm"]
    seconds: float


class ColdFrame(Raised):
    """It raised; each child will do it for itself."""

    kind: Literal["cold"]


class FactsFrame(TypedDict):
    """What the environment is, before anything is probed in it."""

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
    """The probe host has nothing more to say."""

    kind: Literal["end"]
    state: Literal["complete", "deadline"]


Frame = Union[HelloFrame, WarmingFrame, WarmFrame, ColdFrame, FactsFrame, BeginFrame, ObservationFrame, EndFrame]
