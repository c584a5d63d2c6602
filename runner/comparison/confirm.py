"""How far up the ladder a new failure comes: seen, again, in a clean overlay, bracketed by passes, elsewhere too."""

from __future__ import annotations

import datetime as dt
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from torch_compat_matrix.runner.judging import judge
from torch_compat_matrix.runner.model import SUITE, Cell, Image, Plan, Verdict
from torch_compat_matrix.runner.outcome import Outcome
from torch_compat_matrix.runner.pins import name_of, version_of
from torch_compat_matrix.runner.records.since import Seen, Since

Ask = Callable[[Sequence["Fall"], Image, Sequence[Cell]], Mapping[str, Outcome]]
"""Runs these cells where those fell, with new overlays and empty caches; empty where there is no time left."""

Elsewhere = Callable[[Sequence["Fall"]], tuple[Mapping[str, Outcome], str]]
"""Runs what fails on another GPU: what came of it, and both GPUs in words; nothing where there is no other."""

AT_A_TIME = 20
"""Failures that share a launch, which costs as much as several of them; with more, the time could end between rungs."""

CONFIRMED_BY_OURSELVES = "seen", "again"
"""The levels that every run gives: the failure, and the fresh process that failed like the forked one."""
CLEAN, BRACKETED, ELSEWHERE = "clean", "bracketed", "elsewhere"


@dataclass(frozen=True, kw_only=True, slots=True)
class Fall:
    """A check that passed at its last verdict and fails now, with image and cell of both."""

    outcome: Outcome
    image: Image
    cell: Cell
    good: Seen
    before: tuple[Image, Cell] | None
    """What passed; None where it cannot be made again."""
    why: str = ""
    """Why it cannot."""

    @property
    def cause(self) -> str:
        return self.outcome.signature or self.outcome.reason

    @property
    def place(self) -> tuple[str, ...]:
        """What falls have in common that are asked together: where they fell, and the image of what passed."""
        before = self.before[0].digest if self.before else ""
        return self.image.name, self.outcome.environment, str(before)

    @property
    def unchanged(self) -> bool:
        """Whether the cell holds what it held when it passed."""
        image = self.before[0] if self.before else None
        return image == self.image and self.outcome.resolved == self.good.outcome.resolved


def fallen(
    plan: Plan,
    outcomes: Mapping[str, Outcome],
    environments: Mapping[str, Mapping[str, Any]],
    stands: Mapping[str, Since],
    pulls: bool,
) -> Iterator[Fall]:
    """The unexpected failures that are new; `pulls`: whether the backend can have the image of a digest."""
    cells, images = plan.cells_by_id, plan.images_by_name
    latest = {record["image"]: record for record in environments.values()}
    for outcome in outcomes.values():
        good, cell = stands[outcome.check].good, cells.get(outcome.cell)
        if cell is None or good is None or stands[outcome.check].state != "new" or outcome.probe == SUITE:
            continue
        if outcome.reused or outcome.confirmation or not judge(outcome, plan.known, dt.date.today()).surprise:
            continue
        image = images[cell.image]
        here = environments.get(outcome.environment) or latest.get(cell.image, {})
        own = replace(cell, probes=(outcome.probe,))
        before = as_it_passed(image, own, outcome, good, here, pulls)
        pair, why = (None, before) if isinstance(before, str) else (before, "")
        yield Fall(outcome=outcome, image=image, cell=own, good=good, before=pair, why=why)


def as_it_passed(
    image: Image, cell: Cell, outcome: Outcome, good: Seen, here: Mapping[str, Any], pulls: bool
) -> tuple[Image, Cell] | str:
    """Image and cell as they last passed, with exactly those packages; or why they cannot be had."""
    there, pins = good.environment, good.outcome.resolved
    urls = {name_of(requirement): requirement for requirement in cell.requires if "@" in requirement}
    # A pin would name whatever the index has by that name; equal keys tell that the URL still gives the same.
    if not all(map(version_of, pins)) or (urls and good.outcome.key != outcome.key):
        return "packages that came from a URL"
    if good.outcome.probed_by and good.outcome.probed_by != outcome.probed_by:
        return "other probes"
    if here and (digest := str(there.get("digest") or "")) != (here.get("digest") or ""):
        if not (digest and pulls and image.tag):
            return "another image"
        image = replace(image, digest=digest)
    elif here and not digest and there.get("facts", {}).get("packages") != here["facts"].get("packages"):
        return "an image with other packages"
    exact = {"adds": tuple(urls.get(name_of(pin), pin) for pin in pins), "drift": (), "problem": "", "detail": ""}
    return image, replace(cell, locked=exact) if cell.requires else cell


