"""Upstream's own tests: a selection of a library's test files under pytest, in a process of its own in the cell.

pytest and the tests come in two folders beside the cell's overlay. Their packages stand last on the path, so that they
change nothing for anybody else, and the tests run in a copy, so that no run leaves anything to the next.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import tempfile
import time
from typing import Any, Dict, Iterator, List, Tuple
from xml.etree import ElementTree

from .contract import SuiteOrder

SUITE = "suite"
MOST_FAILURES = 200
"""The failing tests that are told one by one."""
NAMED = 5
"""Those of them that the message names."""


def answer(order: SuiteOrder, module: str) -> Dict[str, Any]:
    """Run the tests of the library that is imported as `module`, and describe what failed.

    A test that fails in the reference image too is upstream's own failure, and left out of the verdict.
    """
    started = time.perf_counter()
    seen: Dict[str, Any] = {"kind": "result", "notes": [order["source"]]}
    seen.update(_seen(order, module))
    seen["seconds"] = time.perf_counter() - started
    return seen


def _seen(order: SuiteOrder, module: str) -> Dict[str, Any]:
    top = module.partition(".")[0]
    if {top, f"{top}.py"}.intersection(os.listdir(order["tests"])):
        message = f"`select:` takes {top} along, which would be tested in place of the installed one"
        return {"status": "failed", "code": "suite-not-run", "message": message}
    folder = tempfile.mkdtemp(prefix="suite-")
    root, report = os.path.join(folder, "source"), os.path.join(folder, "junit.xml")
    shutil.copytree(order["tests"], root, symlinks=True)
    for place, _, _ in os.walk(root):
        os.chmod(place, 0o700)
    path = os.pathsep.join(filter(None, [os.environ.get("PYTHONPATH"), order["packages"]]))
    plain = ("-q", "--tb=short", "--color=no", "-p", "no:cacheprovider", "-o", "addopts=")
    ended = subprocess.run(
        [sys.executable, "-m", "pytest", *plain, f"--junitxml={report}", f"--rootdir={root}", *order["select"]],
        cwd=root,
        env=dict(os.environ, PYTHONPATH=path, PYTHONDONTWRITEBYTECODE="1"),
        stdin=subprocess.DEVNULL,
        check=False,
    )
    try:
        tests = list(_tests(ElementTree.parse(report)))
    except (OSError, ElementTree.ParseError):
        tests = []
    shutil.rmtree(folder, ignore_errors=True)
    return judged(tests, ended.returncode, order)


def _tests(report: Any) -> Iterator[Tuple[str, str, float, str]]:
    """Name, status, seconds and message of each test."""
    for case in report.iter("testcase"):
        name = ".".join(filter(None, [case.get("classname"), case.get("name")]))
        found = [(tag, case.find(tag)) for tag in ("failure", "error", "skipped")]
        kind, node = next(((tag, node) for tag, node in found if node is not None), ("passed", None))
        status = {"failure": "failed", "error": "failed"}.get(kind, kind)
        message = "" if node is None else (node.get("message") or node.text or "").strip().partition("\n")[0][:300]
        yield name, status, float(case.get("time") or 0), message


def judged(tests: List[Tuple[str, str, float, str]], status: int, order: SuiteOrder) -> Dict[str, Any]:
    """The answer for these tests, where pytest ended with that status."""
    known, reference = set(order["known"]), order["reference"]
    counts = {kind: sum(test[1] == kind for test in tests) for kind in ("passed", "failed", "skipped")}
    failed = {name: (seconds, message) for name, kind, seconds, message in tests if kind == "failed"}
    new = [name for name in failed if name not in known]
    counts["failed at the reference too"] = len(failed) - len(new)
    seen: Dict[str, Any] = {
        "status": "passed",
        "metrics": {f"tests {kind}": {"value": count, "unit": "tests"} for kind, count in counts.items()},
        "parts": [_part(name, *failed[name], name in known, reference) for name in list(failed)[:MOST_FAILURES]],
    }
    if new:
        shown = ", ".join(new[:NAMED]) + (f" and {len(new) - NAMED} more" if new[NAMED:] else "")
        which = f"that do not fail on {reference}" if reference else "and no reference tells which are upstream's own"
        message = f"{len(new)} of {len(tests)} tests fail {which}: {shown}"
        seen.update(status="failed", code="suite-failed", message=message)
    elif status not in (0, 1) or not tests:  # 0: all pass; 1: some failed
        seen.update(status="failed", code="suite-not-run", message=f"pytest ended with status {status} and no test")
    elif counts["skipped"] == len(tests):
        seen.update(status="skipped", message=f"all {len(tests)} tests are skipped: {tests[0][3]}")
    return seen


def _part(name: str, seconds: float, message: str, is_known: bool, reference: str) -> Dict[str, Any]:
    if is_known:
        return {"name": name, "status": "skipped", "seconds": seconds, "message": f"fails on {reference} too"}
    return {"name": name, "status": "failed", "seconds": seconds, "code": "suite-failed", "message": message}
