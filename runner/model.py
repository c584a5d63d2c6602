"""The nouns of DESIGN's word list, frozen and typed; standard library only, so that `here` works on a bare host."""

from __future__ import annotations

import datetime as dt
import hashlib
import json
import re
from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass, field, replace
from enum import Enum
from pathlib import Path
from typing import Any, Literal, get_args

from torch_compat_matrix.runner.pins import canonical, name_of
from torch_compat_matrix.runner.selector import Address, address
from torch_compat_matrix.runner.shapes import maker

ProbeName = Literal["import", "sample", "autograd", "compile"]
PROBES: tuple[ProbeName, ...] = get_args(ProbeName)
"""The probes, in the order in which they run and are shown."""

SUITE = "suite"
"""The probe that runs upstream's own tests; only where it is asked for."""

Install = Literal["constrained", "plain"]
"""How a cell's packages are installed: beside those of the image, or as `pip install` does it, replacing some."""
PLAIN: Install = "plain"

Numerics = Literal["noted", "strict"]
"""Whether a pass whose numbers differ from those of its last pass is noted, or a failure."""
STRICT: Numerics = "strict"

Pull = Literal["missing", "always"]
"""When an image is pulled: where the engine lacks it, or at each run, since its tag may have moved."""

MATRIX = Path("matrix.yaml")
"""The matrix file where none is named."""
EXPECTS = "expects"
"""The library in an expectation's id: `image/expects/what`."""
COMMANDS = "commands"
"""The library in the id of an image's own check: `image/commands/name`."""
INSTALLED = "installed"
LATEST = "latest"
HOST = "host"
HERE = "here"
"""The image that the interpreter of this command is, where it stands for no other."""
TORCH = "torch"
"""The package that makes an image what it is: only a plain install replaces it."""
SUPERFICIAL = "superficial"
"""The grade of a pass of a generic probe."""


class Verdict(str, Enum):
    """The verdict of a check; `fail` blames the library, every other non-pass has a name of its own."""

    PASS = "pass"
    FAIL = "fail"
    CRASH = "crash"
    TIMEOUT = "timeout"
    OOM = "oom"
    UNSUPPORTED = "unsupported"
    SKIP = "skip"
    INFRA = "infra"
    NOT_RUN = "not-run"

    @property
    def broken(self) -> bool:
        """Whether it says that the library does not work in the image."""
        return self in (Verdict.FAIL, Verdict.CRASH, Verdict.TIMEOUT, Verdict.OOM, Verdict.UNSUPPORTED)

    @property
    def tells(self) -> bool:
        """Whether it says that the library works in the image, or that it does not."""
        return self is Verdict.PASS or self.broken

    @property
    def final(self) -> bool:
        """Whether a resumed run may keep it; host trouble and unrun checks are tried again."""
        return self not in (Verdict.INFRA, Verdict.NOT_RUN)


@dataclass(frozen=True, kw_only=True, slots=True)
class Limits:
    """The limits of one launched image; sizes in bytes, times in seconds."""

    gpus: str = "auto"
    """`auto`: one GPU where the host has one; `required`: skip the image where it has none; `none`: never."""
    timeout_s: float = 120.0
    """For one probe, library import included."""
    compile_timeout_s: float | None = None
    """For the `compile` probe, which needs longer on few cores; None: as for the others."""
    memory: int = 8 << 30
    shm: int = 8 << 30
    pids: int = 1024
    cpus: float | None = None
    network: str = "none"
    """`none`, or the name of an engine network."""
    timeouts: Mapping[str, float] = field(default_factory=dict, hash=False)
    """Probe -> seconds, before the two time limits above."""
    retries: int | None = None
    """How often a launch is tried again after host trouble; None: as often as there are pauses for it."""

    @property
    def gpus_demanded(self) -> int:
        """How many GPUs the host must have; 0 where it may have none."""
        return int(self.gpus) if self.gpus.isdecimal() else int(self.gpus == "required")

    def seconds(self, probe: str) -> float:
        """The time limit of a probe."""
        if probe in self.timeouts:
            return self.timeouts[probe]
        return self.compile_timeout_s or self.timeout_s if probe == "compile" else self.timeout_s

    @property
    def longest_s(self) -> float:
        """The longest time limit of any probe, or command."""
        return max(map(self.seconds, (*PROBES, *self.timeouts)))


