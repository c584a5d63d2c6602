"""pip's own answer: the dry run of a pip that sees the image's packages as bare metadata."""

from __future__ import annotations

import datetime as dt
import json
import os
import platform
import re
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from torch_compat_matrix.runner.files import build_once, scratch
from torch_compat_matrix.runner.packages import interpreters, uv
from torch_compat_matrix.runner.packages.pip_config import Index
from torch_compat_matrix.runner.packages.resolution import Resolution
from torch_compat_matrix.runner.packages.stubs import Held
from torch_compat_matrix.runner.packages.target import Target
from torch_compat_matrix.runner.pins import name_of, numbers, too_new, version_of, within
from torch_compat_matrix.runner.text import redact

TIMEOUT_S = 300
"""For a dry run; pip may try one release after another, and build each for its metadata."""

OLDEST = "23.3.2"
"""Asked in the place of older ones, which choose alike but download all they choose, even in a dry run."""
STRICT = (24, 1)
"""The first pip that refuses metadata outside the standard."""

REASONS = uv.reasons("pip")
"""As `uv.REASONS`, of pip's own words."""

# PEP 600: packaging asks this module whether the system may have wheels of a newer C library.
_MANYLINUX = """def manylinux_compatible(major, minor, arch):
    return (major, minor) <= {glibc!r}
"""


class Unasked(Exception):
    """Why pip cannot be asked here."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Pip:
    """The pip of an image: one of its version, run by this host's interpreter of the image's Python."""

    target: Target
    held: Held
    glibc: str
    index: Index
    home: Path

    @classmethod
    def of(cls, facts: Mapping[str, Any], index: Index, home: Path) -> Pip:
        """The pip of the image that the facts describe."""
        target = Target.of(facts)
        held = Held.of(facts, target, home / "stubs")
        return cls(target=target, held=held, glibc=facts["glibc"], index=index, home=home)

    @property
    def version(self) -> str:
        """The release that is asked; empty for the newest, which is what a user gets where the image holds none."""
        release = _release(self.held.versions.get("pip", ""))
        return release if not release or numbers(release) >= numbers(OLDEST)[:2] else OLDEST

    def ask(self, requirements: Sequence[str], constraints: str, *, upgrade: bool = False) -> Resolution:
        """What `pip install` of the requirements would add or replace; Unasked where that cannot be known here."""
        python, folder = self._python(), self._folder()
        with scratch(self.home) as temporary:
            place = Path(temporary)
            (place / "constraints.txt").write_text(constraints)
            (place / "requirements.txt").write_text("\n".join(requirements))
            if self.glibc:
                glibc = numbers(self.glibc)[:2]
                (place / "_manylinux.py").write_text(_MANYLINUX.format(glibc=glibc))
            flags = ["--dry-run", "--quiet", "--no-input", "--report", str(place / "report.json")]
            flags += ["-r", str(place / "requirements.txt"), "-c", str(place / "constraints.txt")]
            ran = uv.finish(
                [python, "-S", str(folder / "pip"), "install", *flags, *(("--upgrade",) if upgrade else ())],
                self._environment(folder, self.held.installed, place),
                timeout_s=TIMEOUT_S,
            )
            report: dict[str, Any] = json.loads((place / "report.json").read_text()) if not ran.status else {}
        if ran.status == uv.TIMED_OUT:
            raise Unasked(f"it did not answer within {TIMEOUT_S} s")
        if ran.status:
            return Resolution(problem=_reason(ran.err, self.target.python), detail=_words(ran.err))
        return Resolution(notes=_yanked(ran.err), **_chosen(report["install"], requirements))

    @property
    def answering(self) -> str:
        """The version of the pip that answers."""
        return next(path.name[4:-10] for path in self._folder().glob("pip-*.dist-info"))

    def takes(self, requirement: str, constraints: str) -> str:
        """The release that pip takes where the pinned one is not to be had; empty where it takes none."""
        name = name_of(requirement)
        return self.ask([name], constraints, upgrade=True).versions.get(name, "") if version_of(requirement) else ""

    def _python(self) -> str:
        own_system = ("linux" if self.target.platform else sys.platform) == sys.platform
        own_machine = self.target.platform.partition("-")[0] in ("", platform.machine())
        if not own_system or not own_machine or self.target.abi.endswith("t"):
            raise Unasked("this host is another platform")
        minor = ".".join(self.target.python.split(".")[:2])
        python = sys.executable if self.target.host_python else interpreters.find(minor)
        if not python:
            raise Unasked(f"this host has no Python {minor}")
        return python

    def _folder(self) -> Path:
        """The folder with that pip, fetched once; the newest is looked for once a month."""
        minor = ".".join(self.target.python.split(".")[:2])
        name = self.version or f"newest-{dt.date.today():%Y-%m}"
        wanted = f"pip=={self.version}" if self.version else "pip"

        def fetch(partial: Path) -> None:
            flags = ("--no-deps", "--target", str(partial), "--python-version", minor, *self.index.uv_flags())
            ran = uv.run(("pip", "install", *flags, wanted), self.index.uv_environment())
            if ran.status:
                raise Unasked(f"{wanted} cannot be fetched")

        return build_once(self.home / "pips" / f"{name}-{minor}", fetch)

    def _environment(self, *paths: Path) -> dict[str, str]:
        """The caller's variables without those that direct Python or pip, and the configuration as variables."""
        theirs = {name: value for name, value in os.environ.items() if not name.startswith(("PIP_", "PYTHON", "UV_"))}
        own = {"PYTHONPATH": os.pathsep.join(map(str, paths)), "PIP_CONFIG_FILE": os.devnull, "NO_COLOR": "1"}
        return {**theirs, **self.index.pip_environment(), **own, "PYTHONDONTWRITEBYTECODE": "1"}


