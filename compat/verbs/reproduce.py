"""Write a folder for a bug report: a script with a probe's failing part, exact pins, a Dockerfile, the issue. The
script is run where the check ran; the exit status is 1 where it does not fail the same way.

check CHECK  a failed check: image/library-version/probe
--run RUN = latest  id of the run, or its beginning (%(default)s)
--out DIR  the folder (default: reproduce/CHECK)

compat reproduce torch-2.13/pyro-ppl-1.8.0/import
compat reproduce captum-0.6.0/sample --run 20260801 --out report
"""

from __future__ import annotations

import argparse
import tempfile
from dataclasses import replace
from pathlib import Path

from torch_compat_matrix.compat.progress import answer, say
from torch_compat_matrix.compat.verbs.report import short
from torch_compat_matrix.runner.advice import reproducer
from torch_compat_matrix.runner.advice.derived_image import dockerfile
from torch_compat_matrix.runner.advice.extraction import Unextractable
from torch_compat_matrix.runner.backends.base import Backend, Command, connect
from torch_compat_matrix.runner.errors import CompatError, NothingSelected, Status, UsageError, writing
from torch_compat_matrix.runner.model import Plan, Verdict, utc_now
from torch_compat_matrix.runner.outcome import Outcome
from torch_compat_matrix.runner.packages.pip_config import Index
from torch_compat_matrix.runner.pins import name_of, version_of
from torch_compat_matrix.runner.planning import chosen
from torch_compat_matrix.runner.records.runs import Run, home
from torch_compat_matrix.runner.selector import Checks
from torch_compat_matrix.runner.workflow import run_command

START_S = 60
"""Seconds in which an interpreter starts and imports torch, which a time-out of a probe did not count."""


def main(options: argparse.Namespace) -> Status:
    selector = chosen(options.check, options.run)
    current = Run.open(home(), selector.run if isinstance(selector, Checks) else options.run)
    outcome = _failure([seen for seen in current.outcomes().values() if selector.takes(seen.address)], options.check)
    header, plan = current.header(), current.plan()
    (cell,) = (cell for cell in plan.cells if cell.id == outcome.cell)
    (image,) = (image for image in plan.images if image.name == cell.image)
    settings = header.get("settings", {})
    try:
        script = reproducer.script(outcome, cell, plan.modules, settings.get("seed", 0), bool(settings.get("full")))
    except Unextractable as error:
        raise UsageError(f"its failing part cannot stand alone: {error}", place=outcome.check) from error
    # exactly what was installed then, whatever the index has now
    exact = replace(cell, requires=outcome.resolved or cell.requires, probes=(outcome.probe,))
    say(f"verifying that it fails the same way, on {header['backend']}")
    status, verified, collected = _verify(
        replace(plan, images=(image,), cells=(exact,)), header["backend"], outcome, script
    )
    environment = current.environments().get(outcome.environment, {})
    sources = Index.from_pip().beside(cell)
    added = {name_of(pin): version_of(pin) for pin in outcome.resolved}
    facts = environment.get("facts", {})
    torch = (facts.get("torch") or {}).get("version", "")
    bare = f"python -m venv venv && venv/bin/pip install torch=={torch.partition('+')[0]} -r requirements.txt"
    commands = [bare, "venv/bin/python reproduce.py"]
    inside = ["# or, in the image:", "docker build -t reproduce . && docker run --rm reproduce"]
    commands += inside if image.tag else []
    texts = {
        "reproduce.py": script,
        "requirements.txt": "".join(f"{line}\n" for line in (*sources.lines(), *outcome.resolved)),
        "ISSUE.md": reproducer.issue(outcome, cell, plan.modules, environment, verified, collected, commands),
    }
    if image.tag:
        remarks = [f"Written by `compat reproduce {outcome.check}`."]
        remarks += ["Recorded in a stand-in; the image itself was not run."] if environment.get("stand_in") else []
        digest = environment.get("digest") or image.digest or ""
        texts["Dockerfile"] = dockerfile(
            image, digest, facts.get("packages", {}), added, remarks, script="reproduce.py"
        )
    folder = options.out or Path("reproduce") / outcome.check.replace("/", "_")
    with writing(folder, "name another folder with --out"):
        folder.mkdir(parents=True, exist_ok=True)
        for name, text in texts.items():
            (folder / name).write_text(text)
    answer(f"{outcome.check}: {verified}")
    answer(f"written: {', '.join(str(short(folder / name)) for name in texts)}")
    if not image.tag:
        answer(f"No Dockerfile: {image.name} has no `tag:`.")
    return status


def _failure(seen: list[Outcome], text: str) -> Outcome:
    """The only failure among the outcomes that something that ran has shown."""
    failed = [outcome for outcome in seen if outcome.verdict.broken]
    ran = [outcome for outcome in failed if outcome.environment]
    if len(ran) == 1:
        return ran[0]
    if len(ran) > 1:
        names = ", ".join(outcome.check for outcome in ran[:6])
        raise UsageError(f"{text!r} is {len(ran)} failures", f"name one of them: {names}", "reproduce")
    if failed:
        raise NothingSelected(f"{failed[0].check}: nothing ran ({failed[0].reason}); `compat show` has its explanation")
    raise NothingSelected(f"{text}: {'no failure' if seen else 'no outcome'} in the run; `compat runs` lists the runs")


def _verify(plan: Plan, name: str, outcome: Outcome, script: str) -> tuple[Status, str, str]:
    """Status, words and the environment as torch's own tool collects it, empty where it could not be asked."""
    limit = plan.images[0].limits.seconds(outcome.probe)
    patience = limit + START_S if outcome.verdict is Verdict.TIMEOUT else 3 * limit
    try:
        backend = connect(name, home())
        seen, output = _run(plan, backend, ("python", "reproduce.py"), script, patience)
        asked, collected = _run(plan, backend, ("python", "-m", "torch.utils.collect_env"), script, 3 * limit)
    except CompatError as error:
        return Status.INCOMPLETE, f"not verified: {reproducer.portable(str(error))}", ""
    where = f"on {utc_now()} by the backend {name}"
    collected = "" if asked else collected
    if reproducer.fails_alike(outcome, seen, output):
        return Status.AS_EXPECTED, f"the script fails the same way, run {where}", collected
    said = reproducer.portable(reproducer.headline(output)) or "no exception"
    words = f"the script does NOT fail the same way, run {where}: exit status {seen}, {said}"
    return Status.SURPRISES, words, collected


def _run(plan: Plan, backend: Backend, words: tuple[str, ...], script: str, limit: float) -> tuple[int, str]:
    with tempfile.TemporaryFile() as output:
        command = Command(words=words, files={"reproduce.py": script.encode()}, output=output, timeout_s=limit)
        status = run_command(plan, backend, command, lambda text: None)
        output.seek(0)
        return status, output.read(1 << 20).decode(errors="replace")