@dataclass(frozen=True, kw_only=True, slots=True)
class Local:
    """How to build the stand-in of an image: a Python version, or `host`, and the requirements to install."""

    python: str
    requires: tuple[str, ...]


@dataclass(frozen=True, kw_only=True, slots=True)
class Command:
    """A check of an image by a command in it, and what must come back."""

    name: str
    command: tuple[str, ...]
    """Program and arguments."""
    status: int = 0
    output: str = ""
    """A regular expression that matches somewhere in standard output and standard error."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Image:
    """One environment under test: a container image by tag and digest, with what is expected of it."""

    name: str
    tag: str | None = None
    digest: str | None = None
    local: Local | None = None
    expects: Mapping[str, Any] = field(default_factory=dict)
    limits: Limits = field(default_factory=Limits)
    python: str = "python3"
    """The interpreter inside the image that holds torch."""
    claim: str | None = None
    """The source that says that this tag exists, where that is itself a claim to test."""
    labels: tuple[str, ...] = ()
    """Words that select it and its cells."""
    owner: str = ""
    pull: Pull = "missing"
    env: Mapping[str, str | None] = field(default_factory=dict)
    """Variables of the probe host; None takes the value of this process's environment."""
    platform: str = ""
    """`linux/arm64`, of a tag for several; empty for the engine's own."""
    user: str = ""
    """The user in the container; empty for nobody."""
    mounts: Mapping[str, str] = field(default_factory=dict)
    """Folder in the container -> folder of the engine's host, mounted read-only."""
    commands: tuple[Command, ...] = ()

    @property
    def surroundings(self) -> list[Any]:
        """Whatever beside the image itself decides what a launch finds in it; empty where the entry says nothing."""
        said = [dict(self.env), self.platform, self.user, dict(self.mounts)]
        return said if any(said) else []

    @property
    def reference(self) -> str | None:
        """`repository@digest` where a digest is pinned, else the tag."""
        if self.tag and self.digest:
            return f"{repository(self.tag)}@{self.digest}"
        return self.tag


def variant(version: str, label: str = "") -> str:
    """`version`, or `version@label` where the library has several entries in the matrix."""
    return f"{version}@{label}" if label else version


def cell_id(image: str, subject: str, version: str) -> str:
    """`image/library-version`, where the version comes with its label; an image's own commands have none."""
    return f"{image}/{subject}-{version}" if version else f"{image}/{subject}"


def check_id(cell: str, probe: str) -> str:
    """`image/library-version/probe`: selector, log name, test id and journal key."""
    return f"{cell}/{probe}"


def cell_of(check: str) -> str:
    """The id of the cell that the check of this id belongs to."""
    return check.rpartition("/")[0]


def recorded_id(name: str) -> str:
    """The id as its run recorded it, without the `@target` that a report over several runs adds to its image."""
    return re.sub(r"^([^/@]+)@[^/]*", r"\1", name)


def expectation_id(image: str, what: str) -> str:
    """`image/expects/what`: the id under which a report judges an expectation of an image."""
    return check_id(f"{image}/{EXPECTS}", what)


def repository(tag: str) -> str:
    """The part of an image reference before `:tag` or `@digest` (`host:5000/a/b:1` -> `host:5000/a/b`)."""
    name = tag.partition("@")[0]
    head, slash, last = name.rpartition("/")
    return head + slash + last.partition(":")[0]


