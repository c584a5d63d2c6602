"""The sources of packages: pip's own configuration, passed on to uv and to installs inside images."""

from __future__ import annotations

import os
import re
import sys
from collections.abc import Mapping, Sequence
from configparser import Error as ConfigError
from configparser import RawConfigParser
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Protocol

from torch_compat_matrix.runner.errors import Trouble
from torch_compat_matrix.runner.files import read_ini, read_whole, user_home
from torch_compat_matrix.runner.model import digest
from torch_compat_matrix.runner.packages.constraints import PATIENCE_S, Constraint, Reader
from torch_compat_matrix.runner.pins import canonical, name_of
from torch_compat_matrix.runner.text import SECRET, redact

PYPI = "https://pypi.org/simple"
_TABLES = read_ini(Path(__file__).with_name("data") / "options.ini")
_FILES, _ALONE, _HOW = (tuple(_TABLES["pip"][key].split()) for key in ("files", "alone", "how"))
_WHAT = (*_TABLES["pip"]["what"].split(), *_ALONE)
_UV_WHAT, _UV_FILES, _UV_VARIABLES = _TABLES["uv"]["what"].split(), _TABLES["files of uv"], _TABLES["variables of uv"]
_PLACES = {name for names in _TABLES["places"].values() for name in names.split()}
_BUNDLES, _PROXIES = (_TABLES["surroundings"][key].split() for key in ("bundles", "proxies"))


class Sources(Protocol):
    """Further sources, of a cell or of a library in the matrix; its index stands in place of pip's own."""

    @property
    def index(self) -> str | None: ...

    @property
    def extra_index(self) -> Sequence[str]: ...

    @property
    def find_links(self) -> Sequence[str]: ...


