"""The ladder: a new failure is news once what passed before passes again beside it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from tests.support import journals
from torch_compat_matrix.compat.cli import main
from torch_compat_matrix.runner.comparison.confirm import Fall, climb, fallen
from torch_compat_matrix.runner.comparison.reference import suspected
from torch_compat_matrix.runner.errors import Status
from torch_compat_matrix.runner.execution.reuse import reusable
from torch_compat_matrix.runner.model import Cell, Image, Known, Plan, Verdict
from torch_compat_matrix.runner.outcome import Outcome
from torch_compat_matrix.runner.records.since import Seen, Since

IMAGE = Image(name="train", tag="example/train:1")
CELL = Cell(image="train", subject="captum", version="latest", requires=("captum",), members=("captum",))
PASSED = Outcome(
    check="train/captum-latest/sample",
    image="train",
    subject="captum",
    version="latest",
    probe="sample",
    verdict=Verdict.PASS,
    environment="e",
    resolved=("captum==0.8.0",),
)
FAILED = replace(
    PASSED, verdict=Verdict.FAIL, reason="wrong-value", resolved=("captum==0.9.0",), attempts=("fail",), signature="a"
)
ENVIRONMENT = {"image": "train", "digest": "sha256:1", "facts": {"packages": {"torch": "2.13.0"}}}


def falls(
    now: Outcome = FAILED,
    good: Outcome = PASSED,
    *,
    there: Mapping[str, Any] = ENVIRONMENT,
    here: Mapping[str, Any] = ENVIRONMENT,
    state: Any = "new",
    known: tuple[Known, ...] = (),
    pulls: bool = True,
    cell: Cell = CELL,
) -> list[Fall]:
    """What newly fails of a run with that one check."""
    seen = Seen(run="r1", date="2030-01-01", outcome=good, environment=there)
    plan = Plan(images=(IMAGE,), cells=(cell,), known=known)
    return list(fallen(plan, {now.check: now}, {"e": here}, {now.check: Since(state=state, good=seen)}, pulls))


def climbed(found: Sequence[Fall], *answers: Outcome | None) -> tuple[str, str, list[tuple[Image, Cell]]]:
    """The level of the only fall and its doubt, by these answers in turn; and what was asked."""
    asked: list[tuple[Image, Cell]] = []
    left = iter(answers)

    def ask(alike: Sequence[Fall], image: Image, cells: Sequence[Cell]) -> Mapping[str, Outcome]:
        asked.append((image, cells[0]))
        answer = next(left)
        return {} if answer is None else {answer.check: answer}

    (outcome,) = climb(found, ask)
    return outcome.confirmation, outcome.unconfirmed, asked


def test_what_passed_passes_again_beside_the_failure() -> None:
    """Bracketed: asked in the image's own digest with exactly the packages of the pass, and the probe that fails."""
    level, doubt, asked = climbed(falls(), FAILED, PASSED)
    assert (level, doubt) == ("bracketed", "")
    (now, cell), (before, exact) = asked
    assert (now, before, cell.probes, cell.locked) == (IMAGE, IMAGE, ("sample",), None)
    assert (exact.probes, dict(exact.locked or {})["adds"]) == (("sample",), ("captum==0.8.0",))


def test_image_that_moved_is_asked_by_its_last_good_digest() -> None:
    """Where the backend can pull it; else a clean overlay is all that there is, and that is said."""
    moved = {**ENVIRONMENT, "digest": "sha256:2"}
    level, _, asked = climbed(falls(here=moved), FAILED, PASSED)
    assert (level, asked[1][0].reference) == ("bracketed", "example/train@sha256:1")
    found = falls(here=moved, pulls=False)
    (outcome,) = climb(found, lambda alike, image, cells: {FAILED.check: FAILED})
    assert (outcome.confirmation, outcome.unconfirmed) == ("clean", "")
    assert "confirmed in a new overlay alone: run r1 passed with another image" in outcome.notes


