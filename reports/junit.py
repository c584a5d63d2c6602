"""The table as JUnit XML: a suite per image, a case per check; known failures are skipped, host trouble is an error."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from functools import lru_cache
from xml.sax.saxutils import escape, quoteattr

from torch_compat_matrix.reports.table import Table, waits
from torch_compat_matrix.runner.judging import Judged
from torch_compat_matrix.runner.model import Verdict
from torch_compat_matrix.runner.text import inert

HEAD = '<?xml version="1.0" encoding="utf-8"?>\n<testsuites name="torch-compat-matrix">\n'
COUNTED = {"failures": "failure", "errors": "error", "skipped": "skipped"}
SHOWN = (
    *("verdict", "grade", "reason", "blame", "device", "device_name", "installed", "install_note", "left_out"),
    *("reused", "confirmation", "unconfirmed", "quarantined"),
)
"""The fields of an outcome that are properties of its case."""


def junit(table: Table) -> Iterator[str]:
    """The document in pieces: a hundred thousand cases need not be in memory at once."""
    yield HEAD
    expectations = [judged for judged in table.expectations if judged.outcome.verdict is not Verdict.NOT_RUN]
    cases: dict[str, list[Judged]] = {image: [] for image in table.images}
    for judged in (*table.judged, *expectations):
        if judged.outcome.image in cases:
            cases[judged.outcome.image].append(judged)
    for image, of_image in cases.items():
        kinds = [_result(judged)[0] for judged in of_image]
        began = str(table.header.get("started", "")).partition("+")[0]
        seconds = f"{sum(judged.outcome.seconds for judged in of_image):.3f}"
        yield from suite(image, kinds, map(_case, of_image), timestamp=began, time=seconds)
    yield "</testsuites>\n"


def suite(name: str, kinds: Sequence[str], cases: Iterable[str], **more: str) -> Iterator[str]:
    """A suite of cases, whose elements are of these kinds: `failure`, `error`, `skipped`, or empty for a pass."""
    counts = {word: str(kinds.count(kind)) for word, kind in COUNTED.items()}
    yield f"  <testsuite{_attributes({'name': name, 'tests': str(len(kinds)), **more, **counts})}>\n"
    yield from cases
    yield "  </testsuite>\n"


def case(names: dict[str, str], kind: str, message: str, body: str, properties: str = "") -> str:
    """A case with what came of it."""
    result = f"<{kind}{_attributes({'message': message})}>{escape(inert(body))}</{kind}>" if kind else ""
    return f"    <testcase{_attributes(names)}>{properties}{result}</testcase>\n"


def _case(judged: Judged) -> str:
    outcome = judged.outcome
    names = {"name": outcome.check, "classname": outcome.image, "time": f"{outcome.seconds:.3f}"}
    properties = {name: getattr(value, "value", value) for name in SHOWN for value in [getattr(outcome, name)] if value}
    listed = "".join(f"<property{_attributes({'name': name, 'value': value})}/>" for name, value in properties.items())
    return case(names, *_result(judged), properties=f"<properties>{listed}</properties>")


def _result(judged: Judged) -> tuple[str, str, str]:
    """The case's element: its name (empty for a pass), message and text."""
    outcome = judged.outcome
    message = f"{outcome.verdict.value}: {outcome.reason}"
    body = "\n".join(filter(None, (outcome.detail, outcome.evidence, outcome.guess, outcome.remedy, outcome.traceback)))
    if judged.surprise == "unexpected pass" and judged.known:
        return "failure", f"unexpected pass; known: {judged.known.reason}", ""
    if outcome.verdict is Verdict.PASS:
        return "", "", ""
    if outcome.verdict is Verdict.SKIP:
        return "skipped", f"{outcome.reason}: {outcome.detail}", ""
    if waits(outcome):
        return "skipped", outcome.detail, ""
    if not outcome.verdict.final:
        return "error", message, body
    if outcome.quarantined and not judged.surprise:
        return "skipped", f"quarantined: {outcome.quarantined} ({message})", ""
    if judged.known and not judged.surprise:
        return "skipped", f"known: {judged.known.reason} ({message})", ""
    return "failure", message, body


def _attributes(named: dict[str, str]) -> str:
    return "".join(f" {name}={_quoted(value)}" for name, value in named.items())


@lru_cache(4096)
def _quoted(value: str) -> str:
    return quoteattr(inert(value))