@dataclass(frozen=True, kw_only=True, slots=True)
class Index:
    """pip's options as pip would merge them, and the other variables that count."""

    options: Mapping[str, str] = field(default_factory=dict)
    uv: Mapping[str, str] = field(default_factory=dict)
    """uv's own variables."""
    surroundings: Mapping[str, str] = field(default_factory=dict)
    """Proxies and certificates."""

    @classmethod
    def from_pip(cls, environ: Mapping[str, str] | None = None) -> Index:
        """The options of `pip install`: its files' [global], then [install], then its variables."""
        environ = os.environ if environ is None else environ
        merged: dict[tuple[str, str], str] = {}
        for path in _files(environ):
            merged.update(_read(path))
        for name, value in environ.items():
            if name.startswith("PIP_"):
                merged[":env:", _normal(name[4:])] = value
        options = {
            {"default-timeout": "timeout", "no-dependencies": "no-deps"}.get(name, name): value
            for wanted in ("global", "install", ":env:")
            for (section, name), value in merged.items()
            if section == wanted and value.strip()  # pip ignores empty values
        }
        for name in options.keys() & set(_FILES):  # an image has another working folder
            options[name] = " ".join(
                word if "://" in word else str(Path(word).expanduser().absolute()) for word in options[name].split()
            )
        return cls(
            options={name: options[name].strip() for name in (*_WHAT, *_HOW, *_FILES) if name in options},
            uv={name: value for name, value in environ.items() if name.startswith("UV_")},
            surroundings={name: environ[name] for name in (*_BUNDLES, *_PROXIES) if environ.get(name)},
        )

    def beside(self, more: Sources) -> Index:
        """These settings with further sources; the variables in their URLs are read from the environment."""
        options, uv = dict(self.options), dict(self.uv)
        if more.index:
            options["index-url"] = _filled(more.index)
            uv |= {name: options["index-url"] for name in ("UV_DEFAULT_INDEX", "UV_INDEX_URL") if name in uv}
        for option, variable, mark, places in (
            ("extra-index-url", "UV_INDEX", " ", more.extra_index),
            ("find-links", "UV_FIND_LINKS", ",", more.find_links),
        ):
            new = [_filled(place) for place in places]
            if new:
                options[option] = " ".join([*self.values(option), *new])
                uv |= {variable: mark.join([uv[variable], *new])} if variable in uv else {}
        return replace(self, options=options, uv=uv)

    def values(self, name: str) -> tuple[str, ...]:
        """The values of an option that may hold several."""
        return tuple(self.options.get(name, "").split())

    def find_links(self) -> tuple[str, ...]:
        """The find-links, as uv will see them."""
        if "UV_FIND_LINKS" in self.uv:
            return tuple(filter(None, self.uv["UV_FIND_LINKS"].split(",")))
        links = self.values("find-links")
        return tuple(str(Path(link).expanduser()) if link.startswith("~") else link for link in links)

    def local_links(self) -> list[Path]:
        """The folders and pages of the find-links that are on this machine."""
        paths = (Path(link.removeprefix("file://")) for link in self.find_links())
        return [path for path in paths if path.exists()]

    def pages(self, name: str) -> tuple[str, ...]:
        """The URLs of the pages that list a distribution's files, and of the pages and folders of find-links."""
        indexes, links = self._sources()
        return (*(f"{url.rstrip('/')}/{canonical(name)}/" for url in indexes), *links)

    def lines(self) -> tuple[str, ...]:
        """The sources besides PyPI as lines of a requirements file, for another machine: without paths and secrets."""
        indexes, links = self._sources()
        options = ("--index-url", *("--extra-index-url" for _ in indexes[1:]))
        lines: list[str] = []
        for option, url in (*zip(options, indexes, strict=False), *(("--find-links", link) for link in links)):
            bare = redact(url).replace(f"{SECRET}@", "")
            if url.startswith("file:"):
                lines.append(f"# {option}: a folder of the machine that wrote this; name it where pip can reach it")
            elif url != PYPI:
                lines += [
                    f"{option} {bare}",
                    *(["# it asks for a user and a password (.netrc)"] if bare != url else []),
                ]
        return tuple(dict.fromkeys(lines))

    def _sources(self) -> tuple[list[str], list[str]]:
        """The URLs of the indexes, the main one first, and those of find-links."""
        variables = self.uv_environment()
        main = variables.get("UV_DEFAULT_INDEX") or variables.get("UV_INDEX_URL") or PYPI
        more = f"{variables.get('UV_INDEX', '')} {variables.get('UV_EXTRA_INDEX_URL', '')}".split()
        urls = [] if self.is_on("no-index") else [re.sub(r"^[\w.-]+=", "", url) for url in (main, *more)]
        links = variables.get("UV_FIND_LINKS", "").split(",")
        return urls, [link if "://" in link else Path(link).absolute().as_uri() for link in filter(None, links)]

    def uv_environment(self, *more_find_links: str) -> dict[str, str]:
        """Variables that make uv use pip's sources; variables and not flags, since URLs may hold passwords.

        uv's own variables win where they are set.
        """
        variables = {}
        for option, variable in _UV_VARIABLES.items():
            if option in self.options:
                variables[variable] = " ".join(self.values(option))
        if "cert" in self.options:
            cert = self.options["cert"]
            variables["SSL_CERT_DIR" if Path(cert).is_dir() else "SSL_CERT_FILE"] = cert
        if "proxy" in self.options:
            variables |= {"HTTP_PROXY": self.options["proxy"], "HTTPS_PROXY": self.options["proxy"]}
        if "timeout" in self.options:
            variables["UV_HTTP_TIMEOUT"] = str(max(1, round(float(self.options["timeout"]))))
        if self.options.get("keyring-provider") == "subprocess":
            variables["UV_KEYRING_PROVIDER"] = "subprocess"
        variables |= {name: value for name, value in self.uv.items() if name not in _UV_FILES.values()}
        if {"UV_INDEX", "UV_EXTRA_INDEX_URL"} & variables.keys():
            # pip takes the best version of all indexes; uv by default the best of the first that knows the name, so
            # that an extra index with one old torch would hide all newer ones.
            variables.setdefault("UV_INDEX_STRATEGY", "unsafe-best-match")
        links = (*self.find_links(), *more_find_links)
        if links:
            variables["UV_FIND_LINKS"] = ",".join(links)
        return variables

    def uv_flags(self) -> tuple[str, ...]:
        """The flags for options that uv takes from its command line alone."""
        flags = ["--no-index"] if self.is_on("no-index") else []
        for name in ("only-binary", "no-binary"):
            for value in re.split(r"[\s,]+", self.options.get(name, "")):
                if value:
                    flags += [f"--{name}", value]
        for place in self._places("build-constraint"):
            flags += ["--build-constraints", place]
        return (*flags, *(("--prerelease", "allow") if self.is_on("pre") else ()))

    def constraints(self, option: str = "constraint") -> tuple[Constraint, ...]:
        """The lines of all files that the option names, pip's and uv's; Trouble where a file cannot be read."""
        reader = self.reader()
        return tuple(constraint for place in self._places(option) for constraint in reader.read(place))

    @property
    def pips_alone(self) -> tuple[str, ...]:
        """The options that are set and that only pip itself can follow."""
        return tuple(name for name in _ALONE if name in self.options)

    @property
    def uvs_alone(self) -> tuple[str, ...]:
        """uv's own variables that are set and that pip cannot follow."""
        return tuple(name for name in _UV_WHAT if self.uv.get(name))

    def pip_environment(self) -> dict[str, str]:
        """pip's own variables, for an install inside an image; the paths in them are in `paths`."""
        variables = {f"PIP_{name.upper().replace('-', '_')}": value for name, value in self.options.items()}
        if self._cert:
            variables["PIP_CERT"] = self._cert
        proxies = {name: value for name, value in self.surroundings.items() if name.lower().endswith("_proxy")}
        return {**proxies, **variables, "PIP_DISABLE_PIP_VERSION_CHECK": "1"}

    def paths(self) -> tuple[Path, ...]:
        """Files and folders of this machine that `pip_environment` names: an image must see them at the same path."""
        named = self.pip_environment()
        words = [word for name, value in named.items() if name.startswith("PIP_") for word in value.split()]
        paths = [Path(word.removeprefix("file://")) for word in words if word.startswith(("file://", "/"))]
        # the files of a simple index usually lie beside `simple`, not in it
        roots = (path.parent if path.name == "simple" else path for path in paths if path.exists())
        return tuple(dict.fromkeys(roots))

    @property
    def key(self) -> str:
        """A hash of the settings that decide which packages are found, without secrets."""
        settings = {**self.options, **self.uv}
        return digest({name: redact(settings[name]) for name in (*_WHAT, *_UV_WHAT) if name in settings})

    @property
    def may_change(self) -> bool:
        """Whether a version may be offered with other content than before: by any index or folder but PyPI."""
        return bool(_PLACES & {*self.options, *self.uv})

    def stamps(self, pins: Sequence[str]) -> list[int]:
        """The last change of each file of these packages in local find-links, for which uv knows no hash."""
        names = {name_of(pin) for pin in pins}
        files = (file for folder in self.local_links() for file in sorted(folder.glob("*-*")))
        return [file.stat().st_mtime_ns for file in files if canonical(file.name.partition("-")[0]) in names]

    @property
    def contents(self) -> str:
        """A hash that changes with the text of a constraint file, and when a file is put into a find-links folder."""
        seen: list[object] = [folder.stat().st_mtime_ns for folder in self.local_links()]
        seen += [str(constraint) for name in _FILES for constraint in self.constraints(name)]
        reader = self.reader()
        more = [place for name in ("UV_OVERRIDE", "UV_EXCLUDE") for place in self.uv.get(name, "").split()]
        return digest([*seen, *(str(line) for place in more for line in reader.read(place))])

    def _places(self, option: str) -> tuple[str, ...]:
        return (*self.values(option), *self.uv.get(_UV_FILES[option], "").split())

    def reader(self) -> Reader:
        """The reader of what lies behind URLs, with pip's certificates, proxy and patience."""
        timeout_s = min(float(self.options.get("timeout", 15)), PATIENCE_S)
        return Reader(cert=self._cert, proxy=self.options.get("proxy", ""), timeout_s=timeout_s)

    @property
    def _cert(self) -> str:
        bundles = (self.surroundings[name] for name in _BUNDLES if name in self.surroundings)
        return self.options.get("cert") or next(bundles, "")

    def is_on(self, name: str) -> bool:
        """Whether a switch of pip's is set."""
        return self.options.get(name, "").lower() in ("1", "y", "yes", "t", "true", "on")


