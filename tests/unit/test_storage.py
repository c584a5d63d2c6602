"""What can go from a home: by age, by size, and never what a run needs."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from torch_compat_matrix.runner.errors import UsageError
from torch_compat_matrix.runner.files import build_once
from torch_compat_matrix.runner.storage import (
    InUse,
    Kept,
    contents,
    leftovers,
    parsed_age,
    parsed_size,
    shown_size,
    size,
    superfluous,
    unused,
)

DAY = 86400.0


def entry(name: str, size: int, used: float) -> Kept:
    """An entry that cannot be removed."""
    return Kept(kind="overlays", name=name, size=size, used=used, remove=lambda: pytest.fail("removed"))


def names(kept: list[Kept]) -> list[str]:
    """The names of the entries."""
    return [each.name for each in kept]


def fill(home: Path) -> None:
    """A home with an overlay, a stand-in, answers, a run, and what a killed process left."""
    for folder in ("overlays/a", "standins/b", "resolutions/stubs/c", "runs/r", "overlays/.a.1.partial"):
        (home / folder).mkdir(parents=True)
        (home / folder / "journal.jsonl").write_text("x" * 5000)
    for file in ("overlays/a.json", "overlays/a.lock", "facts/f.json", "facts/f.lock", "durations.json"):
        (home / file).parent.mkdir(exist_ok=True)
        (home / file).write_text("{}")
    (home / "resolutions" / "scratch" / "compat-1").mkdir(parents=True)


def test_age_chooses_what_was_not_used_for_longer() -> None:
    """Exactly as old is not older."""
    kept = [entry("old", 1, 0), entry("new", 1, 2 * DAY)]
    assert names(superfluous(kept, older_than=DAY, now=2.5 * DAY)) == ["old"]
    assert names(superfluous(kept, older_than=2.5 * DAY, now=2.5 * DAY)) == []


def test_size_chooses_the_longest_unused_first() -> None:
    """As many as it takes, and no more."""
    kept = [entry("new", 40, 3), entry("old", 30, 1), entry("middle", 30, 2)]
    assert names(superfluous(kept, to_size=70)) == ["old"]
    assert names(superfluous(kept, to_size=69)) == ["old", "middle"]
    assert names(superfluous(kept, to_size=100)) == []
    assert names(superfluous(kept, to_size=0)) == ["old", "middle", "new"]


def test_a_run_is_among_the_contents_only_where_it_is_asked_for(tmp_path: Path) -> None:
    """Files that describe a folder are no entries of their own; those that stand alone are."""
    fill(tmp_path)
    assert sorted(names(contents(tmp_path))) == ["a", "b", "f.json", "stubs"]
    assert "r" in names(contents(tmp_path, runs=True))
    assert sorted(names(leftovers(tmp_path))) == [".a.1.partial", "compat-1"]


def test_removal_takes_what_stands_beside_the_folder(tmp_path: Path) -> None:
    """Of an overlay: its manifest and lock; nothing else of the home changes."""
    fill(tmp_path)
    before = set(tmp_path.rglob("*"))
    next(each for each in contents(tmp_path) if each.name == "a").remove()
    gone = {str(path.relative_to(tmp_path)) for path in before - set(tmp_path.rglob("*"))}
    assert gone == {"overlays/a", "overlays/a/journal.jsonl", "overlays/a.json", "overlays/a.lock"}
    for each in [*contents(tmp_path, runs=True), *leftovers(tmp_path)]:
        each.remove()
    assert sorted(path.name for path in tmp_path.rglob("*") if path.is_file()) == ["durations.json", "f.lock"]


def test_use_renews_an_entry(tmp_path: Path) -> None:
    """A folder that is built once and used for years is not old."""
    folder = build_once(tmp_path / "overlays" / "a", lambda partial: None)
    os.utime(folder, (1, 1))
    assert contents(tmp_path)[0].used == 1
    build_once(folder, lambda partial: pytest.fail("built again"))
    assert contents(tmp_path)[0].used > 1


def test_a_home_at_work_is_not_unused(tmp_path: Path) -> None:
    """From the beginning of a run until it closes; a home that is not there is unused and stays away."""
    with unused(tmp_path / "absent") as alone:
        assert alone
    assert not (tmp_path / "absent").exists()
    first, second = InUse(tmp_path), InUse(tmp_path)
    first.close()
    with unused(tmp_path) as alone:
        assert not alone
    second.close()
    with unused(tmp_path) as alone:
        assert alone


def test_a_file_with_two_names_counts_once(tmp_path: Path) -> None:
    """Packages may be linked from the installer's cache."""
    (tmp_path / "first").write_bytes(b"x" * 100_000)
    alone = size(tmp_path)
    os.link(tmp_path / "first", tmp_path / "second")
    assert size(tmp_path) == alone >= 100_000


def test_sizes_and_ages_are_read_and_shown() -> None:
    """Units as people write them; anything else is refused with an example."""
    assert [parsed_size(text) for text in ("20GB", "1.5 M", "7kB", "3GiB", "9")] == [
        20 * 10**9,
        1_500_000,
        7000,
        3 << 30,
        9,
    ]
    assert [parsed_age(text) for text in ("30d", "12h", "2 w", "5m")] == [30 * DAY, DAY / 2, 14 * DAY, 300]
    assert [shown_size(number) for number in (0, 1_500_000, 20 * 10**9)] == ["0.0 kB", "1.5 MB", "20.0 GB"]
    for text in ("", "many", "-1GB", "9" * 400, "1e9"):
        with pytest.raises(UsageError, match="not a size"):
            parsed_size(text)
    for text in ("", "30", "1y", "-1d", "9" * 400 + "d"):
        with pytest.raises(UsageError, match="not an age"):
            parsed_age(text)
