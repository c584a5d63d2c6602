"""Reports: what is recorded, all of it, and nothing that a recorded string could make of it."""

from __future__ import annotations

import datetime as dt
import json
import os
import re
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

import pytest
from hypothesis import given
from hypothesis import strategies as st
from markdown_it import MarkdownIt

from tests.support.journals import outcome, records, write
from torch_compat_matrix.compat.progress import line
from torch_compat_matrix.reports import html
from torch_compat_matrix.reports.changes import compare, own_baseline
from torch_compat_matrix.reports.escape import code, text
from torch_compat_matrix.reports.junit import junit
from torch_compat_matrix.reports.markdown import markdown, summary
from torch_compat_matrix.reports.page import Part, page
from torch_compat_matrix.reports.sections import lacks, measured
from torch_compat_matrix.reports.table import Table, load
from torch_compat_matrix.reports.write import compile_report, json_text, table_of
from torch_compat_matrix.runner.model import Cell
from torch_compat_matrix.runner.records import history
from torch_compat_matrix.runner.records.since import Since

GOLDEN = Path(__file__).parent / "golden.md"
TODAY = dt.date(2030, 1, 2)


@pytest.fixture
def table(tmp_path: Path) -> Table:
    """The small journal's table."""
    return load(write(tmp_path / "journal.jsonl", records()), TODAY)


def test_golden_report(table: Table) -> None:
    """The whole Markdown, as a person approved it; COMPAT_GOLDEN=1 writes it anew."""
    found = markdown(table, None)
    if os.environ.get("COMPAT_GOLDEN"):
        GOLDEN.write_text(found)
    assert found == GOLDEN.read_text()


def noted(tmp_path: Path, **change: Any) -> Table:
    """The small journal's table, with this in every outcome of torchbnn's cell in the stand-in."""
    found = records()
    for record in found:
        if record.get("check", "").startswith("stand-in/torchbnn-1.2/"):
            record.update({"verdict": "pass", "flaky": False, "attempts": [], **change})
    return load(write(tmp_path / "journal.jsonl", found), TODAY)


def test_replaced_packages_stand_beside_the_pass(tmp_path: Path) -> None:
    """In the box, explained by the legend and a note of its own, and in the JSON."""
    table = noted(tmp_path, replaced=["numpy 2.4.6 -> 1.26.4"])
    report = markdown(table, None)
    (row,) = [line for line in report.splitlines() if line.startswith("| torchbnn 1.2")]
    assert "☑️☑️☑️☑️🔀<sup>" in row
    assert "🔀 with packages of the image replaced" in report
    assert "   - numpy 2.4.6 -> 1.26.4, as the matrix asks" in report
    assert report.count("🔀") == 2
    (outcome,) = [one for one in _outcomes(table) if one["check"] == "stand-in/torchbnn-1.2/sample"]
    assert outcome["install_note"] == "numpy 2.4.6 -> 1.26.4, as the matrix asks"
    assert "🔀" not in GOLDEN.read_text()


def test_both_answers_of_an_install_stand_beside_the_pass(tmp_path: Path) -> None:
    """What passes beside the image's packages is not what a plain install gives; torch is named first."""
    table = noted(tmp_path, drift=["numpy 2.4.6 -> 1.26.4", "torch 2.13.0 -> 2.14.1"])
    report = markdown(table, None)
    (row,) = [line for line in report.splitlines() if line.startswith("| torchbnn 1.2")]
    assert "☑️☑️☑️☑️📌<sup>" in row
    assert "📌 passes constrained; a plain `pip install` replaces packages of the image" in report
    note = "passes constrained; a plain `pip install` replaces torch 2.13.0 by 2.14.1, numpy 2.4.6 by 1.26.4"
    assert f"   - {note}" in report
    assert {one.get("install_note") for one in _outcomes(table) if one["image"] == "stand-in"} == {None, note}
    assert "📌" not in GOLDEN.read_text()
    replaced = noted(tmp_path, replaced=["torch 2.13.0 -> 2.14.1"], install="plain")
    assert "   - torch 2.13.0 -> 2.14.1, as a plain `pip install` does" in markdown(replaced, None)


