"""Requirements + the image's packages -> the exact set to add, and the packages that a plain install would replace."""

from __future__ import annotations

import datetime as dt
import json
import re
from collections.abc import Iterable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass, field
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from torch_compat_matrix.runner.files import locked, write_whole
from torch_compat_matrix.runner.model import PLAIN, digest
from torch_compat_matrix.runner.packages import uv
from torch_compat_matrix.runner.packages.pip_config import Index
from torch_compat_matrix.runner.packages.stubs import Held
from torch_compat_matrix.runner.packages.target import Target
from torch_compat_matrix.runner.pins import changes, is_name, name_of, read_pins, same_version, version_of

PASSING = ("index-unreachable", "index-refused", "disk-full", "install-failed")
"""Passing problems, which are not cached."""

_SCHEMA = 2
_COMPILE = ("pip", "compile", "--no-header", "--no-annotate")


@dataclass(frozen=True, kw_only=True, slots=True)
class Resolution:
    """The result of an install into the image."""

    add: tuple[str, ...] = ()
    """`name==version` of each package that the image lacks (`name @ URL` where a URL is required)."""
    plain: tuple[str, ...] = ()
    """The same for a plain `pip install`, with the packages that it would replace; empty where it equals `add`."""
    versions: Mapping[str, str] = field(default_factory=dict)
    """Canonical name -> version of all resolved packages, the image's own among them."""
    drift: tuple[str, ...] = ()
    """The packages that a plain `pip install` would replace (`torch 2.6.0 -> 2.13.0`), even where none has to be."""
    problem: str = ""
    """A stable reason code; empty where the image can be kept as it is."""
    detail: str = ""
    evidence: str = ""
    notes: tuple[str, ...] = ()

    @classmethod
    def from_json(cls, data: Mapping[str, Any]) -> Resolution:
        """The resolution from `asdict`'s data, by way of JSON."""
        lists: dict[str, Any] = {name: tuple(data[name]) for name in ("add", "plain", "drift", "notes")}
        return cls(**{**data, **lists})

    def under(self, install: str) -> Resolution:
        """The resolution for that way to install; a plain install adds whatever pip does, and so has no drift."""
        if install != PLAIN or self.problem not in ("", "drift"):
            return self
        versions = {**self.versions, **read_pins(self.plain)}
        return Resolution(add=self.plain or self.add, versions=versions, notes=self.notes)


def resolve(requirements: Sequence[str], facts: Mapping[str, Any], index: Index, cache: Path) -> Resolution:
    """The result of `pip install` of the requirements in the image that the facts describe.

    A requirement without a version means the newest, even where the image holds another.  Answers are kept in `cache`:
    for good where each requirement is pinned and met, else for the day.
    """
    target = Target.of(facts)
    held = Held.of(facts, target, cache / "stubs")
    places = (index.key, index.contents, uv.version())
    key = digest([_SCHEMA, sorted(requirements), held.folder.name, asdict(target), places])
    path, today = cache / f"{key}.json", dt.date.today().isoformat()
    with locked(path.with_suffix(".lock")):
        kept = _kept(path, today)
        if kept is not None:
            return kept
        resolution = _Question(tuple(requirements), target, held, index).answer()
        if resolution.problem not in PASSING:
            lasting = not resolution.problem and all(map(version_of, requirements))
            write_whole(path, [json.dumps({"day": "" if lasting else today, "resolution": asdict(resolution)})])
        return resolution


def _kept(path: Path, today: str) -> Resolution | None:
    try:
        record = json.loads(path.read_text())
    except (OSError, ValueError):
        return None
    return Resolution.from_json(record["resolution"]) if record["day"] in ("", today) else None


