"""The distributions that have probes, read from the files of probes/libraries, which are never imported here."""

from __future__ import annotations

import ast
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

BUNDLE = Path(__file__).resolve().parent.parent / "probes"
"""The folder that is sent into every image."""

NAME = "compat_probes"
"""The bundle's name inside an image, where `probes` may be another module."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Entry:
    """The declarations of a library's probe module."""

    distribution: str
    module: str
    not_applicable: Mapping[str, str]
    """Probe -> why it does not apply to the library."""


@cache
def catalogue() -> Mapping[str, Entry]:
    """Distribution -> the declarations of its module in probes/libraries."""
    entries = {}
    for path in sorted((BUNDLE / "libraries").glob("[a-z]*.py")):
        declared: dict[str, Any] = {}
        for node in ast.parse(path.read_text()).body:
            if isinstance(node, ast.Assign) and isinstance(node.targets[0], ast.Name) and node.targets[0].id.isupper():
                declared[node.targets[0].id] = ast.literal_eval(node.value)
        entry = Entry(
            distribution=declared["DISTRIBUTION"],
            module=declared["MODULE"],
            not_applicable=declared.get("NOT_APPLICABLE", {}),
        )
        entries[entry.distribution] = entry
    return entries
