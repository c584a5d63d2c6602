"""The entries of matrix.yaml as pydantic models, in the order of the file's sections."""

from __future__ import annotations

import datetime as dt
import re
from typing import Annotated, Literal

from pydantic import (
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Discriminator,
    Field,
    NonNegativeInt,
    PositiveFloat,
    PositiveInt,
    Tag,
)

from torch_compat_matrix.runner.matrix import values
from torch_compat_matrix.runner.matrix.versions import Moving
from torch_compat_matrix.runner.model import Install, Numerics, ProbeName, Pull, Verdict


class Entry(BaseModel):
    """A part of the file, which refuses unknown keys."""

    model_config = ConfigDict(extra="forbid", frozen=True, allow_inf_nan=False, defer_build=True)


ONE, SEVERAL, FILES, RELEASES = FORMS = "[entry]", "[entries]", "[files]", "[releases]"
"""The forms of a value that has several, as pydantic's errors name them; brackets, since no key of the file has any."""

Limited = Literal[ProbeName, "suite"]
"""The probes that have a time limit; one list, so that a wrong name is one mistake."""

Timeout = Annotated[
    Annotated[values.Seconds, Tag(ONE)] | Annotated[dict[Limited, values.Seconds], Tag(SEVERAL)],
    Discriminator(lambda value: SEVERAL if isinstance(value, dict) else ONE),
]


class LimitsEntry(Entry):
    """The limits of one launched image; an image's own limits override the file's."""

    gpus: values.Gpus | None = Field(
        None,
        description="auto: a GPU where the host has one; required: skip where it has none; none: never; a number: skip "
        "where the host has fewer, and lease so many for each launch",
    )
    timeout: Timeout | None = Field(
        None, description="seconds for one probe, the library's import included; or seconds by probe"
    )
    retries: NonNegativeInt | None = Field(
        None, le=20, description="how often a launch is tried again after host trouble (`infra`); 4 where not given"
    )
    compile_timeout: values.Seconds | None = Field(None, description="seconds for the `compile` probe; as `timeout`")
    memory: values.Size | None = Field(None, description="as Docker writes it: 8g")
    shm: values.Size | None = Field(None, description="size of /dev/shm: 8g")
    pids: PositiveInt | None = Field(None, le=values.MOST_PIDS, description="maximal number of processes")
    cpus: PositiveFloat | None = Field(None, le=values.MOST_CPUS, description="CPU cores")
    network: str | None = Field(None, description="none, or the name of an engine network")


class LocalEntry(Entry):
    """The stand-in, which the `local` backend builds in the image's place."""

    python: values.Python = Field(
        description='Python version, quoted: "3.11"; `host`: the Python that runs this command'
    )
    requires: list[values.Req] = Field(description="requirements, as for pip")


class ExpectsEntry(Entry):
    """The expectations of the image."""

    torch: str | None = Field(None, description="torch version, or its beginning")
    cuda: str | None = Field(None, description="CUDA version that torch was built for")
    cudnn: str | None = Field(None, description="cuDNN major version")
    python: str | None = Field(None, description="Python version, or its beginning")
    os: str | None = Field(None, description="words of the operating system's name")
    preinstalled: list[values.Req] = Field([], description="distributions that the image holds")
    tools: list[str] = Field([], description="programs on PATH")
    services: list[Literal["jupyter", "sshd"]] = Field([], description="services that can be started")


class OwnedEntry(Entry):
    """What an image, a library and a stack have in common."""

    labels: list[values.Name] = Field([], description="words that stand for its cells in selectors, as `label:WORD`")
    owner: str | None = Field(None, description="whoever looks after it; shown with its failures")


class CommandEntry(Entry):
    """A check of an image by a command in it."""

    command: values.Argv = Field(description="a line for `sh -c`, or a program with its arguments")
    status: int = Field(0, ge=0, le=255, description="the exit status that must come back")
    output: values.Pattern = Field("", description="a regular expression that must match in standard output or error")
    timeout: values.Seconds | None = Field(None, description="seconds, instead of the image's `timeout`")


