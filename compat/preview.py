"""The text of `compat plan`: cells, resolution, cache and expected time; nothing is launched, pulled or built."""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from functools import cache, partial
from pathlib import Path
from typing import Any

from tabulate import tabulate

from torch_compat_matrix.reports.markdown import CONSTRAINED, REPLACED
from torch_compat_matrix.runner.backends.base import Backend
from torch_compat_matrix.runner.backends.gpus import offered
from torch_compat_matrix.runner.errors import Trouble
from torch_compat_matrix.runner.execution.durations import Estimate
from torch_compat_matrix.runner.execution.prepare import known_facts
from torch_compat_matrix.runner.files import cores
from torch_compat_matrix.runner.model import COMMANDS, HOST, INSTALLED, PLAIN, Cell, Image, Plan
from torch_compat_matrix.runner.outcome import shown
from torch_compat_matrix.runner.packages import overlay, resolve, standin
from torch_compat_matrix.runner.packages.pip_config import Index
from torch_compat_matrix.runner.packages.resolution import Resolution
from torch_compat_matrix.runner.pins import HASH, left_out, name_of
from torch_compat_matrix.runner.text import one_line
from torch_compat_matrix.runner.verdicts.preflight import build_of, predict
from torch_compat_matrix.runner.workflow import remedy_of


def preview(plan: Plan, backend: Backend, home: Path) -> str:
    """The plan as one table per image, with the expected time of the whole."""
    estimate = Estimate.load(home)
    index, fetched = Index.from_pip(), overlay.fetched(home)
    foresee = cache(partial(standin.foresee, index=index))  # many images are of one kind
    blocks = ["\n".join(f"{name}: {', '.join(exact) or 'none'}" for name, exact in plan.taken.items())]
    for image in plan.images:
        cells = plan.cells_of(image)
        if not cells:
            continue
        try:
            facts = known_facts(image, backend, home)
            if facts is None and backend.name == "local" and image.local is not None:
                foresee(image.local)
        except Trouble as trouble:
            blocks.append(f"{image.name}: {trouble}\n  {remedy_of(trouble)}")
            continue
        with ThreadPoolExecutor(cores()) as pool:
            told = partial(resolution_of, facts=facts, home=home, index=index, fetched=fetched)
            resolved = list(pool.map(told, cells))
        rows = [
            (cell.id, " ".join(cell.probes), *adds, f"{estimate.cell(cell):.0f} s")
            for cell, adds in zip(cells, resolved, strict=True)
        ]
        table = tabulate(rows, headers=("cell", "probes", "adds", "overlay", "time"), tablefmt="simple")
        blocks.append("\n".join([*_image(image, backend.name, facts), *_warnings(image, facts, backend), table]))
    if plan.modules:
        blocks.append(one_line(f"probes that are not ours: {', '.join(map(str, plan.modules))}"))
    total = sum(map(estimate.cell, plan.cells))
    known = sum(check.id in estimate.seconds for check in plan.checks)
    blocks.append(
        f"{len(plan.cells)} cells, {len(plan.checks)} checks, about {total:.0f} s of probing "
        f"({known} checks were timed on this machine, the others are estimates)"
    )
    return "\n\n".join(filter(None, blocks))


def _image(image: Image, backend: str, facts: Mapping[str, Any] | None) -> Iterator[str]:
    if backend == "local" and image.local is not None:
        python = "this host's Python" if image.local.python == HOST else f"Python {image.local.python}"
        where = f"stand-in, {python} with {', '.join(text.split(HASH)[0] for text in image.local.requires)}"
    else:
        where = image.reference or "this interpreter"
    yield one_line(f"{image.name}: {where}")
    if facts is None:
        yield "  never launched from here: its first launch shows its packages, and so what each cell adds"
    elif facts.get("torch"):
        torch = facts["torch"]
        yield "  " + one_line(f"Python {facts['python']}, torch {torch['version']}, CUDA {torch['cuda'] or 'none'}")


def _warnings(image: Image, facts: Mapping[str, Any] | None, backend: Backend) -> Iterator[str]:
    """Why the image cannot run on a GPU of this host, as far as is known before the image is pulled."""
    if facts is None and backend.name == "local":
        return  # the tag says nothing of the stand-in
    build = build_of(image, facts)
    gpus, trouble = offered(backend)
    if trouble is not None and image.limits.gpus != "none":
        yield f"  will not run: {trouble}"
    for gpu in gpus:
        prediction = predict(build, machine=backend.machine, gpu=gpu.name, driver=gpu.driver, capability=gpu.capability)
        if prediction is not None:
            yield f"  will not run on {gpu.name}: {prediction.code}: {prediction.detail}"


def resolution_of(
    cell: Cell, facts: Mapping[str, Any] | None, home: Path, index: Index, fetched: Collection[str]
) -> tuple[str, str]:
    """The packages that the cell adds to the image (with those that a plain install replaces); are they fetched?"""
    if cell.subject == COMMANDS:
        return "nothing: commands of the image", "none needed"
    if facts is None:
        return ", ".join(cell.requires) or INSTALLED, "?"
    if cell.version == INSTALLED:
        return INSTALLED, "none needed"
    absent = left_out(cell.requires, facts)
    if cell.members and absent.keys() >= set(cell.members):
        return f"not-applicable: {'; '.join(absent[name] for name in cell.members)}", "none"
    locked = Resolution.of_lock(cell, facts)
    answer = locked or resolve.resolve(
        cell.requires, facts, index.beside(cell), home / "resolutions", newest=cell.newest
    )
    resolution = locked or answer.under(cell.install)
    if resolution.problem:
        return f"{resolution.problem}: {', '.join(resolution.drift) or resolution.detail[:80]}", "none"
    if not resolution.add:
        return "nothing: the image holds it", "none needed"
    asked_first = sorted(resolution.add, key=lambda pin: name_of(pin) not in cell.members)
    more = f" and {len(asked_first) - 1} more" if len(asked_first) > 1 else ""
    if answer.drift:
        way = f"{REPLACED} replaces" if cell.install == PLAIN else f"{CONSTRAINED} a plain install replaces"
        more += f"; {way} {shown(answer.drift)}"
    here = overlay.contents(resolution.add, facts) in fetched
    return asked_first[0].partition(" --hash=")[0] + more, "cached" if here else "to fetch"