@dataclass(frozen=True, slots=True)
class _Question:
    requirements: tuple[str, ...]
    target: Target
    held: Held
    index: Index

    def answer(self) -> Resolution:
        """Resolve with the image kept as it is, if possible; name what a plain install would replace in any case."""
        with ThreadPoolExecutor(max_workers=1) as pool:
            freely = pool.submit(self._free)
            ran = self._keeping()
            free = freely.result()
        if not ran.status:
            return self._met(ran, read_pins(free.out.splitlines()))
        if free.status or ran.reason in PASSING:
            return self._unmet(free if free.status else ran)
        picks, drift = self._drift(read_pins(free.out.splitlines()))
        if not drift:
            return self._unmet(ran)
        return Resolution(
            plain=self._plain(picks),
            versions=picks,
            drift=drift,
            problem="drift",
            detail=f"an install would replace {', '.join(drift)}: {uv.brief(ran.explanation)}",
            evidence=uv.evidence(ran.explanation),
        )

    @property
    def asked(self) -> set[str]:
        """The required names, whose replacement is no drift; except torch, which makes the image what it is."""
        return set(map(name_of, self.requirements)) - {"torch", ""}

    @property
    def newest(self) -> set[str]:
        """The names required without a version."""
        return self.asked & set(map(name_of, filter(is_name, self.requirements)))

    def _keeping(self) -> uv.Ran:
        """Resolve with the image as it is; where that fails, the required packages themselves may be replaced."""
        held = self.held.versions.keys()
        ran = self._compile(keep=held - self.newest)
        if ran.status and ran.reason not in PASSING and (self.asked - self.newest) & held:
            again = self._compile(keep=held - self.asked)
            return ran if again.status else again
        return ran

    def _met(self, ran: uv.Ran, free: Mapping[str, str]) -> Resolution:
        held = self.held.versions
        lines = {name_of(line): line for line in ran.out.splitlines() if name_of(line)}
        own = {name for name, line in lines.items() if f" @ {self._stubs().as_uri()}/" in line}
        versions = {**read_pins(lines.values()), **{name: held[name] for name in own}}
        new = [name for name in lines if not (name in held and same_version(versions[name], held[name]))]
        add = tuple(lines[name] for name in new)
        newer = free and any(free.get(name) != versions[name] for name in new)
        picks, drift = self._drift(free) if newer else ({}, ())
        plain = self._plain(picks)
        return Resolution(
            add=add,
            plain=plain if set(plain) != set(add) else (),
            versions=versions,
            drift=drift,
            notes=tuple(re.findall(r"^warning: (`.* is yanked.*)$", ran.err, re.MULTILINE)),
        )

    def _free(self) -> uv.Ran:
        """Resolve as if the image were empty; where that fails, with the image's packages beside the indexes'."""
        ran = self._compile(keep=())
        if ran.status and ran.reason not in PASSING:
            again = self._run(links=(self._stubs(),))
            return ran if again.status else again
        return ran

    def _unmet(self, ran: uv.Ran) -> Resolution:
        if ran.reason == "version-not-found":
            # With the best of all indexes, uv does not mention that an index refused to answer.
            first = self._run(variables={"UV_INDEX_STRATEGY": "first-index"})
            ran = first if first.reason == "index-refused" else ran
        text = ran.explanation
        code = "python-too-old" if ran.reason == "unsatisfiable" and self._too_old(text) else ran.reason
        return Resolution(problem=code, detail=uv.brief(text), evidence=uv.evidence(text))

    def _too_old(self, explanation: str) -> bool:
        """Whether the requirements need a newer Python than the image's."""
        wanted = re.search(r"(?:does not satisfy|requires) Python ?>=?(\d+)\.(\d+)", " ".join(explanation.split()))
        own = tuple(int(number) for number in self.target.python.split(".")[:2])
        return wanted is not None and (int(wanted[1]), int(wanted[2])) > own

    def _drift(self, free: Mapping[str, str]) -> tuple[dict[str, str], tuple[str, ...]]:
        """The result of a plain install, and the packages of the image that it would replace.

        pip takes the newest missing packages and then changes installed packages where these demand it; uv, given
        the installed versions as preferences, would rather take older packages.  So missing packages are pinned to
        their newest versions (`free`) before uv may prefer the image's versions.
        """
        held = self.held.versions
        with TemporaryDirectory(prefix="compat-") as folder:
            pins, output = Path(folder, "pins.txt"), Path(folder, "preferences.txt")
            pins.write_text("".join(f"{name}=={free[name]}\n" for name in free if free[name] and name not in held))
            output.write_text(self.held.pins(held.keys() - self.newest))
            ran = self._run("-c", str(pins), "-o", str(output), links=(self._stubs(),))
            text = output.read_text() if not ran.status else ""
        picks = read_pins(text.splitlines()) or dict(free)
        kept = (picks.keys() & held.keys()) - self.asked
        return picks, tuple(changes({name: held[name] for name in kept}, {name: picks[name] for name in kept}))

    def _plain(self, picks: Mapping[str, str]) -> tuple[str, ...]:
        """The lines of what a plain install would add or replace."""
        held, by_url = self.held.versions, {name_of(line): line for line in self.requirements if " @ " in line}
        new = [name for name in picks if not (name in held and same_version(picks[name], held[name]))]
        return tuple(f"{name}=={picks[name]}" if picks[name] else by_url.get(name, name) for name in new)

    def _stubs(self) -> Path:
        return self.held.folder.absolute()

    def _compile(self, keep: Iterable[str]) -> uv.Ran:
        """Resolve with these packages of the image as they are."""
        with TemporaryDirectory(prefix="compat-") as folder:
            constraints = Path(folder, "image.txt")
            constraints.write_text(self.held.constraints(sorted(keep)))
            return self._run("-c", str(constraints))

    def _run(self, *arguments: str, links: Sequence[Path] = (), variables: Mapping[str, str] | None = None) -> uv.Ran:
        return uv.run(
            (*_COMPILE, *self.target.flags(), *self.index.uv_flags(), *arguments, "-"),
            self.index.uv_environment(*map(str, links)) | dict(variables or {}),
            stdin="\n".join(self.requirements),
        )
