"""Text of others: no secret and nothing active is left in it, and what is neither stays."""

from __future__ import annotations

import unicodedata

import pytest
from hypothesis import given
from hypothesis import strategies as st

from torch_compat_matrix.runner.text import fit, inert, printable, redact

URLS = {
    "https://me:S3cret@host/simple": "https://***@host/simple",
    "https://S3cret@host/x.whl": "https://***@host/x.whl",
    "git+https://S3cret@github.com/o/r.git@v1": "git+https://***@github.com/o/r.git@v1",
    "git+https://x-access-token:S3cret@github.com/o/r@main#egg=r": "git+https://***@github.com/o/r@main#egg=r",
    "https://${NAME}:S3cret@host/x.whl": "https://***@host/x.whl",
    "https://host/x.whl?token=S3cret&v=1": "https://host/x.whl?***&***",
    "https://host/x.whl?S3cret": "https://host/x.whl?***",
    "https://host/x.whl?c2VjS3cret=": "https://host/x.whl?***",
    "https://host/x.whl#token=S3cret&sha256=ab12": "https://host/x.whl#***&sha256=ab12",
    "https://host/x.whl#ghp_S3cret": "https://host/x.whl#***",
    "https://me:to@k@S3cret@host/x?a=b#S3cret": "https://***@host/x?***#***",
    "(url: /simple/x/?token=S3cret)": "(url: /simple/x/?***)",
    "corp=https://u:S3cret@host/simple other=http://S3cret@b/": "corp=https://***@host/simple other=http://***@b/",
}
HARMLESS = (
    "git+ssh://git@github.com/o/r.git@v1",
    "x @ https://${TOKEN}@host/x.whl",
    "x @ https://me:${TOKEN}@host/x.whl",
    "x @ https://${USER_NAME}:${TOKEN}@host/x.whl?key=${KEY}",
    "https://github.com/pytorch/pytorch/issues/1#issuecomment-2034567890",
    "https://pytorch.org/docs/stable/generated/torch.compile.html#torch.compile",
    "https://host/x-1.0-py3-none-any.whl#sha256=0f3b&subdirectory=a/b&egg=x[y]",
    "what? a == b, c@d, e#f",
    "std::vector<int> ? a : b",
)


@pytest.mark.parametrize(("text", "redacted"), URLS.items(), ids=URLS)
def test_no_secret_of_a_url_is_left(text: str, redacted: str) -> None:
    """Whether it is the user, the password, the query or the fragment; a second time changes nothing."""
    assert redact(f"see {text} there") == f"see {redacted} there"
    assert redact(redacted) == redacted


@pytest.mark.parametrize("text", HARMLESS)
def test_what_is_no_secret_stays(text: str) -> None:
    """A name of a variable, a user that all have, an anchor, a hash."""
    assert redact(text) == text


@given(st.text(alphabet=st.characters(exclude_categories=())))
def test_nothing_active_is_left(text: str) -> None:
    """Only lines, tabs and visible text; whoever reads it as UTF-8 or XML can."""
    left = inert(text)
    assert not {unicodedata.category(character) for character in left} & {"Cs", "Zl", "Zp"}
    assert all(unicodedata.category(character) != "Cc" or character in "\n\t" for character in left)
    assert not set(left) & set("\u200b\u200e\u200f\u202a\u202b\u202c\u202d\u202e\u2066\u2067\u2068\u2069\ufeff\xad")
    left.encode()
    assert inert(left) == left


def test_colours_go_and_the_rest_is_spelled_out() -> None:
    """A reader sees that there was something, and a progress bar stays readable."""
    assert inert("\x1b[1;31mred\x1b[0m \x1b]0;title\x07 \u202eevil\x9b") == r"red \x1b]0;title\x07 \u202eevil\x9b"
    assert inert("10%\r20%\r\n") == "10%\n20%\n"


def test_plain_data_is_fit_down_to_its_names() -> None:
    """Numbers stay, and tuples become lists as in JSON."""
    found = fit({"a\x1b": ["https://t@h/", 1, None, ("\x00",)]})
    assert found == {r"a\x1b": ["https://***@h/", 1, None, [r"\x00"]]}


@given(st.text(alphabet=" \t\n:#[a\r\x0b\u3000\xa0"))
def test_no_line_is_a_command_of_a_ci_service(text: str) -> None:
    """As GitHub's runner reads a log: `::` after white space, `##[` anywhere."""
    for line in printable(text).splitlines():
        assert not line.strip().startswith("::")
        assert "##[" not in line


def test_commands_stay_readable() -> None:
    """They are text, with a space in it."""
    assert (
        printable("a\n  ::error::x\n##vso[task] a::b ###[group]") == "a\n  : :error::x\n# #vso[task] a::b ## #[group]"
    )
