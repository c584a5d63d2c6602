"""The content of matrix.yaml as pydantic models, from which docs/matrix.schema.json is made."""

from __future__ import annotations

import datetime as dt
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import (
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Discriminator,
    Field,
    NonNegativeInt,
    PositiveFloat,
    PositiveInt,
    PrivateAttr,
    Tag,
)

from torch_compat_matrix.runner import model
from torch_compat_matrix.runner.bundle import Catalogue, catalogue
from torch_compat_matrix.runner.matrix.document import Document
from torch_compat_matrix.runner.matrix.values import (
    MOST_CPUS,
    MOST_PIDS,
    Argv,
    Digest,
    Gpus,
    IndexUrl,
    Inside,
    Literally,
    Mounted,
    Name,
    Pattern,
    Platform,
    ProbeOrFolder,
    Python,
    Range,
    Req,
    Seconds,
    Selection,
    Size,
    Source,
    User,
    Variable,
    Ver,
    is_folder,
)
from torch_compat_matrix.runner.matrix.versions import Moving
from torch_compat_matrix.runner.model import PROBES, Install, Limits, Local, ProbeName, Pull, Verdict


class Entry(BaseModel):
    """A part of the file, which refuses unknown keys."""

    model_config = ConfigDict(extra="forbid", frozen=True, allow_inf_nan=False)


ONE, SEVERAL, FILES, RELEASES = FORMS = "[entry]", "[entries]", "[files]", "[releases]"
"""The forms of a value that has several, as pydantic's errors name them; brackets, since no key of the file has any."""

Timeout = Annotated[
    Annotated[Seconds, Tag(ONE)] | Annotated[dict[ProbeName, Seconds], Tag(SEVERAL)],
    Discriminator(lambda value: SEVERAL if isinstance(value, dict) else ONE),
]


