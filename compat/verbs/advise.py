"""Name an image and versions that were verified together, and write a Dockerfile for them.

(matrix)
libraries LIBRARY ...  a distribution: `name` or `name==version`
--backend {BACKENDS}  take evidence from this backend only (default: any); with --run, run on it (default: as verified)
--gpu NAME  take evidence from GPUs of this name, `none`: from the CPU (default: this machine's GPU)
--out DIR  folder of the files (default: advice)
--json  print the answer as JSON
--run  run the combination as a stack now

compat advise pyro-ppl captum gpytorch
compat advise captum==0.9.0 --backend docker --gpu H100
"""

from __future__ import annotations

import argparse
import re
import shlex
import sys
from collections.abc import Iterator, Mapping, Sequence
from contextlib import redirect_stdout
from dataclasses import replace
from pathlib import Path
from typing import Any, cast

from torch_compat_matrix.compat.answers import Advice, Advised
from torch_compat_matrix.compat.progress import say, tell
from torch_compat_matrix.compat.verbs.report import short
from torch_compat_matrix.compat.verbs.run import start, work_through
from torch_compat_matrix.runner.advice import derived_image as derived
from torch_compat_matrix.runner.advice.derived_image import Joint, join
from torch_compat_matrix.runner.advice.evidence import Evidence, Place, Seen
from torch_compat_matrix.runner.advice.search import Choice, Search, number
from torch_compat_matrix.runner.backends import gpus
from torch_compat_matrix.runner.backends.base import connect
from torch_compat_matrix.runner.bundle import extended
from torch_compat_matrix.runner.errors import Status, UsageError, did_you_mean, writing
from torch_compat_matrix.runner.matrix.load import load
from torch_compat_matrix.runner.matrix.schema import Matrix
from torch_compat_matrix.runner.model import MATRIX, PROBES, Local
from torch_compat_matrix.runner.packages.pip_config import Index
from torch_compat_matrix.runner.pins import canonical
from torch_compat_matrix.runner.planning import plan_from
from torch_compat_matrix.runner.records.runs import Run, home
from torch_compat_matrix.runner.workflow import RunSettings

FILES = ("Dockerfile", "requirements.txt", "constraints.txt", "matrix.yaml")
SHOWN = 20
"""Lines of evidence about a library that cannot be advised."""


def main(options: argparse.Namespace) -> Status:
    wanted = _wanted(options.libraries)
    evidence = Evidence(Run.all(home()))
    if evidence.unread:
        say(f"skipped, written by another version of compat: {', '.join(evidence.unread)}")
    # the matrix names each library's probes; the answer does not need one
    matrix = load(options.matrix, dict(options.set)) if options.matrix.exists() else None
    probed = (matrix.catalogue if matrix else extended({})).entries
    for name in wanted:
        if name not in probed and not evidence.of(name):
            problem = f"there are no probes for {name!r}, and no run has recorded it"
            raise UsageError(f"{problem}{did_you_mean(name, probed)}")
    names = _gpus(options)
    search = _search(evidence, wanted, matrix, names, options)
    choice = search.choose()
    if choice is None:
        nothing = [*_nothing(search, matrix, names, options)]
        tell(options.json, Advised(advice=None, words=nothing), nothing)
        return Status.NOTHING_SELECTED
    folder = options.out or Path("advice")
    own = [str(place.resolve()) for place in matrix.folders.values()] if matrix else []
    _write(folder, choice, [*search.probes, *own])
    status = Status.AS_EXPECTED
    if options.run:
        with redirect_stdout(sys.stderr if options.json else sys.stdout):
            status = _run(folder, choice, options.backend or choice.place.backend)
        search = _search(Evidence(Run.all(home())), choice.versions, matrix, names, options)
        choice = _again(search, choice, status)
        _write(folder, choice, [*search.probes, *own])
    words = [*_answer(choice, search, folder, options.backend)]
    tell(options.json, Advised(advice=_advice(choice, folder), words=words), words)
    return status


def _advice(choice: Choice, folder: Path) -> Advice:
    place, joint = choice.place, choice.joint
    of_place = ("backend", "reference", "digest", "stand_in", "gpu", "torch")
    where = {"image": place.image.name, **{name: getattr(place, name) for name in of_place}}
    what = {"python": place.facts["python"], "versions": dict(choice.versions), "added": dict(joint.added)}
    how = {"replaced": list(joint.replaced), "failed": choice.failed, "caveats": list(_caveats(choice))}
    files = [str(folder / name) for name in FILES if (folder / name).exists()]
    return cast(Advice, {**where, **what, **how, "files": files})