def climb(falls: Iterable[Fall], ask: Ask, elsewhere: Elsewhere = lambda bracketed: ({}, "")) -> Iterator[Outcome]:
    """The outcomes with their level and what was found, those of the commonest cause first."""
    for alike in _together(list(falls)):
        cleaned = ask(alike, alike[0].image, [fall.cell for fall in alike])
        failing = [fall for fall in alike if fall.outcome.check in cleaned and not fall.unchanged]
        failing = [fall for fall in failing if fall.before and cleaned[fall.outcome.check].verdict.broken]
        pairs = [fall.before for fall in failing if fall.before]
        bracketed = ask(alike, pairs[0][0], [cell for _, cell in pairs]) if pairs else {}
        levels = [(fall, *_level(fall, cleaned, bracketed)) for fall in alike]
        highest = [fall for fall, level, *_ in levels if level == BRACKETED]
        away, where = elsewhere(highest) if highest else ({}, "")
        for fall, level, unconfirmed, note in levels:
            found = away.get(fall.outcome.check) if level == BRACKETED else None
            if found and found.verdict is Verdict.PASS:
                unconfirmed, note = f"it passes elsewhere: {where}", ""
            elif found and found.verdict.broken and found.environment:
                level = ELSEWHERE
            notes = (*fall.outcome.notes, note) if note else fall.outcome.notes
            yield replace(fall.outcome, confirmation=level, unconfirmed=unconfirmed, notes=notes)


def _together(falls: Sequence[Fall]) -> list[list[Fall]]:
    """Those that are asked at a time, the commonest causes first; never two sets of packages for one cell."""
    causes = Counter(fall.cause for fall in falls)
    groups: list[list[Fall]] = []
    for fall in sorted(falls, key=lambda fall: causes[fall.cause], reverse=True):
        resolved = fall.good.outcome.resolved
        for group in groups:
            others = [each.good.outcome.resolved for each in group if each.cell.id == fall.cell.id]
            if len(group) < AT_A_TIME and group[0].place == fall.place and {resolved}.issuperset(others):
                group.append(fall)
                break
        else:
            groups.append([fall])
    return groups


def _level(fall: Fall, cleaned: Mapping[str, Outcome], bracketed: Mapping[str, Outcome]) -> tuple[str, str, str]:
    """The level, what keeps the failure from being confirmed, and a note on what confirmed it."""
    clean, good = cleaned.get(fall.outcome.check), bracketed.get(fall.good.outcome.check)
    last_good = f"what passed in run {fall.good.run} ({', '.join(fall.good.outcome.resolved) or 'no packages'})"
    own = CONFIRMED_BY_OURSELVES[bool(fall.outcome.attempts)]
    if clean is None:
        return own, "the time for confirmations was over", ""
    if clean.verdict is Verdict.PASS:
        return own, "it passed when it was asked again in a new overlay", ""
    if not clean.verdict.broken:
        return own, f"it had no verdict when it was asked again: {clean.reason}", ""
    if fall.before is None:
        return CLEAN, "", f"confirmed in a new overlay alone: run {fall.good.run} passed with {fall.why}"
    if fall.unchanged:
        return CLEAN, f"its packages and its image are {last_good}: look at the host, and at what it fetches", ""
    if good is None:
        return CLEAN, f"the time for confirmations was over before {last_good} was asked again", ""
    if good.verdict is Verdict.PASS:
        return BRACKETED, "", f"confirmed: {last_good} passes again on this host"
    if good.verdict.broken and not good.environment:
        return CLEAN, "", f"confirmed in a new overlay alone: {last_good} can no longer be had"
    return CLEAN, f"{last_good} does not pass here any more ({good.reason}): look at the host", ""
