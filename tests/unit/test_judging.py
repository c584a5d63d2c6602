"""Surprises: one judgement of an outcome, whoever asks."""

from __future__ import annotations

from pathlib import Path

import pytest

from torch_compat_matrix.runner.judging import matching
from torch_compat_matrix.runner.matrix.document import MatrixError
from torch_compat_matrix.runner.matrix.expand import expand
from torch_compat_matrix.runner.matrix.load import load

MATRIX = """\
images: {{ i: {{ tag: a }}, j: {{ tag: b }} }}
libraries: {{ pyro-ppl: {{ versions: ["1.8.0", "1.9.1"] }}, torch: {{ versions: [installed] }} }}
known:
  - {{ cells: "{cells}", expect: fail, reason: r }}
"""


@pytest.mark.parametrize(
    ("cells", "covered"),
    [
        ("pyro-ppl-1.8.0", 8),
        ("pyro-ppl", 16),
        ("pyro-ppl-1.8.0/import", 2),
        ("i", 12),
        ("*/pyro-ppl-1.8.0", 8),
        ("i/*", 12),
        ("torch", 8),
        ("pyro", 0),
        ("1.8.0", 0),
        ("i/pyro-ppl-1.8.0/imports", 0),
    ],
)
def test_entry_covers_what_it_loads_for(tmp_path: Path, cells: str, covered: int) -> None:
    """An entry means the same when it is read and when it is applied; one that covers no check is refused."""
    path = tmp_path / "matrix.yaml"
    path.write_text(MATRIX.format(cells=cells))
    if not covered:
        with pytest.raises(MatrixError, match=r"matrix\.yaml:4:7: matches no check; did you mean|there are"):
            load(path)
        return
    plan = expand(load(path), "docker")
    assert sum(matching(plan.known, check) is not None for check in plan.checks) == covered
