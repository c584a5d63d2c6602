"""What `versions:` may name, and what it comes to."""

from __future__ import annotations

import datetime as dt
from pathlib import Path

import pytest

from tests.support.indexes import Index as Offered
from tests.support.indexes import json_index
from tests.support.tinywheels import sdist, simple_index, wheel
from torch_compat_matrix.runner.errors import Trouble
from torch_compat_matrix.runner.matrix.document import MatrixError
from torch_compat_matrix.runner.matrix.expand import TooMany, expand
from torch_compat_matrix.runner.matrix.load import load
from torch_compat_matrix.runner.matrix.settle import movings, settle
from torch_compat_matrix.runner.matrix.versions import Moving, moving, newest_tags
from torch_compat_matrix.runner.model import Plan
from torch_compat_matrix.runner.packages.pip_config import Index
from torch_compat_matrix.runner.packages.releases import releases

RELEASES = {
    "1.10.0": "2026-01-01",
    "1.8.0": "2024-01-05",
    "1.8.6": "2025-03-01",
    "1.8.7": "2026-01-31",
    "1.9.1": "2025-06-01",
    "2.0rc1": "2026-03-01",
    "2.0.dev3": "2026-02-01",
}
COMMIT = "0123456789" * 4


def named(of: str = "", since: str = "", *, prereleases: bool = False) -> list[str]:
    """What the releases above come to."""
    day = dt.date.fromisoformat(since) if since else None
    return list(Moving(of=of, since=day, prereleases=prereleases).among(RELEASES))


def test_releases_are_named_by_range_number_and_day() -> None:
    """In the order of versions, not of text or time, and without pre-releases unless they are asked for."""
    assert named(">=1.8,<1.10") == ["1.8.0", "1.8.6", "1.8.7", "1.9.1"]
    assert named("==1.8.*") == ["1.8.0", "1.8.6", "1.8.7"]
    assert named("latest-2") == ["1.9.1", "1.10.0"]
    assert named("latest-99") == ["1.8.0", "1.8.6", "1.8.7", "1.9.1", "1.10.0"]
    assert named("latest-minor-2") == ["1.9.1", "1.10.0"]
    assert named("latest-minor-3") == ["1.8.7", "1.9.1", "1.10.0"]
    assert named(since="2026-01-01") == ["1.8.7", "1.10.0"]
    assert named("latest-1", "2026-01-01") == ["1.10.0"]
    assert named(since="2026-02-01") == []


def test_prereleases_are_taken_where_they_are_asked_for() -> None:
    """By the key, or by a range that names one; never because there is nothing else."""
    assert named(">=2") == []
    assert named(">=1.10", prereleases=True) == ["1.10.0", "2.0.dev3", "2.0rc1"]
    assert named(">=2.0rc1") == ["2.0rc1"]
    assert named("latest-1", prereleases=True) == ["2.0rc1"]


def test_a_release_of_unknown_day_is_not_since_one() -> None:
    """A page of HTML tells no day."""
    assert Moving(since=dt.date(2020, 1, 1)).among({"1.0": "", "1.1": "2026-01-01"}) == ("1.1",)


def read(folder: Path, versions: str, more: str = "", tag: str = "a:1") -> Plan:
    """The plan of a matrix with these versions of a library, where the index offers the releases above."""
    path = folder / "matrix.yaml"
    path.write_text(f"images: {{ one: {{ tag: '{tag}' }} }}\nlibraries:\n  captum: {{ versions: {versions} }}\n{more}")
    matrix = load(path)
    taken = {f"{library} {spec}": spec.among(RELEASES) for library, spec in movings(matrix)}
    return expand(settle(matrix, {**taken, "one a:24.*": ("24.1", "24.10")}), "docker")


def ids(plan: Plan) -> list[str]:
    """The ids of the cells."""
    return [cell.id for cell in plan.cells]


def test_cells_keep_the_ids_of_exact_versions(tmp_path: Path) -> None:
    """A version that several name is one cell; `latest` stays the cell that it was."""
    plan = read(tmp_path, '["1.8.7", latest-2, ">=1.9", latest, installed]')
    assert ids(plan) == [f"one/captum-{version}" for version in ("1.8.7", "1.9.1", "1.10.0", "latest", "installed")]
    assert [cell.requires for cell in plan.cells[1:4]] == [("captum==1.9.1",), ("captum==1.10.0",), ("captum",)]


def test_an_included_version_may_move(tmp_path: Path) -> None:
    """For the images of the rule."""
    more = "include: [{ images: one, library: captum, versions: [latest-1] }]\n"
    assert ids(read(tmp_path, '["1.0"]', more)) == ["one/captum-1.0", "one/captum-1.10.0"]


