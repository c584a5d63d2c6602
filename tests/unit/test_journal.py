"""Nothing that was recorded is ever lost: torn lines, several writers, and reading while it grows."""

from __future__ import annotations

import multiprocessing
from pathlib import Path

import pytest

from torch_compat_matrix.runner.errors import reason_of
from torch_compat_matrix.runner.model import Verdict
from torch_compat_matrix.runner.outcome import Outcome
from torch_compat_matrix.runner.records.journal import Follower, Journal, append


def outcome(number: int, verdict: Verdict = Verdict.PASS) -> Outcome:
    """An outcome of a check of that number."""
    return Outcome(
        check=f"image/library-{number}/import",
        image="image",
        subject="library",
        version=str(number),
        probe="import",
        verdict=verdict,
        notes=("a line\nbreak, a | pipe and a lone \udcff surrogate",),
    )


def test_outcome_comes_back_as_it_went(tmp_path: Path) -> None:
    """Every field survives the journal."""
    path = tmp_path / "journal.jsonl"
    whole = Outcome(
        check="i/l-1/sample",
        image="i",
        subject="l",
        version="1",
        probe="sample",
        verdict=Verdict.FAIL,
        reason="wrong-moments",
        metrics={"import": {"value": 0.5, "unit": "s"}},
        parts=({"name": "moments", "status": "failed", "seconds": 0.1, "code": "wrong-moments", "message": "off"},),
        resolved=("a==1", "b==2"),
        attempts=("crash",),
        flaky=True,
        seconds=1.5,
        signature="0123abcd",
    )
    append(path, {"kind": "outcome", **whole.to_json()})
    assert Follower(path).look() == {whole.check: whole}


def test_torn_line_spoils_only_itself(tmp_path: Path) -> None:
    """A writer that was killed in the middle of a line: what came before and what comes after is read."""
    path = tmp_path / "journal.jsonl"
    append(path, {"kind": "outcome", **outcome(1).to_json()})
    with path.open("ab") as stream:
        stream.write(b'{"kind":"outcome","check":"half')
    assert list(Follower(path).look()) == [outcome(1).check]
    append(path, {"kind": "outcome", **outcome(2).to_json()})
    assert list(Follower(path).look()) == [outcome(1).check, outcome(2).check]


def test_follower_reads_only_what_is_new(tmp_path: Path) -> None:
    """A later outcome of the same check takes the place of the earlier one."""
    path = tmp_path / "journal.jsonl"
    follower = Follower(path)
    assert follower.look() == {}
    append(path, {"kind": "outcome", **outcome(1, Verdict.INFRA).to_json()})
    first = follower.look()[outcome(1).check]
    append(path, {"kind": "unheard of"}, {"kind": "outcome", **outcome(1).to_json()})
    assert first.verdict is Verdict.INFRA
    assert follower.look()[outcome(1).check].verdict is Verdict.PASS


def test_follower_at_the_end_passes_over_what_is_there(tmp_path: Path) -> None:
    """A resumed run counts what it sees itself; a journal that is not there yet has nothing to pass over."""
    path = tmp_path / "journal.jsonl"
    early = Follower.at_end(path)
    append(path, {"kind": "outcome", **outcome(1).to_json()})
    late = Follower.at_end(path)
    append(path, {"kind": "outcome", **outcome(2).to_json()})
    assert [len(follower.look()) for follower in (early, late)] == [2, 1]


def write(path: Path, writer: int) -> None:
    """One of several processes that write at once."""
    for number in range(50):
        append(path, {"kind": "unheard of", "writer": writer, "number": number, "padding": "x" * 9000})


def test_writers_do_not_tear_each_other(tmp_path: Path) -> None:
    """Lines longer than a pipe's atomic write stay whole, and each writer's stay in order."""
    path = tmp_path / "journal.jsonl"
    context = multiprocessing.get_context("spawn")
    writers = [context.Process(target=write, args=(path, writer)) for writer in range(4)]
    for process in writers:
        process.start()
    for process in writers:
        process.join()
    records = list(Journal(path))
    assert len(records) == 200
    for writer in range(4):
        assert [record["number"] for record in records if record["writer"] == writer] == list(range(50))


def test_fields_of_later_versions_are_left_aside() -> None:
    """A journal of a newer version is still read."""
    record = {**outcome(1).to_json(), "invented later": 1}
    assert Outcome.from_json(record).check == outcome(1).check


def test_a_full_disk_is_named_with_its_file() -> None:
    """A write that fails names no file by itself; the reason of what it prevents is the disk."""
    with pytest.raises(OSError, match="/dev/full") as caught:
        append(Path("/dev/full"), {"kind": "end"})
    assert (reason_of(caught.value), reason_of(ValueError("else"))) == ("disk-full", "host-error")
