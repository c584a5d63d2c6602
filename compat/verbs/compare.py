"""Run a base and a candidate side by side, and tell what regressed. Both sides share host, minutes and packages, except
for the change. The exit status is 1 where a check regressed and did so again, else 5 where evidence was lost, else 6
where a regression is unconfirmed.

(matrix)
(backend)
selectors [SELECTOR ...]  checks of the base to take; default: all, with --with those that need the changed package
--base IMAGE  an image of the matrix, a reference or a digest (default, for --with alone: every image of the selection)
--candidate IMAGE  another image (default: the base, with --with)
--with REQUIREMENT ...  lay this over the candidate: a requirement, a wheel, a git URL; may be repeated
--probe PROBE ...  take only this probe; may be repeated
--base-age N = 24  take the base's outcomes from earlier runs of the last N hours where all they depend on is the same
    (%(default)s; 0: never)
--pilot  begin with about 5 %% of the cells, those with most dependents, and stop where they collapse
--collapse N = 50  the share in %% of a pilot's checks above which one cause stops the run (%(default)s)
--confirm MINUTES = 15  time to run again what regressed, the candidate in a new overlay and then the base; 0: none
    (%(default)s)
--resume [RUN=latest]  continue a comparison as it was asked (default: the latest)
--jobs N  batches at a time, as for `compat run`
--max-bytes SIZE = 900KiB  compare.md is no longer than this, and says what it leaves out (%(default)s)
--out DIR  folder of compare.md, compare.json and compare.xml (default: the run's folder)
--json  print the answer as JSON

compat compare --base torch-2.9 --candidate torch-2.13 'pyro-ppl-*'
compat compare --base torch-2.13 --with 'numpy<2'
compat compare --with ./gpytorch-1.16-py3-none-any.whl --pilot
compat compare --resume
"""

from __future__ import annotations

import argparse
import datetime as dt
import os
import shlex
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import replace
from functools import partial
from typing import Any, cast

from torch_compat_matrix.compat import answers
from torch_compat_matrix.compat.progress import answer, progress, say, tell
from torch_compat_matrix.compat.verbs.plan import plan_asked
from torch_compat_matrix.compat.verbs.report import ANOTHER, short
from torch_compat_matrix.reports import junit
from torch_compat_matrix.reports.escape import code, count, text
from torch_compat_matrix.reports.page import Part, grid, page
from torch_compat_matrix.runner.backends.base import connect, reap
from torch_compat_matrix.runner.comparison import pairs as verdicts
from torch_compat_matrix.runner.comparison.confirm import Fall
from torch_compat_matrix.runner.comparison.pairs import Compared, PairVerdict
from torch_compat_matrix.runner.comparison.sides import Comparison, Side, paired, requirement_of, resolution
from torch_compat_matrix.runner.confirming import confirm
from torch_compat_matrix.runner.errors import NothingSelected, Status, Trouble, UsageError, writing
from torch_compat_matrix.runner.execution.durations import Estimate, Remaining
from torch_compat_matrix.runner.files import to_json, write_whole
from torch_compat_matrix.runner.matrix.draft import with_images
from torch_compat_matrix.runner.model import TORCH
from torch_compat_matrix.runner.outcome import Outcome, shown
from torch_compat_matrix.runner.packages.pip_config import Index
from torch_compat_matrix.runner.pins import name_of
from torch_compat_matrix.runner.records import history
from torch_compat_matrix.runner.records.runs import NoRun, home
from torch_compat_matrix.runner.signature import short as mark
from torch_compat_matrix.runner.workflow import (
    OpenRun,
    RunSettings,
    execute,
    facts_of,
    jobs_of,
    make_room,
    open_run,
    resume_run,
)

KINDS = {PairVerdict.REGRESSED: "failure", PairVerdict.NO_EVIDENCE: "skipped"}


