"""Distributions and versions: one answer to each question about them."""

from __future__ import annotations

import sys

import pytest
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

from torch_compat_matrix.runner.pins import (
    admits,
    canonical,
    changes,
    is_name,
    left_out,
    name_of,
    read_pins,
    same_version,
)


@pytest.fixture
def bare(monkeypatch: pytest.MonkeyPatch) -> None:
    """A host without `packaging`."""
    for module in ("packaging", "packaging.version", "packaging.requirements", "packaging.markers"):
        monkeypatch.setitem(sys.modules, module, None)


@pytest.mark.parametrize(
    ("requirement", "version"),
    [
        ("Pyro_PPL==1.9.1", "1.9.1"),
        ("torch == 2.6.0a0+ecf3bae40a.nv25.01", "2.6.0a0+ecf3bae40a.nv25.01"),
        ("torch===weird", "weird"),
        ("numpy==1.26.4 ; python_version < '3.13'", "1.26.4"),
        ("helper[cuda,Extra_1]==1!2.0", "1!2.0"),
        ("zope.interface>=5,<6", ""),
        ("numpy==1.*", ""),
        ("numpy==1.26.4,!=1.26.5", ""),
        ("numpy", ""),
        ("lib @ https://index.example/lib==1.0/lib-1.0-py3-none-any.whl", ""),
        ("lib@ file:///wheels/lib.whl", ""),
        ("lib~=1.0; extra == 'test'", ""),
    ],
)
def test_requirement_holds_a_name_and_perhaps_a_version(requirement: str, version: str) -> None:
    """The name is the one that `packaging` reads."""
    assert read_pins([requirement]) == {canonicalize_name(Requirement(requirement).name): version}


@pytest.mark.parametrize(
    "text",
    [
        "https://index.example/lib.whl",
        "git+https://github.com/a/b",
        "file:///a",
        "./a",
        "a/b",
        "",
        "# via torch",
        "-r x",
    ],
)
def test_what_has_no_name(text: str) -> None:
    """A URL says which file, not which distribution."""
    assert name_of(text) == ""
    assert read_pins([text]) == {}


def test_output_of_the_resolver_is_read() -> None:
    """Comments and hashes among the pins."""
    output = "lib==1.0 \\\n    --hash=sha256:aa\n    # via\n    #   other\nother==2.0 --hash=sha256:bb\n"
    assert read_pins(output.splitlines()) == {"lib": "1.0", "other": "2.0"}


def test_names_are_compared_as_indexes_do() -> None:
    """PEP 503."""
    assert canonical("Zope.__Interface") == canonicalize_name("Zope.__Interface") == "zope-interface"
    assert is_name(" Pyro_PPL ") and not is_name("pyro-ppl==1.9.1") and not is_name("git+https://x.org")


@pytest.mark.parametrize(
    ("one", "other", "same"),
    [
        ("1.0", "1.0.0", True),
        ("2.6.0a0+nv25.01", "2.6.0a0+nv25.1", True),
        ("2.0RC1", "2.0rc1", True),
        ("2.13.0", "2.13.0+cpu", False),
        ("weird", "weird", True),
        ("weird", "1.0", False),
        ("", "1.0", False),
    ],
)
def test_same_version(one: str, other: str, same: bool) -> None:
    """However it is spelled; a local version is another build."""
    assert same_version(one, other) == same_version(other, one) == same


@pytest.mark.usefixtures("bare")
def test_bare_host_compares_exact_versions_only() -> None:
    """And says so where that is not enough."""
    assert same_version("1.0", "1.0") and not same_version("1.0", "1.0.0")
    assert (admits("lib", "1.0"), admits("lib==1.0", "1.0"), admits("lib==1.1", "1.0")) == (True, True, False)
    assert admits("lib>=1.0", "2.0") is None
    assert left_out(["lib ; python_version < '3'"], {"python": "3.11.7"}) == {}


def test_requirement_admits_versions() -> None:
    """Pre-releases among them: an image holds what it holds."""
    assert admits("Lib", "1.0rc1") and admits("lib>=1.0", "2.0a1") and not admits("lib<2", "2.0")


def test_changes_between_two_sets() -> None:
    """What is spelled otherwise has not changed; what came from a URL has no version to name."""
    old = read_pins(["same==1.0", "up==1.0", "gone==1.0", "linked @ https://x.org/linked.whl"])
    new = read_pins(["same==1.0.0", "up==2.0", "new==1.0", "linked==1.0"])
    assert changes(old, new) == ["gone 1.0 -> none", "linked a URL -> 1.0", "new none -> 1.0", "up 1.0 -> 2.0"]
    assert changes(old, old) == []


FACTS = {"python": "3.10.13", "platform": "linux", "machine": "aarch64", "implementation": "cpython"}


@pytest.mark.parametrize(
    ("requirements", "names"),
    [
        (["TorchBNN==1.2 ; python_version < '3.0'"], ["torchbnn"]),
        (["lib==1 ; python_version >= '3.10'"], []),
        (["lib==1 ; python_full_version < '3.10.13'"], ["lib"]),
        (["lib==1 ; python_version < '3.9'", "lib==2 ; python_version >= '3.9'"], []),
        (["lib @ https://x.org/lib.whl ; sys_platform == 'win32'", "other"], ["lib"]),
        (["lib ; platform_machine == 'aarch64' and platform_system == 'Linux' and os_name == 'posix'"], []),
        (["lib[extra]==1 ; platform_python_implementation == 'PyPy'"], ["lib"]),
        (["lib ; nonsense"], []),  # who reads requirements refuses it
    ],
)
def test_markers_are_those_of_the_image(requirements: list[str], names: list[str]) -> None:
    """Not of the machine that resolves."""
    assert list(left_out(requirements, FACTS)) == names


def test_the_marker_is_told_as_it_is_written() -> None:
    """So that a person finds it in the matrix."""
    told = left_out(["torchbnn==1.2 ; python_version < '3.0'"], FACTS)
    assert told == {"torchbnn": "the marker python_version < '3.0' leaves torchbnn out here"}