def test_a_part_that_was_left_out_stands_beside_the_pass(tmp_path: Path) -> None:
    """In the box, in a note with its words, in JSON and JUnit and in the line of the run; a whole pass says nothing."""
    whole = {"name": "effects", "status": "passed", "seconds": 1}
    why = "since 2.9 torchaudio reads files with TorchCodec, which is not installed"
    missing = [{"name": name, "status": "skipped", "seconds": 0, "message": why} for name in ("files", "streams")]
    table = noted(tmp_path, parts=[whole, *missing])
    report = markdown(table, None)
    (row,) = [line for line in report.splitlines() if line.startswith("| torchbnn 1.2")]
    assert "☑️☑️☑️☑️✂️<sup>" in row
    assert "✂️ passes without a part that could not run here" in report
    assert f"   - left out: files, streams ({why})" in report
    said = {one["left_out"] for one in _outcomes(table) if "left_out" in one}
    assert said == {f"files, streams ({why})"}
    assert "left_out" in "".join(junit(table))
    (outcome,) = [one for one in table.outcomes.values() if one.check == "stand-in/torchbnn-1.2/sample"]
    assert line(outcome).endswith("without 2 of 3 parts")
    assert line(replace(outcome, probe="suite")).endswith(" 2 failed at the reference too")
    assert "✂️" not in markdown(noted(tmp_path, parts=[whole]), None)


def _outcomes(table: Table) -> Any:
    return json.loads("".join(json_text(table, None)))["outcomes"]


def test_surprises(table: Table) -> None:
    """What is known is none; a known failure that passes is one."""
    found = {one.outcome.check: one.surprise for one in table.surprises}
    assert "gpu-image/pyro-ppl-1.8.0/import" not in found
    assert found["gpu-image/torchbnn-1.2/compile"] == "unexpected pass"
    assert found["gpu-image/pyro-ppl-1.9.1/sample"] == "unexpected failure"
    assert "gpu-image/botorch-0.14.0/import" not in found
    assert len(table.incomplete) == 8


def test_expired_entry_is_a_surprise(tmp_path: Path) -> None:
    """Even where it still tells the truth."""
    found = records()
    found[0]["plan"]["known"][0]["expires"] = "2029-12-31"
    table = load(write(tmp_path / "journal.jsonl", found), TODAY)
    expired = {one.outcome.check for one in table.surprises if one.surprise == "expired"}
    assert expired == {"gpu-image/pyro-ppl-1.8.0/import", "stand-in/pyro-ppl-1.8.0/import"}


def test_cpu_pass_never_looks_like_a_gpu_pass(tmp_path: Path) -> None:
    """Neither in the grid nor in the headline."""
    report = markdown(load(write(tmp_path / "journal.jsonl", records(gpu=False)), TODAY), None)
    assert "✅" not in report
    assert "CUDA sample" not in report
    assert "Nothing here says anything about a GPU" in report


def test_a_stand_in_says_what_it_lacks() -> None:
    """Of a GPU image, and of what the matrix says of this one."""
    cpu = {"torch": {"version": "2.13.0+cpu", "cuda": None}, "packages": {"torch": "2.13.0+cpu"}, "tools": {"g++": ""}}
    expects = {"cuda": "12.4", "preinstalled": ["torch>=2", "Captum"], "tools": ["g++", "nvcc"]}
    assert list(lacks(cpu, expects)) == ["CUDA libraries", "Triton", "captum", "nvcc"]
    cuda = {"torch": {"version": "2.6.0", "cuda": "12.6"}, "packages": {"triton": "3.2.0"}}
    assert list(lacks(cuda, {"cuda": "12.4"})) == ["CUDA 12.4"]
    assert list(lacks(cuda, {"cuda": "12"})) == []


@pytest.mark.parametrize("detail", ["the stand-in cannot be built: torch needs a newer setuptools", ""])
def test_what_keeps_an_image_from_starting_is_told_once(tmp_path: Path, detail: str) -> None:
    """Not once a cell: it is one fact about the image; different words are several facts."""
    found = [record for record in records() if record.get("image") != "gpu-image"]
    found[0]["plan"]["known"] = []
    for record in found:
        if record["kind"] == "outcome":
            record |= {"verdict": "unsupported", "reason": "unsatisfiable", "blame": "matrix", "environment": ""}
            record |= {"detail": detail or record["check"], "evidence": f"Because of {detail or record['subject']}"}
    table = load(write(tmp_path / "journal.jsonl", found), TODAY)
    told = markdown(table, None).count("`unsatisfiable` (unsupported, blame: matrix)")
    subjects = len({outcome.subject for outcome in table.outcomes.values() if outcome.image == "stand-in"})
    assert told == (1 if detail else subjects)
    assert ("the whole of stand-in" in summary(table, None)) == bool(detail)