def test_wheel_is_asked_as_the_wheel() -> None:
    """Never by its name, which the index may have for a stranger's package; and only while it holds the same."""
    cell = replace(CELL, requires=("captum @ file:///links/captum-0.8.0-py3-none-any.whl",))
    (found,) = falls(replace(FAILED, key="k"), replace(PASSED, key="k"), cell=cell)
    assert found.before and dict(found.before[1].locked or {})["adds"] == cell.requires
    (found,) = falls(replace(FAILED, key="k2"), replace(PASSED, key="k"), cell=cell)
    assert (found.before, found.why) == (None, "packages that came from a URL")


ALIKE = replace(FAILED, resolved=PASSED.resolved)
NOT_HAD = replace(FAILED, environment="", reason="unsatisfiable")
TROUBLE = replace(FAILED, verdict=Verdict.INFRA, reason="disk-full", environment="")


@pytest.mark.parametrize(
    ("found", "answers", "level", "doubt"),
    [
        (falls(), (None,), "again", "the time for confirmations was over"),
        (falls(replace(FAILED, attempts=())), (None,), "seen", "the time for confirmations was over"),
        (falls(), (PASSED,), "again", "it passed when it was asked again"),
        (falls(), (TROUBLE,), "again", "no verdict when it was asked again: disk-full"),
        (falls(), (FAILED, FAILED), "clean", "does not pass here any more (wrong-value): look at the host"),
        (falls(), (FAILED, TROUBLE), "clean", "does not pass here any more (disk-full)"),
        (falls(), (FAILED, None), "clean", "the time for confirmations was over before"),
        (falls(), (FAILED, NOT_HAD), "clean", ""),
        (falls(ALIKE), (ALIKE,), "clean", "look at the host"),
        (falls(good=replace(PASSED, resolved=("captum==",))), (FAILED,), "clean", ""),
        (falls(replace(FAILED, probed_by="b"), replace(PASSED, probed_by="a")), (FAILED,), "clean", ""),
    ],
)
def test_lower_levels(found: list[Fall], answers: Sequence[Outcome | None], level: str, doubt: str) -> None:
    """Confirmed without doubt, or unconfirmed with what was found; nothing more is asked than helps."""
    reached, why, asked = climbed(found, *answers)
    assert (reached, len(asked)) == (level, len(answers))
    assert doubt in why
    assert bool(doubt) == bool(why)


def test_stand_in_that_was_built_anew_cannot_be_had_again() -> None:
    """Its packages say so, since it has no digest."""
    there, here = ({**ENVIRONMENT, "digest": "", "facts": {"packages": {"torch": v}}} for v in ("2.12.0", "2.13.0"))
    (found,) = falls(there=there, here=here)
    assert found.why == "an image with other packages"
    assert falls(there=here, here=here)[0].before is not None


@pytest.mark.parametrize(
    "more",
    [
        {"state": "still"},
        {"state": "no-base"},
        {"now": replace(FAILED, confirmation="again")},
        {"now": replace(FAILED, reused="r0")},
        {"known": (Known(cells="captum", expect=Verdict.FAIL, reason="old"),)},
    ],
)
def test_only_news_climbs(more: dict[str, Any]) -> None:
    """What failed before, what is expected, and what never passed are judged as ever."""
    assert falls(**more) == []


def probed(probe: str, number: int, signature: str = "c", image: Image = IMAGE, **good: Any) -> Fall:
    """The fall of that probe of a cell."""
    cell = replace(CELL, image=image.name, subject="c", version=str(number), probes=(probe,))
    now = replace(FAILED, check=f"{cell.id}/{probe}", signature=signature)
    (found,) = falls(good=replace(PASSED, check=now.check, **good))
    return replace(found, outcome=now, cell=cell, image=image)


