"""`known:` entries for what a run found broken, reasons filled in, for a person to edit."""

from __future__ import annotations

import datetime as dt
import io
import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from ruamel.yaml import YAML
from ruamel.yaml.scalarstring import DoubleQuotedScalarString

from torch_compat_matrix.runner.errors import UsageError
from torch_compat_matrix.runner.files import replacing
from torch_compat_matrix.runner.matrix import load as matrix
from torch_compat_matrix.runner.matrix.document import MatrixError
from torch_compat_matrix.runner.model import Known, Outcome, Verdict
from torch_compat_matrix.runner.selector import Selector

REASON_LENGTH = 160


class CannotWrite(UsageError):
    """The matrix file cannot take the entries; what it is is told, and the file is as it was."""


def entries(failures: Sequence[Outcome], everything: Iterable[Outcome], expires: dt.date) -> tuple[Known, ...]:
    """As few entries as cover the failures, and no check that came out otherwise.

    A cell stands for all its probes, `*` for all images, where the same verdict and code was seen there.
    """
    seen = {outcome.address: outcome for outcome in (*everything, *failures)}
    left = {failure.address for failure in failures}
    found = []
    for failure in failures:
        if failure.address not in left:
            continue
        for text in _selectors(failure):
            selector = Selector(text)
            covered = [where for where in seen if selector.takes(where)]
            if all(_came_to(seen[where]) == _came_to(failure) for where in covered):
                break
        left.difference_update(covered)
        reason = re.sub(r"\s+", " ", failure.detail or failure.evidence or failure.reason).strip()[:REASON_LENGTH]
        found.append(
            Known(cells=text, expect=failure.verdict, code=failure.reason or None, reason=reason, expires=expires)
        )
    return tuple(found)


def _came_to(outcome: Outcome) -> tuple[Verdict, str]:
    return outcome.verdict, outcome.reason


def _selectors(outcome: Outcome) -> Iterator[str]:
    """What may stand for the check, the widest first."""
    image, cell, probe = outcome.check.split("/")
    yield from (f"*/{cell}", f"{image}/{cell}", f"*/{cell}/{probe}", outcome.check)


def as_yaml(known: Sequence[Known]) -> str:
    """The entries as they stand under `known:`."""
    if not known:
        return ""
    writer = YAML()
    writer.width = 4096
    writer.representer.ignore_aliases = lambda data: True
    writer.indent(mapping=2, sequence=4, offset=2)
    stream = io.StringIO()
    writer.dump([_entry(one) for one in known], stream)
    return stream.getvalue()


def _entry(known: Known) -> Mapping[str, Any]:
    entry: dict[str, Any] = {"cells": DoubleQuotedScalarString(known.cells), "expect": known.expect.value}
    if known.code:
        entry["code"] = known.code
    entry["reason"] = DoubleQuotedScalarString(known.reason)
    return {**entry, "expires": known.expires}


def write(path: Path, known: Sequence[Known]) -> None:
    """Put the entries under the file's `known:`, everything else as it stands; CannotWrite where that fails."""
    before = matrix.load(path)
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
            end -= 1  # what stands before the next part belongs to that
        lines.insert(end, as_yaml(known))
    elif before.known:
        raise CannotWrite(
            f"{path}: `known:` is written on one line; put each entry on lines of its own, or edit by hand"
        )
    else:
        lines.append("\nknown:\n" + as_yaml(known))
    with replacing(path) as partial:
        partial.write_text("".join(lines), encoding="utf-8")
        try:
            after = matrix.load(partial)
        except MatrixError as error:
            raise CannotWrite(f"{path}: with the entries it would be no matrix any more: {error}") from error
        rest = [one.model_dump(exclude={"known"}) for one in (before, after)]
        kept = after.known[: len(before.known)] == before.known
        if rest[0] != rest[1] or not kept or len(after.known) != len(before.known) + len(known):
            raise CannotWrite(f"{path}: the entries cannot be put in without changing more; edit by hand")
