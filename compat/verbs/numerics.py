"""Compare what two versions, images or runs computed from the same inputs. A difference is no failure.

before A  cells, as a selector takes them, an image, or a run
after B  cells, as a selector takes them, an image, or a run
--json  print it as JSON

compat numerics torch-2.13/captum-0.8.0 torch-2.13/captum-0.9.0
compat numerics torch-2.9 torch-2.13
compat numerics 20260801 latest --json
"""

from __future__ import annotations

import argparse
from collections.abc import Iterator, Sequence

from torch_compat_matrix.compat.answers import Numerics
from torch_compat_matrix.compat.progress import say_unreadable, tell
from torch_compat_matrix.runner.errors import NothingSelected, Status
from torch_compat_matrix.runner.numerics import Comparison, compare, near
from torch_compat_matrix.runner.outcome import Outcome
from torch_compat_matrix.runner.planning import chosen
from torch_compat_matrix.runner.records import history
from torch_compat_matrix.runner.records.runs import Run, home
from torch_compat_matrix.runner.text import one_line

LAST = 50
"""How many runs back the numbers of a check are looked for."""


def main(options: argparse.Namespace) -> Status:
    history.sync(home())
    say_unreadable(history.unreadable(home()), "the journals")
    sides = [_numbers(text) for text in (options.before, options.after)]
    comparisons = compare(*sides)
    if not comparisons:
        raise NothingSelected(
            f"{options.before} and {options.after} computed nothing in common; numbers are compared of one library and "
            "probe, in one image and of one version unless each side has a single one of these"
        )
    numbers = Numerics(before=options.before, after=options.after, comparisons=comparisons)
    tell(options.json, numbers, _lines(comparisons))
    return Status.AS_EXPECTED


def _numbers(text: str) -> Sequence[Outcome]:
    """The outcomes with numbers of a run, or the newest of each check that the selector takes."""
    if text == "latest" or any(run.id.startswith(text) for run in Run.all(home())):
        seen = list(Run.open(home(), text).outcomes().values())
    else:
        timelines = history.timelines(home(), chosen(text), LAST).values()
        seen = [outcome for line in timelines for _, outcome in line[::-1] if outcome.numerics]
    newest = {outcome.check: outcome for outcome in reversed(seen) if outcome.numerics}
    if not newest:
        why = "has no numbers" if seen else "is in no recorded run, or has no numbers"
        raise NothingSelected(f"{text} {why}; `compat run {text} --rerun` records them")
    return list(newest.values())


def _lines(comparisons: Sequence[Comparison]) -> Iterator[str]:
    """The cells that differ, each result on a line of its own; the others together."""
    alike = [comparison for comparison in comparisons if not comparison.differing]
    for comparison in comparisons:
        if comparison.differing:
            number = len(comparison.differing)
            yield f"{comparison.before} -> {comparison.after}: {number} of {comparison.results} differ"
            yield from (
                "  " + one_line(f"{difference.result} {difference.said}") for difference in comparison.differing
            )
            rest = comparison.results - number
            yield from ([f"  the other {rest}: {near(comparison.within)}"] if rest else [])
            if comparison.other_probes:
                yield "  other probes took these numbers: the difference may be theirs"
    if alike:
        furthest = max(alike, key=lambda comparison: comparison.within)
        results = sum(comparison.results for comparison in alike)
        cells = f"{furthest.before} -> {furthest.after}" if len(alike) == 1 else f"{len(alike)} cells"
        yield f"{cells}: {results} results {near(furthest.within)}"