class LimitsEntry(Entry):
    """The limits of one launched image; an image's own limits override the file's."""

    gpus: Gpus | None = Field(
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
    compile_timeout: Seconds | None = Field(None, description="seconds for the `compile` probe; as `timeout`")
    memory: Size | None = Field(None, description="as Docker writes it: 8g")
    shm: Size | None = Field(None, description="size of /dev/shm: 8g")
    pids: PositiveInt | None = Field(None, le=MOST_PIDS, description="maximal number of processes")
    cpus: PositiveFloat | None = Field(None, le=MOST_CPUS, description="CPU cores")
    network: str | None = Field(None, description="none, or the name of an engine network")


class LocalEntry(Entry):
    """The stand-in, which the `local` backend builds in the image's place."""

    python: Python = Field(description='Python version, quoted: "3.11"; `host`: the Python that runs this command')
    requires: list[Req] = Field(description="requirements, as for pip")


class ExpectsEntry(Entry):
    """The expectations of the image."""

    torch: str | None = Field(None, description="torch version, or its beginning")
    cuda: str | None = Field(None, description="CUDA version that torch was built for")
    cudnn: str | None = Field(None, description="cuDNN major version")
    python: str | None = Field(None, description="Python version, or its beginning")
    os: str | None = Field(None, description="words of the operating system's name")
    preinstalled: list[Req] = Field([], description="distributions that the image holds")
    tools: list[str] = Field([], description="programs on PATH")
    services: list[Literal["jupyter", "sshd"]] = Field([], description="services that can be started")


class OwnedEntry(Entry):
    """What an image, a library and a stack have in common."""

    labels: list[Name] = Field([], description="words that stand for its cells in selectors, as `label:WORD`")
    owner: str | None = Field(None, description="whoever looks after it; shown with its failures")


class CommandEntry(Entry):
    """A check of an image by a command in it."""

    command: Argv = Field(description="a line for `sh -c`, or a program with its arguments")
    status: int = Field(0, ge=0, le=255, description="the exit status that must come back")
    output: Pattern = Field("", description="a regular expression that must match in standard output or error")
    timeout: Seconds | None = Field(None, description="seconds, instead of the image's `timeout`")


Commands = dict[
    Name,
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
    digest: Digest | None = Field(None, description="pins the image: sha256:...")
    python: str = Field("python3", description="the interpreter inside the image that holds torch")
    pull: Pull | None = Field(None, description="instead of the file's")
    local: LocalEntry | None = Field(None, description="how to build the stand-in")
    expects: ExpectsEntry = Field(ExpectsEntry(), description="what the image is said to hold")
    commands: Commands = Field({}, description="checks of this image, beside the file's")
    claim: str | None = Field(
        None, description="the source that says that this tag exists, where that is itself a claim to test"
    )
    limits: LimitsEntry = LimitsEntry()
    env: dict[Variable, Literally | None] = Field(
        {}, description="variables of the probe host; a name without a value takes that of the environment"
    )
    platform: Platform | None = Field(None, description="which of a multi-platform tag: linux/arm64; containers only")
    user: User | None = Field(None, description="uid, uid:gid or name, instead of nobody; containers only")
    mounts: dict[Inside, Mounted] = Field(
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

    of: Range = Field("", description="a range, latest-N or latest-minor-N; default: every release")
    since: dt.date | None = Field(None, description="the first day of their publication: 2026-01-31")
    prereleases: bool = Field(False, description="take pre-releases too")

    @property
    def moving(self) -> Moving:
        """The releases that it names."""
        return Moving(of=self.of, since=self.since, prereleases=self.prereleases)


VersionItem = Annotated[
    Annotated[Ver, Tag(ONE)] | Annotated[ReleasesEntry, Tag(RELEASES)],
    Discriminator(lambda value: RELEASES if isinstance(value, (dict, ReleasesEntry)) else ONE),
]


class SourcesEntry(OwnedEntry):
    """The places of a library's or a stack's packages, besides those of pip's own configuration."""

    index: IndexUrl | None = Field(None, description="the package index, instead of pip's own")
    extra_index: list[IndexUrl] = Field([], alias="extra-index", description="further package indexes")
    find_links: list[Source] = Field(
        [], alias="find-links", description="folders (relative to this file) or pages with packages"
    )


class LibraryEntry(SourcesEntry):
    """A distribution under test."""

    # `defaults:` may give the versions, which an editor does not see
    model_config = ConfigDict(json_schema_extra=lambda schema: schema.pop("required", None))

    versions: list[VersionItem] = Field(
        description="quoted versions, ranges, `latest`, `latest-3`, `latest-minor-3`, `installed` for the image's own, "
        "wheels, git references, or releases since a day",
        min_length=1,
    )
    with_: list[Req] = Field([], alias="with", description="further requirements to install with it")
    probes: list[ProbeName] | None = Field(None, description="run only these probes")
    isolation: Literal["warm", "fresh"] = Field("warm", description="fresh: a process of its own for each probe")
    install: Install | None = Field(None, description="instead of the file's")
    images: list[str] | None = Field(None, description="only in these images: names, globs, `label:WORD`")
    timeout: Timeout | None = Field(None, description="seconds for each of its probes, or by probe, before the limits")
    label: Name | None = Field(
        None, description="tells several entries of a library apart in ids: library-version@label"
    )


LibraryEntries = Annotated[
    Annotated[LibraryEntry, Tag(ONE)] | Annotated[list[LibraryEntry], Field(min_length=1), Tag(SEVERAL)],
    Discriminator(lambda value: SEVERAL if isinstance(value, list) else ONE),
]


class StackEntry(SourcesEntry):
    """Several pinned libraries installed together, as a derived image would have them."""

    requires: list[Req] = Field(description="pinned requirements", min_length=1)
    images: list[str] | None = Field(None, description="only in these images: names, globs, `label:WORD`")
    probes: list[ProbeName] | None = None
    install: Install | None = Field(None, description="instead of the file's")


class ExcludeEntry(Entry):
    """Cells to leave out."""

    cells: Selection = Field(description="selector of cells: image, library, library-version or image/library-version")
    reason: str


class IncludeEntry(Entry):
    """Cells to add to the product of images and versions."""

    images: Selection = Field(description="selector of images: a name, or a glob over names")
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

    cells: Selection = Field(description="selector of checks; a cell stands for all its probes")
    expect: Verdict = Field(description="the verdict that is expected")
    code: str | None = Field(None, description="the reason code that is expected")
    reason: str
    link: str | None = None
    expires: dt.date | None = Field(None, description="the last day before its review: 2027-01-31")


class Matrix(Entry):
    """Images x library versions, with their known issues."""

    limits: LimitsEntry = LimitsEntry()
    probes_: list[ProbeOrFolder] = Field(
        [],
        alias="probes",
        description="probes to run, unless a library says otherwise (none here: all of them), and folders of probe "
        "modules of your own: ./NAME",
    )
    install: Install = Field(
        "constrained",
        description="constrained: what fits beside the image's packages; plain: what `pip install` does, which may "
        "replace some of them, torch among them",
    )
    pull: Pull = Field("missing", description="missing: where the engine lacks the image; always: at each run")
    commands: Commands = Field({}, description="checks of every image, by a command in it")
    images: dict[Name, ImageEntry] = Field(min_length=1)
    libraries: dict[Name, LibraryEntries] = Field({}, description="libraries by the name of their distribution")
    stacks: dict[Name, StackEntry] = {}
    exclude: list[ExcludeEntry] = []
    include: list[Included] = []
    defaults: Defaults = Defaults()
    known: list[KnownEntry] = []
    selections: dict[Name, list[Selection]] = Field(
        {}, description="names for lists of selectors; a selection named after a backend is its default"
    )
    max_checks: PositiveInt = Field(100_000, description="refuse to expand to more checks than this")
    _source: str = ""
    _places: tuple[str, ...] = ()
    _claims: tuple[dict[str, Any], ...] = ()
    _folders: Mapping[str, Path] = PrivateAttr(default_factory=dict)
    _document: Document = PrivateAttr(default_factory=lambda: Document(name=""))
    _catalogue: Catalogue = PrivateAttr(default_factory=catalogue)

    @property
    def document(self) -> Document:
        """The file, which knows the place of each value."""
        return self._document

    @property
    def probes(self) -> list[str]:
        """The probes to run, unless a library says otherwise."""
        return [entry for entry in self.probes_ if not is_folder(entry)] or [*PROBES]

    @property
    def folders(self) -> Mapping[str, Path]:
        """The folders of probe modules, as the file names them -> as seen from here."""
        return self._folders

    @property
    def catalogue(self) -> Catalogue:
        """The libraries that have probes: ours, those of installed packages, those of the folders."""
        return self._catalogue

    @property
    def claims(self) -> tuple[dict[str, Any], ...]:
        """The claims of claims.yaml beside the file, as plain data; empty where there is no such file."""
        return self._claims

    @property
    def source(self) -> str:
        """The path of the file, as the user wrote it."""
        return self._source

    @property
    def included(self) -> list[tuple[int, IncludeEntry]]:
        """The cells of `include:`, each with its place in the list, which also names files."""
        return [(index, entry) for index, entry in enumerate(self.include) if not isinstance(entry, str)]

    def entries_of(self, library: str) -> Sequence[LibraryEntry]:
        """The entries of a library, in the file's order; none where the file does not have it."""
        entries = self.libraries.get(library, [])
        return entries if isinstance(entries, list) else [entries]

    def entry_paths(self, library: str) -> list[tuple[tuple[str | int, ...], LibraryEntry]]:
        """The entries of a library, each with its place in the file."""
        several = isinstance(self.libraries[library], list)
        return [
            (("libraries", library, *([index] if several else [])), entry)
            for index, entry in enumerate(self.entries_of(library))
        ]

    def entry_of(self, cell: model.Cell) -> LibraryEntry | StackEntry:
        """The entry that the cell comes from."""
        if cell.subject in self.stacks:
            return self.stacks[cell.subject]
        return next(entry for entry in self.entries_of(cell.subject) if (entry.label or "") == cell.label)

    @property
    def entries(self) -> list[tuple[str, LibraryEntry]]:
        """Each library's name with each of its entries."""
        return [(name, entry) for name in self.libraries for entry in self.entries_of(name)]

    def commands_of(self, image: str) -> dict[str, CommandEntry]:
        """The image's own commands, the file's among them."""
        return {**self.commands, **self.images[image].commands}

    def model_images(self) -> tuple[model.Image, ...]:
        """The images as the runner's nouns, with the file's limits and the defaults filled in."""
        return tuple(
            model.Image(
                name=name,
                tag=image.tag,
                digest=image.digest,
                python=image.python,
                local=_local(image.local),
                expects=image.expects.model_dump(exclude_defaults=True),
                claim=image.claim,
                labels=tuple(image.labels),
                owner=image.owner or "",
                env=image.env,
                platform=image.platform or "",
                user=image.user or "",
                mounts=image.mounts,
                pull=image.pull or self.pull,
                commands=_commands(self.commands_of(name)),
                limits=_limits(self.limits, image.limits),
            )
            for name, image in self.images.items()
        )

    def model_known(self) -> tuple[model.Known, ...]:
        """The known issues as the runner's nouns, with their places."""
        return tuple(
            model.Known(**{**entry.model_dump(), "expect": entry.expect}, place=place)
            for entry, place in zip(self.known, self._places, strict=True)
        )


def _local(entry: LocalEntry | None) -> Local | None:
    return None if entry is None else Local(python=entry.python, requires=tuple(entry.requires))


def _commands(entries: Mapping[str, CommandEntry]) -> tuple[model.Command, ...]:
    return tuple(
        model.Command(
            name=name,
            command=tuple(entry.command),
            status=entry.status,
            output=entry.output,
        )
        for name, entry in entries.items()
    )


def _limits(*entries: LimitsEntry) -> Limits:
    limits: dict[str, Any] = {}
    for entry in entries:
        limits.update(entry.model_dump(exclude_none=True))
        timeout = limits.pop("timeout", None)
        if isinstance(timeout, dict):
            limits["timeouts"] = {**limits.get("timeouts", {}), **timeout}
        elif timeout is not None:
            limits["timeout_s"] = timeout
    if "compile_timeout" in limits:
        limits["compile_timeout_s"] = limits.pop("compile_timeout")
    return Limits(**limits)
