"""What an install into an image would come to."""

from __future__ import annotations

import datetime as dt
import json
import os
import sys
import threading
from collections.abc import Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path
from typing import Any

import pytest

from tests.support.tinywheels import sdist, simple_index, wheel
from torch_compat_matrix.compat.preview import resolution_of
from torch_compat_matrix.runner.model import Cell
from torch_compat_matrix.runner.packages import builds, interpreters, uv
from torch_compat_matrix.runner.packages.overlay import fetched, install
from torch_compat_matrix.runner.packages.pip_config import Index
from torch_compat_matrix.runner.packages.resolution import Resolution
from torch_compat_matrix.runner.packages.resolve import resolve

TORCH = "2.13.0+cpu"


@pytest.fixture(autouse=True)
def own_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """uv remembers nothing from one test to the next."""
    monkeypatch.setenv("UV_CACHE_DIR", str(tmp_path / "uv"))


@pytest.fixture(scope="session")
def releases_of_pip(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Three pips for Python 3.11, from the index that pip is configured for."""
    if sys.version_info[:2] != (3, 11) and uv.run(("python", "find", "--no-project", "--system", "3.11"), {}).status:
        pytest.skip("the images of these tests have Python 3.11, and this host has none")
    folder, index = tmp_path_factory.mktemp("pips"), Index.from_pip()
    for release in ("24.0", "24.2", "26.0"):
        place = folder / f"{release}-3.11"
        ran = uv.run(("pip", "install", "--no-deps", "--target", str(place), f"pip=={release}"), index.uv_environment())
        assert not ran.status, ran.err
    (folder / f"newest-{dt.date.today():%Y-%m}-3.11").symlink_to("26.0-3.11")
    return folder


@pytest.fixture
def pips(tmp_path: Path, releases_of_pip: Path) -> None:
    """These pips are fetched already."""
    (tmp_path / "resolutions").mkdir(exist_ok=True)
    (tmp_path / "resolutions" / "pips").symlink_to(releases_of_pip)


@pytest.fixture
def offered(tmp_path: Path) -> Path:
    """The folder with all the packages there are."""
    folder = tmp_path / "offered"
    wheel(folder, "lib", "1.0", "torch>=2", "helper")
    wheel(folder, "helper", "1.0")
    return folder


def facts(**packages: str) -> dict[str, Any]:
    """An image with torch and these packages; `requires` of a package through `needing`."""
    held = {"torch": TORCH, **{name.replace("_", "-"): version for name, version in packages.items()}}
    return {
        "python": "3.11.7",
        "abi": "cp311",
        "platform": "linux",
        "machine": "x86_64",
        "glibc": "2.36",
        "packages": held,
        "metadata": {},
    }


def needing(image: dict[str, Any], name: str, *requires: str) -> dict[str, Any]:
    """The image with these requirements of one of its packages."""
    return {**image, "metadata": {**image["metadata"], name: {"requires": list(requires), "extras": []}}}


def answer(
    folder: Path, image: dict[str, Any], *requirements: str, options: Mapping[str, str] | None = None, **more: Any
) -> Resolution:
    """What is resolved when there is nothing but the folder."""
    index = Index(options={"no-index": "1", "find-links": str(folder), **(options or {})})
    return resolve(requirements, image, index, folder.parent / "resolutions", **more)


def test_only_what_is_missing_is_added(offered: Path) -> None:
    """The image's torch is kept, and nothing is asked of an index about it."""
    resolution = answer(offered, facts(), "lib==1.0")
    assert resolution.add == ("helper==1.0", "lib==1.0")
    assert resolution.versions == {"helper": "1.0", "lib": "1.0", "torch": TORCH}
    assert (resolution.problem, resolution.drift) == ("", ())


def test_what_the_image_holds_is_not_added(offered: Path) -> None:
    """A requirement that the image meets adds nothing."""
    assert Resolution(versions={"helper": "1.0"}) == answer(offered, facts(helper="1.0"), "helper==1.0")


@pytest.mark.parametrize(
    ("held", "wanted", "fits"),
    [
        ("2.13.0+cpu", "torch==2.13.0", True),
        ("2.6.0+cu124", "torch<=2.6.0", True),
        ("2.6.0a0+nv25.1", "torch>=2.5", True),
        ("2.6.0a0+nv25.1", "torch>=2.6", False),
        ("2.06", "torch>=2.6", True),
        ("2.6.0", "torch (>=2)", True),
    ],
)
def test_a_build_on_no_index_counts_as_its_version(offered: Path, held: str, wanted: str, fits: bool) -> None:
    """Local and vendor versions compare as pip compares them."""
    wheel(offered, "picky", "1.0", wanted)
    resolution = answer(offered, {**facts(), "packages": {"torch": held}}, "picky==1.0")
    assert (("picky==1.0",) if fits else ()) == resolution.add
    assert ("" if fits else "unsatisfiable") == resolution.problem


def test_the_images_own_requirements_count(offered: Path) -> None:
    """An index's torch of the same version may need nvidia packages that the image's does not."""
    wheel(offered, "torch", "2.6.0", "nvidia-thing", tags="cp311-cp311-manylinux_2_28_x86_64")
    wheel(offered, "nvidia-thing", "1.0")
    wheel(offered, "vision", "2.0", "torch==2.6.0", "numpy<2")
    wheel(offered, "numpy", "1.26")
    image = facts(numpy="2.4")
    image["packages"]["torch"] = "2.6.0"
    assert answer(offered, image, "lib==1.0").add == ("helper==1.0", "lib==1.0")
    assert answer(offered, image, "vision==2.0").drift == ("numpy 2.4 -> 1.26",)
    assert answer(offered, needing(image, "torch", "helper"), "lib==1.0").add == ("helper==1.0", "lib==1.0")


def test_another_spelling_of_a_version_is_no_drift(offered: Path) -> None:
    """uv writes versions in their normal form, an image need not."""
    wheel(offered, "torch", "2.6.0", tags="cp311-cp311-manylinux_2_28_x86_64")
    wheel(offered, "vision", "2.0", "torch", "numpy<2")
    wheel(offered, "numpy", "1.26")
    image = facts(numpy="2.4")
    image["packages"]["torch"] = "2.06.0"
    assert answer(offered, image, "vision==2.0").drift == ("numpy 2.4 -> 1.26",)


def test_extras_of_what_the_image_holds_are_added(offered: Path) -> None:
    """pip, too, installs what an extra lacks without touching the package itself."""
    wheel(offered, "wants", "1.0", "torch[more]>=2")
    wheel(offered, "extra-thing", "1.0")
    image = facts()
    image["metadata"]["torch"] = {"requires": ["extra-thing; extra == 'more'"], "extras": ["more"]}
    assert answer(offered, image, "wants==1.0").add == ("extra-thing==1.0", "wants==1.0")
    assert answer(offered, image, "lib[fast]==1.0").add == ("helper==1.0", "lib==1.0")


def test_a_file_may_be_asked_for_by_its_url(offered: Path) -> None:
    """It is added by that URL."""
    url = wheel(offered.parent / "elsewhere", "private", "3.0", "helper").as_uri()
    resolution = answer(offered, facts(), f"private @ {url}")
    assert resolution.add == ("helper==1.0", f"private @ {url}")
    assert (resolution.problem, resolution.drift) == ("", ())


def test_a_wheel_of_another_platform_is_refused_by_its_url_too(offered: Path, pips: None) -> None:
    """uv takes it; pip does not."""
    url = wheel(offered.parent / "elsewhere", "foreign", "1.0", tags="cp311-cp311-win_amd64").as_uri()
    assert answer(offered, facts(pip="24.2"), f"foreign @ {url}").problem == "no-wheel"


def test_a_release_that_is_yanked_by_a_range_is_told_as_such(tmp_path: Path, pips: None) -> None:
    """As by a name alone; uv speaks of a contradiction between versions."""
    wheels = [wheel(tmp_path / "files", "lib", version) for version in ("1.0", "3.0")]
    simple_index(tmp_path, *wheels)
    url = simple_index(tmp_path, wheel(tmp_path / "files", "lib", "2.0"), yanked="broken upload")
    index = Index(options={"index-url": url})
    assert resolve(["lib>1,<3"], facts(pip="24.2"), index, tmp_path / "resolutions").problem == "yanked"


def test_a_yanked_release_keeps_pip_from_a_release_candidate(tmp_path: Path, pips: None) -> None:
    """Although it is not taken itself; uv takes the candidate."""
    simple_index(tmp_path, *(wheel(tmp_path / "files", "lib", version) for version in ("1.0", "3.0rc1")))
    url = simple_index(tmp_path, wheel(tmp_path / "files", "lib", "2.0"), yanked="broken upload")
    index = Index(options={"index-url": url})
    assert resolve(["lib>1"], facts(pip="24.2"), index, tmp_path / "resolutions").problem == "version-not-found"


def test_a_replaced_package_of_the_image_is_drift(offered: Path) -> None:
    """What the image would lose is named, with uv's reason."""
    wheel(offered, "old", "0.8", "numpy<2", "torch")
    wheel(offered, "numpy", "1.26.4")
    resolution = answer(offered, facts(numpy="2.4.6"), "old==0.8")
    assert (resolution.problem, resolution.drift, resolution.add) == ("drift", ("numpy 2.4.6 -> 1.26.4",), ())
    assert "numpy<2" in resolution.evidence
    assert resolution.detail.startswith("an install would replace numpy 2.4.6 -> 1.26.4: ")


def test_drift_is_named_even_where_the_image_can_be_kept(offered: Path) -> None:
    """pip would take the newest vision and replace torch for it; an older vision keeps the torch."""
    wheel(offered, "clip", "3.3", "torch>=2", "vision")
    wheel(offered, "vision", "0.28", "torch==2.13.0")
    wheel(offered, "vision", "0.29", "torch==2.15.0")
    wheel(offered, "torch", "2.15.0")
    resolution = answer(offered, facts(), "clip==3.3")
    assert resolution.add == ("clip==3.3", "vision==0.28")
    assert (resolution.problem, resolution.drift) == ("", ("torch 2.13.0+cpu -> 2.15.0",))


def test_a_plain_install_has_a_set_of_its_own(offered: Path) -> None:
    """With the packages that it replaces; it is named only where it is another set, and then nothing is a drift."""
    wheel(offered, "clip", "3.3", "torch>=2", "vision", "helper")
    wheel(offered, "vision", "0.28", "torch==2.13.0")
    wheel(offered, "vision", "0.29", "torch==2.15.0")
    wheel(offered, "torch", "2.15.0")
    wheel(offered, "old", "0.8", "numpy<2", "torch")
    wheel(offered, "numpy", "1.26.4")
    image = facts(numpy="2.4.6")
    both, only = answer(offered, image, "clip==3.3"), answer(offered, image, "old==0.8")
    assert (both.add, both.under("constrained")) == (("clip==3.3", "helper==1.0", "vision==0.28"), both)
    assert sorted(both.plain) == ["clip==3.3", "helper==1.0", "torch==2.15.0", "vision==0.29"]
    plain = both.under("plain")
    assert (plain.add, plain.drift, plain.versions["torch"]) == (both.plain, (), "2.15.0")
    assert (only.problem, only.add, sorted(only.plain)) == ("drift", (), ["numpy==1.26.4", "old==0.8"])
    assert (only.under("plain").problem, only.under("plain").add) == ("", only.plain)
    same = answer(offered, image, "lib==1.0")
    assert (same.plain, same.under("plain").add) == ((), same.add)
    assert answer(offered, image, "lib==99").under("plain").problem == "version-not-found"


def test_the_plan_shows_both_answers(offered: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """What a plain install would replace stands, marked, beside what is added, and beside a plain cell."""
    wheel(offered, "clip", "3.3", "torch>=2", "vision")
    wheel(offered, "vision", "0.28", "torch==2.13.0")
    wheel(offered, "vision", "0.29", "torch==2.15.0")
    wheel(offered, "torch", "2.15.0")
    for name, value in {"PIP_CONFIG_FILE": "/dev/null", "PIP_NO_INDEX": "1", "PIP_FIND_LINKS": str(offered)}.items():
        monkeypatch.setenv(name, value)
    cell = Cell(image="x", subject="clip", version="3.3", members=("clip",), requires=("clip==3.3",))

    def told(cell: Cell) -> tuple[str, str]:
        return resolution_of(cell, facts(), tmp_path, Index.from_pip(), fetched(tmp_path))

    adds, _ = told(cell)
    assert adds == "clip==3.3 and 1 more; 📌 a plain install replaces torch 2.13.0+cpu -> 2.15.0"
    adds, _ = told(replace(cell, install="plain"))
    assert adds == "clip==3.3 and 2 more; 🔀 replaces torch 2.13.0+cpu -> 2.15.0"
    lib = replace(cell, subject="lib", version="1.0", members=("lib",), requires=("lib==1.0",))
    assert told(lib) == ("lib==1.0 and 1 more", "to fetch")
    install(lib.requires, facts(), Index.from_pip(), tmp_path)
    assert told(lib) == ("lib==1.0 and 1 more", "cached")


def test_what_is_merely_newer_elsewhere_is_no_drift(offered: Path) -> None:
    """pip leaves installed packages alone unless something demands another version."""
    wheel(offered, "numpy", "9.0")
    wheel(offered, "torch", "9.0")
    wheel(offered, "old", "0.8", "numpy<2", "torch")
    wheel(offered, "numpy", "1.26.4")
    assert answer(offered, facts(numpy="2.04"), "old==0.8").drift == ("numpy 2.04 -> 1.26.4",)


def test_another_version_of_what_was_asked_for_is_no_drift(offered: Path) -> None:
    """The image's own lib gives way to the one under test; another torch is another image."""
    wheel(offered, "torch", "2.9.0")
    assert answer(offered, facts(lib="0.9", helper="1.0"), "lib==1.0").add == ("lib==1.0",)
    assert answer(offered, facts(lib="0.9", helper="0.1"), "lib>=0.5").add == ()
    assert answer(offered, facts(), "torch==2.9.0").problem == "drift"


@pytest.mark.parametrize(
    ("requirement", "problem"),
    [
        ("lib==99", "version-not-found"),
        ("nothing-of-that-name", "version-not-found"),
        ("torn==1.0", "unsatisfiable"),
        ("modern==1.0", "python-too-old"),
        ("foreign==1.0", "no-wheel"),
        ("extension==1.0", "needs-in-image"),
        ("broken==1.0", "sdist-build-failed"),
        ("lib=1.0", "bad-requirement"),
    ],
)
def test_what_cannot_be_had_says_why(offered: Path, requirement: str, problem: str) -> None:
    """Each way of failing has a code of its own and uv's words for a person."""
    wheel(offered, "torn", "1.0", "helper<1")
    wheel(offered, "modern", "1.0", needs_python=">=3.12")
    wheel(offered, "foreign", "1.0", tags="cp39-cp39-manylinux_2_28_x86_64")
    sdist(offered, "extension", "1.0", at_build="import torch")
    sdist(offered, "broken", "1.0", at_build="raise SystemError('no such luck')")
    resolution = answer(offered, facts(), requirement)
    assert problem == resolution.problem
    assert resolution.detail and resolution.evidence and not resolution.add


def test_a_dependency_that_cannot_be_built_is_to_blame(offered: Path) -> None:
    """And not the library that needs it."""
    sdist(offered, "broken", "1.0", at_build="raise SystemError('no such luck')")
    wheel(offered, "needs-broken", "1.0", "broken")
    assert answer(offered, facts(), "broken==1.0").trouble().blame == ""
    resolution = answer(offered, facts(), "needs-broken==1.0")
    assert (resolution.problem, resolution.blame) == ("sdist-build-failed", "dependency")


def test_a_build_that_does_not_end_is_begun_once(
    offered: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Neither with other constraints nor by pip: each time would take a quarter of an hour."""
    monkeypatch.setattr(builds, "BUILD_S", 1)
    begun = f"open({str(tmp_path / 'begun')!r}, 'a').write('x')"
    sdist(offered, "endless", "1.0", at_build=f"{begun}; import time; time.sleep(60)")
    resolution = answer(offered, facts(), "endless==1.0")
    assert (resolution.problem, (tmp_path / "begun").read_text()) == ("build-timeout", "x")
    assert not list((tmp_path / "resolutions").glob("*.json"))


def test_a_yanked_release_is_taken_only_by_its_exact_version(tmp_path: Path) -> None:
    """As pip does; a pin is answered with a note."""
    url = simple_index(tmp_path, wheel(tmp_path / "files", "lib", "1.0"), yanked="broken upload")
    index = Index(options={"index-url": url})
    exact = resolve(["lib==1.0"], facts(), index, tmp_path / "resolutions")
    assert (exact.add, len(exact.notes)) == (("lib==1.0",), 1)
    assert resolve(["lib>=0.5"], facts(), index, tmp_path / "resolutions").problem == "yanked"


def test_an_unreachable_index_is_not_the_librarys_fault_and_not_remembered(tmp_path: Path) -> None:
    """A closed port is trouble of the moment."""
    index = Index(options={"index-url": "http://user:secret@127.0.0.1:9/simple"}, uv={"UV_HTTP_RETRIES": "0"})
    resolution = resolve(["lib==1.0"], facts(), index, tmp_path / "resolutions")
    assert resolution.problem == "index-unreachable"
    assert "secret" not in resolution.detail + resolution.evidence
    assert not list((tmp_path / "resolutions").glob("*.json"))


@pytest.mark.parametrize("option", ["index-url", "extra-index-url"])
def test_refused_credentials_are_told_apart_from_a_missing_package(tmp_path: Path, option: str) -> None:
    """Of 401 uv says first, or only, that the package was not found."""

    class Refuse(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            self.send_response(401)
            self.end_headers()

        def log_message(self, *arguments: object) -> None:
            pass

    (tmp_path / "simple").mkdir()
    with HTTPServer(("127.0.0.1", 0), Refuse) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        refusing = f"http://user:secret@127.0.0.1:{server.server_port}/simple"
        index = Index(options={"index-url": (tmp_path / "simple").as_uri(), option: refusing})
        resolution = resolve(["lib==1.0"], facts(), index, tmp_path / "resolutions")
        server.shutdown()
    assert resolution.problem == "index-refused"
    assert "secret" not in resolution.detail + resolution.evidence


def test_a_pin_is_answered_from_memory_for_good_and_all_else_for_a_day(offered: Path) -> None:
    """What was not pinned, or not met, may be answered otherwise tomorrow."""
    for requirement, lasts in [("lib==1.0", True), ("lib", False), ("lib>=1", False), ("lib==1.*", False)]:
        resolution = answer(offered, facts(), requirement)
        (record,) = (offered.parent / "resolutions").glob("*.json")
        stored = json.loads(record.read_text())
        assert lasts == (stored["day"] == "")
        stored["resolution"]["add"] = ["remembered==1.0"]
        record.write_text(json.dumps(stored))
        assert answer(offered, facts(), requirement).add == ("remembered==1.0",)
        record.write_text(json.dumps({**stored, "day": "2020-01-01"}))
        assert resolution == answer(offered, facts(), requirement)
        record.unlink()


def test_what_was_kept_before_a_moment_is_asked_again(offered: Path) -> None:
    """A failure that is remembered for the day does not outlive the user's wish to ask again."""
    assert answer(offered, facts(), "late==1.0").problem == "version-not-found"
    (record,) = (offered.parent / "resolutions").glob("*.json")
    stored = json.loads(record.read_text())
    record.write_text(json.dumps({**stored, "resolution": {**stored["resolution"], "problem": "remembered"}}))
    kept = record.stat().st_mtime
    assert answer(offered, facts(), "late==1.0").problem == "remembered"
    assert answer(offered, facts(), "late==1.0", since=kept + 1).problem == "version-not-found"


def test_a_new_file_in_find_links_is_seen_at_once(offered: Path) -> None:
    """A missing wheel that somebody puts there is not missing until tomorrow."""
    assert answer(offered, facts(), "late==1.0").problem == "version-not-found"
    wheel(offered, "late", "1.0")
    assert answer(offered, facts(), "late==1.0").add == ("late==1.0",)


def test_many_may_ask_at_once(offered: Path) -> None:
    """One of them asks uv, the others read its answer."""
    with ThreadPoolExecutor(4) as pool:
        answers = list(pool.map(lambda _: answer(offered, facts(), "lib==1.0"), range(4)))
    assert [answers[0]] * 4 == answers
    assert not list((offered.parent / "resolutions").glob("**/*.partial"))
    assert list((offered.parent / "resolutions" / "scratch").iterdir()) == []


def test_packages_that_pip_itself_would_pass_over_do_no_harm(offered: Path) -> None:
    """Distribution packages of Linux carry versions and requirements outside the standard."""
    image = needing(facts(debian="0.1.49-debian1~x", odd="1.0"), "odd", "not a requirement", "helper ; bogus == '1'")
    assert answer(offered, image, "lib==1.0").add == ("helper==1.0", "lib==1.0")


def test_a_name_that_the_image_meets_stays_unless_the_newest_is_asked_for(offered: Path) -> None:
    """As `pip install NAME` and `pip install --upgrade NAME` have it."""
    image = facts(lib="0.9", helper="0.1")
    assert answer(offered, image, "lib", "helper").add == ()
    assert answer(offered, image, "lib", "helper", newest=["lib"]).add == ("lib==1.0",)


def test_constraints_count_and_are_named(offered: Path) -> None:
    """Every file counts, pip's and uv's, with the files that it names; another text is another answer."""
    wheel(offered, "lib", "0.9", "torch>=2", "helper")
    wheel(offered, "helper", "0.9")
    (offered.parent / "inner.txt").write_text("helper==0.9  # old\n")
    file, other = offered.parent / "constraints.txt", offered.parent / "other.txt"
    file.write_text("lib<1\n")
    other.write_text("-c inner.txt\nunrelated==3\n")
    assert answer(offered, facts(), "lib").add == ("helper==1.0", "lib==1.0")
    index = Index(
        options={"no-index": "1", "find-links": str(offered), "constraint": str(file)}, uv={"UV_CONSTRAINT": str(other)}
    )
    bound = resolve(["lib"], facts(), index, offered.parent / "resolutions")
    assert bound.add == ("helper==0.9", "lib==0.9")
    assert {f"constraint lib<1 of {file}", f"constraint helper==0.9 of {offered.parent}/inner.txt"} <= set(bound.notes)
    assert "unrelated" not in str(bound)
    file.write_text("lib==1.0\n")
    assert resolve(["lib"], facts(), index, offered.parent / "resolutions").add == ("helper==0.9", "lib==1.0")


def test_packages_that_nothing_needs_are_no_part_of_pips_answer(offered: Path, pips: None) -> None:
    """A package of a stand-in that does not fit its torch is the trouble of the cells that need it."""
    sdist(offered, "source-only", "1.0")
    wheel(offered, "user", "1.0", "source-only", "helper")
    resolution = answer(offered, facts(helper="1.0", unneeded="1.0", pip="24.2"), "user")
    assert resolution.add == ("source-only==1.0", "user==1.0")
    assert resolution.versions == {"user": "1.0", "source-only": "1.0", "helper": "1.0"}


def test_a_constraint_that_causes_drift_is_named_in_it(offered: Path, pips: None) -> None:
    """The image is not to blame, nor the library alone."""
    file = offered.parent / "constraints.txt"
    file.write_text("numpy<2\n")
    wheel(offered, "user", "1.0", "numpy")
    wheel(offered, "numpy", "1.26.4")
    resolution = answer(offered, facts(numpy="2.4.6"), "user==1.0", options={"constraint": str(file)})
    assert (resolution.problem, resolution.drift) == ("drift", ("numpy 2.4.6 -> 1.26.4",))
    assert f"constraint numpy<2 of {file}" in resolution.detail


def test_constraints_that_cannot_be_read_are_the_hosts_trouble_and_not_remembered(offered: Path) -> None:
    """The file may be there in a minute."""
    missing = answer(offered, facts(), "lib", options={"constraint": "http://me:secret@127.0.0.1:9/c.txt /no/file"})
    assert missing.problem == "constraints-unreadable"
    assert "secret" not in str(missing)
    assert not list((offered.parent / "resolutions").glob("*.json"))


def test_dependencies_may_be_left_out(offered: Path) -> None:
    """PIP_NO_DEPS."""
    resolution = answer(offered, facts(), "lib==1.0", options={"no-deps": "1"})
    assert resolution.add == ("lib==1.0",)
    assert "pip's option no-deps is set" in resolution.notes


@pytest.mark.parametrize("requirement", ["source-only", "needs-source==1.0"])
def test_a_release_without_a_wheel_is_told_as_such(offered: Path, requirement: str) -> None:
    """Not as a set of versions that contradict each other."""
    sdist(offered, "source-only", "1.0")
    wheel(offered, "needs-source", "1.0", "source-only")
    assert answer(offered, facts(), requirement, options={"only-binary": ":all:"}).problem == "no-wheel"


def test_a_release_whose_metadata_pip_cannot_build_is_not_added(offered: Path, pips: None) -> None:
    """uv believes pyproject.toml and would add it; pip builds the metadata of each source distribution."""
    sdist(offered, "aged", "1.0", at_build="import a_module_of_an_older_python", static=True)
    resolution = answer(offered, facts(pip="24.2"), "aged==1.0")
    assert (resolution.problem, resolution.add) == ("sdist-build-failed", ())
    assert resolution.evidence == "ModuleNotFoundError: No module named 'a_module_of_an_older_python'"
    assert resolution.detail == f"pip 24.2: {resolution.evidence}"


def test_the_drift_is_pips_own(offered: Path, pips: None) -> None:
    """pip goes back to older releases of what it has to replace in an order of its own; uv is not asked."""
    wheel(offered, "clip", "3.3", "vision", "torch")
    wheel(offered, "vision", "0.29", "torch==2.15.0", "numpy<2.4")
    for version in ("2.15.0", "2.14.1"):
        wheel(offered, "torch", version)
    for version in ("1.26", "2.3", "2.5"):
        wheel(offered, "numpy", version)
    resolution = answer(offered, facts(numpy="2.4", pip="24.2"), "clip==3.3")
    assert resolution.drift == ("numpy 2.4 -> 2.3", "torch 2.13.0+cpu -> 2.15.0")


@pytest.mark.parametrize(
    ("pip", "requirement", "problem", "instead"),
    [
        ("24.2", "legacy==1.0", "pip-refuses-metadata", "pip takes legacy 1.1; "),
        ("24.0", "legacy==1.0", "", ""),
        ("24.2", "bounded==1.0", "python-too-new", "pip takes bounded 0.9; "),
        ("24.2", "needs-bounded==1.0", "", ""),
    ],
)
def test_what_pip_refuses_and_uv_mends_is_refused(
    offered: Path, pips: None, pip: str, requirement: str, problem: str, instead: str
) -> None:
    """The image's own pip decides, once the packages have shown their metadata."""
    wheel(offered, "legacy", "1.0", "helper>=0.1.*")
    wheel(offered, "legacy", "1.1", "helper>=0.1")
    wheel(offered, "bounded", "1.0", needs_python=">=3.7,<3.11")
    wheel(offered, "bounded", "0.9")
    wheel(offered, "needs-bounded", "1.0", "bounded")
    index = Index(options={"no-index": "1", "find-links": str(offered)})
    for _ in range(2):
        resolution, folder = install([requirement], facts(pip=pip), index, offered.parent)
        assert problem == resolution.problem
        assert resolution.detail.startswith(instead)
        assert (folder is None) == bool(problem)
    assert "bounded==1.0" not in resolution.add


def test_what_keeps_the_image_is_such_as_pip_takes(offered: Path, pips: None) -> None:
    """uv would keep the image with a release whose metadata pip refuses; pip keeps it with an older one."""
    wheel(offered, "clip", "3.3", "vision", "torch")
    wheel(offered, "vision", "0.30", "torch==2.15.0")
    wheel(offered, "vision", "0.29", "torch==2.13.0", "helper>=0.1.*")
    wheel(offered, "vision", "0.28", "torch==2.13.0")
    wheel(offered, "torch", "2.15.0")
    index = Index(options={"no-index": "1", "find-links": str(offered)})
    resolution, folder = install(["clip==3.3"], facts(pip="24.2"), index, offered.parent)
    assert resolution.add == ("clip==3.3", "vision==0.28")
    assert resolution.drift == ("torch 2.13.0+cpu -> 2.15.0",)
    assert folder is not None


def test_without_the_images_python_pip_is_not_asked(offered: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """uv's answer stands, with a note; what pip is known to refuse is refused."""
    monkeypatch.setenv("PATH", "/usr/bin:/bin")  # else uv asks each shim of a version manager, again and again
    wheel(offered, "clip", "3.3", "torch>=2", "vision")
    wheel(offered, "vision", "0.28", "torch==2.13.0")
    wheel(offered, "vision", "0.29", "torch==2.15.0")
    wheel(offered, "torch", "2.15.0")
    wheel(offered, "legacy", "1.0", "helper>=0.1.*")
    image = {**facts(), "python": "3.77.0", "abi": "cp377"}
    resolution = answer(offered, image, "clip==3.3")
    assert resolution.add == ("clip==3.3", "vision==0.28")
    assert resolution.drift == ("torch 2.13.0+cpu -> 2.15.0",)
    assert resolution.notes == ("pip itself was not asked: this host has no Python 3.77",)
    index = Index(options={"no-index": "1", "find-links": str(offered)})
    wheel(offered, "bounded", "1.0", needs_python=">=3.7,<3.11")
    for requirement, problem in {"legacy==1.0": "pip-refuses-metadata", "bounded==1.0": "python-too-new"}.items():
        assert problem == install([requirement], image, index, offered.parent)[0].problem


def test_a_python_behind_a_shim_runs_the_images_pip(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A version manager's shim refuses what is installed but not chosen."""
    for place, script in {
        "shims/python3.97": "exit 127",
        "versions/3.97.1/bin/python3": f'exec {sys.executable} "$@"',
    }.items():
        (tmp_path / place).parent.mkdir(parents=True)
        (tmp_path / place).write_text(f"#!/bin/sh\n{script}\n")
        (tmp_path / place).chmod(0o755)
    monkeypatch.setenv("PATH", f"{tmp_path / 'shims'}:{os.environ['PATH']}")
    monkeypatch.setenv("PYENV_ROOT", str(tmp_path))
    assert interpreters.find("3.97")
    assert interpreters.find("3.96") == ""


@pytest.mark.slow
@pytest.mark.parametrize(
    ("requirement", "problem", "added", "drift"),
    [
        ("pyro-ppl==1.9.1", "", "pyro-ppl==1.9.1", ""),
        ("captum==0.8.0", "drift", "", "numpy 2.4.6 -> 1"),
        ("open-clip-torch==3.3.0", "", "torchvision==0.28", "torch 2.13.0+cpu -> 2"),
        ("pyro-ppl==99", "version-not-found", "", ""),
    ],
)
def test_the_real_index(tmp_path: Path, requirement: str, problem: str, added: str, drift: str) -> None:
    """The same, asked of the index that pip is configured for."""
    image = facts(numpy="2.4.6", filelock="4.2.11", sympy="1.14.0", tqdm="4.70.1", packaging="26.0")
    resolution = resolve([requirement], image, Index.from_pip(), tmp_path / "resolutions")
    assert problem == resolution.problem
    assert any(pin.startswith(added) for pin in resolution.add) or not added
    assert any(change.startswith(drift) for change in resolution.drift) == bool(drift)
