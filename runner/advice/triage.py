"""Drafts `known:` entries, with reasons, for the failures of a run."""

from __future__ import annotations

import datetime as dt
import io
import re
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from types import MappingProxyType
from typing import Any

from ruamel.yaml import YAML
from ruamel.yaml.scalarstring import DoubleQuotedScalarString

from torch_compat_matrix.runner.errors import UsageError
from torch_compat_matrix.runner.files import replacing
from torch_compat_matrix.runner.matrix import load as matrix
from torch_compat_matrix.runner.matrix.document import MatrixError
from torch_compat_matrix.runner.model import Known, Verdict
from torch_compat_matrix.runner.outcome import Outcome
from torch_compat_matrix.runner.selector import Selector

REASON_LENGTH = 160


class CannotWrite(UsageError):
    """The matrix file cannot take the entries and is unchanged; the message says why."""


def entries(
    failures: Sequence[Outcome], everything: Iterable[Outcome], images: Collection[str], expires: dt.date
) -> tuple[Known, ...]:
    """As few entries as cover the failures, and no check with another outcome.

    A cell stands for all its probes where all of these have the same verdict and code; `*` for all images where the
    check was seen so in each of `images`, those of the matrix (none where it is not at hand).
    """
    seen = {outcome.address: outcome for outcome in (*everything, *failures)}
    left = {failure.address for failure in failures}
    known = []
    for failure in failures:
        if failure.address not in left:
            continue
        for text in _selectors(failure):
            selector = Selector(text)
            covered = [where for where in seen if selector.takes(where)]
            everywhere = bool(images) and {*images} <= {seen[where].image for where in covered}
            alike = all(_result(seen[where]) == _result(failure) for where in covered)
            if alike and (everywhere or not text.startswith("*/")):
                break
        left.difference_update(covered)
        reason = re.sub(r"\s+", " ", failure.detail or failure.evidence or failure.reason).strip()[:REASON_LENGTH]
        known.append(
            Known(cells=text, expect=failure.verdict, code=failure.reason or None, reason=reason, expires=expires)
        )
    return tuple(known)


def _result(outcome: Outcome) -> tuple[Verdict, str]:
    return outcome.verdict, outcome.reason


def _selectors(outcome: Outcome) -> Iterator[str]:
    """The selectors that take in the check, the widest first."""
    image, cell, probe = outcome.check.split("/")
    yield from (f"*/{cell}", f"{image}/{cell}", f"*/{cell}/{probe}", outcome.check)


def as_yaml(known: Sequence[Known]) -> str:
    """The entries as YAML, as under `known:`."""
    if not known:
        return ""
    writer = YAML()
    writer.width = 4096
    writer.representer.ignore_aliases = lambda data: True
    writer.indent(mapping=2, sequence=4, offset=2)
    stream = io.StringIO()
    writer.dump([_entry(entry) for entry in known], stream)
    return stream.getvalue()


def _entry(known: Known) -> Mapping[str, Any]:
    entry: dict[str, Any] = {"cells": DoubleQuotedScalarString(known.cells), "expect": known.expect.value}
    if known.code:
        entry["code"] = known.code
    entry["reason"] = DoubleQuotedScalarString(known.reason)
    return {**entry, "expires": known.expires}


def write(path: Path, known: Sequence[Known], given: Mapping[str, str] = MappingProxyType({})) -> None:
    """Add the entries to the file's `known:` and change nothing else; CannotWrite where that fails.

    `given`: the variables of `--set`, by name.
    """
    before = matrix.load(path, given)
    old = path.read_text(encoding="utf-8")
    lines = old.splitlines(keepends=True)
    if lines and not lines[-1].endswith("\n"):
        lines[-1] += "\n"
    starts = [number for number, line in enumerate(lines) if re.match(r"known:\s*(#.*)?(\[\]\s*)?$", line)]
    if starts:
        start = starts[0]
        lines[start] = re.sub(r"\[\]\s*$", "\n", lines[start])
        end = start + 1
        while end < len(lines) and (not lines[end].strip() or lines[end][0] in " -#"):
            end += 1
        while end > start + 1 and (not lines[end - 1].strip() or lines[end - 1].startswith("#")):
            end -= 1  # comments before the next part belong to that part
        lines.insert(end, as_yaml(known))
    elif any(line.startswith("known:") for line in lines):
        raise CannotWrite(
            f"{path}: `known:` is written on one line; put each entry on lines of its own, or add the entries by hand"
        )
    else:
        lines.append("\nknown:\n" + as_yaml(known))
    with replacing(path) as partial:
        partial.write_text("".join(lines), encoding="utf-8")
        try:
            after = matrix.load(partial, given)
        except MatrixError as error:
            raise CannotWrite(f"{path}: with the entries the file would be no valid matrix: {error}") from error
        rest = [parsed.model_dump(exclude={"known"}) for parsed in (before, after)]
        kept = [entry for entry in after.known if entry in before.known] == before.known
        if rest[0] != rest[1] or not kept or len(after.known) != len(before.known) + len(known):
            raise CannotWrite(
                f"{path}: the entries cannot be added without changing more of the file; add them by hand"
            )
