"""Runs of other machines taken into a home; the shards of a run become one run."""

from __future__ import annotations

import re
import shutil
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from torch_compat_matrix.runner.errors import NothingSelected
from torch_compat_matrix.runner.files import replacing
from torch_compat_matrix.runner.model import Plan, digest
from torch_compat_matrix.runner.records.journal import Journal, append
from torch_compat_matrix.runner.records.runs import COMPLETE, NoRun, Run
from torch_compat_matrix.runner.records.shapes import plan_of
from torch_compat_matrix.runner.text import one_line

_ID = re.compile(r"\d{8}T\d{6,9}-[0-9a-f]{4}")


@dataclass(frozen=True, kw_only=True)
class Found:
    """A journal below the folder."""

    path: Path
    header: Mapping[str, Any]
    plan: Plan

    @property
    def run(self) -> str:
        return str(self.header["run"])

    @property
    def size(self) -> int:
        return self.path.stat().st_size


def gather(folder: Path, home: Path) -> Iterator[tuple[Run, str]]:
    """Take in every run below the folder, and yield it with what became of it; NothingSelected where there is none.

    A run that is here already stays, unless the folder has more of it.
    """
    singles, wholes = _runs([folder])
    for found in singles:
        run = Run(home / "runs" / found.run)
        new = not run.journal.exists() or run.journal.stat().st_size < found.size
        if new:
            _place(run, [found], lambda path, found=found: shutil.copyfile(found.path, path))  # type: ignore[misc]
        yield run, "taken" if new else "is here already"
    for shards in wholes:
        yield _join(shards, home)


def journals(paths: Iterable[Path], scratch: Path) -> list[Path]:
    """The journals of the runs at and below the paths, each run once; shards are joined in the scratch folder.

    NothingSelected where a path has no run.
    """
    singles, wholes = _runs(paths)
    return [*(found.path for found in singles), *(_join(shards, scratch)[0].journal for shards in wholes)]


def _runs(paths: Iterable[Path]) -> tuple[list[Found], list[list[Found]]]:
    """The whole runs at and below the paths, each at its longest, and the shards of the others."""
    newest: dict[str, Found] = {}
    for place in paths:
        founds = list(filter(None, map(_found, [place] if place.is_file() else sorted(place.rglob("*.jsonl")))))
        if not founds:
            raise NothingSelected("has no journal of a run", "name the folder of the downloaded artifacts", str(place))
        for found in founds:
            if found.run not in newest or newest[found.run].size < found.size:
                newest[found.run] = found
    ordered = [found for _, found in sorted(newest.items())]
    wholes: dict[tuple[str, str, str], dict[int, Found]] = {}
    for found in ordered:
        if found.plan.shard:
            number = int(found.plan.shard.partition("/")[0])
            machines = (found.header["backend"], str(found.header.get("target")))
            wholes.setdefault((found.plan.whole, *machines), {})[number] = found
    return (
        [found for found in ordered if not found.plan.shard],
        [[shards[number] for number in sorted(shards)] for shards in wholes.values()],
    )


def _found(path: Path) -> Found | None:
    """The journal; None where the file is another, or where its run cannot be read."""
    try:
        header = Run(path.parent).header() if path.name == "journal.jsonl" else next(iter(Journal(path)), {})
        if header.get("kind") == "run" and _ID.fullmatch(str(header.get("run"))):
            return Found(path=path, header=header, plan=plan_of(header["plan"]))
    except (NoRun, ValueError, KeyError):
        pass
    return None


def _join(shards: Sequence[Found], home: Path) -> tuple[Run, str]:
    """One run of the shards; it is complete where together they have every check of the whole plan."""
    first = shards[0]
    images = {image.name: image for found in shards for image in found.plan.images}
    modules = {module.name: module for found in shards for module in found.plan.modules}
    cells = {cell.id: cell for found in shards for cell in found.plan.cells}
    whole = replace(first.plan, shard="", whole="")
    plan = replace(whole, images=tuple(images.values()), cells=tuple(cells.values()), modules=tuple(modules.values()))
    earliest = min(found.run for found in shards)
    name = f"{earliest.partition('-')[0]}-{digest(sorted(found.run for found in shards))[:4]}"
    named = {"run": name, "plan": plan.to_json(), "shards": [found.run for found in shards]}
    header: Mapping[str, Any] = {**first.header, **named}
    run, records = Run(home / "runs" / name), [header]
    lacks: list[str] = []
    if plan.coverage != first.plan.whole:
        lacks.append(f"only the shards {', '.join(found.plan.shard for found in shards)} are here")
    finished = ""
    for found in shards:
        end: Mapping[str, Any] = {}
        journal = Journal(found.path)
        for record in journal:
            if record["kind"] in ("end", "resume"):
                end = record
            elif record["kind"] != "run":
                records.append(record)
        finished = max(finished, str(end.get("finished", "")))
        if end.get("state") != COMPLETE or journal.unreadable:
            why = f"{journal.unreadable} records cannot be read" if journal.unreadable else "interrupted"
            lacks.append(f"shard {found.plan.shard}: {why}")
    state = "; ".join(lacks) or COMPLETE
    records.append({"kind": "end", "finished": finished, "state": state})
    if run.journal.exists() and len(list(Journal(run.journal))) >= len(records):
        return run, "is here already"
    _place(run, shards, lambda path: append(path, *records))
    return run, one_line(f"taken of {len(shards)} shards: {state}")


def _place(run: Run, sources: Sequence[Found], write: Callable[[Path], object]) -> None:
    """Make the run's folder, whole or not at all, in place of an earlier one."""
    run.folder.parent.mkdir(parents=True, exist_ok=True)
    with replacing(run.folder) as partial:
        partial.mkdir()
        write(partial / "journal.jsonl")
        for found in sources:
            if (found.path.parent / "probes").is_dir():
                shutil.copytree(found.path.parent / "probes", partial / "probes", dirs_exist_ok=True)
        shutil.rmtree(run.folder, ignore_errors=True)
