"""Decide by the records whether an image may go on, with an excuse for each check. Nothing is run, no tag is moved.

image IMAGE  the image: its name in the matrix or its repository, then `@` and its digest, which is enough where the
    matrix has one image
--policy FILE required  which checks must have passed: docs/gate.md
(matrix)
--plan FILE  a plan that `compat plan --json` wrote, instead of a matrix
--json  print the decision as JSON

compat gate example.com/train@sha256:0123456789abcdef0123456789abcdef0123456789abcdef0123456789abcdef --policy gate.yaml
compat gate train@sha256:0123456789abcdef0123456789abcdef0123456789abcdef0123456789abcdef --policy gate.yaml --json
"""

from __future__ import annotations

import argparse
import datetime as dt
import re
from collections.abc import Iterator
from dataclasses import replace

from torch_compat_matrix.compat.answers import Gated
from torch_compat_matrix.compat.progress import say, tell
from torch_compat_matrix.reports.escape import code, count, text
from torch_compat_matrix.runner.comparison import gate
from torch_compat_matrix.runner.errors import ANOTHER_HOME, NothingSelected, Status, UsageError, did_you_mean, writing
from torch_compat_matrix.runner.model import Plan, repository
from torch_compat_matrix.runner.planning import plan_from
from torch_compat_matrix.runner.records.journal import append
from torch_compat_matrix.runner.records.runs import HomeUnusable, Run, home

STATUS = {
    gate.PROMOTE: Status.AS_EXPECTED,
    gate.HOLD: Status.SURPRISES,
    gate.INCONCLUSIVE: Status.INCOMPLETE,
}
ORDER = (gate.HOLD, gate.INCONCLUSIVE, gate.WAIVED, gate.PROMOTE)


def main(options: argparse.Namespace) -> Status:
    """Print and record the decision: 0 promote, 1 hold, 5 inconclusive."""
    name, _, digest = options.image.rpartition("@")
    if not re.fullmatch(r"sha256:[0-9a-f]{64}", digest):
        raise UsageError(f"{options.image!r} has no digest", "name the image as IMAGE@sha256:...: a tag moves")
    policy, document = gate.load(options.policy)
    whole = plan_from(
        options.matrix,
        backend=policy.backend,
        plan_file=options.plan,
        given=dict(options.set),
        target=policy.target,
        say=say,
    )
    plan = _of(whole, name)
    now = dt.datetime.now(dt.timezone.utc)
    decided, rows, limits = gate.decide(policy, document, plan, digest, Run.all(home()), now)
    decision = Gated(
        decision=decided,
        image=name or plan.images[0].name,
        digest=digest,
        policy=str(options.policy),
        backend=policy.backend,
        target=policy.target,
        max_age=policy.max_age,
        decided=now.isoformat(timespec="seconds"),
        checks=sorted(rows, key=lambda row: ORDER.index(row["state"])),
        not_certified=limits,
    )
    with writing(home(), ANOTHER_HOME, HomeUnusable):  # a decision that is not recorded is none
        home().mkdir(parents=True, exist_ok=True)
        append(home() / "gates.jsonl", {"kind": "gate", **decision})
    tell(options.json, decision, _page(decision))
    return STATUS[decision["decision"]]


def _of(plan: Plan, name: str) -> Plan:
    """The plan of the image of that name or repository alone."""
    found = [image for image in plan.images if not name or image.name == name]
    found = found or [image for image in plan.images if image.tag and name in (image.tag, repository(image.tag))]
    if len(found) != 1:
        names = [image.name for image in found or plan.images]
        why = "several images of the matrix are of" if found else "no image of the matrix is of"
        raise NothingSelected(f"{why} {name or 'it'}{did_you_mean(name, names)}", "name it as NAME@sha256:...")
    cells = tuple(cell for cell in plan.cells if cell.image == found[0].name)
    return replace(plan, images=tuple(found), cells=cells)


def _page(decision: Gated) -> Iterator[str]:
    """The decision as Markdown."""
    states = [row["state"] for row in decision["checks"]]
    counted = ", ".join(f"{states.count(state)} {state}" for state in ORDER if state in states)
    yield from (f"# {decision['decision']}: {code(decision['image'])}", "")
    yield f"{code(decision['digest'])} on {text(decision['backend'])}, target {text(decision['target'])}: {counted}, of"
    yield f"{count(len(states), 'check')} that {code(decision['policy'])} requires. Decided {decision['decided']} by"
    yield from (f"evidence of the last {decision['max_age']}.", "")
    yield from ("| check | state | excuse | evidence |", "|---|---|---|---|")
    for row in decision["checks"]:
        evidence = ", ".join(filter(None, (f"run {row['run']}" if row["run"] else "", row["device"], row["started"])))
        yield f"| {text(row['check'])} | {row['state']} | {text(row['excuse'])} | {text(evidence)} |"
    yield from ("", "Not certified:", "", *(f"- {text(limit)}" for limit in decision["not_certified"]))