def is_strict(version: str) -> bool:
    """Whether a pip of this version, or the newest, refuses metadata outside the standard."""
    release = _release(version)
    return not release or numbers(release) >= STRICT


def _release(version: str) -> str:
    """The release in a version such as Debian's `23.0.1+dfsg`."""
    release = re.match(r"\d+(\.\d+)*", version)
    return release[0] if release else ""


def _chosen(install: Sequence[Mapping[str, Any]], requirements: Sequence[str]) -> dict[str, Any]:
    """The pins of a report; a package asked for by a URL keeps it."""
    asked = {name_of(requirement): requirement for requirement in requirements}
    pins, lines = {}, []
    for package in install:
        name, version = name_of(package["metadata"]["name"]), package["metadata"]["version"]
        pins[name] = version
        url = asked.get(name, "") if "@" in asked.get(name, "") else f"{name} @ {package['download_info']['url']}"
        lines.append(url if package["is_direct"] else f"{name}=={version}")
    return {"versions": pins, "add": tuple(sorted(lines))}


def _yanked(words: str) -> tuple[str, ...]:
    pattern = r"is a yanked version: '([^']+)' candidate \(version (\S+) .*?\)\nReason for being yanked: (.*)"
    return tuple(f"`{name}=={version}` is yanked: {reason}" for name, version, reason in re.findall(pattern, words))


def _reason(words: str, python: str) -> str:
    other = re.search(r"requires a different Python: \S+ not in '([^']+)'", words)
    if other:
        return "python-too-new" if too_new(other[1], python) else "python-too-old"
    code = next((code for code, _, pattern in REASONS if re.search(pattern, words)), "install-failed")
    if code != "version-not-found":
        return code
    # pip passes over the releases that do not admit its Python, and names them.
    missing = re.search(r"No matching distribution found for ([^(\n]+)(?:\(from (?!-r )(.+)\))?", words)
    passed = re.findall(r"(\S+) Requires-Python ([^;\n]+)", words)
    bounds = [bound for version, bound in passed if missing and within(missing[1].strip(), version)]
    if bounds:
        return "python-too-new" if any(too_new(bound, python) for bound in bounds) else "python-too-old"
    return "unsatisfiable" if missing and missing[2] else code


def _words(words: str) -> str:
    """pip's warnings and errors, without its advice, places, secrets and long lists of versions."""
    beside = re.compile(r"\s*$|DEPRECATION: |.* is ignored: it is neither")
    lines = [line for line in words.splitlines() if not beside.match(line)]
    text = re.sub(r" \(from -r .*? \(line \d+\)\)| \(from versions: [^)]*\)", "", "\n".join(lines))
    return redact(re.sub(r"(?:[^;\n]+ Requires-Python [^;\n]+; ?){4,}", " ... ", text))


def telling_line(words: str) -> str:
    """pip's most telling line: what it holds against a release, the last exception of a build, else its last error."""
    lines = [line.strip() for line in words.splitlines()]
    telling = [line for line in lines if re.search(r"^Requested .* invalid metadata: |different Python: ", line)]
    raised = [line for line in lines if re.match(r"(?!ERROR)[\w.]+(Error|Exception|Exit|Unavailable): ", line)]
    errors = [line for line in lines if re.match(r"ERROR: |error: ", line)]
    return (telling[:1] or raised[-1:] or errors[-1:] or lines[:1] or [""])[0].removeprefix("ERROR: ")[:400]