def test_failures_of_an_image_are_asked_at_once_the_commonest_cause_first() -> None:
    """The time is spent where most checks hang on it; each failure has a level of its own."""
    other = replace(IMAGE, name="other")
    news = [
        probed("sample", 30, "b"),
        *(probed("sample", each) for each in range(22)),
        probed("sample", 0, image=other),
    ]
    asked: list[int] = []

    def ask(alike: Sequence[Fall], image: Image, cells: Sequence[Cell]) -> Mapping[str, Outcome]:
        asked.append(len(cells))
        verdicts = {each.outcome.check: Verdict.PASS if each.cause == "b" else Verdict.FAIL for each in alike}
        return {check: replace(FAILED, check=check, verdict=verdict) for check, verdict in verdicts.items()}

    levels = {outcome.check: outcome.confirmation for outcome in climb(news, ask)}
    assert asked == [20, 20, 3, 2, 1, 1]
    assert [check for check, level in levels.items() if level == "again"] == ["train/c-30/sample"]
    assert list(levels) == [each.outcome.check for each in [*news[1:23], news[0], news[23]]]


@pytest.mark.parametrize(("packages", "asks"), [(PASSED.resolved, 1), (("captum==0.7.0",), 2)])
def test_probes_of_a_cell_that_passed_with_other_packages_are_asked_apart(packages: Any, asks: int) -> None:
    """A launch has each cell once."""
    asked: list[int] = []

    def ask(alike: Sequence[Fall], image: Image, cells: Sequence[Cell]) -> Mapping[str, Outcome]:
        asked.append(len(cells))
        return {}

    list(climb([probed("sample", 0), probed("autograd", 0, resolved=packages)], ask))
    assert len(asked) == asks


def test_unconfirmed_failure_is_not_reused() -> None:
    """The next run asks again."""
    assert reusable(FAILED, ())
    assert not reusable(replace(FAILED, unconfirmed="it passed when it was asked again"), ())