@dataclass(frozen=True, kw_only=True, slots=True)
class Cell:
    """Image x (library at one version, or stack): one box of the table; or an image's own commands, without members."""

    image: str
    subject: str
    """The library's or the stack's name."""
    version: str
    """A version, `latest` or `installed`; a stack's is `stack`."""
    requires: tuple[str, ...]
    """The requirements that a user would give pip; empty where the image's own installation is under test."""
    members: tuple[str, ...]
    """The distributions whose probes run."""
    probes: tuple[str, ...] = PROBES
    isolation: str = "warm"
    """`warm`: forked from a process that has imported torch; `fresh`: a process of its own."""
    label: str = ""
    """Tells the entries of a library in the matrix apart; empty for the only or the first of them."""
    install: Install = "constrained"
    labels: tuple[str, ...] = ()
    """The words that select it: its image's and its library's."""
    owner: str = ""
    """Whoever looks after its library or its image."""
    index: str = ""
    """The package index, instead of pip's own; empty for that."""
    extra_index: tuple[str, ...] = ()
    find_links: tuple[str, ...] = ()
    superficial: tuple[str, ...] = ()
    """The probes whose pass shows no more than that code runs: generic ones."""
    timeouts: Mapping[str, float] = field(default_factory=dict, hash=False)
    """Probe -> seconds, before the limits of the image."""
    numerics: Numerics = "noted"
    locked: Mapping[str, Any] | None = field(default=None, hash=False)
    """Its entry in the lock (runner/matrix/lockfile.py), which then stands for the resolver's answer."""
    suite: Mapping[str, Any] | None = field(default=None, hash=False)
    """Where upstream's own tests come from, and which of them run: SuiteEntry of runner/matrix/entries.py."""

    def limits(self, of_image: Limits) -> Limits:
        """The limits of the image with the cell's own."""
        return replace(of_image, timeouts={**of_image.timeouts, **self.timeouts}) if self.timeouts else of_image

    @property
    def id(self) -> str:
        return cell_id(self.image, self.subject, self.variant)

    @property
    def variant(self) -> str:
        """The version with its label, as ids, tables and records have it."""
        return variant(self.version, self.label)

    @property
    def newest(self) -> tuple[str, ...]:
        """The distribution that is to be the newest, even where the image holds another."""
        return (canonical(self.subject),) if self.version == LATEST else ()

    @property
    def address(self) -> Address:
        return address(self.id, self.subject, self.labels)

    def may_replace(self, name: str) -> bool:
        """Whether the package may replace that of the image: the matrix names it, or takes whatever pip does."""
        return self.install == PLAIN or (name != TORCH and name in map(name_of, self.requires))

    @property
    def checks(self) -> tuple[Check, ...]:
        return tuple(Check(cell=self, probe=probe) for probe in self.probes)


@dataclass(frozen=True, kw_only=True, slots=True)
class Check:
    """Cell x probe: what a pytest item and a journal line stand for."""

    cell: Cell
    probe: str

    @property
    def id(self) -> str:
        return check_id(self.cell.id, self.probe)

    @property
    def address(self) -> Address:
        return address(self.id, self.cell.subject, self.cell.labels)


@dataclass(frozen=True, kw_only=True, slots=True)
class Known:
    """An expected verdict, with its reason, a link and the day of its review."""

    cells: str
    """The selector of the checks."""
    expect: Verdict
    reason: str
    code: str | None = None
    link: str | None = None
    expires: dt.date | None = None
    place: str = ""
    """`file:line:column` of the entry."""
    version: str | None = None
    """It holds for these versions alone, a version or a range."""
    digest: str | None = None
    """It holds for this image alone, whatever its tag comes to mean."""
    target: str | None = None
    """It holds on this target alone: `cpu`, `gpu` for any GPU, the name of `--target`, or a model (`h100`)."""
    signature: str | None = None
    """It holds for this failure alone: the signature, or its beginning, with or without a `#`."""

    @property
    def expected(self) -> str:
        """`fail (dynamo-error)`."""
        return self.expect.value + (f" ({self.code})" if self.code else "")

    @property
    def bound(self) -> bool:
        """Whether only an outcome can tell that the entry holds."""
        return any((self.version, self.digest, self.target, self.signature))

    def to_json(self) -> dict[str, Any]:
        """Plain data; what an earlier compat does not know is there only where it is said."""
        bound = ("version", "digest", "target", "signature")
        plain = {name: getattr(self, name) for name in self.__slots__ if name not in bound or getattr(self, name)}
        return {**plain, "expect": self.expect.value, "expires": self.expires and self.expires.isoformat()}

    @classmethod
    def from_json(cls, data: Mapping[str, Any]) -> Known:
        """The entry from plain data."""
        known: Known = maker(Known)(data)
        return known


