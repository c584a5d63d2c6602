"""The product's bytecode, made once before the tests: each command that they start would otherwise compile it again."""

from __future__ import annotations

import compileall
import os

from tests.support import ROOT

PACKAGES = ("compat", "probes", "reports", "runner")


def compile_product() -> None:
    """Write what is absent or old; a checkout that cannot be written to is left without.

    Python itself replaces each file at once, so that tests in another process read the old bytecode or the new.
    """
    for package in PACKAGES:
        if os.access(ROOT / package, os.W_OK):
            compileall.compile_dir(ROOT / package, quiet=2)