@pytest.mark.parametrize(
    ("doubts", "infra", "status"),
    [
        (("", ""), False, Status.SURPRISES),
        (("", "why"), False, Status.SURPRISES),
        (("why", "why"), False, Status.UNCONFIRMED),
        (("why", "why"), True, Status.INCOMPLETE),
        (("why", ""), True, Status.SURPRISES),
    ],
)
def test_exit_status(
    doubts: Sequence[str],
    infra: bool,
    status: Status,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    """1 goes before 5, and 5 before 6; the report and `compat show` tell the level."""
    monkeypatch.setenv("COMPAT_HOME", str(tmp_path))
    monkeypatch.chdir(tmp_path)
    checks = ("gpu-image/gpytorch-1.14/sample", "gpu-image/gpytorch-1.14/autograd")
    known = {"pyro-ppl-1.8.0/import": "unsupported", "torchbnn-1.2/compile": "fail"}
    every = [record["check"] for record in journals.records() if record["kind"] == "outcome"]
    records = journals.records({check: known.get(check.partition("/")[2], "pass") for check in every})
    for record in records:
        if record["kind"] == "outcome" and record["check"] in checks:
            doubt = doubts[checks.index(record["check"])]
            record |= {"verdict": "fail", "reason": "wrong-value", "confirmation": "clean", "unconfirmed": doubt}
        if record["kind"] == "outcome" and infra and record["check"].endswith("torch-installed/compile"):
            record |= {"verdict": "infra", "reason": "engine-unreachable"}
    journals.write(tmp_path / "runs" / "20260101T000000" / "journal.jsonl", records, torn=False)
    assert main(["report"]) == status
    said = capsys.readouterr().out
    assert ("confirmation: clean, unconfirmed: why" in said) == ("why" in doubts)
    assert ("unconfirmed failure" in said) == ("why" in doubts)
    assert ("unconfirmed: why" in (tmp_path / "runs" / "20260101T000000" / "report.md").read_text()) == (
        "why" in doubts
    )
    main(["show", checks[0]])
    assert "confirmation:" in capsys.readouterr().out


def on(gpu: str, check: str, verdict: Verdict, minute: int) -> Outcome:
    """What came of a check on that GPU at that minute."""
    return replace(
        FAILED if verdict.broken else PASSED,
        check=check,
        verdict=verdict,
        probe=check.rpartition("/")[2],
        environment=gpu or "e",
        device="cuda" if gpu and not check.endswith("import") else "",
        target="h100" if gpu else "cpu",
        started=f"2030-01-01T00:{minute:02}:00+00:00",
        confirmation="",
    )


@pytest.mark.parametrize("answer", [Verdict.FAIL, Verdict.PASS, Verdict.INFRA, None])
def test_failures_on_a_gpu_that_broke_are_its_own(answer: Verdict | None) -> None:
    """Those since the last check that computed there; not those before, nor of another GPU, nor of a sound one."""
    cells = [replace(CELL, version=f"{number}") for number in range(4)]
    ids = [f"{cell.id}/sample" for cell in cells]
    outcomes = [
        on("a", ids[0], Verdict.FAIL, 1),
        on("a", ids[1], Verdict.PASS, 2),
        on("a", f"{cells[2].id}/import", Verdict.PASS, 3),  # shows nothing of the GPU
        on("a", ids[2], Verdict.FAIL, 4),
        on("b", ids[3], Verdict.FAIL, 5),
    ]
    environments = {name: {**ENVIRONMENT, "facts": {"gpus": [{"uuid": f"{name}{name}"}]}} for name in "ab"}
    stands = {each.check: Since(state="new", good=None) for each in outcomes}
    asked: list[tuple[str, str, str]] = []

    def ask(image: Image, cell: Cell, gpu: str) -> Mapping[str, Outcome]:
        asked.append((cell.id, cell.probes[0], gpu))
        if answer is None:
            return {}
        return {ids[1]: replace(on("a", ids[1], answer, 6), blame="host" if answer is Verdict.INFRA else "library")}

    plan = Plan(images=(IMAGE,), cells=tuple(cells))
    found = [one.check for one, _, _ in suspected("r", plan, outcomes, environments, stands, True, ask)]
    assert asked == [(cells[1].id, "sample", "aa")]
    assert found == ([ids[2]] if answer in (Verdict.FAIL, Verdict.INFRA) else [])


@pytest.mark.parametrize("broken", [1, 2])
def test_host_that_was_broken_from_the_start_is_asked_for_an_earlier_pass(broken: int) -> None:
    """Unless a single cell fails: that is what the ladder asks."""
    cells = [replace(CELL, version=f"{number}") for number in range(broken)]
    outcomes = [on("", f"{cell.id}/sample", Verdict.FAIL, 1) for cell in cells]
    environments = {"e": ENVIRONMENT}
    seen = [
        Seen(run="r0", date=each.started, outcome=replace(each, verdict=Verdict.PASS), environment=ENVIRONMENT)
        for each in outcomes
    ]
    stands = {each.check: Since(state="new", good=good) for each, good in zip(outcomes, seen, strict=True)}
    plan = Plan(images=(IMAGE,), cells=tuple(cells))
    ask = lambda image, cell, gpu: {outcomes[0].check: outcomes[0]}  # noqa: E731
    found = [(one.check, good.run) for one, good, _ in suspected("r", plan, outcomes, environments, stands, True, ask)]
    assert found == ([] if broken == 1 else [(each.check, "r0") for each in outcomes])


@pytest.mark.parametrize(
    ("answer", "level", "doubt"),
    [
        (PASSED, "bracketed", "it passes elsewhere: on A b, and not on A a"),
        (FAILED, "elsewhere", ""),
        (TROUBLE, "bracketed", ""),
        (None, "bracketed", ""),
    ],
)
def test_another_gpu_is_asked_last(answer: Outcome | None, level: str, doubt: str) -> None:
    """Where it passes, the GPU is to be looked at; where that is no answer, the failure stays confirmed."""
    answers = iter((FAILED, PASSED))
    away = {answer.check: answer} if answer else {}
    (outcome,) = climb(
        falls(), lambda alike, *_: {FAILED.check: next(answers)}, lambda alike: (away, "on A b, and not on A a")
    )
    assert (outcome.confirmation, outcome.unconfirmed) == (level, doubt)