def many(tmp_path: Path, cells: int, images: int = 1) -> tuple[Table, Table]:
    """A run in which every cell passes, and the next, in which all fail by one of three causes."""
    tables = []
    for day, verdict in ((1, "pass"), (2, "fail")):
        found = records()[:1]
        found[0] |= {"run": f"2030010{day}T000000-0000", "started": f"2030-01-0{day}T00:00:00+00:00"}
        found[0]["plan"] |= {"cells": [], "known": []}
        for image in range(images):
            cuda = f"12.{image // 9}"
            facts = {"python": "3.11", "gpus": [], "packages": {}, "torch": {"version": "2.6", "cuda": cuda}}
            key = f"e{image}"
            found.append({"kind": "environment", "key": key, "image": f"i{image}", "reference": "r", "facts": facts})
            for number in range(cells):
                cell = Cell(image=f"i{image}", subject=f"l{number % 4}", version=str(number), requires=(), members=())
                words = ("the first cause of them all", "another and second reason", "some third thing is wrong")
                one = outcome(cell, "sample", verdict, False)
                evidence = f"ValueError: {words[number % 3]} a_name: {number}" if verdict == "fail" else ""
                found.append({**one, "environment": key, "reason": "wrong-value", "evidence": evidence, "owner": "ann"})
        place = tmp_path / "runs" / found[0]["run"] / "journal.jsonl"
        tables.append(place)
        write(place, [*found, {"kind": "end", "finished": "", "state": "complete"}], torn=False)
    return table_of(tables[0]), table_of(tables[1])


@pytest.mark.share
def test_thousands_of_new_failures_read_as_their_causes(tmp_path: Path) -> None:
    """Each with since, remedy, owner and command; the grid marks them by a word."""
    _, after = many(tmp_path, 5000)
    report = markdown(after, compare(own_baseline(after), after))
    head, _, rest = report.partition("## Table")
    assert len(head.splitlines()) < 60
    assert head.count("**new**") == 3
    assert "5000 newly failing" in head
    assert "5000 unexpected failures of 3 causes" in head
    assert "   - failing since 2030-01-02 (1 run), last good 2030-01-01 with l0 0" in head
    assert "   - likely: nothing that the check depends on changed" in head
    assert "   - remedy: see the page of the reason\n   - owner: ann\n   - `compat show i0/l0-0`, `compat find " in head
    assert "❌ **new**<sup>1</sup>" in rest or "·❌·· **new**<sup>1</sup>" in rest


@pytest.mark.parametrize("most", [6_000, 20_000])
def test_report_keeps_to_its_budget(tmp_path: Path, most: int) -> None:
    """The least important goes first, and what is left out is said."""
    _, after = many(tmp_path, 900)
    report = markdown(after, compare(own_baseline(after), after), most=most)
    assert len(report.encode()) <= most
    assert report.count("**new**") >= 3
    assert re.search(r"Left out here, for want of room: .*\d+ rows", report.splitlines()[-1])
    assert "## What to do" in report


def test_new_failures_stay_longest() -> None:
    """Of two tables that do not fit the last gives way first, and of its rows those that pass."""
    tables = [
        Part(
            name="row",
            keep=1,
            blocks=[f"| {table} {row} {'**new**' if row % 50 == 0 else 'passes'} |" for row in range(100)],
        )
        for table in "ab"
    ]
    said = page(tables, 1500)
    assert len(said.encode()) <= 1500
    assert said.count("**new**") == 4
    assert (said.count("| a "), said.count("| b ")) == (said.count("| ") - 2, 2)
    assert said.endswith(
        f"Left out here, for want of room: {200 - said.count('| ')} rows. report.json has everything.\n"
    )


def test_many_images_are_split_by_their_line_of_cuda(tmp_path: Path) -> None:
    """At most eight columns a table; versions that agree share a row."""
    report = markdown(many(tmp_path, 12, images=10)[0], None)
    titles = re.findall("### (.*)\n\n(.*)\n", report)
    assert [(title, head.count("|") - 2) for title, head in titles] == [
        ("CUDA 12.0", 8),
        ("CUDA 12.0, continued", 1),
        ("CUDA 12.1", 1),
    ]
    assert "| l0 0-8 | " in report


def test_metrics_are_shown_where_they_changed(tmp_path: Path) -> None:
    """In units for people, the most changed first."""
    for day, memory, seconds in ((1, 200e6, 1.0), (2, 477e6, 1.1)):
        found = records()
        found[0]["run"] = f"2030010{day}T000000-0000"
        metrics = {"peak memory": {"value": memory, "unit": "bytes"}, "import": {"value": seconds, "unit": "s"}}
        next(record for record in found if record.get("verdict") == "pass")["metrics"] = metrics
        journal = write(tmp_path / "runs" / found[0]["run"] / "journal.jsonl", found)
    report = markdown(table_of(journal), None)
    assert "| gpu-image/torch-installed/import | peak memory | 200.0 MB | 477.0 MB |" in report
    assert "| gpu-image/torch-installed/import | import |" not in report
    assert (measured({"value": 0.0351, "unit": "s"}), measured({"value": 2, "unit": "cores"})) == ("35.1 ms", "2 cores")


