"""`compat doctor`: checks each backend on this machine, and names remedies."""

from __future__ import annotations

import argparse
import os
from collections.abc import Mapping, Sequence
from pathlib import Path

from torch_compat_matrix.compat.answers import FindingRow
from torch_compat_matrix.compat.progress import answer, answer_json, say
from torch_compat_matrix.runner.backends.base import BACKENDS, Backend, Finding, connect, reap
from torch_compat_matrix.runner.backends.gpus import VISIBLE, offered
from torch_compat_matrix.runner.errors import BackendUnusable, CompatError, Status, Trouble
from torch_compat_matrix.runner.model import Image
from torch_compat_matrix.runner.planning import plan_from
from torch_compat_matrix.runner.records.runs import home
from torch_compat_matrix.runner.text import one_line
from torch_compat_matrix.runner.watch import Say
from torch_compat_matrix.runner.workflow import remedy_of, tell


def main(options: argparse.Namespace) -> Status:
    """Print the findings of each backend; status 4 where the only backend asked for cannot work."""
    worst = Status.AS_EXPECTED
    out = say if options.json else answer
    rows: list[FindingRow] = []
    images = _images(options.matrix, options.backend, dict(options.set), out)
    for name in [options.backend] if options.backend else list(BACKENDS):
        out(f"{name}:")
        findings: Sequence[Finding]
        try:
            backend = connect(name, home())
            reap(backend, lambda text: out(f"  {text}"))
            findings = [*backend.doctor(), backend.room(images), _gpus(backend)]
        except (BackendUnusable, Trouble) as error:
            findings = [Finding(what=name, works=False, detail=str(error), remedy=error.remedy, code=error.code)]
        if options.backend and any(finding.needed and not finding.works for finding in findings):
            worst = Status.NO_BACKEND
        for finding in findings:
            out(f"  {'ok ' if finding.works else 'no '} {finding.what}: {one_line(finding.detail)}")
            if remedy_of(finding):
                out(f"       -> {remedy_of(finding)}")
            rows.append(
                FindingRow(
                    backend=name,
                    what=finding.what,
                    works=finding.works,
                    needed=finding.needed,
                    detail=finding.detail,
                    remedy=remedy_of(finding),
                )
            )
    if options.json:
        answer_json(rows)
    return worst


def _images(matrix: Path, backend: str | None, given: Mapping[str, str], out: Say) -> Sequence[Image]:
    """The images of a plain run, for whose disk space there must be room; none where the matrix is absent or wrong.

    Tells the backend that such a run takes, where none is named.
    """
    try:
        return plan_from(matrix, backend=backend, given=given, say=out).images if matrix.exists() else ()
    except CompatError as error:
        out(tell(error))
        return ()


def _gpus(backend: Backend) -> Finding:
    """The GPUs that the backend may use, and CUDA_VISIBLE_DEVICES, which limits them."""
    gpus, trouble = offered(backend)
    if trouble is not None:
        told = {"detail": str(trouble), "remedy": trouble.remedy, "code": trouble.code}
        return Finding(what="GPU", works=False, needed=False, **told)
    limit = f"; CUDA_VISIBLE_DEVICES={os.environ[VISIBLE]}" if VISIBLE in os.environ else ""
    return Finding(
        what="GPU",
        works=bool(gpus),
        needed=False,
        detail=(", ".join(f"{gpu.name} ({gpu.uuid}, driver {gpu.driver})" for gpu in gpus) or "none found") + limit,
        remedy="" if gpus else "checks will run on the CPU; to use a GPU, `nvidia-smi` must list it",
    )
