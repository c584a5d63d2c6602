"""What `--json` prints fits the published schemas, and holds nothing else."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import jsonschema
import pytest

from docs.generate import schemas
from tests.support import ROOT, journals
from torch_compat_matrix.compat.answers import ANSWERS
from torch_compat_matrix.compat.cli import main
from torch_compat_matrix.compat.options import parser, verbs_of

FIRST, SECOND = "20260101T000000", "20260102T000000"
MATRIX = "images: { small: { tag: 'example/small:1' } }\nlibraries: { captum: { versions: ['0.9.0'] } }\n"


@pytest.fixture
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder with a matrix and two runs, of which the later has one verdict more that is bad."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("COMPAT_HOME", str(tmp_path / ".compat"))
    (tmp_path / "matrix.yaml").write_text(MATRIX)
    for run, change in ((FIRST, {}), (SECOND, {"stand-in/torchbnn-1.2/import": "fail"})):
        records = [{**record, "run": run} if record["kind"] == "run" else record for record in journals.records(change)]
        journals.write(tmp_path / ".compat" / "runs" / run / "journal.jsonl", records, torn=False)
    return tmp_path


def printed(capsys: pytest.CaptureFixture[str], *words: str) -> Any:
    """The JSON that a command prints, which fits the schema of its verb."""
    capsys.readouterr()
    main(words)
    answer = json.loads(capsys.readouterr().out)
    schema = json.loads((ROOT / "docs" / "schemas" / f"{words[0]}.json").read_text())
    jsonschema.Draft202012Validator(schema).validate(answer)
    return answer


def test_schemas_are_those_of_the_code() -> None:
    """docs/schemas is what the types say (`python -m docs.generate` writes it)."""
    assert {path.name: path.read_text() for path in (ROOT / "docs" / "schemas").iterdir()} == schemas()


def test_verb_with_json_has_a_schema() -> None:
    """And the other way round."""
    verbs = verbs_of(parser())
    assert {name for name in verbs if "--json" in verbs[name]._option_string_actions} == ANSWERS.keys()


@pytest.mark.parametrize(
    "words",
    [
        "runs --json",
        "show * --json",
        "show stand-in/torchbnn-1.2/import --json --run 20260101",
        "history --json",
        "history torchbnn --json",
        "diff --json",
        "diff 20260101 20260102 --json",
        "plan --backend docker --json",
        "advise nonesuch-is-refused captum --gpu none --json",
        "advise captum --gpu none --json",
        "doctor --backend here --json",
    ],
)
def test_answer_fits_its_schema(words: str, home: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """All of standard output is one document."""
    if "refused" in words:
        assert main(words.split()) == 2
        assert capsys.readouterr().out == ""
    else:
        assert printed(capsys, *words.split())


def test_report_fits_its_schema(home: Path) -> None:
    """Each outcome says how it stands to the check's own last verdict."""
    main(["report", SECOND])
    report = json.loads((home / ".compat" / "runs" / SECOND / "report.json").read_text())
    jsonschema.validate(report, json.loads((ROOT / "docs" / "schemas" / "report.json").read_text()))
    states = {outcome["check"]: outcome["state"] for outcome in report["outcomes"]}
    assert [check for check, state in states.items() if state == "new"] == ["stand-in/torchbnn-1.2/import"]
    assert {*states.values()} == {"new", "still", "same", "no-base"}


def test_answers_say_what_the_words_say(home: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """The check that newly fails, in each of them."""
    check = "stand-in/torchbnn-1.2/import"
    assert printed(capsys, "diff", "--json")["failing"] == [check]
    (shown,) = printed(capsys, "show", check, "--json")["outcomes"]
    assert (shown["outcome"]["verdict"], shown["reproduce"].split()[-1]) == ("fail", check)
    (timeline,) = printed(capsys, "history", check, "--json")["timelines"]
    assert [(seen["run"], seen["verdict"]) for seen in timeline["outcomes"]] == [(FIRST, "pass"), (SECOND, "fail")]
    assert [row["run"] for row in printed(capsys, "runs", "--json")] == [SECOND, FIRST]
    (cell,) = printed(capsys, "plan", "--backend", "docker", "--json")["cells"]
    assert (cell["image"], cell["subject"]) == ("small", "captum")


def test_no_run_is_an_empty_list(
    capsys: pytest.CaptureFixture[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Not a sentence."""
    monkeypatch.setenv("COMPAT_HOME", str(tmp_path))
    assert printed(capsys, "runs", "--json") == []


def test_file_is_written_as_before(home: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """With a name behind --json the answer is words, and the file the document."""
    main(["diff", "--json", "changes.json", FIRST, SECOND])
    said = capsys.readouterr().out
    assert f"{SECOND} (" in said
    assert json.loads(Path("changes.json").read_text()) == printed(capsys, "diff", FIRST, SECOND, "--json")
