"""Batches: longest first, and split only where that ends the run sooner."""

from __future__ import annotations

import time

from torch_compat_matrix.runner.execution.durations import UNKNOWN
from torch_compat_matrix.runner.execution.schedule import batches
from torch_compat_matrix.runner.model import PROBES, Cell, Image


def cells(image: str, *seconds: float) -> list[Cell]:
    """A cell for each expected time, which is its version."""
    return [
        Cell(image=image, subject="l", version=f"{number}.{length}", requires=(), members=("l",))
        for number, length in enumerate(seconds)
    ]


def expected(cell: Cell) -> float:
    """What the version says behind its number."""
    return float(cell.version.partition(".")[2])


def lengths(jobs: int, **images: tuple[float, ...]) -> list[tuple[str, float]]:
    """Image and expected time of each batch."""
    pairs = [(Image(name=name), cells(name, *seconds)) for name, seconds in images.items()]
    return [(batch.image.name, sum(map(expected, batch.cells))) for batch in batches(pairs, jobs, expected)]


def test_one_image_is_shared_by_all_jobs() -> None:
    """Two jobs halve it."""
    assert lengths(2, a=(30, 10, 20, 20)) == [("a", 40), ("a", 40)]


def test_what_a_launch_would_cost_more_than_it_saves_stays_whole() -> None:
    """A second launch pays for another import of torch."""
    assert lengths(2, a=(2, 2)) == [("a", 4)]


def test_longest_image_is_split_beside_short_ones() -> None:
    """One long image does not keep one job busy while the other waits."""
    assert lengths(2, a=(50, 50), b=(10,), c=(10,)) == [("a", 50), ("a", 50), ("b", 10), ("c", 10)]


def test_equal_images_are_not_split() -> None:
    """Each takes a job; splitting would only add launches."""
    assert lengths(2, a=(25, 25), b=(25, 25)) == [("a", 50), ("b", 50)]


def test_images_without_cells_have_no_batch() -> None:
    """Nothing is launched for them."""
    assert lengths(2, a=()) == []


def test_hundred_thousand_checks_are_batched_in_a_moment() -> None:
    """25,000 cells of ten images, for eight jobs."""
    images = [(Image(name=str(number)), cells(str(number), *[1.0] * 2500)) for number in range(10)]
    started = time.process_time()
    found = batches(images, 8, expected)
    assert sum(len(batch.cells) for batch in found) == 25_000
    assert time.process_time() - started < 2


def test_every_probe_has_a_duration_before_it_ever_ran() -> None:
    """The table of medians keeps up with the list of probes."""
    assert tuple(UNKNOWN) == PROBES