Commands = dict[
    values.Name,
    Annotated[
        CommandEntry,
        BeforeValidator(
            lambda value: {"command": value} if isinstance(value, str) else value,
            json_schema_input_type=CommandEntry | str,
        ),
    ],
]
"""Commands by name, each an entry or its line alone."""


class ImageEntry(OwnedEntry):
    """One environment under test."""

    tag: str | None = Field(
        None, description="image reference, as for docker run; with a `*` in the tag, an image for each tag of it"
    )
    newest: PositiveInt | None = Field(None, description="of a tag with a `*`, only so many, the newest")
    digest: values.Digest | None = Field(None, description="pins the image: sha256:...")
    python: str = Field("python3", description="the interpreter inside the image that holds torch")
    pull: Pull | None = Field(None, description="instead of the file's")
    local: LocalEntry | None = Field(None, description="how to build the stand-in")
    expects: ExpectsEntry = Field(ExpectsEntry(), description="what the image is said to hold")
    commands: Commands = Field({}, description="checks of this image, beside the file's")
    claim: str | None = Field(
        None, description="the source that says that this tag exists, where that is itself a claim to test"
    )
    limits: LimitsEntry = LimitsEntry()
    env: dict[values.Variable, values.Literally | None] = Field(
        {}, description="variables of the probe host; a name without a value takes that of the environment"
    )
    platform: values.Platform | None = Field(
        None, description="which of a multi-platform tag: linux/arm64; containers only"
    )
    user: values.User | None = Field(None, description="uid, uid:gid or name, instead of nobody; containers only")
    mounts: dict[values.Inside, values.Mounted] = Field(
        {}, description="folder in the container: folder of the engine's host, read-only; containers only"
    )
    libraries: list[str] | None = Field(
        None, description="only these libraries and stacks: names, versions, globs, `label:WORD`"
    )
    extends: str | None = Field(None, description="the image whose entry holds wherever this one says nothing")

    @property
    def pattern(self) -> str:
        """The glob that stands in the tag's place (`24.*`); empty where the tag is a tag."""
        tag = (self.tag or "").rpartition("/")[2].partition(":")[2]
        return tag if re.search(r"[*?[]", tag) else ""

    @property
    def moves(self) -> bool:
        """Whether the registry decides which images it stands for."""
        return bool(self.pattern)


class ReleasesEntry(Entry):
    """Releases that the package index has when a run begins."""

    of: values.Range = Field("", description="a range, latest-N or latest-minor-N; default: every release")
    since: dt.date | None = Field(None, description="the first day of their publication: 2026-01-31")
    prereleases: bool = Field(False, description="take pre-releases too")

    @property
    def moving(self) -> Moving:
        """The releases that it names."""
        return Moving(of=self.of, since=self.since, prereleases=self.prereleases)


VersionItem = Annotated[
    Annotated[values.Ver, Tag(ONE)] | Annotated[ReleasesEntry, Tag(RELEASES)],
    Discriminator(lambda value: RELEASES if isinstance(value, (dict, ReleasesEntry)) else ONE),
]


class SourcesEntry(OwnedEntry):
    """The places of a library's or a stack's packages, besides those of pip's own configuration."""

    index: values.IndexUrl | None = Field(None, description="the package index, instead of pip's own")
    extra_index: list[values.IndexUrl] = Field([], alias="extra-index", description="further package indexes")
    find_links: list[values.Source] = Field(
        [], alias="find-links", description="folders (relative to this file) or pages with packages"
    )


class SuiteEntry(Entry):
    """Upstream's own tests."""

    source: values.SuiteSource = Field(
        "sdist",
        description="sdist: that of the version; git+URL@COMMIT; or a folder, relative to this file",
    )
    select: list[values.Inner] = Field(
        [], description="test files and folders in the source, or tests of a file (FILE::TEST); default: tests, test"
    )
    with_: list[values.Req] = Field([], alias="with", description="what the tests need beside pytest")
    reference: str | None = Field(None, description="the image where a test that fails is upstream's own failure")


Suite = Annotated[
    Annotated[bool, Tag(ONE)] | Annotated[SuiteEntry, Tag(SEVERAL)],
    Discriminator(lambda value: SEVERAL if isinstance(value, (dict, SuiteEntry)) else ONE),
]


