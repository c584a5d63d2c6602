"""Fingerprints compared: which results of the probes differ between versions, images, devices or runs."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from torch_compat_matrix.runner.outcome import Outcome
from torch_compat_matrix.runner.text import one_line

BANDS = {
    "float16": (1e-3, 1e-5),
    "bfloat16": (1.6e-2, 1e-5),
    "float32": (1.3e-6, 1e-5),
    "float64": (1e-7, 1e-7),
    "complex64": (1.3e-6, 1e-5),
    "complex128": (1e-7, 1e-7),
}
"""dtype -> (relative, absolute) tolerance, the defaults of torch.testing.assert_close; other dtypes are exact.

The absolute one is taken in units of the result's largest number, so that small gradients are not all the same.
"""

MOST_NAMED = 3
"""The results that a sentence names; the others are counted."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Difference:
    """A result of a probe that differs; `by` is in units of its largest number."""

    result: str
    """`probe: part: result`."""
    by: float
    """The largest difference, in units of the result's largest number; 0 where the numbers cannot be compared."""
    said: str
    """`differs by 5 %`, `is float64, not float32`."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Comparison:
    """Two cells: how many results they have in common, which differ, and how near the others are."""

    before: str
    after: str
    results: int
    """How many of them were compared."""
    within: float
    """The largest difference among those that do not differ."""
    differing: tuple[Difference, ...]
    """The largest difference first."""
    other_probes: bool
    """Whether the probes themselves were not the same, so that a difference may be theirs."""

    @property
    def sentence(self) -> str:
        """What differs, by how much, and how near the rest is."""
        rest = self.results - len(self.differing)
        if not self.differing:
            return f"{self.results} result{'s' if self.results > 1 else ''} {near(self.within)}"
        named = one_line("; ".join(f"{one.result} {one.said}" for one in self.differing[:MOST_NAMED]))
        more = len(self.differing) - MOST_NAMED
        others = f"; and {more} more" if more > 0 else ""
        left = f"; the other {rest} {near(self.within)}" if rest else ""
        doubt = " (other probes took these numbers: the difference may be theirs)" if self.other_probes else ""
        return f"{named}{others}{left}{doubt}"


def compare(before: Iterable[Outcome], after: Iterable[Outcome]) -> list[Comparison]:
    """The cells of both sides that computed something in common, in the order of the later side.

    Compared are checks of one library and probe, in one image and of one version unless each side has a single one of
    these.
    """
    cells: dict[tuple[str, str], list[tuple[Outcome, Outcome]]] = {}
    for then, now in _pairs(before, after):
        cells.setdefault((then.cell, now.cell), []).append((then, now))
    found = (_compared(*names, checks) for names, checks in cells.items())
    return [comparison for comparison in found if comparison.results]


def _pairs(before: Iterable[Outcome], after: Iterable[Outcome]) -> Iterator[tuple[Outcome, Outcome]]:
    sides = [[outcome for outcome in side if outcome.numerics] for side in (before, after)]
    many = [
        name for name in ("image", "version") if any(len({getattr(one, name) for one in side}) > 1 for side in sides)
    ]

    def place(outcome: Outcome) -> tuple[str, ...]:
        return outcome.subject, outcome.probe, *(getattr(outcome, name) for name in many)

    earlier = {place(outcome): outcome for outcome in sides[0]}
    for outcome in sides[1]:
        if place(outcome) in earlier:
            yield earlier[place(outcome)], outcome


def _compared(before: str, after: str, checks: Sequence[tuple[Outcome, Outcome]]) -> Comparison:
    results, within, differing = 0, 0.0, []
    for then, now in checks:
        for name in now.numerics.keys() & then.numerics.keys():
            results += 1
            by, said = difference(then.numerics[name], now.numerics[name])
            if said:
                differing.append(Difference(result=f"{now.probe}: {name}", by=by, said=said))
            else:
                within = max(within, by)
    return Comparison(
        before=before,
        after=after,
        results=results,
        within=within,
        differing=tuple(sorted(differing, key=lambda one: (-one.by, one.result))),
        other_probes=any(then.probed_by != now.probed_by for then, now in checks),
    )


def difference(then: Mapping[str, Any], now: Mapping[str, Any]) -> tuple[float, str]:
    """By how much two results differ, in units of their largest number, and in words where that is out of the band."""
    for aspect, is_now in (("shape", "has the shape {}, not {}"), ("dtype", "is {}, not {}")):
        if then[aspect] != now[aspect]:
            return 0.0, is_now.format(now[aspect], then[aspect])
    largest = max((abs(number) for number in (*then["values"], *now["values"])), default=0)
    if then["values"] == now["values"] or not largest:
        return 0.0, ""
    relative, absolute = BANDS.get(now["dtype"], (0.0, 0.0))
    pairs = [(old / largest, new / largest) for old, new in zip(then["values"], now["values"], strict=False)]
    by = max((abs(old - new) for old, new in pairs), default=0.0)
    outside = any(abs(old - new) > relative * max(abs(old), abs(new)) + absolute for old, new in pairs)
    return by, f"differs by {amount(by)}" if outside else ""


def near(within: float) -> str:
    """How alike results are of which the largest difference is this."""
    return f"within {amount(within)}" if within else "exactly the same"


def amount(share: float) -> str:
    """A share as a person says it: `5 %`, `2e-6`."""
    return f"{100 * share:.2g} %" if share >= 1e-3 else f"{share:.0e}".replace("e-0", "e-")