@pytest.mark.parametrize(
    ("written", "variant", "requirement"),
    [
        (f"git+https://x.org/team/captum.git@{COMMIT}", "git-0123456", None),
        ("git+https://x.org/captum@v0.9.0#subdirectory=py", "git-v0.9.0", None),
        ("git+ssh://git@x.org/captum@feat/new", "git-feat-new", None),
        ("git+https://x.org/captum.git@v1?token=s3cret", "git-v1", None),
        ("dist/captum-0.9.0+acme-py3-none-any.whl", "wheel-0.9.0-acme", "captum @ {folder}/captum-0.9.0%2Bacme-"),
    ],
)
def test_a_reference_has_a_short_name_in_ids(
    tmp_path: Path, written: str, variant: str, requirement: str | None
) -> None:
    """And is installed from where it says; a wheel's path begins at the matrix file."""
    wheel(tmp_path / "dist", "captum", "0.9.0+acme")
    (cell,) = read(tmp_path, f"['{written}']").cells
    assert cell.id == f"one/captum-{variant}"
    expected = requirement and requirement.format(folder=(tmp_path / "dist").as_uri())
    assert cell.requires[0].startswith(expected or f"captum @ {written}")


@pytest.mark.parametrize(
    ("versions", "said"),
    [
        ('[">=1,<"]', r"3:24: '>=1,<' is not a range: .*; write one like `>=1.8,<2`"),
        ("[latest-0]", "3:24: 'latest-0' is not a version; write one like 1.9.1, a range"),
        ("[git+https://x.org/captum.git]", "3:24: .* is a git reference without its commit or tag; write"),
        ("['1.0', dist/captum.whl]", "3:31: 'dist/captum.whl' is no wheel's name"),
        ("[dist/captum-9-py3-none-any.whl]", "3:24: 'dist/captum-9-py3-none-any.whl' is not there; build it first"),
        ("[dist/other-1.0-py3-none-any.whl]", "3:24: .* is a wheel of 'other', not of 'captum'"),
        ("[{ sinse: 2026-01-01 }]", "3:26: unknown key 'sinse'; did you mean 'since'"),
        ("[{ since: lately }]", "3:26: Input should be a valid date"),
        ("[{ of: '1.0' }]", "3:26: '1.0' is not a range; write one like `>=1.8,<2`, `latest-3` or"),
        ("['1.0', '>=99']", "3:31: the package index has no release of captum within `>=99`"),
        ("['git+https://a/b@v1', 'git+https://a/c@v1']", "3:46: .* has the id of .*captum-git-v1: put it into an ent"),
    ],
)
def test_a_mistake_has_its_place_and_remedy(tmp_path: Path, versions: str, said: str) -> None:
    """Before anything runs."""
    wheel(tmp_path / "dist", "other", "1.0")
    with pytest.raises(MatrixError, match=said):
        read(tmp_path, versions)


def test_no_release_since_a_day_is_no_mistake(tmp_path: Path) -> None:
    """There was none; the other versions run."""
    assert ids(read(tmp_path, '["1.0", { since: 2027-01-01 }]')) == ["one/captum-1.0"]


def test_a_rule_may_name_what_has_moved_on(tmp_path: Path) -> None:
    """Else a release would break a sound file; what can never be named is still a mistake."""
    known = "known: [{{ cells: '{}', expect: fail, reason: old }}]\n"
    for cells in ("captum-0.1", "one/captum-0.[12]/import", "Captum-0.*", "one/captum"):
        read(tmp_path, "[latest-3]", known.format(cells))
    with pytest.raises(MatrixError, match=r"4:11: matches no check; did you mean 'captum-\*'"):
        read(tmp_path, "['>=1']", known.format("captum-0.1"))
    with pytest.raises(MatrixError, match="matches no check"):
        read(tmp_path, "[latest-3]", known.format("captun-0.1"))


def test_too_many_releases_are_refused(tmp_path: Path) -> None:
    """As too many written versions are."""
    with pytest.raises(TooMany, match="20 checks, more than 10"):
        read(tmp_path, "['>=1']", "max_checks: 10\n")


def test_only_what_moves_is_asked_of_an_index(tmp_path: Path) -> None:
    """A matrix of exact versions needs no network."""
    assert [moving(text) for text in ("1.9.1", "latest", "installed", "latest-", "a.whl")] == [None] * 5
    (tmp_path / "matrix.yaml").write_text(
        'images: { o: { tag: "a:1" } }\nlibraries: { captum: { versions: [latest] } }'
    )
    assert list(movings(load(tmp_path / "matrix.yaml"))) == []


