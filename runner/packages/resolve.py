"""Requirements + the image's packages -> the exact set to add, and the packages that a plain install would replace."""

from __future__ import annotations

import datetime as dt
from collections.abc import Collection, Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

from torch_compat_matrix.runner.errors import Trouble
from torch_compat_matrix.runner.files import locked, read_cache, stamps, to_json, write_whole
from torch_compat_matrix.runner.model import digest
from torch_compat_matrix.runner.packages import uv
from torch_compat_matrix.runner.packages.pip import Pip
from torch_compat_matrix.runner.packages.pip_config import Index
from torch_compat_matrix.runner.packages.question import UNASKED, Question
from torch_compat_matrix.runner.packages.resolution import PASSING, Resolution
from torch_compat_matrix.runner.pins import version_of
from torch_compat_matrix.runner.shapes import fits
from torch_compat_matrix.runner.text import redact

_SCHEMA = 4


def resolve(
    requirements: Sequence[str],
    facts: Mapping[str, Any],
    index: Index,
    cache: Path,
    *,
    newest: Collection[str] = (),
    since: float = 0,
    refused: Mapping[str, str] | None = None,
) -> Resolution:
    """The result of `pip install` of the requirements in the image that the facts describe.

    A package of the image that meets a requirement stays, as pip leaves it; one of the `newest` is brought to its
    newest release (`pip install --upgrade`).  Answers are kept in `cache`: for good where each requirement is pinned
    and met, else for the day; one with a secret in a URL is not kept, and one that was kept before `since` (seconds
    since the epoch) is not used.  `refused`: what pip holds against packages of the answer (name -> words), which it
    is then asked about.
    """
    pip = Pip.of(facts, index, cache)
    try:
        constraints, contents = index.constraints(), index.contents
    except Trouble as trouble:
        return Resolution(problem=trouble.code, detail=str(trouble), evidence=trouble.evidence)
    places = (index.key, contents, uv.version(), *stamps(requirements))
    key = digest([_SCHEMA, sorted(requirements), sorted(newest), pip.held.folder.name, asdict(pip.target), places])
    path, today = cache / f"{key}.json", dt.date.today().isoformat()
    with locked(path.with_suffix(".lock")):
        kept = _kept(path, today, since, judged=refused is not None)
        if kept is not None:
            return kept
        resolution = Question(
            requirements=tuple(requirements),
            pip=pip,
            constraints=constraints,
            newest=frozenset(newest) - {"torch"},
            refused=refused or {},
        ).answer()
        settled = not resolution.problem and not any(note.startswith(UNASKED) for note in resolution.notes)
        lasting = settled and all(map(version_of, requirements))
        record = {"day": "" if lasting else today, "judged": bool(refused), "resolution": asdict(resolution)}
        answer = to_json(record)
        if resolution.problem not in PASSING and redact(answer) == answer:
            write_whole(path, [answer])
        return resolution


def _kept(path: Path, today: str, since: float, *, judged: bool) -> Resolution | None:
    def parse(record: Any) -> Resolution | None:
        resolution = Resolution.from_json(record["resolution"])
        if not fits(Resolution)(resolution):
            raise TypeError("a part of it has another type")
        stale = path.stat().st_mtime < since or record["day"] not in ("", today)
        return None if stale or (judged and not record["judged"]) else resolution

    return read_cache(path, parse)