@dataclass(frozen=True, kw_only=True, slots=True)
class Module:
    """A probe module that is not of our own bundle: it travels with the plan."""

    name: str
    """The stem of its file: the distribution with `_` for `-`; a helper of other modules begins with `_`."""
    origin: str
    """Its file for messages, as the matrix names the folder."""
    text: str
    """Its source; in a journal the hash of that, since the run's folder keeps the file."""
    replaces: bool = False
    """Whether our own bundle has probes of that distribution too."""

    @property
    def hash(self) -> str:
        """`sha256:` and the hash of its source."""
        known = self.text.startswith("sha256:")
        return self.text if known else f"sha256:{hashlib.sha256(self.text.encode()).hexdigest()}"

    def __str__(self) -> str:
        """Its file, for messages."""
        return f"{self.origin} (in place of ours)" if self.replaces else self.origin


@dataclass(frozen=True, kw_only=True, slots=True)
class Plan:
    """The cells to probe, grouped by image in the matrix's order."""

    images: tuple[Image, ...]
    cells: tuple[Cell, ...]
    known: tuple[Known, ...] = ()
    claims: tuple[Mapping[str, Any], ...] = ()
    """The claims about images and libraries, as plain data (runner/matrix/claims.py)."""
    source: str = ""
    """The path of the matrix file, as the user wrote it; or the options that stood in its place."""
    backend: str = ""
    """The backend that it was made for; empty where it does not say."""
    modules: tuple[Module, ...] = ()
    """The probe modules that our own bundle lacks."""
    taken: Mapping[str, tuple[str, ...]] = field(default_factory=dict)
    """What moved when the plan was made: `library latest-3`, `image train:24.*` -> its exact versions or tags."""
    shard: str = ""
    """Which part of a larger plan it is, as `2/4`; empty where it is whole."""
    whole: str = ""
    """The `coverage` of the larger plan."""
    target: Mapping[str, Any] = field(default_factory=dict)
    """The entry of `targets:` that it is made for, with its name; empty where it is for no scheduler."""

    @property
    def coverage(self) -> str:
        """A hash that two plans share if they have the same checks."""
        return digest(sorted(check.id for check in self.checks))

    @property
    def checks(self) -> tuple[Check, ...]:
        return tuple(check for cell in self.cells for check in cell.checks)

    @property
    def images_by_name(self) -> dict[str, Image]:
        return {image.name: image for image in self.images}

    @property
    def cells_by_id(self) -> dict[str, Cell]:
        return {cell.id: cell for cell in self.cells}

    def cells_of(self, image: Image) -> tuple[Cell, ...]:
        return tuple(cell for cell in self.cells if cell.image == image.name)

    def only(self, checks: Iterable[str]) -> Plan:
        """The plan with these checks alone, and with the images that have some."""
        wanted = frozenset(checks)
        cut = (
            replace(cell, probes=tuple(each.probe for each in cell.checks if each.id in wanted)) for cell in self.cells
        )
        cells = tuple(cell for cell in cut if cell.probes)
        names = {cell.image for cell in cells}
        return replace(self, images=tuple(image for image in self.images if image.name in names), cells=cells)

    def to_json(self) -> dict[str, Any]:
        """Plain data."""
        return {**asdict(self), "known": [entry.to_json() for entry in self.known]}

    @classmethod
    def from_json(cls, data: Mapping[str, Any]) -> Plan:
        """The plan from plain data; KeyError, TypeError or ValueError where the data is no plan."""
        plan: Plan = maker(Plan)({name: data[name] for name in cls.__slots__ if name in data})
        return plan


def digest(value: object) -> str:
    """A short, stable hash of plain data: 16 hexadecimal digits of SHA-256 over its canonical JSON."""
    text = json.dumps(value, sort_keys=True, separators=(",", ":"), default=str)
    return hashlib.sha256(text.encode()).hexdigest()[:16]


def target_of(gpu: str) -> str:
    """The kind of device that a run is made on: `cpu` without a GPU, else the model's name: `h100`, `rtx-4090`."""
    words = re.findall(r"[a-z0-9.]+", gpu.lower())
    return "-".join(word for word in words if not re.fullmatch(NO_MODEL, word)) or "cpu"


NO_MODEL = r"nvidia|tesla|geforce|quadro|graphics|device|gpu|sxm\d*|pcie?|hbm\w*|nvl|\d+gb"
"""The words of a GPU's name that do not tell its model."""


def utc_now() -> str:
    """The current time, UTC, ISO 8601 to the second."""
    return dt.datetime.now(dt.timezone.utc).isoformat(timespec="seconds")
