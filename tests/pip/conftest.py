"""The figures at the end of a run of this suite."""

from __future__ import annotations

import pytest


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    """One line of figures, then each difference; the reports arrive from pytest-xdist's workers, too."""
    reports = [*terminalreporter.stats.get("passed", []), *terminalreporter.stats.get("failed", [])]
    seen = [(report.nodeid, dict(report.user_properties).get("agreement")) for report in reports]
    pairs = [(name.partition("[")[2].removesuffix("]"), *agreement) for name, agreement in seen if agreement]
    if not pairs:
        return
    same = sum(alike for _, alike, *_ in pairs)
    equal, of = (sum(pair[place] for pair in pairs) for place in (2, 3))
    terminalreporter.section("agreement with pip")
    terminalreporter.line(f"{len(pairs)} pairs, {same} of the same class, {equal} of {of} versions equal")
    for name, alike, equal_here, of_here, accepted in pairs:
        if not alike or equal_here != of_here:
            what = f"{equal_here} of {of_here} versions" if alike else "another class"
            terminalreporter.line(f"  {name}: {what}{f' (accepted: {accepted})' if accepted else ''}")
