"""The work of every face, typed: make a plan, open or resume a run, execute its checks."""

from __future__ import annotations

import json
import os
import time
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass, field, replace
from functools import partial
from pathlib import Path
from tempfile import TemporaryDirectory
from types import MappingProxyType
from typing import TYPE_CHECKING, Any

from torch_compat_matrix.runner import storage
from torch_compat_matrix.runner.backends import gpus
from torch_compat_matrix.runner.backends.base import Backend, Command, Finding, Shells, connect, require, tags
from torch_compat_matrix.runner.backends.here import installed
from torch_compat_matrix.runner.bundle import catalogue
from torch_compat_matrix.runner.errors import (
    INSTALL,
    BackendUnusable,
    CompatError,
    NothingSelected,
    Trouble,
    UsageError,
    did_you_mean,
)
from torch_compat_matrix.runner.execution.engine import Engine, Settled
from torch_compat_matrix.runner.execution.shell import interact
from torch_compat_matrix.runner.files import cores, read_whole
from torch_compat_matrix.runner.matrix.select import installed_plan, left_out, select
from torch_compat_matrix.runner.model import Check, Image, Plan, Pull, Verdict, repository
from torch_compat_matrix.runner.outcome import Outcome
from torch_compat_matrix.runner.packages.pip_config import Index
from torch_compat_matrix.runner.records import history
from torch_compat_matrix.runner.records.runs import Run, home
from torch_compat_matrix.runner.records.shapes import plan_of
from torch_compat_matrix.runner.selector import TERMS, Checks, Recorded, Selector
from torch_compat_matrix.runner.text import SECRET
from torch_compat_matrix.runner.verdicts.rules import REASONS, reason_for
from torch_compat_matrix.runner.watch import Watch

if TYPE_CHECKING:
    from torch_compat_matrix.probes.contract import ImageFacts
    from torch_compat_matrix.runner.matrix.document import Document

try:
    from torch_compat_matrix.runner.matrix import lockfile
    from torch_compat_matrix.runner.matrix.expand import backends_for, candidates, expand
    from torch_compat_matrix.runner.matrix.load import load
    from torch_compat_matrix.runner.matrix.settle import foresee, movings, settle
    from torch_compat_matrix.runner.matrix.versions import newest_tags
    from torch_compat_matrix.runner.packages.releases import releases
except ModuleNotFoundError as absent:  # a bare host of the `here` backend: it takes what is installed, or a plan
    MISSING = str(absent.name)
else:
    MISSING = ""

if TYPE_CHECKING:
    from torch_compat_matrix.runner.matrix.schema import Matrix
    from torch_compat_matrix.runner.matrix.versions import Moving

MATRIX = Path("matrix.yaml")
"""The matrix file where none is named."""
MOST_PLAN = 256 << 20
"""Bytes of a plan file; 100,000 checks take 30 MB."""

Say = Callable[[str], None]


@dataclass(frozen=True, kw_only=True, slots=True)
class RunSettings:
    """The settings of a run; its journal keeps them, so that a resumed run continues as it began."""

    jobs: int | None = None
    """Batches at a time; None: as many as there are GPUs, or up to four on the CPU."""
    seed: int = 0
    full: bool = False
    """The articles' own step counts."""
    rerun: bool = False
    """Run every check, even where nothing changed."""
    compile_cache: bool = False
    """Keep the code that torch.compile made for the next run."""

    def to_json(self) -> dict[str, Any]:
        """Plain data; journals have always called `rerun` `fresh`."""
        plain = asdict(self)
        return {**plain, "fresh": plain.pop("rerun")}

    @classmethod
    def from_json(cls, data: dict[str, Any]) -> RunSettings:
        """The settings in a journal's header; unknown ones, of later versions, are ignored."""
        known = {name: data[name] for name in cls.__slots__ if name in data}
        return cls(**{**known, "rerun": bool(data.get("fresh", False))})


@dataclass(frozen=True, kw_only=True, slots=True)
class OpenRun:
    """A run whose checks can be executed."""

    run: Run
    plan: Plan
    backend: Backend
    settings: RunSettings
    done: frozenset[str] = frozenset()
    """Checks that had a final outcome before the resume."""
    holds: storage.InUse = field(default_factory=lambda: storage.InUse(home()))
    """Keeps `compat clean` from the home while the run is open."""

    @property
    def checks(self) -> list[Check]:
        """The checks without a final outcome."""
        return [check for check in self.plan.checks if check.id not in self.done]