class LibraryEntry(SourcesEntry):
    """A distribution under test."""

    # `defaults:` may give the versions, which an editor does not see
    model_config = ConfigDict(json_schema_extra=lambda schema: schema.pop("required", None))

    versions: list[VersionItem] = Field(
        description="quoted versions, ranges, `latest`, `latest-3`, `latest-minor-3`, `installed` for the image's own, "
        "wheels, git references, or releases since a day",
        min_length=1,
    )
    with_: list[values.Req] = Field([], alias="with", description="further requirements to install with it")
    probes: list[ProbeName] | None = Field(None, description="run only these probes")
    isolation: Literal["warm", "fresh"] = Field("warm", description="fresh: a process of its own for each probe")
    install: Install | None = Field(None, description="instead of the file's")
    numerics: Numerics | None = Field(None, description="instead of the file's")
    suite: Suite = Field(False, description="run upstream's own tests too; true: as an empty entry")
    images: list[str] | None = Field(None, description="only in these images: names, globs, `label:WORD`")
    timeout: Timeout | None = Field(None, description="seconds for each of its probes, or by probe, before the limits")
    label: values.Name | None = Field(
        None, description="tells several entries of a library apart in ids: library-version@label"
    )


LibraryEntries = Annotated[
    Annotated[LibraryEntry, Tag(ONE)] | Annotated[list[LibraryEntry], Field(min_length=1), Tag(SEVERAL)],
    Discriminator(lambda value: SEVERAL if isinstance(value, list) else ONE),
]


class StackEntry(SourcesEntry):
    """Several pinned libraries installed together, as a derived image would have them."""

    requires: list[values.Req] = Field(description="pinned requirements", min_length=1)
    images: list[str] | None = Field(None, description="only in these images: names, globs, `label:WORD`")
    probes: list[ProbeName] | None = None
    install: Install | None = Field(None, description="instead of the file's")
    numerics: Numerics | None = Field(None, description="instead of the file's")


class SlurmEntry(Entry):
    """A target as Slurm knows it."""

    partition: values.Word | None = None
    gres: values.Word | None = Field(
        None, description="the GPUs, without their number: gpu, gpu:h100; none: a run on the CPU"
    )
    gpus: PositiveInt = Field(1, description="how many GPUs a node has, which an image's `gpus:` may ask for")
    constraint: values.Word | None = Field(None, description="features that the node must have")
    qos: values.Word | None = None
    account: values.Word | None = None
    time: values.Word | None = Field(
        None, description="limit of a job as sbatch takes it (minutes, H:MM:SS); default: what the checks may take"
    )
    mem: values.Size | None = Field(None, description="memory of a job; default: `memory:` of the image's limits")
    cpus: PositiveInt | None = Field(None, le=values.MOST_CPUS, description="cores of a job; default: the site's")
    module: values.Word | None = Field(
        None, description="modules to load before an interpreter of the node, with blanks between"
    )
    container: Literal["none", "pyxis", "apptainer"] = Field(
        "none", description="what runs an image's `tag:`; none: its stand-in, or `python:` on the node"
    )
    lines: list[values.SbatchOption] = Field([], description="further options of sbatch: --reservation=NAME")
    max_jobs: PositiveInt | None = Field(None, alias="max-jobs", description="jobs submitted at a time (64)")


