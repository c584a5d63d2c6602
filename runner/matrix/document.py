"""YAML as plain data with a place for every value: scalars stay strings, and surprising syntax is refused."""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from ruamel.yaml import YAML
from ruamel.yaml.error import MarkedYAMLError, YAMLError
from ruamel.yaml.events import (
    AliasEvent,
    CollectionEndEvent,
    CollectionStartEvent,
    DocumentStartEvent,
    Event,
    MappingStartEvent,
    ScalarEvent,
)
from ruamel.yaml.reader import ReaderError

from torch_compat_matrix.runner.errors import CompatError, Status
from torch_compat_matrix.runner.files import read_whole
from torch_compat_matrix.runner.text import fit

MAX_BYTES = 1 << 20
MAX_DEPTH = 20
MOST_SHOWN = 50
"""Mistakes that a message lists."""
WIDTH = 100
"""Characters that a message shows of a line of the file."""
LONGEST_SHOWN = 1000
"""A longer line is not shown: to redact a part of it could miss a secret."""
LONGEST = 1000
"""Characters of a message, which may quote a value of any length."""

LOST = (ValueError, LookupError, AttributeError, TypeError, AssertionError, NotImplementedError)
"""What ruamel raises of text that it does not foresee, such as a directive of a version 1.x."""

Path_ = tuple[str | int, ...]