def plan_from(
    matrix: Path | Document,
    *,
    backend: str | None = None,
    selectors: Sequence[str] = (),
    probes: Sequence[str] = (),
    plan_file: Path | None = None,
    given: Mapping[str, str] = MappingProxyType({}),
    locked: bool = False,
    say: Say = lambda text: None,
) -> Plan:
    """The requested plan: from a plan file, from the matrix, or of the libraries that a bare host has installed.

    Where no backend is named, it is that of a recorded run or of the plan file, else the first that can run the images;
    `say` is told which.  `given`: the variables of `--set`, by name.  `locked`: take nothing but what matrix.lock says.
    """
    asked = [found for found in map(chosen, selectors) if isinstance(found, Checks)]
    backend = backend or next((Run.open(home(), found.run).header()["backend"] for found in asked), None)
    if backend is not None:
        require(backend)
    if locked and plan_file is not None:
        raise UsageError("a plan is exact as it was written", "leave out --locked, or --plan", "--locked")
    recorded = frozenset(check for found in asked for check in found.ids)
    named = [selector for selector in selectors if not selector.startswith("@")]
    plan = _plan(matrix, backend, named, probes, plan_file, recorded, given, locked, say)
    wanted = [check for check in recorded if not probes or check.rpartition("/")[2] in probes]
    if gone := left_out(wanted, plan):
        say(f"recorded checks that are no longer in the plan: {gone}")
    return plan


def chosen(text: str, run: str = "latest") -> Selector | Checks:
    """The selector of that text; `run` is the run that a recorded one means where it names none.

    Raises NothingSelected where the run has no such check.
    """
    try:
        wanted = Recorded.parse(text)
    except ValueError as error:
        terms = [f"@{name}{':...' if valued else ''}" for name, valued in TERMS.items()]
        raise NothingSelected(f"{text}: there is no {error}{did_you_mean(str(error), terms)}") from error
    if wanted is None:
        return Selector(text)
    checks = Run.open(home(), wanted.run or run).checks(wanted)
    if not checks.ids:
        known = not wanted.reason or "*" in wanted.reason or wanted.reason in REASONS
        near = "" if known else f"; there is no such reason{did_you_mean(wanted.reason, REASONS)}"
        raise NothingSelected(f"{text}: no check of run {checks.run}{near}")
    return checks


def _plan(
    matrix: Path | Document,
    backend: str | None,
    selectors: Sequence[str],
    probes: Sequence[str],
    plan_file: Path | None,
    recorded: Collection[str],
    given: Mapping[str, str],
    locked: bool,
    say: Say,
) -> Plan:
    if plan_file is not None:
        plan = select(_read_plan(plan_file), selectors, probes, recorded=recorded)
        return replace(plan, backend=backend or plan.backend or _answering(backends_for(plan.images), say))
    if not MISSING:
        read = load(matrix, given)
        backend = backend or _answering(candidates(foresee(read, selectors), selectors, probes), say)
        if locked:
            place = lockfile.path_of(matrix)
            lock = lockfile.read(place, backend)
            taken = lock.moving_of(read, backend, place)
            plan = expand(settle(read, taken), backend, selectors, probes, recorded)
            return lock.applied(replace(plan, taken=taken), place)
        settled, taken = settled_now(read, backend)
        return replace(expand(settled, backend, selectors, probes, recorded), taken=taken)
    if locked or backend != "here":
        raise UsageError(f"{MISSING} is not installed", INSTALL)
    unread = f"{matrix} not read: {MISSING} is not installed"
    if matrix != MATRIX:
        raise UsageError(unread, "write a plan where it is installed (`compat plan --json`), and run that with --plan")
    try:
        plan = select(installed_plan(installed()), selectors, probes, recorded=recorded)
    except NothingSelected as error:
        raise NothingSelected(f"{unread}, so that only installed libraries can be selected; {error}") from error
    say(f"{unread}; taking {'the selected' if selectors or recorded else 'all'} installed libraries")
    return replace(plan, backend=backend)


def _answering(backends: Mapping[str, Sequence[str]], say: Say) -> str:
    """The first of these backends that answers; each stands with the images that it cannot run."""
    troubles = []
    for backend, without in backends.items():
        try:
            connect(backend, home())
        except BackendUnusable as error:
            troubles.append(str(error))
            continue
        named = f", without {', '.join(without)}" if without else ""
        say("; ".join([f"backend: {backend}{named}", *(trouble.partition(": ")[0] for trouble in troubles)]))
        return backend
    remedy = (
        "start an engine, join its group, or point DOCKER_HOST at one; or add `local:` to an image, which builds a "
        "stand-in in its place"
    )
    raise BackendUnusable(f"the images need a container engine: {'; '.join(troubles)}", remedy)


