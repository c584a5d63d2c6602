"""Print the JSON schema of matrix.yaml, for an editor. It is that of the installed version.

--out FILE  write it to a file instead

compat schema
compat schema --out matrix.schema.json
"""

from __future__ import annotations

import argparse

from torch_compat_matrix.compat.progress import answer
from torch_compat_matrix.runner.errors import Status, writing
from torch_compat_matrix.runner.matrix.schema import json_schema


def main(options: argparse.Namespace) -> Status:
    if options.out is None:
        answer(json_schema(), end="")
        return Status.AS_EXPECTED
    with writing(options.out, "name another file with --out"):
        options.out.write_text(json_schema())
    return Status.AS_EXPECTED
