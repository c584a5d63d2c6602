"""An exception tells the chain of its causes, and whose code raised each."""

from __future__ import annotations

import subprocess
import sys
from importlib import metadata
from pathlib import Path
from typing import Any

import packaging
import pytest
from packaging.version import Version

from torch_compat_matrix.probes import evidence
from torch_compat_matrix.probes.exceptions import describe, distribution_of

PACKAGING = f"packaging=={metadata.version('packaging')}"


def described(code: str) -> Any:
    """The observation of the exception that the code raises."""
    try:
        exec(
            compile(code, "<test>", "exec"), {"Version": Version, "packaging": packaging, "version": packaging.version}
        )
    except Exception as error:
        return describe(error)
    raise AssertionError("nothing was raised")


def test_the_deepest_frame_names_the_distribution() -> None:
    """Also where Python's own code raised for it; the probe's own frames and a script name none."""
    (link,) = described("Version('no version')")["chain"]
    assert link["raised_in"] == PACKAGING
    (link,) = described("[].pop()")["chain"]
    assert link["raised_in"] == ""


def test_a_getattr_that_refuses_a_name_has_not_asked_for_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """As NumPy 2 refuses `np.string_` to a library that was written for NumPy 1."""
    for name, body in (("lender", "def __getattr__(name): raise AttributeError(name)"), ("asker", "import lender")):
        (tmp_path / f"{name}.py").write_text(f"{body}\ndef ask(): return lender.gone\n")
        (tmp_path / f"{name}-1.0.dist-info").mkdir()
        (tmp_path / f"{name}-1.0.dist-info" / "METADATA").write_text(f"Name: {name}\nVersion: 1.0\n")
        (tmp_path / f"{name}-1.0.dist-info" / "RECORD").write_text(f"{name}.py,,\n")
    monkeypatch.syspath_prepend(str(tmp_path))
    (link,) = described("import asker; asker.ask()")["chain"]
    assert link["raised_in"] == "asker==1.0"


@pytest.mark.skipif(sys.version_info < (3, 10), reason="only a newer Python keeps the object, and names the class")
@pytest.mark.parametrize(
    "code", ["Version('1').gone", "Version.gone", "Version('1', gone=1)", "version.Version('1', gone=1)", "Version()"]
)
def test_an_attribute_or_a_keyword_is_missed_of_whom_the_class_belongs_to(code: str) -> None:
    """The distribution of the object, or of the class that was called."""
    (link,) = described(code)["chain"]
    assert link["lacking"] == PACKAGING
    (link,) = described("object().gone")["chain"]
    assert link["lacking"] == ""


def test_a_name_that_an_installed_distribution_lacks_is_told_from_one_that_is_not_installed() -> None:
    """By attribute, by import of a name, and by import of a submodule."""
    for code in ("packaging.gone", "from packaging import gone", "import packaging.gone"):
        (link,) = described(code)["chain"]
        assert link["lacking"] == PACKAGING, code
    (link,) = described("import no_such_package")["chain"]
    assert link["lacking"] == ""
    (link,) = described("from collections import Mapping")["chain"]
    assert link["lacking"] == ""


def test_a_namespace_package_belongs_to_whoever_holds_the_module(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """`google` has no file, and is many distributions'."""
    (tmp_path / "spacious" / "part").mkdir(parents=True)
    (tmp_path / "spacious" / "part" / "__init__.py").write_text("")
    (tmp_path / "spacious_part-3.0.dist-info").mkdir()
    (tmp_path / "spacious_part-3.0.dist-info" / "METADATA").write_text("Name: spacious-part\nVersion: 3.0\n")
    (tmp_path / "spacious_part-3.0.dist-info" / "RECORD").write_text("spacious/part/__init__.py,,\n")
    monkeypatch.syspath_prepend(str(tmp_path))
    for code in ("from spacious.part import gone", "import spacious.part.gone", "import spacious.part as p; p.gone"):
        (link,) = described(code)["chain"]
        assert link["lacking"] == "spacious-part==3.0", code


def test_a_decorator_that_hands_keywords_on_has_not_raised(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Whoever named the keyword has."""
    for name, text in (
        ("inner", "def f(): pass\ndef wrapped(*args, **kwargs):\n    return f(*args, **kwargs)\n"),
        ("outer", "import inner\ndef call():\n    inner.wrapped(gone=1)\n"),
    ):
        (tmp_path / f"{name}.py").write_text(text)
        (tmp_path / f"{name}-1.0.dist-info").mkdir()
        (tmp_path / f"{name}-1.0.dist-info" / "METADATA").write_text(f"Name: {name}\nVersion: 1.0\n")
        (tmp_path / f"{name}-1.0.dist-info" / "RECORD").write_text(f"{name}.py,,\n")
    monkeypatch.syspath_prepend(str(tmp_path))
    (link,) = described("import outer; outer.call()")["chain"]
    assert (link["raised_in"], link["lacking"]) == ("outer==1.0", "inner==1.0")


def test_causes_are_told_from_what_was_being_handled() -> None:
    """Only what `raise ... from` names explains the error."""
    chain = described("try:\n  1 / 0\nexcept ZeroDivisionError as e:\n  raise ValueError('x') from e")["chain"]
    assert [(link["type"], link["is_cause"]) for link in chain] == [
        ("ValueError", True),
        ("ZeroDivisionError", True),
    ]
    chain = described("try:\n  1 / 0\nexcept ZeroDivisionError:\n  raise ValueError('x')")["chain"]
    assert [link["is_cause"] for link in chain] == [True, False]


def test_both_ends_of_a_long_message_stay() -> None:
    """The cause may stand in its last line."""
    message = str(described("raise ValueError('first' + 'x' * 100_000 + 'last')")["message"])
    assert message.startswith("first") and message.endswith("last") and len(message) < 10_000


def test_evidence_needs_no_chain() -> None:
    """A probe's own words name their code."""
    assert "chain" not in describe(evidence.Broken("wrong-value", "off"))


@pytest.mark.parametrize("name", ["record", "egg"])
def test_a_file_is_found_in_its_distribution(name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """By RECORD; by top_level.txt where a system's package manager installed it."""
    (tmp_path / f"{name}-1.0.dist-info").mkdir()
    (tmp_path / f"{name}-1.0.dist-info" / "METADATA").write_text(f"Name: {name}\nVersion: 1.0\n")
    (tmp_path / "module.py").write_text("")
    file = ("RECORD", "module.py,,\n") if name == "record" else ("top_level.txt", "module\n")
    (tmp_path / f"{name}-1.0.dist-info" / file[0]).write_text(file[1])
    monkeypatch.syspath_prepend(str(tmp_path))
    assert distribution_of(str(tmp_path / "module.py")) == f"{name}==1.0"
    assert distribution_of(subprocess.__file__) == ""