def test_checks_without_outcome_are_shown(tmp_path: Path) -> None:
    """A run that was killed shows what it did not come to."""
    found = [record for record in records() if record.get("subject") != "torchbnn" and record["kind"] != "end"]
    table = load(write(tmp_path / "journal.jsonl", found), TODAY)
    assert table.outcomes["stand-in/torchbnn-1.2/compile"].verdict.value == "not-run"
    assert "❔❔❔❔" in markdown(table, None)


def test_disagreeing_warm_process_is_counted(tmp_path: Path) -> None:
    """In the headline and in the JSON; a flaky check is neither one of them nor fixed."""
    found = records()
    passes = [one for one in found if one.get("verdict") == "pass" and one["probe"] == "autograd"]
    before = load(write(tmp_path / "before.jsonl", records({passes[1]["check"]: "fail"})), TODAY)
    passes[0]["attempts"] = passes[1]["attempts"] = ["fail"]
    passes[1]["flaky"] = True
    table = load(write(tmp_path / "journal.jsonl", found), TODAY)
    assert "warm process disagreed: 1." in summary(table, None)
    assert '"warm_disagreed": 1' in "".join(json_text(table, None))
    assert compare(before, table).fixed == ()


def test_changes(tmp_path: Path) -> None:
    """New failures, fixed checks, checks that fail differently, and the other changes."""
    before = records({"gpu-image/pyro-ppl-1.9.1/sample": "pass", "gpu-image/torch-installed/sample": "fail"})
    after = records({"gpu-image/gpytorch-1.14/autograd": "crash"})
    after[1]["facts"]["torch"]["version"] = "2.6.1+cu124"
    old, new = (load(write(tmp_path / name, found), TODAY) for name, found in (("a", before), ("b", after)))
    changes = compare(old, new)
    assert [outcome.check for outcome in changes.failing] == ["gpu-image/pyro-ppl-1.9.1/sample"]
    assert [outcome.check for outcome in changes.fixed] == ["gpu-image/torch-installed/sample"]
    assert [now.check for _, now in changes.other] == ["gpu-image/gpytorch-1.14/autograd"]
    assert [cause.what for cause in changes.causes] == ["gpu-image: torch 2.6.0+cu124 -> 2.6.1+cu124"]
    assert "1 newly failing, 1 fixed, 1 failing differently" in summary(new, changes)


def test_what_to_do_has_what_lost_its_verdict_and_what_an_entry_misses(tmp_path: Path) -> None:
    """A skip that had a verdict; an entry that expects another failure says so; what never had a verdict is no news."""
    skipped, other = "gpu-image/torchbnn-1.2/autograd", "gpu-image/pyro-ppl-1.8.0/import"
    found = records({skipped: "skip", other: "crash"})
    next(record for record in found if record.get("check") == skipped)["reason"] = "no-stand-in"
    before, after = (load(write(tmp_path / name, each), TODAY) for name, each in (("a", records()), ("b", found)))
    changes = compare(before, after)
    assert changes.counts == "none newly failing, 1 failing differently, 1 without the verdict of before"
    unexplained = "gpu-image/pyro-ppl-1.9.1/sample"
    table = replace(
        after, since={unexplained: Since(state="no-base", run="r", date="2030-01-01T00:00:00+00:00", runs=1)}
    )
    todo = markdown(table, changes).partition("## Table")[0]
    assert "failing since 2030-01-01 (1 run), no run before gave a verdict" in todo
    assert "**lost**: `no-stand-in` (skip" in todo and "torchbnn 1.2 in gpu-image (autograd)" in todo
    assert "known: as unsupported, which this is not: " in todo
    unasked = [check for check, outcome in after.outcomes.items() if outcome.verdict.value in ("skip", "infra")]
    assert unasked and not {*compare(load(write(tmp_path / "j", records()[:1])), after).new} & {*unasked}