@dataclass(frozen=True, slots=True)
class Mistake:
    """A mistake in a file: its place, its cause and the remedy."""

    place: str
    """`file:line:column`, both from 1."""
    message: str
    source: str = ""
    """The line of the file."""

    def __str__(self) -> str:
        return f"{self.place}: {self.message}"

    @property
    def position(self) -> tuple[str, int, int]:
        """The file, the line and the column."""
        file, line, column = self.place.rsplit(":", 2)
        return file, int(line), int(column)

    @property
    def shown(self) -> str:
        """The mistake above the line of the file, with a caret below the column."""
        if not self.source.strip() or len(self.source) > LONGEST_SHOWN:
            return str(self)
        before = fit(self.source[: self.position[2] - 1])
        start = max(0, len(before) - WIDTH // 2)
        indent = re.sub(r"[^\t]", " ", before[start:])
        return f"{self}\n    {fit(self.source)[start : start + WIDTH].rstrip()}\n    {indent}^"


class MatrixError(CompatError):
    """The file is not a matrix: its mistakes by file and line, with remedies; the message shows the first of them."""

    status = Status.BAD_MATRIX
    prefix = ""  # each line begins with its place, as editors and CI services look for it

    def __init__(self, mistakes: Iterable[Mistake]) -> None:
        self.mistakes = tuple(sorted(dict.fromkeys(mistakes), key=lambda mistake: mistake.position))
        shown = [mistake.shown for mistake in self.mistakes[:MOST_SHOWN]]
        if len(self.mistakes) > MOST_SHOWN:
            shown.append(f"and {len(self.mistakes) - MOST_SHOWN:,} more")
        super().__init__("\n".join(shown))


@dataclass
class Document:
    """The data of a YAML file (dict, list, str), the place of each value and key, and the mistakes."""

    name: str
    data: Any = None
    places: dict[Path_, str] = field(default_factory=dict)
    mistakes: list[Mistake] = field(default_factory=list)
    lines: dict[str, list[str]] = field(default_factory=dict)
    """The text of each file."""

    def place(self, path: Path_) -> str:
        """The place of that value; of the nearest part around it where it is missing."""
        while path and path not in self.places:
            path = path[:-1]
        return self.places.get(path, f"{self.name}:1:1")

    def mistake(self, path: Path_, message: str) -> None:
        """Note a mistake at that value."""
        self.note(self.place(path), message)

    def note(self, where: str, message: str) -> None:
        """Note a mistake at that place."""
        file, line, _ = where.rsplit(":", 2)
        lines = self.lines.get(file, [])
        if len(message) > LONGEST:
            message = fit(message)  # first: to redact a part of it could miss a secret
            message = f"{message[: LONGEST - 200]} ... {message[-200:]}"  # the remedy is at the end
        self.mistakes.append(Mistake(where, message, lines[int(line) - 1] if int(line) <= len(lines) else ""))

    def file(self, path: Path_) -> Path:
        """The file that holds that value, to which the paths in it are relative."""
        return Path(self.place(path).rsplit(":", 2)[0])


def read(path: Path) -> Document:
    """The file's document, whose mistakes include every error of its YAML."""
    document = Document(name=str(path))
    try:
        text = read_whole(path, MAX_BYTES).decode("utf-8")
    except OSError as error:
        document.note(f"{path}:1:1", f"cannot be read: {error.strerror}; name another file with --matrix")
        return document
    except UnicodeDecodeError as error:
        document.note(f"{path}:1:1", f"byte {error.start} is not UTF-8: save the file as UTF-8")
        return document
    document.lines[str(path)] = re.split(r"\r\n|[\n\r\x85\u2028\u2029]", text)
    try:
        events = list(_sound(text, document))
        if not document.mistakes:
            document.data = _plain(events[::-1], (), document) if events else {}
    except MarkedYAMLError as error:
        mark = error.problem_mark or error.context_mark
        where = f"{path}:{mark.line + 1}:{mark.column + 1}" if mark else f"{path}:1:1"
        document.note(where, f"not YAML: {error.problem or error.context}")
    except ReaderError as error:
        line, column = text.count("\n", 0, error.position) + 1, error.position - text.rfind("\n", 0, error.position)
        number = error.character if isinstance(error.character, int) else ord(error.character)
        message = f"not YAML: the control character U+{number:04X}; remove it"
        document.note(f"{path}:{line}:{column}", message)
    except (YAMLError, *LOST) as error:
        document.note(f"{path}:1:1", f"not YAML: {error}")
    except RecursionError:
        document.note(f"{path}:1:1", f"nested deeper than {MAX_DEPTH} levels")
    return document


def _sound(text: str, document: Document) -> Iterator[Event]:
    """The events of values; noted is all syntax that changes a value or puts it elsewhere: anchors, aliases, tags."""
    depth = documents = 0
    for event in YAML(typ="safe", pure=True).parse(text):
        where = _place(document, event)
        if isinstance(event, AliasEvent) or getattr(event, "anchor", None):
            document.note(where, "anchors and aliases are not supported: write the value out")
        elif isinstance(event, (ScalarEvent, CollectionStartEvent)) and event.tag:
            document.note(where, f"the tag {event.tag} is not supported: every value is a string")
        if isinstance(event, DocumentStartEvent):
            documents += 1
            if documents == 2:
                document.note(where, "a second document: a matrix is a single document; remove the `---`")
        depth += isinstance(event, CollectionStartEvent) - isinstance(event, CollectionEndEvent)
        if depth > MAX_DEPTH:
            document.note(where, f"nested deeper than {MAX_DEPTH} levels")
            return
        if isinstance(event, (ScalarEvent, CollectionStartEvent, CollectionEndEvent)):
            yield event


def _place(document: Document, event: Event) -> str:
    return f"{document.name}:{event.start_mark.line + 1}:{event.start_mark.column + 1}"


def _plain(events: list[Event], path: Path_, document: Document) -> Any:
    """The value at the end of the events, which are reversed and then shorter; the document gets its places."""
    event = events.pop()
    document.places.setdefault(path, _place(document, event))
    if isinstance(event, ScalarEvent):
        # `key:` with nothing behind it is null to YAML, and an empty string to nobody
        return None if event.value == "" and event.style is None else event.value
    items: list[Any] = []
    plain: dict[str, Any] = {}
    while not isinstance(events[-1], CollectionEndEvent):
        if not isinstance(event, MappingStartEvent):
            items.append(_plain(events, (*path, len(items)), document))
        elif (key := _key(events, plain, path, document)) is not None:
            plain[key] = _plain(events, (*path, key), document)
        else:
            _plain(events, path, Document(document.name))
    events.pop()
    return plain if isinstance(event, MappingStartEvent) else items


def _key(events: list[Event], plain: Mapping[str, Any], path: Path_, document: Document) -> str | None:
    """The key of the next value; None for one that is a mistake."""
    where = _place(document, events[-1])
    found = _plain(events, path, Document(document.name))
    key = "" if found is None else found
    if not isinstance(key, str):
        document.note(where, "a key must be a plain word")
    elif key == "<<":
        document.note(where, "merge keys are not supported: write the values out")
    elif key in plain:
        first = document.places[(*path, key)]
        document.note(where, f"{key!r} is here twice (first at {first}): YAML would keep only one; remove the other")
    else:
        document.places[(*path, key)] = where
        return key
    return None