class KubernetesEntry(Entry):
    """A target as Kubernetes knows it."""

    context: values.Word | None = Field(None, description="of the kubeconfig; default: its current one")
    namespace: values.Word | None = Field(None, description="default: the context's")
    resource: values.Word | None = Field(
        None, description="the GPUs as the nodes count them: nvidia.com/gpu; none: a run on the CPU"
    )
    gpus: PositiveInt = Field(1, description="how many GPUs a node has, which an image's `gpus:` may ask for")
    node_selector: dict[str, str] = Field({}, alias="node-selector", description="labels that the node must have")
    tolerations: list[dict[str, str | int]] = Field([], description="as in a pod: taints that keep it from no node")
    runtime_class: values.Word | None = Field(None, alias="runtime-class", description="as in a pod: nvidia")
    priority_class: values.Word | None = Field(None, alias="priority-class", description="as in a pod")
    service_account: values.Word | None = Field(
        None, alias="service-account", description="of the pods, which get no token of it"
    )
    pull_secrets: list[values.Word] = Field([], alias="pull-secrets", description="secrets with the registry's login")
    queue: values.Word | None = Field(
        None, description="local queue of Kueue; jobs are then made suspended, and wait for it to admit them"
    )
    claim: values.Word | None = Field(
        None, description="PersistentVolumeClaim that has COMPAT_HOME, for packages that a ConfigMap has no room for"
    )
    claim_folder: values.Word | None = Field(
        None, alias="claim-folder", description="the folder of the claim that is COMPAT_HOME; default: its root"
    )
    mem: values.Size | None = Field(None, description="memory of a pod; default: `memory:` of the image's limits")
    cpus: PositiveInt | None = Field(None, le=values.MOST_CPUS, description="cores of a pod; default: the image's")
    time: PositiveInt | None = Field(
        None, le=values.MOST_SECONDS, description="seconds that a pod may run; default: what the checks may take"
    )
    wait: PositiveInt | None = Field(
        None, le=values.MOST_SECONDS, description="seconds that a job may wait for a node (a day)"
    )
    max_jobs: PositiveInt | None = Field(None, alias="max-jobs", description="jobs submitted at a time (64)")


class TargetEntry(Entry):
    """A kind of device that a run is made on."""

    gpu: values.Word | None = Field(None, description="the GPU's model, for reports and preflight: NVIDIA H100")
    arch: str | None = Field(
        None, pattern=r"^\d{1,2}\.\d$", description="the GPU's compute capability, for preflight: 9.0"
    )
    machine: values.Word | None = Field(
        None, description="processor architecture of the nodes: aarch64; default: this host's"
    )
    slurm: SlurmEntry | None = None
    kubernetes: KubernetesEntry | None = None


class ExcludeEntry(Entry):
    """Cells to leave out."""

    cells: values.Selection = Field(
        description="selector of cells: image, library, library-version or image/library-version"
    )
    reason: str


class IncludeEntry(Entry):
    """Cells to add to the product of images and versions."""

    images: values.Selection = Field(description="selector of images: a name, or a glob over names")
    library: str
    versions: list[VersionItem] = Field(min_length=1)


Included = Annotated[
    Annotated[IncludeEntry, Tag(ONE)]
    | Annotated[str, Tag(FILES), Field(description="matrix files to merge into this one: a path or a glob")],
    Discriminator(lambda value: FILES if isinstance(value, str) else ONE),
]


class ImageDefaults(ImageEntry):
    """The values of every image that does not say otherwise."""

    extends: None = None


class LibraryDefaults(LibraryEntry):
    """The values of every library that does not say otherwise."""

    versions: list[VersionItem] = []
    label: None = None


class Defaults(Entry):
    """Values for every entry that does not say otherwise."""

    images: ImageDefaults = ImageDefaults()
    libraries: LibraryDefaults = LibraryDefaults()


class KnownEntry(Entry):
    """A known issue: an expected outcome."""

    cells: values.Selection = Field(description="selector of checks; a cell stands for all its probes")
    expect: Verdict = Field(description="the verdict that is expected")
    code: str | None = Field(None, description="the reason code that is expected")
    reason: str
    link: str | None = None
    expires: dt.date | None = Field(None, description="the last day before its review: 2027-01-31")
    version: values.Specifier | None = Field(None, description="only at this version of the library, or in this range")
    digest: values.Digest | None = Field(None, description="only in the image of this digest: sha256:...")
    target: str | None = Field(
        None,
        pattern=r"^[A-Za-z0-9][\w.-]*$",
        description="only on this target: cpu, gpu (any GPU), the name of `--target`, or without one a model: h100",
    )
    signature: str | None = Field(
        None, pattern=r"^#?[0-9a-f]{4,8}$", description="only this failure: its signature as a report shows it: #a3f9"
    )
