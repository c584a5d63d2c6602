"""`compat schema`: prints the JSON schema of matrix.yaml, as the installed version reads it."""

from __future__ import annotations

import argparse

from torch_compat_matrix.compat.progress import answer
from torch_compat_matrix.runner.errors import Status, writing
from torch_compat_matrix.runner.matrix.json_schema import schema


def main(options: argparse.Namespace) -> Status:
    """Print the schema, or write it."""
    if options.out is None:
        answer(schema(), end="")
        return Status.AS_EXPECTED
    with writing(options.out, "name another file with --out"):
        options.out.write_text(schema())
    return Status.AS_EXPECTED
