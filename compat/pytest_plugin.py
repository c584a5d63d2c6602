"""`pytest -m matrix`: each check of the plan is an item, which runs through the same engine as `compat run`.

Every pytest session of its environment imports the plugin.  Without `-m matrix` in a folder that holds a matrix, the
plugin loads nothing of ours and changes nothing.
"""

from __future__ import annotations

from typing import Any

import pytest


def pytest_addoption(parser: pytest.Parser) -> None:
    """The options that `compat run` has too."""
    group = parser.getgroup("compat", "compatibility matrix (pytest -m matrix)")
    group.addoption("--compat-matrix", default="matrix.yaml", help="the matrix file (default: matrix.yaml)")
    group.addoption("--compat-backend", help="where images run: docker, local, here (default: as for `compat run`)")
    group.addoption("--compat-rerun", action="store_true", help="run every check, even where nothing changed")
    group.addoption("--compat-locked", action="store_true", help="take nothing newer than matrix.lock has")
    confirm = "time to ask again what newly fails, once all has run; not with pytest-xdist (0: none)"
    group.addoption("--compat-confirm", type=float, default=0, metavar="MINUTES", help=confirm)
    several: dict[str, Any] = {"action": "append", "default": []}
    variable = "a variable of the matrix, as `--set` of `compat run`"
    group.addoption("--compat-set", metavar="NAME=VALUE", help=variable, **several)
    size = "report.md is no longer than this (900KiB)"
    group.addoption("--compat-max-bytes", default="900KiB", metavar="SIZE", help=size)
    group.addoption("--compat-select", metavar="SELECTOR", help="a selector, as in `compat run`", **several)


def pytest_configure(config: pytest.Config) -> None:
    """Act only in a session that asks for the matrix and has one."""
    config.addinivalue_line("markers", "matrix: a check of the compatibility matrix (pytest -m matrix)")
    matrix = (config.invocation_params.dir / config.getoption("compat_matrix")).resolve()
    if str(config.getoption("markexpr") or "").split() != ["matrix"] or not matrix.is_file():
        return
    from torch_compat_matrix.compat.pytest_session import MatrixSession

    session = MatrixSession(config, matrix)
    config.pluginmanager.register(session, "compat-matrix-session")
    session.open()
    named = [(config.invocation_params.dir / str(argument).partition("::")[0]).resolve() for argument in config.args]
    if matrix not in named:
        config.args = [str(matrix)]  # the project's own tests are not even imported
