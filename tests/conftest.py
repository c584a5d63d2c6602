"""Fixtures of the project's own tests, and the time that each of them has."""

import os
import subprocess
import sys
from collections.abc import Generator
from pathlib import Path

import hypothesis
import pytest

from tests.support.bytecode import compile_product
from tests.support.environments import torch_python

os.environ["PYTHONDONTWRITEBYTECODE"] = "1"  # the tests' environments are sealed, and some tests run their interpreters
sys.dont_write_bytecode = False  # workers inherit that, and each would rewrite each test module

# What a busy machine takes for an example says nothing of the product.
hypothesis.settings.register_profile("compat", deadline=None)
hypothesis.settings.load_profile("compat")

__all__ = ["torch_python"]

LIMIT_S = 900
"""Far more than the longest test takes on two cores, with the images and stand-ins that it makes."""


def pytest_configure(config: pytest.Config) -> None:
    """Compile the product, in the process that starts the others."""
    if not hasattr(config, "workerinput"):
        compile_product()


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """A test that waits for ever fails and shows where, instead of stopping the whole run; `slow` suites take hours.

    Those that take minutes come first, so that no worker is left alone with one at the end.
    """
    items.sort(key=lambda item: -max((mark.kwargs.get("minutes", 0) for mark in item.iter_markers("share")), default=0))
    for item in items:
        if item.path.is_relative_to(Path(__file__).parent) and not item.get_closest_marker("slow"):
            item.add_marker(pytest.mark.timeout(LIMIT_S))


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(
    item: pytest.Item, call: pytest.CallInfo[None]
) -> Generator[None, pytest.TestReport, pytest.TestReport]:
    """Beside the stack of a test that waited for ever, the processes that it may have waited for."""
    report = yield
    waited = call.excinfo is not None and "from pytest-timeout" in str(call.excinfo.value)
    if waited and "unit" not in item.path.parts:  # unit tests start none, and may not
        columns = ["ps", "axfwwo", "pid,etimes,stat,wchan:24,args"]
        report.sections.append(("Processes", subprocess.run(columns, capture_output=True, text=True).stdout))
    return report
