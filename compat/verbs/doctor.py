"""Check each backend on this machine, with remedies for trouble. The exit status is 4 where the backend asked for
cannot work.

(matrix)
--backend {BACKENDS}  check only this backend
--target NAME  an entry of `targets:` in the matrix
--json  print the findings as JSON

compat doctor
compat doctor --backend docker
"""

from __future__ import annotations

import argparse
import os
from collections.abc import Sequence
from typing import cast

from torch_compat_matrix.compat.answers import FindingRow
from torch_compat_matrix.compat.progress import answer, answer_json, say
from torch_compat_matrix.compat.verbs.plan import plan_asked
from torch_compat_matrix.runner.backends.base import BACKENDS, Backend, Finding, Places, connect, reap
from torch_compat_matrix.runner.backends.gpus import VISIBLE, offered
from torch_compat_matrix.runner.errors import BackendUnusable, CompatError, Status, Trouble
from torch_compat_matrix.runner.model import Plan
from torch_compat_matrix.runner.records.runs import home
from torch_compat_matrix.runner.text import one_line
from torch_compat_matrix.runner.workflow import remedy_of, sweep, tell


def main(options: argparse.Namespace) -> Status:
    worst = Status.AS_EXPECTED
    out = say if options.json else answer
    rows: list[FindingRow] = []
    plan = Plan(images=(), cells=())
    try:  # of a plain run, for which there must be room; it tells the backend, where none is named
        plan = plan_asked(options, say=out) if options.matrix.exists() else plan
    except CompatError as error:
        out(tell(error))
    sweep(out)
    for name in [options.backend] if options.backend else list(BACKENDS):
        out(f"{name}:")
        findings: Sequence[Finding]
        try:
            backend = connect(name, home(), plan.target)
            reap(backend, lambda text: out(f"  {text}"))
            findings = [*backend.doctor(), backend.room(plan.images), _gpus(backend)]
        except (BackendUnusable, Trouble) as error:
            findings = [Finding(what=name, works=False, detail=str(error), remedy=error.remedy, code=error.code)]
        if options.backend and any(finding.needed and not finding.works for finding in findings):
            worst = Status.NO_BACKEND
        for finding in findings:
            out(f"  {'ok ' if finding.works else 'no '} {finding.what}: {one_line(finding.detail)}")
            remedy = remedy_of(finding, name)
            if remedy:
                out(f"       -> {remedy}")
            said = {field: getattr(finding, field) for field in ("what", "works", "needed", "detail")}
            rows.append(cast(FindingRow, {"backend": name, **said, "remedy": remedy}))
    if options.json:
        answer_json(rows)
    return worst


def _gpus(backend: Backend) -> Finding:
    """The GPUs that the backend may use, and CUDA_VISIBLE_DEVICES, which limits them."""
    gpus, trouble = offered(backend)
    if trouble is not None:
        told = {"detail": str(trouble), "remedy": trouble.remedy, "code": trouble.code}
        return Finding(what="GPU", works=False, needed=False, **told)
    way = "name a target that has one (`--target`)" if isinstance(backend, Places) else "`nvidia-smi` must list it"
    limit = f"; CUDA_VISIBLE_DEVICES={os.environ[VISIBLE]}" if VISIBLE in os.environ else ""
    return Finding(
        what="GPU",
        works=bool(gpus),
        needed=False,
        detail=(", ".join(f"{gpu.name} ({gpu.uuid}, driver {gpu.driver})" for gpu in gpus) or "none found") + limit,
        remedy="" if gpus else f"checks will run on the CPU; to use a GPU, {way}",
    )