def main(options: argparse.Namespace) -> Status:
    if options.resume:
        opened = resume_run(options.resume, compares=True)
        reap(opened.backend, say)
        asked = opened.run.header()["comparison"]
        try:
            comparison = Comparison.from_json(asked, opened.plan)
        except KeyError as error:
            raise NoRun(f"{opened.run.journal}: the comparison cannot be read: {error}; start a new one") from error
        return _run(comparison, opened, asked, options)
    over = vars(options)["with"]
    if not options.base if options.candidate else not over:
        raise UsageError("there are no two sides", "name --base and --candidate, or --with")
    if any(name_of(requirement) == TORCH for requirement in over):
        raise UsageError("torch makes an image what it is", "compare two images, with --candidate", "--with")
    asked = [image for image in (options.base, options.candidate) if image]
    document, names = with_images(options.matrix, asked)
    theirs = [name for name in names[1:] if name != names[0]]
    selected = options.selectors or names[:1] or ["*"]
    # without `images`, a backend is taken that cannot run them, and `here` is none of them unless a selector names it
    plan = plan_asked(options, [*selected, *theirs], options.probe, document if names else options.matrix, images=names)
    cells = [cell for cell in plan.cells if not names or cell.image == names[0]]
    if not cells:
        raise NothingSelected(f"{' '.join(options.selectors)} selects no cell of {names[0]}")
    images = plan.images_by_name
    one, other = Side(image=images[names[0]] if options.base else None), images[names[-1]] if names else None
    if one.same(Side(image=other, changes=tuple(over))):
        raise UsageError(f"{' and '.join(asked)} are the same", "name another candidate, or --with")
    backend = connect(plan.backend, home(), plan.target)
    reap(backend, say)
    index = Index.from_pip(os.environ)
    facts: dict[str, Mapping[str, Any]] = {}
    for name in dict.fromkeys([*names, *(cell.image for cell in cells)]):
        try:
            facts[name] = facts_of(images[name], backend, say)
        except Trouble as trouble:
            if name in names:
                raise
            say(f"{name} left out: {trouble}")
    cells = [cell for cell in cells if cell.image in facts]
    if not cells:
        raise NothingSelected("no image of the selection can be had")
    over = [requirement_of(each, facts[cell.image], index) for each in over for cell in cells[:1]]
    candidate = Side(image=other, changes=tuple(over))
    resolve = partial(resolution, index=index, home=home())
    comparison = paired(one, candidate, cells, plan.cells, facts, resolve, bool(over and not options.selectors))
    if not comparison.pairs and comparison.unaffected:
        raise UsageError(f"{candidate.name} changes no package of {count(len(cells), 'cell')}", place="--with")
    if not comparison.pairs:
        raise NothingSelected(f"no cell of {one.name} has a counterpart in {candidate.name}")
    plan = comparison.plan(plan)
    make_room(plan, backend, say)
    settings, command = RunSettings(jobs=options.jobs, confirm=options.confirm), ["compat", *options.arguments]
    how = {name: vars(options)[name] for name in ("pilot", "collapse", "base_age")}
    opened = open_run(plan, backend, settings, command, comparison={**comparison.to_json(), **how})
    return _run(comparison, opened, how, options)


def _run(comparison: Comparison, opened: OpenRun, how: Mapping[str, Any], options: argparse.Namespace) -> Status:
    """Run what is left of both sides, the base's settled outcomes taken from the store, and tell what became of it."""
    plan, estimate, stopped = opened.plan, Estimate.load(home()), ""

    def goes_on() -> bool:
        nonlocal stopped
        stopped = verdicts.collapsed(verdicts.compared(comparison.pairs, opened.run.outcomes()), how["collapse"])
        return not stopped

    def falls() -> Iterable[Fall]:
        checks = verdicts.compared(comparison.pairs, opened.run.outcomes())
        return verdicts.falls(checks, plan.images, opened.run.environments(), opened.run.id)

    rounds = verdicts.rounds(comparison.pairs, estimate.cell, pilot=how["pilot"], goes_on=goes_on)
    say(f"run {opened.run.id}: {count(len(comparison.pairs), 'pair')} of cells on {opened.backend.name}")
    remaining = Remaining(estimate, opened.checks, jobs_of(opened))
    with progress(len(opened.checks), plan.known, remaining) as lines:
        execute(
            replace(opened, plan=replace(plan, known=())),  # a known failure of the base need not come again either
            listen=lines.outcome,
            say=lines.say,
            watch=lines.watch,
            then=lambda: confirm(opened, lines.say, lines.watch, falls),
            rounds=rounds,
            settled=_stored({check.id for pair in comparison.pairs for check in pair.base.checks}, how["base_age"]),
        )
    return _told(comparison, opened, stopped, options)


