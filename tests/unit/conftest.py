"""A unit test starts no process and ends in milliseconds: what needs more is an integration test."""

from __future__ import annotations

import os
import subprocess
from typing import Any, NoReturn

import pytest


@pytest.fixture(autouse=True)
def no_process(monkeypatch: pytest.MonkeyPatch) -> None:
    """Refuse whatever would start a process."""

    def refuse(*arguments: Any, **named: Any) -> NoReturn:
        pytest.fail(f"a unit test starts a process: {arguments}")

    for name in ("fork", "posix_spawn", "system"):
        monkeypatch.setattr(os, name, refuse)
    monkeypatch.setattr(subprocess, "Popen", refuse)
