"""Show the cells, the packages they add, what is cached and the expected time. Nothing is launched.

(chosen)
--json [FILE=-]  write the plan for a host without pydantic and YAML; without FILE, print it

compat plan
compat plan captum --backend docker
"""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from torch_compat_matrix.compat.options import PRINTED
from torch_compat_matrix.compat.progress import answer, answer_json, say
from torch_compat_matrix.runner.backends.base import connect, reap
from torch_compat_matrix.runner.errors import Status, UsageError, writing
from torch_compat_matrix.runner.execution.durations import Estimate
from torch_compat_matrix.runner.files import to_json, write_private
from torch_compat_matrix.runner.model import MATRIX, Plan
from torch_compat_matrix.runner.planning import appeared, narrowed, plan_from, sharded
from torch_compat_matrix.runner.records.runs import home
from torch_compat_matrix.runner.text import redact
from torch_compat_matrix.runner.watch import Say

if TYPE_CHECKING:
    from torch_compat_matrix.runner.matrix.document import Document


def main(options: argparse.Namespace) -> Status:
    plan = plan_of(options)
    if options.json == PRINTED:
        answer_json(plan.to_json())
        return Status.AS_EXPECTED
    if options.json is None:
        try:
            from torch_compat_matrix.compat.preview import preview
        except ModuleNotFoundError as error:  # a bare host
            raise UsageError(f"{error.name} is not installed here", "write the plan to a file with --json") from error
        backend = connect(plan.backend, home(), plan.target)
        reap(backend, say)
        answer(preview(plan, backend, home()))
        return Status.AS_EXPECTED
    with writing(options.json, "name another file with --json"):
        text = to_json(plan.to_json(), indent=1)
        if redact(text) == text:
            options.json.write_text(text)
        else:
            write_private(options.json, text)
            say(
                f"{options.json} holds the secrets of its URLs: only you may read it; ${{VARIABLE}} in a URL needs none"
            )
    answer(f"plan: {options.json} ({len(plan.cells)} cells, {len(plan.checks)} checks)")
    return Status.AS_EXPECTED


def plan_of(options: argparse.Namespace) -> Plan:
    """The plan that the options of `plan` and `run` ask for."""
    matrix, file = _matrix(options), options.plan
    plan = plan_asked(options, options.selectors, options.probe, matrix, plan_file=file, locked=options.locked)
    if options.new:
        plan = narrowed(plan, appeared(plan))
    return sharded(plan, options.shard, Estimate.load(home()).cell) if options.shard else plan


def plan_asked(
    options: argparse.Namespace,
    selectors: Sequence[str] = (),
    probes: Sequence[str] = (),
    matrix: Path | Document | None = None,
    say: Say = say,
    **more: Any,
) -> Plan:
    """The plan of the matrix and the backend that the options name."""
    asked = {"backend": options.backend, "given": dict(options.set), "target": getattr(options, "target", None), **more}
    return plan_from(matrix or options.matrix, selectors=selectors, probes=probes, say=say, **asked)


def _matrix(options: argparse.Namespace) -> Path | Document:
    """The matrix file, or the document that --image and --lib make in its place."""
    if not options.image and not options.lib:
        matrix: Path = options.matrix
        return matrix
    if options.matrix is not MATRIX or options.plan:
        other = "--plan" if options.plan else "--matrix"
        raise UsageError(f"{other} has images and libraries of its own", f"leave out --image and --lib, or {other}")
    if not options.image and options.backend != "here":
        raise UsageError("--lib needs an image", "name one with --image; --backend here takes this interpreter as one")
    from torch_compat_matrix.runner.matrix.draft import drafted

    return drafted(options.image, options.lib)
