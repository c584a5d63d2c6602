"""The matrix options of this checkout under their earlier, shorter names; the plugin itself is compat/pytest_plugin.py.

In a user's pytest these names may be those of another plugin, so that only this checkout has them.
"""

import pytest


def pytest_addoption(parser: pytest.Parser) -> None:
    """Other spellings of `--compat-matrix`, `--compat-backend`, `--compat-rerun` and `--compat-select`."""
    group = parser.getgroup("compat")
    group.addoption("--matrix", dest="compat_matrix", default="matrix.yaml", help="--compat-matrix")
    group.addoption("--backend", dest="compat_backend", help="--compat-backend")
    group.addoption("--fresh", dest="compat_rerun", action="store_true", help="--compat-rerun")
    group.addoption("--select", dest="compat_select", action="append", default=[], help="--compat-select")
