"""The pairs of pairs.yaml: requirements, and the environment and the settings that they meet."""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path
from typing import Any

from ruamel.yaml import YAML

from tests.support import tinywheels

DATA: Mapping[str, Any] = YAML(typ="safe").load(Path(__file__).with_name("pairs.yaml").read_text())


@dataclass(frozen=True)
class Pair:
    """Requirements, as pip's arguments, in one of the environments; texts may name {folder}, {offered} and {index}."""

    environment: str
    requires: tuple[str, ...]
    constraints: str = ""
    files: Mapping[str, str] = field(default_factory=dict)
    variables: Mapping[str, str] = field(default_factory=dict)
    share: bool = False
    differs: str = ""

    @property
    def id(self) -> str:
        """The name of the pytest item, for `-k`."""
        settings = [f"{name}={text}" for name, text in (*self.variables.items(), *self.files.items())]
        settings += [f"-c {self.constraints}"] if self.constraints else []
        return re.sub(r"\s+", " ", " ".join([f"{self.environment}:", *self.requires, *settings]))

    @property
    def key(self) -> str:
        """A hash of whatever pip's answer depends on, apart from the index and the machine's own configuration."""
        asked = [self.id, DATA["environments"][self.environment], DATA["offered"]]
        return hashlib.sha256(json.dumps(asked).encode()).hexdigest()[:16]

    def write(self, folder: Path, offered: Path) -> tuple[list[str], dict[str, str]]:
        """The requirements and the variables, once the files that they name lie in the folder."""

        def fill(text: str) -> str:
            index = (offered / "simple").as_uri()
            return text.replace("{folder}", str(folder)).replace("{offered}", str(offered)).replace("{index}", index)

        variables = dict(self.variables)
        files = dict(self.files)
        if self.constraints:
            files["constraints.txt"] = self.constraints
            variables["PIP_CONSTRAINT"] = "{folder}/constraints.txt"
        for name, text in files.items():
            (folder / name).write_text(fill(text) + "\n")
        return [fill(requirement) for requirement in self.requires], {name: fill(variables[name]) for name in variables}


def read_pairs() -> list[Pair]:
    """All pairs, in the order of the file."""
    pairs = []
    for environment, entries in DATA["pairs"].items():
        for entry in entries:
            given = dict(entry) if isinstance(entry, dict) else {"requires": entry}
            given["requires"] = tuple(given["requires"].split("  "))
            pairs.append(Pair(environment=environment, **given))
    return pairs


@cache
def offer(folder: Path) -> Path:
    """The folder with the tiny distributions of pairs.yaml, and their simple index in it."""
    for kind, name, version, *requires in DATA["offered"]:
        options = dict(requires.pop()) if requires and isinstance(requires[-1], dict) else {}
        yanked = options.pop("yanked", "")
        make = tinywheels.wheel if kind == "wheel" else tinywheels.sdist
        tinywheels.simple_index(folder, make(folder, name, version, *requires, **options), yanked=yanked)
    return folder