def settled_now(matrix: Matrix, backend: str) -> tuple[Matrix, dict[str, tuple[str, ...]]]:
    """The matrix with exact versions and tags in place of those that move, asked for now; and what each stands for."""
    taken = {f"{library} {spec}": spec.among(offered) for library, spec, offered in _offered(matrix)}
    if any(image.moves for image in matrix.images.values()):
        connected = connect(backend, home())
        for name, image in matrix.images.items() if connected.pulls else ():
            if image.moves and image.tag:
                listed = tags(connected, repository(image.tag))
                taken[f"{name} {image.tag}"] = tuple(newest_tags(listed, image.pattern, image.newest))
    return settle(matrix, taken), taken


def _offered(matrix: Matrix) -> Iterator[tuple[str, Moving, dict[str, str]]]:
    """Each library with its moving versions and the releases that the indexes have, each library asked once."""
    wanted = dict.fromkeys(movings(matrix))
    names = sorted({library for library, _ in wanted})

    def ask(library: str) -> dict[str, str]:
        index = Index.from_pip(os.environ)
        for entry in matrix.entries_of(library):
            index = index.beside(entry)
        return releases(library, index)

    with ThreadPoolExecutor(max_workers=8) as pool:
        offered = dict(zip(names, pool.map(ask, names), strict=True))
    for library, spec in wanted:
        if not offered[library]:
            why = f"no index that pip is configured for has a release of {library}"
            raise UsageError(why, "name its index in PIP_EXTRA_INDEX_URL or pip.conf", matrix.source)
        if spec.since and not any(offered[library].values()):
            why = f"no index tells when the releases of {library} were published"
            raise UsageError(why, "use an index that does, as PyPI, or a range in place of `since:`", matrix.source)
        yield library, spec, offered[library]


def _read_plan(path: Path) -> Plan:
    try:
        plan = plan_of(json.loads(read_whole(path, MOST_PLAN)))
    except OSError as error:
        why = f"cannot be read: {error.strerror}"
        raise UsageError(why, "name another file with --plan", str(path)) from error
    except (ValueError, RecursionError) as error:
        why = f"not a plan: {type(error).__name__}: {error}"
        raise UsageError(why, "write the plan again with `compat plan --json FILE`", str(path)) from error
    for entry in catalogue().entries.values():
        own = any(entry.distribution.replace("-", "_") == module.name for module in plan.modules)
        if entry.problem and not own and any(entry.distribution in cell.members for cell in plan.cells):
            raise UsageError(entry.problem, "mend the file, or leave the library out", str(path))
    return plan


def make_room(plan: Plan, backend: Backend, say: Say = lambda text: None) -> None:
    """Remove what killed runs left and what is beyond COMPAT_HOME_LIMIT, then refuse to begin without enough disk.

    Raises BackendUnusable where the plan's images need more than is free.
    """
    limit = os.environ.get("COMPAT_HOME_LIMIT")
    with storage.unused(home()) as unused:
        doomed = storage.leftovers(home()) if unused else []
        if unused and limit:
            doomed += storage.superfluous(storage.contents(home()), to_size=storage.parsed_size(limit))
        for entry in doomed:
            entry.remove()
            say(f"removed {entry.kind}/{entry.name} ({storage.shown_size(entry.size)})")
    finding = backend.room(plan.images)
    if not finding.works:
        raise BackendUnusable(finding.detail, remedy_of(finding), f"--backend {backend.name}")


def open_run(plan: Plan, backend: Backend, settings: RunSettings, command: Sequence[str]) -> OpenRun:
    """Open a new run of the plan."""
    run = Run.create(home(), plan, backend.name, command, settings.to_json())
    return OpenRun(run=run, plan=plan, backend=backend, settings=settings)


def resume_run(name: str) -> OpenRun:
    """Open the run of that name with the rest of its plan; checks that host trouble stopped run again."""
    run = Run.open(home(), name)
    if run.is_going():
        raise UsageError("the run is still going", "wait for its end, or end it first", f"run {run.id}")
    header = run.header()
    done = frozenset(check for check, outcome in run.outcomes().items() if outcome.verdict.final)
    opened = OpenRun(
        run=run,
        plan=run.plan(),
        backend=connect(header["backend"], home()),
        settings=RunSettings.from_json(header.get("settings", {})),
        done=done,
    )
    asked = [requirement for check in opened.checks for requirement in check.cell.requires]
    asked += [requirement for image in opened.plan.images if image.local for requirement in image.local.requires]
    if opened.checks and any(SECRET in requirement for requirement in asked):
        why = "the secrets in the URLs of its plan are not kept in a journal, and the file that had them is gone"
        raise UsageError(why, "start a new run with `compat run`", str(run.private_plan))
    run.resume()
    return opened


