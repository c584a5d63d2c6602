"""`compat docs`: write what of docs/ comes from the code."""

from __future__ import annotations

import argparse
from pathlib import Path

from runner.cli import Status


def main(options: argparse.Namespace) -> Status:
    """Write docs/matrix.schema.json and docs/reasons/ of the checkout at hand."""
    from runner.pages import pages
    from runner.schema import schema

    folder = Path("docs")
    (folder / "reasons").mkdir(parents=True, exist_ok=True)
    (folder / "matrix.schema.json").write_text(schema())
    for name, content in pages().items():
        (folder / "reasons" / name).write_text(content)
    print(f"written: {folder / 'matrix.schema.json'}, {folder / 'reasons'}")
    return Status.AS_EXPECTED