def test_reports_are_portable(tmp_path: Path) -> None:
    """They show no folder of the machine that made them."""
    found = records()
    seen = "cannot import 'log' (/home/me/.compat/standins/0f/lib/python3.11/site-packages/torch/x.py), see /dev/shm"
    for record in found:
        if record["kind"] == "outcome" and "evidence" in record:
            record["evidence"] = seen
            record["parts"] = [{"name": "p", "status": "failed", "seconds": 1.0, "message": seen}]
    table = load(write(tmp_path / "journal.jsonl", found), TODAY)
    assert "/home/me" not in "".join(json_text(table, None))
    report = markdown(table, None)
    assert "cannot import 'log' (site-packages/torch/x.py), see /dev/shm" in report
    assert "/home/me" not in report


def test_junit(table: Table) -> None:
    """A suite an image; failures, errors and skips are counted as such."""
    root = ElementTree.fromstring("".join(junit(table)))
    suites = {suite.get("name"): suite for suite in root}
    assert set(suites) == {"gpu-image", "stand-in"}
    suite = suites["gpu-image"]
    assert [suite.get(name) for name in ("tests", "failures", "errors", "skipped")] == ["28", "9", "4", "4"]
    case = next(one for one in suite if one.get("name") == "gpu-image/pyro-ppl-1.8.0/import")
    skipped = case.find("skipped")
    assert skipped is not None
    assert skipped.get("message") == "known: asserts torch 1.x (unsupported: version-assert)"


def test_everything_is_written(tmp_path: Path) -> None:
    """Markdown, HTML, JSON and JUnit beside each other."""
    names = ["junit.xml", "report.html", "report.json", "report.md"]
    journal = write(tmp_path / "journal.jsonl", records())
    found = compile_report(journal, tmp_path / "out", journal)
    assert sorted(path.name for path in (tmp_path / "out").iterdir()) == names
    data = json.loads((tmp_path / "out" / "report.json").read_text())
    assert len(data["outcomes"]) == 56
    assert data["changes"]["failing"] == []
    assert (len(found.table.surprises), len(found.table.incomplete)) == (18, 8)


@pytest.mark.parametrize(
    ("earlier", "said"), [("1", "0{64}, moved from sha256:1{64} "), ("0", "0{64} "), ("", "0{64} ")]
)
def test_a_tag_that_moved_is_told(tmp_path: Path, earlier: str, said: str) -> None:
    """Its digest, and the one that it had in the last run of the image."""
    runs = {"20250101T000000-aaaa": earlier, "20260101T000000-bbbb": "0"}
    for run, digest in runs.items():
        found = records()
        found[0]["run"] = run
        next(record for record in found if record.get("digest"))["digest"] = digest and f"sha256:{digest * 64}"
        (tmp_path / "runs" / run).mkdir(parents=True)
        write(tmp_path / "runs" / run / "journal.jsonl", found)
    history.sync(tmp_path)
    compile_report(tmp_path / "runs" / run / "journal.jsonl", tmp_path / "out")
    assert re.search(rf"\| sha256:{said}", (tmp_path / "out" / "report.md").read_text())
    environments = json.loads((tmp_path / "out" / "report.json").read_text())["environments"].values()
    moved = [record["moved_from"] for record in environments if "moved_from" in record]
    assert moved == ([f"sha256:{earlier * 64}"] if earlier == "1" else [])


@given(st.text())
def test_recorded_words_cannot_change_the_table(words: str) -> None:
    """Whatever was recorded, a cell stays one cell and shows just these words."""
    rendered = MarkdownIt("commonmark").enable("table").render(f"| a | b |\n|---|---|\n| {text(words)} | end |\n")
    assert rendered.count("<td>") == 2
    assert "<td>end</td>" in rendered
    assert not {"<em>", "<strong>", "<a ", "<code>", "<img", "<b>", "<script"} & set(
        rendered.replace(">", "> ").split()
    )


@given(st.text())
def test_recorded_words_stay_in_their_code_span(words: str) -> None:
    """Backticks and all."""
    rendered = MarkdownIt("commonmark").render(f"- evidence: {code(words)} end")
    assert rendered.count("<code>") == 1
    assert rendered.rstrip().endswith("</code> end</li>\n</ul>")


def test_a_bare_host_writes_the_rest(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """Without Jinja2 everything but report.html, and a word about it."""
    monkeypatch.setitem(sys.modules, "jinja2", None)
    html.environment.cache_clear()
    compile_report(write(tmp_path / "journal.jsonl", records()), tmp_path / "out")
    assert sorted(path.name for path in (tmp_path / "out").iterdir()) == ["junit.xml", "report.json", "report.md"]
    said = "report.html not written: jinja2 is not installed; run `compat report` where it is\n"
    assert capsys.readouterr().out == said
