"""How a user names checks."""

from __future__ import annotations

import re
from fnmatch import translate
from functools import cache


@cache
def pattern(glob: str) -> re.Pattern[str]:
    return re.compile(translate(glob))


def matches(selector: str, check_id: str) -> bool:
    """Whether a selector takes in a check or cell id.

    A selector is a glob over `image/library-version/probe`, or over its beginning (`image`, `image/library-version`),
    or over the library or the library with its version alone.
    """
    image, _, rest = check_id.partition("/")
    cell, _, probe = rest.partition("/")
    names = (image, f"{image}/{cell}", check_id, cell, f"{cell}/{probe}")
    return any(pattern(selector).match(name) for name in names)
