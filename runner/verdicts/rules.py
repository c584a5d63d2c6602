"""All rules in their order, which is their precedence: from the particular to the general."""

from __future__ import annotations

from torch_compat_matrix.runner.verdicts.rules_loading import LOADING
from torch_compat_matrix.runner.verdicts.rules_machine import MACHINE
from torch_compat_matrix.runner.verdicts.rules_packages import PACKAGES

RULES = (*LOADING, *MACHINE, *PACKAGES)
