"""Exceptions as plain data: the chain of causes, each with the distribution whose code raised it."""

from __future__ import annotations

import importlib.util
import os
import re
import sys
import sysconfig
import traceback
from importlib import metadata
from typing import Any, Dict, Iterator, List

from . import evidence
from .contract import Link

TRACEBACK_LIMIT = 6000
"""The number of characters kept of a traceback: its end, which holds the error."""
MESSAGE_END = 3000
"""The number of characters kept of either end of a message: the cause may stand in the last line of many."""
MOST_LINKS = 10

MISSING = r"(?:odule|attribute '\w+' on <module) '(\w[\w.]*)'(?: has no attribute| from )|No module named '(\w[\w.]*)\."
"""The module that lacks a name, in a message whose exception does not hold it otherwise."""
REFUSED = re.compile(
    r"(?:\w+\.)*?(\w+)(?:\.__init__)?\(\) (?:got an unexpected keyword|takes \d+ positional|missing \d+ required)"
)
"""The function or class that refuses a keyword, or the number of arguments."""


def describe(error: BaseException) -> Dict[str, Any]:
    """An exception as an observation: failed (evidence), skipped (not applicable) or raised, with its types."""
    chain = _chain(error)
    seen: Dict[str, Any] = {
        "status": "raised",
        "exception": list(dict.fromkeys(name for link in chain for name in _types(link))),
        "message": _ends(str(error)) or type(error).__name__,
        "traceback": "".join(traceback.format_exception(type(error), error, error.__traceback__))[-TRACEBACK_LIMIT:],
    }
    if isinstance(error, evidence.Broken):
        seen.update(status="failed", code=error.code)
    elif isinstance(error, evidence.NotApplicable):
        seen.update(status="skipped", code="not-applicable")
    else:
        seen["chain"] = [_link(link, chain[:number]) for number, link in enumerate(chain[:MOST_LINKS])]
    return seen


def _chain(error: BaseException) -> List[BaseException]:
    chain: List[BaseException] = []
    following: Any = error
    while following is not None and following not in chain:
        chain.append(following)
        following = following.__cause__ or (None if following.__suppress_context__ else following.__context__)
    return chain


def _types(error: BaseException) -> Iterator[str]:
    for kind in type(error).__mro__:
        if kind not in (object, BaseException, Exception):
            yield kind.__qualname__ if kind.__module__ == "builtins" else f"{kind.__module__}.{kind.__qualname__}"


def _link(error: BaseException, before: List[BaseException]) -> Link:
    message = str(error)
    return {
        "type": next(_types(error), type(error).__name__),
        "message": _ends(message),
        "is_cause": all(wrapper.__cause__ is not None for wrapper in before),
        "raised_in": _raised_in(error),
        "lacking": _lacking(error, message),
    }


def _raised_in(error: BaseException) -> str:
    """The distribution of the deepest frame that is not Python's own; empty where that is the probe's.

    A decorator that hands keywords on (`**kwargs`) has not named the one that is refused, nor has a `__getattr__`
    asked for the attribute that it does not have.
    """
    ours = os.path.dirname(os.path.abspath(__file__)) + os.sep
    refused = isinstance(error, TypeError) and REFUSED.match(str(error)[:1000]) is not None
    for frame in reversed(traceback.extract_tb(error.__traceback__)):
        path = os.path.abspath(frame.filename)
        asked = isinstance(error, AttributeError) and frame.name == "__getattr__"
        if asked or (refused and "**" in (frame.line or "")):
            continue
        if path.startswith(ours):
            return ""
        if os.path.isfile(path) and not _is_pythons_own(path):
            found = distribution_of(path)
            if found:
                return found
    return ""


def _is_pythons_own(path: str) -> bool:
    library = sysconfig.get_paths()["stdlib"] + os.sep
    return path.startswith(library) and not re.search(r"[/\\](?:site|dist)-packages[/\\]", path[len(library) - 1 :])


def _lacking(error: BaseException, message: str) -> str:
    """The installed distribution whose package lacks the name or the submodule that was asked for."""
    module = getattr(error, "name", None) if isinstance(error, ImportError) else None
    match = re.search(MISSING, message)
    owner = _owner_of_attribute(error) or _callee(error, message)
    module = module if isinstance(module, str) else getattr(owner, "__module__", None)
    module = str(module or (match and (match[1] or match[2])) or "")
    package = module.partition(".")[0]
    if not package or (isinstance(error, ModuleNotFoundError) and f"'{package}'" in message):
        return ""  # nothing of that name is installed
    # The deepest module that has a file: a namespace package (`google`) has none, and belongs to many.
    parts = module.split(".")
    names = (".".join(parts[:number]) for number in range(len(parts), 0, -1))
    place = next(filter(None, (getattr(sys.modules.get(name), "__file__", None) for name in names)), None)
    if place is None:
        try:
            spec = importlib.util.find_spec(package)
        except (ImportError, ValueError):
            return ""
        place = spec.origin if spec is not None else None
    return distribution_of(os.path.abspath(place)) if place else ""


def _owner_of_attribute(error: BaseException) -> Any:
    """The class that lacks an attribute, or whose object does (from Python 3.10 on); None for a module."""
    found = getattr(error, "obj", None) if isinstance(error, AttributeError) else None
    return found if isinstance(found, type) else None if found is None or type(found) is type(sys) else type(found)


def _callee(error: BaseException, message: str) -> Any:
    """The function or class that refused its arguments, by its name in the frame that called it."""
    if not isinstance(error, TypeError) or error.__traceback__ is None:
        return None
    match = REFUSED.match(message[:1000])
    if match is None:
        return None
    *_, (frame, _) = traceback.walk_tb(error.__traceback__)
    held = dict(frame.f_globals)
    modules = [value for value in held.values() if type(value) is type(sys)]
    return next((names[match[1]] for names in (held, *map(vars, modules)) if match[1] in names), None)


def distribution_of(path: str) -> str:
    """`name==version` of the distribution that installed the file; empty where none did."""
    for entry in sorted({os.path.abspath(entry) for entry in sys.path if entry}, key=len, reverse=True):
        if not path.startswith(entry + os.sep):
            continue
        inside = os.path.relpath(path, entry).replace(os.sep, "/")
        top = inside.partition("/")[0]
        top = top[:-3] if top.endswith(".py") else top
        for distribution in metadata.distributions(path=[entry]):
            record = distribution.read_text("RECORD")
            tops = (distribution.read_text("top_level.txt") or "").split()
            if f"\n{inside}," in f"\n{record}" if record else top in tops:
                return f"{distribution.metadata['Name']}=={distribution.version}"
    return ""


def _ends(text: str) -> str:
    return text if len(text) <= 2 * MESSAGE_END else f"{text[:MESSAGE_END]}\n{text[-MESSAGE_END:]}"