def _filled(place: str) -> str:
    """The place with the variables of the environment that it names; Trouble where one is not set."""

    def value_of(match: re.Match[str]) -> str:
        if match[1] not in os.environ:
            raise Trouble(
                "index-refused", f"{place} needs the variable {match[1]}", f"Set {match[1]} in the environment."
            )
        return os.environ[match[1]]

    return re.sub(r"\$\{(\w+)\}", value_of, place)


def _files(environ: Mapping[str, str]) -> list[Path]:
    """pip's configuration files, the weakest first."""
    own = environ.get("PIP_CONFIG_FILE")
    if own == os.devnull:
        return []
    home = Path(environ["HOME"]) if environ.get("HOME") else user_home()
    user = Path(environ.get("XDG_CONFIG_HOME") or home / ".config") / "pip"
    if sys.platform == "darwin":
        shared = [Path("/Library/Application Support/pip")]
        mac = home / "Library/Application Support/pip"
        user = mac if mac.is_dir() else home / ".config/pip"
    else:
        shared = [Path(folder) / "pip" for folder in (environ.get("XDG_CONFIG_DIRS") or "/etc/xdg").split(os.pathsep)]
        shared.append(Path("/etc"))
    # A file that the variable names stands in for the user's own.
    users = [] if own and Path(own).exists() else [home / ".pip", user]
    files = [folder / "pip.conf" for folder in (*shared, *users, Path(sys.prefix))]
    return [*files, Path(own)] if own else files


def _read(path: Path) -> dict[tuple[str, str], str]:
    parser = RawConfigParser()
    try:
        parser.read_string(read_whole(path, 1 << 20).decode())
    except (OSError, UnicodeDecodeError, ConfigError):
        return {}
    return {(section, _normal(name)): value for section in parser.sections() for name, value in parser.items(section)}


def _normal(name: str) -> str:
    return name.lower().replace("_", "-").removeprefix("--")