def _wanted(libraries: Sequence[str]) -> dict[str, str]:
    """Canonical name -> the requested version, or nothing."""
    wanted: dict[str, str] = {}
    for text in libraries:
        read = re.fullmatch(r"\s*([A-Za-z0-9][A-Za-z0-9._-]*)\s*(?:==\s*([A-Za-z0-9][A-Za-z0-9.+!_-]*)\s*)?", text)
        if read is None:
            raise UsageError(f"{text!r} is neither a `name` nor a `name==version`")
        name, version = canonical(read[1]), read[2] or ""
        if wanted.setdefault(name, version) != version:
            raise UsageError(f"{name} is named twice, with different versions")
    return wanted


def _gpus(options: argparse.Namespace) -> tuple[str, ...]:
    """The names of the GPUs of which one must have run the checks; none for the CPU."""
    if options.gpu:
        return () if options.gpu == "none" else (options.gpu,)
    offered = connect(options.backend, home()).gpus() if options.backend else gpus.visible()
    return tuple(dict.fromkeys(gpu.name for gpu in offered))


def _search(
    evidence: Evidence, wanted: Mapping[str, str], matrix: Matrix | None, names: Sequence[str], options: Any
) -> Search:
    index = Index.from_pip()
    for entry in (entry for name in wanted if matrix for entry in matrix.entries_of(name)):
        index = index.beside(entry)

    def required(library: str) -> tuple[str, ...]:
        listed = [entry.probes for entry in matrix.entries_of(library)[:1]] if matrix else []
        chosen = next(filter(None, listed), matrix.probes if matrix else PROBES)
        return tuple(probe for probe in PROBES if probe in chosen)

    def accepts(place: Place) -> bool:
        fits = any(name.casefold() in place.gpu.casefold() for name in names) if names else not place.gpu
        # with --run, --backend names where to run, and the evidence may come from elsewhere
        return fits and (options.run or options.backend in (None, place.backend))

    def resolve(place: Place, versions: Mapping[str, str], known: Mapping[str, str]) -> Joint:
        return join(versions, known, place.facts, index, home())

    probes = {name: required(name) for name in wanted}
    return Search(evidence=evidence, wanted=wanted, required=probes, accepts=accepts, resolve=resolve)


def _again(search: Search, choice: Choice, status: Status) -> Choice:
    """The answer from the records of now: the same packages, whatever their verdict."""
    verified = search.choose() if status is Status.AS_EXPECTED else None
    if verified is not None:  # perhaps in the image itself, where there was only a stand-in
        return verified
    packages = {**choice.versions, **choice.joint.added}
    return replace(choice, failed=search.failed(choice.place, packages))


def _run(folder: Path, choice: Choice, backend: str) -> Status:
    """Run the written stack as a user would."""
    plan = plan_from(folder / "matrix.yaml", backend=backend)
    return work_through(start(plan, RunSettings(), _command(folder, backend)))


def _command(folder: Path, backend: str) -> list[str]:
    return ["compat", "run", "--matrix", str(short(folder / "matrix.yaml")), "--backend", backend]


def _write(folder: Path, choice: Choice, probes: Sequence[str]) -> None:
    place, joint = choice.place, choice.joint
    held = place.facts["packages"]
    image, digest = place.image, place.digest if place.real else place.image.digest or ""
    if place.real:
        image = replace(image, local=None)
    elif image.tag is None and image.local is None:  # a bare interpreter: describe its stand-in
        python = ".".join(place.facts["python"].split(".")[:2])
        image = replace(image, local=Local(python=python, requires=(f"torch=={place.torch.partition('+')[0]}",)))
    remarks = [f"Written by `compat advise {' '.join(choice.versions)}`.", *_caveats(choice)]
    comment = "".join(f"# {line}\n" for line in remarks)
    requires = [f"{name}=={version}" for name, version in {**choice.versions, **joint.added}.items()]
    texts = {
        "Dockerfile": derived.dockerfile(image, digest, held, joint.added, remarks) if image.tag else "",
        "requirements.txt": comment + joint.requirements,
        "constraints.txt": comment + derived.constraints(held, joint.added),
        "matrix.yaml": derived.matrix(image, digest, requires, probes, remarks),
    }
    with writing(folder, "name another folder with --out"):
        folder.mkdir(parents=True, exist_ok=True)
        for name, text in texts.items():
            if text:
                (folder / name).write_text(text)
            else:
                (folder / name).unlink(missing_ok=True)  # the file of an earlier answer