def test_an_index_is_read_as_pip_reads_it(tmp_path: Path) -> None:
    """All its sources, in JSON, HTML and as folders; withdrawn files and other packages do not count."""
    page = simple_index(tmp_path / "html", wheel(tmp_path / "w", "lib", "1.0+cpu"), sdist(tmp_path / "w", "lib", "1.1"))
    simple_index(tmp_path / "html", wheel(tmp_path / "w", "lib", "1.2"), yanked="broken")
    wheel(tmp_path / "links", "lib", "2.0.0")
    wheel(tmp_path / "links", "lib-more", "9.0")
    (tmp_path / "links" / "notes.txt").touch()
    with json_index() as offered:
        offered.add(wheel(tmp_path / "w", "lib", "2.0"), "2026-01-02")
        offered.add(sdist(tmp_path / "w", "lib", "2.0"), "2026-01-01")
        offered.add(wheel(tmp_path / "w", "lib", "3.0"), "2026-02-01", yanked=True)
        links = f"{tmp_path / 'links'} {tmp_path / 'nowhere'}"
        options = {"index-url": offered.url, "extra-index-url": page, "find-links": links}
        assert releases("Lib", Index(options=options)) == {"2.0": "2026-01-01", "1.0": "", "1.1": ""}
        assert releases("lib", Index(options={**options, "no-index": "1"})) == {"2.0.0": ""}
        assert releases("lib", Index(uv={"UV_DEFAULT_INDEX": page})) == {"1.0": "", "1.1": ""}


def test_an_index_that_does_not_answer_is_named(tmp_path: Path) -> None:
    """Without its secrets; nothing else is taken in its place."""
    with json_index() as offered:
        offered.add(wheel(tmp_path, "lib", "1.0"))
        assert releases("lib", Index(options={"index-url": offered.url})) == {"1.0": ""}
    gone = offered.url.replace("//", "//me:word@")
    with pytest.raises(Trouble, match=r"//\*\*\*@127.*/lib/: .*refused") as caught:
        releases("lib", Index(options={"index-url": gone}))
    assert caught.value.code == "index-unreachable"


def test_a_source_without_the_package_offers_nothing() -> None:
    """Which is no trouble."""
    with json_index() as offered:
        assert isinstance(offered, Offered)
        assert releases("lib", Index(options={"index-url": offered.url})) == {}


def test_each_tag_of_a_pattern_is_an_image(tmp_path: Path) -> None:
    """A rule may name the image of a tag that is there no more, or not yet."""
    known = "known: [{{ cells: '{}', expect: fail, reason: old }}]\n"
    plan = read(tmp_path, '["1.0"]', known.format("one-24.7/captum"), tag="a:24.*")
    assert [(image.name, image.tag) for image in plan.images] == [("one-24.1", "a:24.1"), ("one-24.10", "a:24.10")]
    assert ids(plan) == ["one-24.1/captum-1.0", "one-24.10/captum-1.0"]
    with pytest.raises(MatrixError, match="4:11: matches no check; did you mean 'one-"):
        read(tmp_path, '["1.0"]', known.format("one-25.7/captum"), tag="a:24.*")


def test_the_newest_tags_are_the_last_by_version() -> None:
    """Not by text; a candidate comes before its release."""
    tags = ["24.10", "24.9", "24.1-rc1", "24.1", "23.12", "latest", "24.1-py3", "24.10-cuda12.6", "24.10-cuda12.10"]
    assert newest_tags(tags, "24.*", None) == [
        *("24.1-rc1", "24.1", "24.1-py3", "24.9"),
        *("24.10", "24.10-cuda12.6", "24.10-cuda12.10"),
    ]
    assert newest_tags(tags, "24.?*", 2) == ["24.10-cuda12.6", "24.10-cuda12.10"]
    assert newest_tags(tags, "24.[0-9]", 1) == ["24.9"]
    assert newest_tags(tags, "25.*", 3) == []


@pytest.mark.parametrize(
    ("image", "said"),
    [
        ('tag: "a:1", newest: 3', "1:28: only a tag with a wildcard has a newest: write one like `train:24"),
        (f'tag: "a:1*", digest: "sha256:{"0" * 64}"', "1:29: a digest pins one tag, and the tag has a wildcard"),
        ('tag: "a:24.*"', "1:16: no tag of a is '24.*'; correct the pattern"),
    ],
)
def test_a_mistake_in_a_pattern_has_its_place(tmp_path: Path, image: str, said: str) -> None:
    """As any other."""
    (tmp_path / "matrix.yaml").write_text(f"images: {{ o: {{ {image} }} }}\n")
    with pytest.raises(MatrixError, match=said):
        settle(load(tmp_path / "matrix.yaml"), {"o a:24.*": ()})


def test_a_rule_may_include_a_wheel_beyond_the_images_of_its_library(tmp_path: Path) -> None:
    """By its id, which is not its path."""
    wheel(tmp_path / "dist", "captum", "0.9.0")
    more = "include: [{ images: one, library: captum, versions: [dist/captum-0.9.0-py3-none-any.whl] }]\n"
    path = tmp_path / "matrix.yaml"
    path.write_text(
        "images: { one: { tag: 'a:1' }, two: { tag: 'a:2' } }\n"
        f"libraries: {{ captum: {{ versions: ['1.0'], images: [two] }} }}\n{more}"
    )
    assert ids(expand(settle(load(path), {}), "docker")) == ["one/captum-wheel-0.9.0", "two/captum-1.0"]