def jobs_of(opened: OpenRun) -> int:
    """Batches at a time; a few where no GPU sets the number.

    Each launch may take the memory limit, and torch every core it finds.
    """
    return opened.settings.jobs or max(len(gpus.offered(opened.backend)[0]), min(4, cores()))


def engine_for(opened: OpenRun, *, index: Index | None = None, settled: Settled | None = None, **more: Any) -> Engine:
    """The engine of a run; `index` defaults to pip's, `settled` to the history's."""
    if settled is None and not opened.settings.rerun:
        history.sync(home())
        settled = partial(history.settled, home())
    if settled is not None:
        more["settled"] = settled
    settings = opened.settings
    return Engine(
        plan=opened.plan,
        backend=opened.backend,
        home=home(),
        folder=opened.run.folder,
        index=index or Index.from_pip(os.environ),
        jobs=jobs_of(opened),
        seed=settings.seed,
        full=settings.full,
        compile_cache=settings.compile_cache,
        asked_since=time.time() if settings.rerun else 0,
        done=opened.done,
        **more,
    )


def facts_of(image: Image, backend: Backend, say: Say) -> ImageFacts:
    """The facts of the image, which is pulled where it is not yet there; Trouble where it does not tell them."""
    with TemporaryDirectory() as folder:
        engine = Engine(
            plan=Plan(images=(image,), cells=()),
            backend=backend,
            home=home(),
            folder=Path(folder),
            index=Index.from_pip(os.environ),
            say=say,
        )
        try:
            return engine.preparation.image(image).facts
        finally:
            engine.stop()


def execute(opened: OpenRun, *, listen: Callable[[Outcome], None], say: Say, watch: Watch = lambda phase: None) -> None:
    """Run the remaining checks; an interruption ends the running launches and is recorded."""
    engine = None
    with opened.run.going():
        try:
            engine = engine_for(opened, listen=listen, say=say, watch=watch)
            engine.run(opened.checks)
        except KeyboardInterrupt:
            if engine is not None:
                engine.stop()
            opened.run.finish("interrupted")
            raise
        engine.estimate.save(home(), engine.follower.look().values())
        opened.run.finish("complete")


def run_command(plan: Plan, backend: Backend, command: Command, say: Say, seed: int = 0) -> int:
    """Run a user's command in the environment of the plan's only cell, and return its exit status.

    Raises NothingSelected where that environment cannot exist, Trouble where it cannot be had now.
    """
    if not isinstance(backend, Shells):
        raise UsageError("it cannot run a command of yours", "take another backend", f"--backend {backend.name}")
    holds, index = storage.InUse(home()), Index.from_pip(os.environ)
    folder = home() / "shell"  # nothing is recorded
    engine = Engine(plan=plan, backend=backend, home=home(), folder=folder, index=index, seed=seed, say=say)
    try:
        return interact(engine, command)
    except Trouble as trouble:
        if reason_for(trouble.code).verdict is Verdict.INFRA:
            raise
        raise NothingSelected(f"no such environment: {trouble}", trouble.remedy, code=trouble.code) from trouble
    finally:
        engine.stop()
        holds.close()


def remedy_of(problem: CompatError | Finding) -> str:
    """The problem's own remedy, else that of its reason."""
    return problem.remedy or (reason_for(problem.code).remedy if problem.code else "")


def tell(error: CompatError) -> str:
    """Place, message and remedy of an error, for a person."""
    message = f"{error.place}: {error}" if error.place else str(error)
    return f"{message}\n{remedy_of(error)}".rstrip()


def isolated(plan: Plan, isolation: str | None) -> Plan:
    """The plan with this isolation for every cell; None leaves each cell its own."""
    if isolation is None:
        return plan
    return replace(plan, cells=tuple(replace(cell, isolation=isolation) for cell in plan.cells))


def pulling(plan: Plan, pull: Pull | None) -> Plan:
    """The plan that pulls every image then; None leaves each image its own."""
    if pull is None:
        return plan
    return replace(plan, images=tuple(replace(image, pull=pull) for image in plan.images))