def _caveats(choice: Choice) -> Iterator[str]:
    """The limits of the answer."""
    place = choice.place
    if place.stand_in:
        tag = f"; {place.image.tag} itself was never run" if place.image.tag else ""
        yield f"Verified in a stand-in only ({place.reference}){tag}."
    elif not place.real:
        yield f"Verified under an interpreter only ({place.reference}), not in an image."
    if not place.gpu:
        yield "Nothing was verified on a GPU."
    if choice.failed:
        yield f"The combination failed: {choice.failed}"
    elif choice.together is None and len(choice.versions.keys() - {"torch"}) > 1:
        yield "Never run together: each library was verified alone in the same environment."
    if choice.other:
        yield f"Differs from the verified packages: {'; '.join(choice.other)}."
    if choice.joint.replaced:
        yield f"Replaces packages of the image, as requested: {', '.join(choice.joint.replaced)}."


def _answer(choice: Choice, search: Search, folder: Path, backend: str | None) -> Iterator[str]:
    place = choice.place
    held = f"torch {place.torch}, Python {place.facts['python']}"
    yield f"{place.where}: {held}{f', {place.digest}' if place.digest else ''}"
    for name, version in choice.versions.items():
        seen = choice.alone.get(name) or choice.together
        if seen is not None:
            yield f"  {name} {version}: {_passed(seen)}"
    if choice.together is not None and len(choice.versions) > 1:
        yield f"  together: {_passed(choice.together)}"
    yield f"  adds {f'{len(choice.joint.added)} packages' if choice.joint.added else 'nothing'} to the image"
    yield from _caveats(choice)
    for refused in search.refused:
        yield f"not advised in {refused.place.image.name}: {_named(refused.versions)}: {refused.why}"
    yield f"written: {', '.join(str(short(folder / name)) for name in FILES if (folder / name).exists())}"
    if not place.image.tag:
        yield f"No Dockerfile: {place.image.name} had no `tag:` in the matrix of its run."
    asked = [f"{name}=={version}" for name, version in choice.versions.items()]
    yield f"install: {shlex.join(['pip', 'install', '-c', str(short(folder / 'constraints.txt')), *asked])}"
    proof = backend or ("docker" if place.image.tag else place.backend)
    yield f"verify: {shlex.join(_command(folder, proof))}"


def _passed(seen: Seen) -> str:
    """Which probes passed, and in which runs."""
    probes = [probe for probe in PROBES if probe in seen.outcomes and seen.outcomes[probe].verdict.value == "pass"]
    runs = sorted({seen.runs[probe] for probe in probes})
    return f"{', '.join(probes)} passed (run {', '.join(runs)})"


def _named(versions: Mapping[str, str]) -> str:
    return ", ".join(f"{name} {version}" for name, version in versions.items())


def _nothing(search: Search, matrix: Matrix | None, names: Sequence[str], options: argparse.Namespace) -> Iterator[str]:
    """Why there is no advice, the recorded evidence, and the command that would give some."""
    asked = ", ".join(f"{name} {version}".strip() for name, version in search.wanted.items())
    device = f"a GPU named {' or '.join(names)}" if names else "the CPU"
    yield f"No combination of {asked} was verified on {device}{f' by {options.backend}' if options.backend else ''}."
    for refused in search.refused:
        yield f"{refused.place.image.name}: {_named(refused.versions)} cannot be advised: {refused.why}"
    for name in search.wanted:
        evidence = search.evidence.of(name)
        evidence.sort(key=lambda seen: (number(seen.place.torch), number(seen.versions[name])), reverse=True)
        yield f"{name}: {'recorded evidence' if evidence else 'no recorded evidence'}"
        for seen in evidence[:SHOWN]:
            what = seen.versions[name] if len(seen.versions) == 1 else f"in the stack {seen.subject} ({seen.name})"
            if seen.replaced:
                what = f"{seen.versions[name]} with packages of the image replaced ({seen.name})"
            why = seen.lacking(search.required[name] if len(seen.versions) == 1 else search.probes)
            yield f"  {seen.place.where}, {what}: {why or 'verified'}"
        if len(evidence) > SHOWN:
            yield f"  and {len(evidence) - SHOWN} more: `compat history`"
    yield from _way(search.wanted, matrix, options)


def _way(wanted: Mapping[str, str], matrix: Matrix | None, options: argparse.Namespace) -> Iterator[str]:
    """The command that would verify the combination, and the entries that the matrix lacks for it."""
    selectors = []
    for name, version in wanted.items():
        entries = matrix.entries_of(name) if matrix else ()
        if not entries or (version and not any(version in entry.versions for entry in entries)):
            listed = f"versions: [{version or 'latest'}]" if version else "versions: [latest]"
            yield f"{options.matrix} does not list {f'{name} {version}'.strip()}: add it under `libraries:`, {listed}"
        selectors.append(f"{name}-{version}" if version else name)
    command = ["compat", "run", "--backend", options.backend or "docker", *selectors]
    command += ["--matrix", str(options.matrix)] if options.matrix != MATRIX else []
    yield f"verify: {shlex.join(command)}"
