"""Selectors: one grammar for all that a user names, and it means what it says."""

from __future__ import annotations

import time
from fnmatch import fnmatchcase

import pytest
from hypothesis import given
from hypothesis import strategies as st

from torch_compat_matrix.runner.selector import Selector, address, first

CHECK = address("torch-2.6/pyro-ppl-1.9.1/import", "pyro-ppl")


@pytest.mark.parametrize(
    "text",
    [
        "torch-2.6",
        "pyro-ppl",
        "pyro-ppl-1.9.1",
        "torch-2.6/pyro-ppl",
        "torch-2.6/pyro-ppl-1.9.1",
        "pyro-ppl/import",
        "pyro-ppl-1.9.1/import",
        "torch-2.6/pyro-ppl/import",
        "torch-2.6/pyro-ppl-1.9.1/import",
        "*",
        "torch-2.*",
        "pyro-ppl-*",
        "*/pyro-ppl-1.9.1",
        "*/*/import",
        "torch-2.[36]/pyro-???/[!s]*",
        *("Pyro_PPL", "PYRO.PPL-1.9.1", "torch-2.6/Pyro_PPL-1.9.1/import", "pyro_ppl-*"),
    ],
)
def test_forms_that_mean_the_check(text: str) -> None:
    """Image, library, library-version, and these with what they stand beside; globs over each."""
    assert Selector(text).takes(CHECK)


@pytest.mark.parametrize(
    "text",
    [
        *("", "/", "torch-2.6/", "/import", "torch-2.6//import", "torch-2.6/pyro-ppl-1.9.1/import/"),
        *(
            "torch",
            "torch-2",
            "pyro",
            "ppl-1.9.1",
            "1.9.1",
            "import",
            "TORCH-2.6",
            "torch-2.6/import",
            "torch-2.6/pyro",
        ),
        *("torch-2.6*import", "torch*/import", "torch-2.6/pyro-ppl-1.9.1/sample", "[torch-2.6", "torch-2.[9-5]"),
    ],
)
def test_forms_that_mean_something_else(text: str) -> None:
    """No part stands for a piece of a name, and no wildcard reaches across a `/`."""
    assert not Selector(text).takes(CHECK)


def test_bare_library_is_neither_an_image_nor_another_library() -> None:
    """`torch` is a library; `torch-2.13` an image, `torchvision` another library."""
    torch = Selector("torch")
    assert torch.takes(address("torch-2.13/torch-installed/import", "torch"))
    assert not torch.takes(address("torch-2.13/torchvision-installed/import", "torchvision"))
    assert not torch.takes(address("torch-2.13/pyro-ppl-1.9.1/import", "pyro-ppl"))
    assert not Selector("foo-1").takes(address("i/foo-1-2/import", "foo"))
    assert Selector("foo-1").takes(address("i/foo-1-2/import", "foo-1"))


def test_a_spelling_is_not_a_version() -> None:
    """Images, versions and probes mean exactly what is written."""
    assert not Selector("foo-1-2").takes(address("i/foo-1.2/import", "foo"))
    assert not Selector("foo-1.2").takes(address("i/foo-1-2/import", "foo-1"))
    assert not Selector("torch_2.6/pyro-ppl").takes(CHECK)
    assert not Selector("pyro-ppl/Import").takes(CHECK)
    assert Selector("ruamel.yaml-0.18").takes(address("i/ruamel-yaml-0.18/import", "ruamel-yaml"))


def test_cell_is_meant_where_all_its_checks_are() -> None:
    """By what names no probe, or every one."""
    cell = address("torch-2.6/pyro-ppl-1.9.1", "pyro-ppl")
    assert all(Selector(text).takes(cell) for text in ("torch-2.6", "pyro-ppl", "*/pyro-ppl-1.9.1", "*/pyro-ppl/*"))
    assert not any(Selector(text).takes(cell) for text in ("*/pyro-ppl-1.9.1/import", "pyro-ppl/[is]*"))


def test_expectation_is_named_like_a_check() -> None:
    """By its image, by `expects`, and by what is expected."""
    expectation = address("article-2.6/expects/captum", "expects")
    for text in ("article-*", "article-*/*", "*/expects/captum", "expects/captum", "article-2.6/expects"):
        assert Selector(text).takes(expectation), text
    assert not Selector("captum").takes(expectation)


WORDS = st.text("ab-1", min_size=1, max_size=4)
GLOBS = st.text("ab-1*?[]!", min_size=1, max_size=6)


@given(WORDS, WORDS, WORDS, WORDS, st.lists(GLOBS, min_size=1, max_size=4))
def test_parts_are_globs(image: str, library: str, version: str, probe: str, parts: list[str]) -> None:
    """Each part means what fnmatch makes of it, held against the whole of one name."""
    cells = library, f"{library}-{version}"

    def cell(glob: str) -> bool:
        return any(fnmatchcase(name, glob) for name in cells)

    meant = False
    if len(parts) == 1:
        meant = fnmatchcase(image, parts[0]) or cell(parts[0])
    elif len(parts) == 2:
        meant = (fnmatchcase(image, parts[0]) and cell(parts[1])) or (cell(parts[0]) and fnmatchcase(probe, parts[1]))
    elif len(parts) == 3:
        meant = fnmatchcase(image, parts[0]) and cell(parts[1]) and fnmatchcase(probe, parts[2])
    assert Selector("/".join(parts)).takes(address(f"{image}/{library}-{version}/{probe}", library)) == meant


@given(st.lists(st.lists(GLOBS, min_size=1, max_size=3).map("/".join)), WORDS, WORDS, WORDS)
def test_first_of_many_is_the_first_alone(selectors: list[str], image: str, library: str, probe: str) -> None:
    """However they are compiled."""
    where = address(f"{image}/{library}-1/{probe}", library)
    alone = (place for place, text in enumerate(selectors) if Selector(text).takes(where))
    assert first(selectors, where) == next(alone, None)


@given(st.text(max_size=12))
def test_any_text_is_a_selector(text: str) -> None:
    """At worst of nothing, and never a warning or an error."""
    assert Selector(text).takes(CHECK) in (True, False)


@pytest.mark.share
def test_hundreds_of_selectors_are_cheap() -> None:
    """300 of them over 20,000 checks, none of which is meant, within a second or so of processor time."""
    selectors = [f"*/library-{number % 40}-1.{number}/sample" for number in range(300)]
    addresses = [
        address(f"image-{image}/library-{number % 40}-2.{number}/sample", f"library-{number % 40}")
        for image in range(20)
        for number in range(1000)
    ]
    started = time.process_time()
    assert all(first(selectors, where) is None for where in addresses)
    assert time.process_time() - started < 10
