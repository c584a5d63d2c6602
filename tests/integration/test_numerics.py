"""What two versions of a library compute differently, by a user's commands, and numbers that vary by themselves."""

from __future__ import annotations

import json
from pathlib import Path

from tests.integration.test_own_probes import compat, outcomes
from tests.support.environments import HOME
from tests.support.tinywheels import wheel

LIBRARY = """
from pathlib import Path

def attribution(x):
    return {factor} * float(Path({file!r}).read_text()) * x
"""

PROBES = """
import acme

from ..evidence import close

DISTRIBUTION = "acme"
MODULE = "acme"


def sample(probe):
    x = probe.randn(8)
    with probe.part("values"):
        close(acme.attribution(x), x, "attribution", rtol=0.2)
        close(x + 1, x + 1, "sum")
"""

MATRIX = """
probes: [import, sample, ./probes]
images: { small: { local: { python: "3.11", requires: ["torch==2.13.0", numpy] } } }
libraries: { acme: { versions: [./links/acme-1.0-py3-none-any.whl, ./links/acme-2.0-py3-none-any.whl] } }
"""


def test_versions_that_compute_differently_and_numbers_that_vary(tmp_path: Path, torch_python: str) -> None:
    """By verb and in the report; the same pins with other numbers are a failure that blames nobody."""
    outside = tmp_path / "factor"
    outside.write_text("1")
    for version, factor in (("1.0", 1.05), ("2.0", 1.0)):
        code = LIBRARY.format(factor=factor, file=str(outside))
        wheel(tmp_path / "links", "acme", version, files={"acme/__init__.py": code})
    (tmp_path / "probes").mkdir()
    (tmp_path / "probes" / "acme.py").write_text(PROBES)
    (tmp_path / "matrix.yaml").write_text(MATRIX)
    (tmp_path / ".compat").mkdir()
    (tmp_path / ".compat" / "standins").symlink_to(HOME.absolute() / "standins")

    compat(tmp_path, "run", "--backend", "local")
    said = compat(tmp_path, "numerics", "small/acme-wheel-1.0", "small/acme-wheel-2.0")
    assert said == (
        "small/acme-wheel-1.0 -> small/acme-wheel-2.0: 1 of 2 differ\n"
        "  sample: values: attribution differs by 4.8 %\n"
        "  the other 1: exactly the same\n"
    )
    (report,) = (tmp_path / ".compat" / "runs").glob("*/report.md")
    told = "sample: values: attribution differs by 4.8 %; the other 1 exactly the same"
    assert f"- small/acme-wheel-1.0 -&#62; small/acme-wheel-2.0: {told}" in report.read_text()

    outside.write_text("1.02")
    compat(tmp_path, "run", "acme-wheel-2.0", "--backend", "local", "--rerun", status=1)
    failed = outcomes(tmp_path)["sample"]
    assert (failed["verdict"], failed["reason"], failed["blame"]) == ("fail", "wrong-value", "unknown")
    assert failed["evidence"] == "sample: values: attribution differs by 2 %; the other 1 exactly the same"
    (row,) = json.loads(compat(tmp_path, "numerics", "latest", "small/acme-wheel-1.0", "--json"))["comparisons"]
    assert row["results"] == 2