def _stored(checks: set[str], hours: int) -> Any:
    """The base's settled outcomes, none of them older than so many hours: the candidate is run in any case."""
    since = (dt.datetime.now(dt.timezone.utc) - dt.timedelta(hours=hours)).isoformat(timespec="seconds")
    history.sync(home())

    def settled(keys: Iterable[str]) -> dict[str, tuple[Outcome, Mapping[str, Any]]]:
        known = history.settled(home(), keys) if hours else {}
        return {key: seen for key, seen in known.items() if seen[0].check in checks and seen[0].started >= since}

    return settled


def _told(comparison: Comparison, opened: OpenRun, stopped: str, options: argparse.Namespace) -> Status:
    """Write the pages, print the headline, and give the exit status."""
    checks = verdicts.compared(comparison.pairs, opened.run.outcomes())
    folder = options.out or opened.run.folder
    data = _answer(comparison, checks, opened.run.id, stopped)
    markdown = page([*_parts(comparison, checks, opened, stopped)], options.max_bytes, "compare.json")
    with writing(folder, ANOTHER):
        folder.mkdir(parents=True, exist_ok=True)
        write_whole(folder / "compare.json", [to_json(data, indent=1), "\n"])
        write_whole(folder / "compare.xml", _junit(comparison, checks))
        write_whole(folder / "compare.md", [markdown])
    if not options.json:
        for group in verdicts.causes(checks):
            answer(f"regressed: {group[0].candidate}: {group[0].reason}{_more(group)}")
            answer(f"  {_again(group[0], opened.run.id)}")
    tell(options.json, data, [_headline(checks, stopped), f"comparison: {short(folder / 'compare.md')}"])
    if data["regressed"] > sum(check.unconfirmed for check in checks):
        return Status.SURPRISES
    if any(check.lost or check.open for check in checks):
        return Status.INCOMPLETE
    return Status.UNCONFIRMED if data["regressed"] else Status.AS_EXPECTED


def _headline(checks: Sequence[Compared], stopped: str) -> str:
    return "; ".join(filter(None, (verdicts.headline(checks), stopped)))


def _more(group: Sequence[Compared]) -> str:
    return f", and {len(group) - 1} more like it" if len(group) > 1 else ""


def _again(check: Compared, run: str) -> str:
    return f"compat reproduce '{check.candidate}' --run {run}"


def _answer(comparison: Comparison, checks: Sequence[Compared], run: str, stopped: str) -> answers.Comparison:
    rows = [cast(answers.ComparedCheck, check.to_json()) for check in checks]
    return answers.Comparison(
        run=run,
        base=comparison.base.name,
        candidate=comparison.candidate.name,
        headline=_headline(checks, stopped),
        stopped=stopped,
        regressed=verdicts.counts(checks)[PairVerdict.REGRESSED],
        lost=sum(check.lost for check in checks),
        checks=rows,
        unaffected=list(comparison.unaffected),
        alone=list(comparison.alone),
    )


