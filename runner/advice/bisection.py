"""The search for the version or day at which a check's verdict changed; points that cannot be judged are left out."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from torch_compat_matrix.runner.advice.candidates import INSTALLS
from torch_compat_matrix.runner.errors import NothingSelected
from torch_compat_matrix.runner.model import Verdict
from torch_compat_matrix.runner.outcome import Outcome
from torch_compat_matrix.runner.packages import uv
from torch_compat_matrix.runner.packages.pip_config import Index
from torch_compat_matrix.runner.packages.resolution import PASSING
from torch_compat_matrix.runner.packages.target import Target
from torch_compat_matrix.runner.pins import canonical, read_pins

UNRESOLVED = {*INSTALLS, *PASSING} - {"drift"}
"""Reasons for which a point says nothing: the library was never probed."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Turn:
    """Two points with different verdicts, and between them only points that could not be judged."""

    before: str
    after: str
    then: Outcome
    now: Outcome
    skipped: tuple[str, ...] = ()
    """Points between the two that could not be judged: the change may be at any of them."""


class NoTurn(NothingSelected):
    """Both ends have the same verdict, or an end cannot be judged."""


def passes(outcome: Outcome) -> bool | None:
    """Whether the check passes at a point; None where the point cannot be judged."""
    if outcome.verdict is Verdict.PASS:
        return True
    return False if outcome.verdict.broken and outcome.reason not in UNRESOLVED else None


def search(points: Sequence[str], ask: Callable[[str], Outcome]) -> Turn:
    """Bisect the points, oldest first, of which the first and the last differ; NoTurn where they do not.

    Where the verdict changed more than once, the result is one of the changes.
    """
    outcomes: dict[int, Outcome] = {}

    def judged(number: int) -> bool | None:
        if number not in outcomes:
            outcomes[number] = ask(points[number])
        return passes(outcomes[number])

    low, high = 0, len(points) - 1
    first, last = judged(low), judged(high)
    if first is None or last is None:
        end = points[low] if first is None else points[high]
        raise NoTurn(f"{end} cannot be judged; name another end with --good or --bad")
    if first is last:
        raise NoTurn(f"{points[low]} and {points[high]} both {'pass' if first else 'fail'}")
    skipped: set[int] = set()
    while True:
        between = [number for number in range(low + 1, high) if number not in skipped]
        if not between:
            break
        middle = (low + high) / 2
        number = min(between, key=lambda point: abs(point - middle))
        verdict = judged(number)
        if verdict is None:
            skipped.add(number)
        elif verdict is first:
            low = number
        else:
            high = number
    return Turn(
        before=points[low],
        after=points[high],
        then=outcomes[low],
        now=outcomes[high],
        skipped=tuple(points[number] for number in range(low + 1, high)),
    )


def back(points: Iterable[str], ask: Callable[[str], Outcome], right: bool | None) -> list[str]:
    """The points (newest first) as far back as one that differs from `right`, in doubling steps; oldest first."""
    walked: list[str] = []
    asked: list[str] = []

    def differs(point: str) -> bool | None:
        asked.append(point)
        verdict = passes(ask(point))
        return None if verdict is None else verdict is not right

    step = 1
    for number, point in enumerate(points, 1):
        walked.append(point)
        if number == step:
            if differs(point):
                return walked[::-1]
            step *= 2
    # The steps have gone past the end, or the last point cannot be judged: the oldest that can be judged decides.
    for number in range(len(walked), 0, -1):
        differing = differs(walked[number - 1])
        if differing:
            return walked[:number][::-1]
        if differing is not None:
            break
    steps = ", ".join(dict.fromkeys(asked)) or "none"
    raise NoTurn(f"no earlier point with another verdict was found (tried: {steps}); name a point with --good")


def versions_below(name: str, below: str, facts: Mapping[str, Any], index: Index) -> Iterator[str]:
    """The releases older than a version, or all of them, newest first, as pip would choose for the image's Python."""
    while True:
        public = below.partition("+")[0]  # PEP 440 orders no local version by `<`
        ran = _choose(f"{name}<{public}" if public else name, facts, index)
        if ran.status:
            if ran.reason in ("index-unreachable", "index-refused"):
                raise ran.trouble("the versions cannot be listed")
            return
        below = read_pins(ran.out.splitlines())[canonical(name)]
        yield below


def tells_days(name: str, facts: Mapping[str, Any], index: Index) -> bool:
    """Whether the index tells when its files were uploaded; uv takes an index that does not as empty before any day."""
    return "is missing an upload date" not in _choose(name, facts, index).err


def _choose(requirement: str, facts: Mapping[str, Any], index: Index) -> uv.Ran:
    flags = ("--no-deps", *Target.of(facts).flags(), *index.uv_flags())
    return uv.pins([requirement], index.uv_environment(), *flags)
