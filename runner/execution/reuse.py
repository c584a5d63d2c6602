"""Keys of all that an outcome depends on: under an unchanged key, a check need not run again."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import asdict, replace
from functools import cache
from pathlib import Path
from typing import Any

from torch_compat_matrix.runner.backends.base import Gpu, Prepared, environment_of
from torch_compat_matrix.runner.bundle import probes_of
from torch_compat_matrix.runner.execution.protocol import Work
from torch_compat_matrix.runner.judging import matching
from torch_compat_matrix.runner.model import SUITE, Known, Module, Verdict, digest
from torch_compat_matrix.runner.outcome import Outcome
from torch_compat_matrix.runner.packages.suites import Suite

SETTLED = (Verdict.PASS, Verdict.FAIL, Verdict.UNSUPPORTED, Verdict.SKIP)
"""The verdicts that come again under the same key; a crash, a time-out and a lack of memory need not."""


def keys(
    work: Work,
    prepared: Prepared,
    gpus: Sequence[Gpu],
    settings: Mapping[str, Any],
    backend: str,
    modules: tuple[Module, ...] = (),
) -> dict[str, str]:
    """Check id -> key; empty on a host whose GPUs differ, since only the lease decides which GPU a batch gets.

    A key holds the image's identity, the exact packages added and what is said of them, the probes' source and the
    rules that name reasons, GPU model and driver, limits, seed and step counts.
    """
    models = {(gpu.name, gpu.driver) for gpu in gpus}
    image, limits = prepared.image, replace(work.cell.limits(prepared.image.limits), retries=None)
    if (len(models) > 1 and limits.gpus != "none") or image.mounts:  # nobody knows what a mounted folder holds
        return {}
    shared = [
        backend,
        prepared.identity,
        sorted(work.added.items()),
        sorted(work.versions.items()),
        [work.drift, work.notes],
        [source(member, modules) for member in work.cell.members or ("",)],
        sorted(models) if limits.gpus != "none" else [],
        asdict(limits),
        {name: image.expects.get(name) for name in ("tools", "services")},
        work.isolation,
        work.cell.install,
        sorted(settings.items()),
        *([sorted(environment_of(image).items()), image.platform, image.user] if image.surroundings else []),
        *([work.overlay.name] if work.overlay else []),  # it tells private builds of one version apart
    ]
    commands: dict[str, list[Any]] = (
        {} if work.cell.members else {command.name: [asdict(command)] for command in image.commands}
    )
    if isinstance(work.suite, Suite):  # its packages stand behind the key of their folder
        commands[SUITE] = [sorted(work.folders), work.suite.select, work.suite.known]
    return {
        check.id: digest([*shared, check.id, check.probe, *commands.get(check.probe, ())]) for check in work.cell.checks
    }


@cache
def source(member: str, modules: tuple[Module, ...] = ()) -> str:
    """A hash of all code behind a verdict on this library: its probes, the probe host, the rules."""
    room = Path(__file__).parent.parent / "verdicts"
    rules = [*sorted(room.glob("*.py")), *sorted(room.glob("data/*.ini")), Path(__file__).with_name("collect.py")]
    parts = [probes_of(member, modules).encode(), *(path.read_bytes() for path in rules)]
    return hashlib.sha256(b"\0".join(parts)).hexdigest()


def reusable(outcome: Outcome, known: Sequence[Known]) -> bool:
    """Whether an earlier outcome may be reused: no flaky or unconfirmed one, nor where `known:` expects no pass."""
    if outcome.flaky or outcome.unconfirmed or outcome.verdict not in SETTLED or outcome.reason == "import-failed":
        return False
    expected = matching(known, outcome)
    return expected is None or expected.expect is Verdict.PASS
