"""A library comes from its own install, and from nowhere else."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from torch_compat_matrix.probes import child, evidence


@pytest.mark.parametrize("brings", [False, True])
def test_a_release_that_brings_nothing_may_lie_elsewhere(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, brings: bool
) -> None:
    """As functorch 2.0.0, whose package is a part of torch; one that should bring its code may not."""
    folder = tmp_path / "shim-1.0.dist-info"
    folder.mkdir()
    (folder / "METADATA").write_text("Metadata-Version: 2.1\nName: shim\nVersion: 1.0\n")
    (folder / "RECORD").write_text("shim-1.0.dist-info/METADATA,,\n" + "shim.py,,\n" * brings)
    (tmp_path / "shim.py").touch()  # from Python 3.12 on, a file that is absent is not counted
    monkeypatch.syspath_prepend(str(tmp_path))
    cell: Any = {"overlay": str(tmp_path), "added": ["shim"]}
    if not brings:
        child._right_place(json, "shim", cell)
        return
    with pytest.raises(evidence.Broken, match="json comes from"):
        child._right_place(json, "shim", cell)
