"""Remedies name what to use, by the records and the index; a loopback index tells when releases were published."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import pytest

from tests.support.indexes import Index, json_index
from tests.support.tinywheels import sdist, wheel
from torch_compat_matrix.runner.advice import remedies
from torch_compat_matrix.runner.advice.candidates import Failure
from torch_compat_matrix.runner.advice.evidence import Evidence, Place, Seen
from torch_compat_matrix.runner.errors import Trouble
from torch_compat_matrix.runner.model import Cell, Image, Verdict, check_id
from torch_compat_matrix.runner.outcome import Outcome
from torch_compat_matrix.runner.packages.offers import Offers
from torch_compat_matrix.runner.packages.pip_config import Index as PipIndex
from torch_compat_matrix.runner.pins import name_of, version_of

FACTS: dict[str, Any] = {
    "python": "3.11.7",
    "abi": "cp311",
    "platform": "linux",
    "machine": "x86_64",
    "glibc": "2.36",
    "metadata": {},
    "packages": {"torch": "2.3.0+cpu", "numpy": "2.0.0", "sound": "2.0"},
}
RELEASES = {
    "torch": {"2.2.0": "2024-01-30", "2.3.0": "2024-04-24", "2.4.0": "2024-07-24", "2.5.0": "2024-10-17"},
    "numpy": {"1.26.0": "2023-09-16", "2.0.0": "2024-06-16"},
    "setuptools": {"81.0": "2026-01-01", "82.0": "2026-02-01"},
    "protobuf": {"3.20.0": "2022-03-01", "5.0": "2024-03-01"},
    "sound": {"1.0": "2023-01-01", "2.0": "2024-03-01"},
    "left-pad": {"1.0": "2024-01-01"},
}
NEEDS: Mapping[str, Mapping[str, tuple[str, tuple[str, ...]]]] = {
    "lib": {
        "1.0": ("2024-03-01", ("torch>=2.2",)),
        "1.1": ("2024-06-01", ("torch>=2.2", "numpy<2")),
        "1.2": ("2024-06-20", ("torch>=2.2",)),
        "1.3": ("2024-09-01", ("torch>=2.2",)),
        "1.4": ("2024-09-02", ("torch>=2.4",)),
    },
    "last": {"0.18": ("2024-01-30", ("torch>=2.2",))},
    "held": {"1.0": ("2024-01-30", ("torch<2.3",))},
}


@pytest.fixture(scope="module")
def index(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Index]:
    """What there is to be had."""
    folder = tmp_path_factory.mktemp("wheels")
    with json_index() as index:
        for name, days in RELEASES.items():
            for version, day in days.items():
                index.add(wheel(folder, name, version), day)
        for name, releases in NEEDS.items():
            for version, (day, requires) in releases.items():
                index.add(wheel(folder, name, version, *requires), day)
        index.add(sdist(folder, "lib", "0.9"), "2024-01-01")
        yield index


@pytest.fixture(autouse=True)
def own_cache(tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch) -> None:
    """uv remembers no other index, and asks a silent one once."""
    monkeypatch.setenv("UV_CACHE_DIR", str(tmp_path_factory.getbasetemp() / "uv-remedies"))
    monkeypatch.setenv("UV_HTTP_RETRIES", "0")


def failure(reason: str, *requires: str, environment: str = "some", **more: Any) -> Failure:
    """A failure of the first of the requirements in a cell."""
    name, version = name_of(requires[0]), version_of(requires[0])
    cell = Cell(image="image", subject=name, version=version, requires=requires, members=(name,))
    fields: dict[str, Any] = {"verdict": Verdict.FAIL, "blame": "library", **more}
    if environment:
        fields.setdefault("resolved", tuple(text for text in requires if "==" in text))
    outcome = Outcome(
        check=check_id(cell.id, "import"),
        image="image",
        subject=name,
        probe="import",
        reason=reason,
        environment=environment,
        **fields,
    )
    return Failure(outcome=outcome, cell=cell, facts=FACTS)


def advised(of: Failure, index: str, home: Path, evidence: Evidence | None = None) -> Outcome:
    offers = Offers(facts=FACTS, index=PipIndex(options={"index-url": index}), cache=home)
    return remedies.advised(of, evidence or Evidence(), "local", offers)


def absent(reason: str, *requires: str, **more: Any) -> Failure:
    """A failure of which nothing was installed."""
    return failure(reason, *requires, environment="", verdict=Verdict.UNSUPPORTED, **more)


NEWER_TORCH = {"raiser": "lib 1.3", "holder": "torch 2.3.0"}
CASES = {
    "the nearest that exist": (absent("version-not-found", "lib==1.2.5"), "use lib==1.3", "use lib==1.2"),
    "a version of `with:` is missing": (absent("version-not-found", "lib==1.3", "numpy==2.0.7"), "with numpy==2.0.0"),
    "drift of numpy": (
        absent("drift", "lib==1.1", drift=("numpy 2.0.0 -> 1.26.0",)),
        *("use lib==1.2", "use lib==1.0", "with numpy==1.26.0"),
    ),
    "drift to a newer torch": (
        absent("drift", "lib==1.4", drift=("torch 2.3.0 -> 2.5.0",)),
        *("use lib==1.3", "image torch==2.4.0"),
    ),
    "a build without pkg_resources": (
        absent("sdist-build-failed", "lib==1.4", evidence="No module named 'pkg_resources'"),
        *("use lib==1.3", "build setuptools<82"),
    ),
    "what pip takes": (absent("pip-refuses-metadata", "lib==1.1", detail="pip takes lib 1.3; pip 26"), "use lib==1.3"),
    "`with:` cannot be met": (absent("unsatisfiable", "lib==1.3", "torch<2.2"), "without torch"),
    "raised by what is newer than torch": (
        failure("api-removed", "lib==1.3", names=NEWER_TORCH),
        *("use lib==1.2", "image torch==2.4.0"),
    ),
    "raised by what is older than torch": (
        failure("api-removed", "lib==1.0", names={"raiser": "lib 1.0", "holder": "torch 2.3.0"}),
        *("use lib==1.2", "image torch==2.2.0"),
    ),
    "what it does not fit stands beside it": (
        failure("api-removed", "lib==1.0", "sound==2.0", names={"raiser": "lib 1.0", "holder": "sound 2.0"}),
        *("use lib==1.2",),
    ),
    "torch as the words demand it": (
        failure("version-assert", "lib==1.3", names={"required": ">= 2.5"}),
        *("use lib==1.2", "image torch==2.5.0"),
    ),
    "no later release": (failure("undefined-symbol", "last==0.18"), "image torch==2.2.0"),
    "NumPy 1 beside it": (
        failure("numpy-abi", "lib==1.0", names={"raiser": "lib 1.0"}),
        *("use lib==1.2", "with numpy<2"),
    ),
    "torch built for NumPy 1": (failure("numpy-abi", "lib==1.0", names={"unavailable": "Numpy"}), "image numpy<2"),
    "protobuf": (
        failure("protobuf-too-new", "lib==1.0", resolved=("lib==1.0", "protobuf==5.0")),
        *("use lib==1.2", "with protobuf<3.21"),
    ),
    "a module by another name": (
        failure("missing-module", "lib==1.0", names={"module": "pkg_resources"}),
        *("with setuptools<82", "use lib==1.3"),
    ),
    "a module by its own": (
        failure("missing-module", "lib==1.0", names={"module": "left_pad.x"}),
        "with left-pad",
        "use lib==1.3",
    ),
    "no such module": (failure("missing-module", "lib==1.0", names={"module": "nowhere"}), "use lib==1.3"),
    "a newer one may be mended": (failure("wrong-value", "lib==1.0"), "use lib==1.3"),
    "a git reference, whose name may be another's on the index": (
        absent("sdist-build-failed", "lib @ git+https://example.com/lib@5f3e2d1c"),
    ),
    "not the library's fault": (failure("segfault", "lib==1.0", blame="unknown", verdict=Verdict.CRASH),),
}


@pytest.mark.parametrize(("of", "changes"), [(case, changes) for case, *changes in CASES.values()], ids=CASES)
def test_changes(of: Failure, changes: list[str], index: Index, tmp_path: Path) -> None:
    """The changes that are named, the most promising first; nothing where nothing helps."""
    outcome = advised(of, index.url, tmp_path)
    assert list(outcome.changes) == changes
    assert bool(outcome.remedy) is bool(changes)


def test_words(index: Index, tmp_path: Path) -> None:
    """A reader learns what to use, why, and whether it was tried."""
    said = advised(absent("drift", "held==1.0", drift=("torch 2.3.0 -> 2.2.0",)), index.url, tmp_path).remedy
    assert said == (
        "No release of held accepts torch 2.3.0; 1.0 is the last."
        " Use an image with torch 2.2.0 (it was the newest when held 1.0 came out)."
    )
    said = advised(failure("not-compiled", "lib==1.0"), index.url, tmp_path).remedy
    assert said == (
        "Use lib 1.3 (the newest that accepts the packages of the image; not tried here),"
        " or leave this part out of `torch.compile` (`torch.compiler.disable`)."
    )


def seen(version: str, verdict: Verdict, packages: Mapping[str, str]) -> Seen:
    """The record of a version of lib in an image with these packages."""
    image = Image(name=f"image-{packages['torch']}")
    facts = {"packages": packages, "torch": {"version": packages["torch"]}}
    place = Place(image=image, backend="local", reference="", facts=facts)
    one = Seen(place=place, subject="lib", versions={"lib": version}, members=frozenset({"lib"}))
    one.take(Outcome(check=f"x/lib-{version}/import", image="x", subject="lib", probe="import", verdict=verdict), "run")
    return one


def test_records_come_first(index: Index, tmp_path: Path) -> None:
    """What passes here is used, what fails here is not, and where this version passes is said."""
    evidence = Evidence()
    other = {"torch": "2.5.0"}
    for number, (version, verdict, packages) in enumerate(
        [("1.3", Verdict.FAIL, FACTS["packages"]), ("1.0", Verdict.PASS, other), ("1.2", Verdict.PASS, other)]
    ):
        evidence.seen[str(number), "", ()] = seen(version, verdict, packages)
    of = failure("wrong-value", "lib==1.0")
    outcome = advised(of, index.url, tmp_path, evidence)
    assert outcome.changes == ("use lib==1.2", "image image-2.5.0")  # 1.3 is newer, and known to fail
    assert "or use the image image-2.5.0, torch 2.5.0 (lib 1.0 passes there)" in outcome.remedy

    evidence.seen["here", "", ()] = seen("1.1", Verdict.PASS, FACTS["packages"])
    outcome = advised(of, index.url, tmp_path, evidence)
    assert outcome.changes == ("use lib==1.1", "image image-2.5.0")
    assert outcome.remedy.startswith("Use lib 1.1 (it passes here), or")


def test_a_silent_index(tmp_path: Path) -> None:
    """Nothing is claimed for an index that does not answer."""
    with pytest.raises(Trouble, match="127"):
        advised(failure("wrong-value", "lib==1.0"), "http://127.0.0.1:9/simple", tmp_path)