def _parts(comparison: Comparison, checks: Sequence[Compared], opened: OpenRun, stopped: str) -> Iterator[Part]:
    """compare.md: the regressions by cause, then what else changed, then how it was done."""
    base, candidate = comparison.base, comparison.candidate
    head = [f"# {text(base.name)} → {text(candidate.name)}", "", f"**{text(_headline(checks, stopped))}**", ""]
    yield Part(name="head", keep=9, blocks=head)
    for group in verdicts.causes(checks):
        first = group[0].now
        assert first is not None, "it regressed"
        alike = {check.now.signature for check in group if check.now}
        signed = f" {mark(first.signature)}" if first.signature and len(alike) == 1 else ""
        title = f"## Regressed: {text(first.reason)}{signed} ({count(len(group), 'check')})"
        said = [code(first.evidence)] if first.evidence else [text(first.detail)]
        again = ["", f"Reproduce: {code(_again(group[0], opened.run.id))}", ""]
        rows = [f"- {code(check.check)}: {text(check.reason)}" for check in group]
        yield Part(name="regression", keep=8, head=[title, "", *said, ""], blocks=rows, tail=again)
    for place, verdict in enumerate(
        (PairVerdict.DIFFERS, PairVerdict.FIXED, PairVerdict.NO_EVIDENCE, PairVerdict.SAME)
    ):
        found = [check for check in checks if check.verdict is verdict and not check.silent]
        cells = [[code(check.check), text(check.reason)] for check in found]
        title = f"{verdict.value.capitalize()} ({count(len(cells), 'check')})"
        yield grid("check", 4 - place, title, ["check", "base -> candidate"], cells, folded=verdict is PairVerdict.SAME)
    yield Part(name="line", keep=7, blocks=[f"- {line}" for line in _how(comparison, checks, opened)])


def _how(comparison: Comparison, checks: Sequence[Compared], opened: OpenRun) -> Iterator[str]:
    """What stood against what, and where the evidence comes from."""
    facts = {record["image"]: record["facts"] for record in opened.run.environments().values()}
    for title, side in (("base", comparison.base), ("candidate", comparison.candidate)):
        for image in [side.image] if side.image else []:
            seen = facts.get(image.name, {"python": "unknown"})
            what = code(image.reference) if image.reference and opened.backend.pulls else "no container"
            torch = text(str((seen.get("torch") or {}).get("version", "none")))
            yield f"{title}: {text(side.name)}, {what}, torch {torch}, Python {text(seen['python'])}"
    changed = dict.fromkeys(change for check in checks for change in check.pair.changed)
    if changed:
        yield f"changed packages: {text(shown(sorted(changed, key=lambda change: ' none' in change)))}"
    reused = [check.then for check in checks if check.then and check.then.reused]
    if reused:
        runs = text(", ".join(sorted({outcome.reused for outcome in reused})))
        oldest = min(outcome.started for outcome in reused)
        yield f"{count(len(reused), 'check')} of the base from the store (run {runs}), the oldest of {oldest}"
    if comparison.unaffected:
        yield f"{count(len(comparison.unaffected), 'cell')} not run, whose packages the change leaves as they are"
    if comparison.alone:
        yield f"no counterpart in the candidate: {', '.join(map(code, comparison.alone))}"
    silent = sum(check.silent for check in checks)
    if silent:
        yield f"{count(silent, 'check')} not counted: both sides skip them, or their import has failed"
    again = shlex.join(opened.run.header()["command"])
    yield f"run {code(opened.run.id)} on {opened.backend.name}; again: {code(again)}"


def _junit(comparison: Comparison, checks: Sequence[Compared]) -> Iterator[str]:
    """A case for each pair: a failure where it regressed, skipped where there is no evidence."""
    kinds = [KINDS.get(check.verdict, "") for check in checks]
    cases = (
        junit.case(
            {"name": check.check, "classname": check.pair.base.image},
            kind,
            f"{check.verdict.value}: {check.reason}",
            check.now.traceback if check.now and kind == "failure" else "",
        )
        for check, kind in zip(checks, kinds, strict=True)
    )
    yield junit.HEAD
    yield from junit.suite(f"{comparison.base.name} -> {comparison.candidate.name}", kinds, cases)
    yield "</testsuites>\n"
