"""The table as JUnit XML: a suite an image, a case a check; known failures are skipped, host trouble is an error."""

from __future__ import annotations

import re
from xml.etree import ElementTree as xml

from reports.table import Judged, Table
from runner.model import Verdict


def junit(table: Table) -> str:
    """The whole document."""
    root = xml.Element("testsuites", name="torch-compat-matrix")
    for image in table.images:
        said = [one for one in table.expectations if one.outcome.verdict is not Verdict.NOT_RUN]
        cases = [one for one in (*table.judged, *said) if one.outcome.image == image]
        suite = xml.SubElement(root, "testsuite", name=clean(image), tests=str(len(cases)))
        suite.set("timestamp", str(table.header.get("started", "")).partition("+")[0])
        suite.set("time", f"{sum(one.outcome.seconds for one in cases):.3f}")
        for one in cases:
            _case(suite, one)
        for kind, name in (("failure", "failures"), ("error", "errors"), ("skipped", "skipped")):
            suite.set(name, str(len(suite.findall(f"testcase/{kind}"))))
    xml.indent(root)
    return xml.tostring(root, encoding="unicode", xml_declaration=True) + "\n"


def _case(suite: xml.Element, one: Judged) -> None:
    outcome = one.outcome
    case = xml.SubElement(suite, "testcase", name=clean(outcome.check), classname=clean(outcome.image))
    case.set("time", f"{outcome.seconds:.3f}")
    properties = xml.SubElement(case, "properties")
    for name in ("verdict", "reason", "blame", "device", "device_name", "installed"):
        value = getattr(outcome, name)
        if value:
            xml.SubElement(properties, "property", name=name, value=clean(getattr(value, "value", value)))
    said = "\n".join(filter(None, (outcome.detail, outcome.evidence, outcome.remedy, outcome.traceback)))
    message = f"{outcome.verdict.value}: {outcome.reason}"
    if one.surprise == "unexpected pass" and one.known:
        xml.SubElement(case, "failure", message=clean(f"unexpected pass; known: {one.known.reason}"))
    elif outcome.verdict is Verdict.PASS:
        return
    elif outcome.verdict is Verdict.SKIP:
        xml.SubElement(case, "skipped", message=clean(f"{outcome.reason}: {outcome.detail}"))
    elif not outcome.verdict.final:
        xml.SubElement(case, "error", message=clean(message)).text = clean(said)
    elif one.known and not one.surprise:
        xml.SubElement(case, "skipped", message=clean(f"known: {one.known.reason} ({message})"))
    else:
        xml.SubElement(case, "failure", message=clean(message)).text = clean(said)


def clean(text: str) -> str:
    """Text without the characters that XML 1.0 cannot hold."""
    return re.sub(r"[^\t\n\r\x20-\ud7ff\ue000-\ufffd\U00010000-\U0010ffff]", "\ufffd", text)
