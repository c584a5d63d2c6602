"""Streams of others read in bounded memory: pieces as they come, whole lines, and the two ends of the rest."""

from __future__ import annotations

import os
import time
from collections.abc import Iterable, Iterator
from selectors import EVENT_READ, DefaultSelector
from typing import Protocol

CHUNK = 64 << 10
LONGEST_LINE = 8 << 20
"""Bytes of the longest line that is read; the facts of an image with a thousand packages take one million."""


class Readable(Protocol):
    """A pipe or a socket."""

    def fileno(self) -> int:
        """Its descriptor."""


class Kept:
    """The head and the tail of a stream in bytes; the bytes between them are counted."""

    def __init__(self, head: int = 4 << 10, tail: int = 16 << 10) -> None:
        self.room = head
        self.limit = tail
        self.head = self.tail = b""
        self.total = 0

    def add(self, data: bytes) -> None:
        """Take the next piece."""
        self.total += len(data)
        room = self.room - len(self.head)
        self.head += data[:room]
        self.tail = (self.tail + data[room:])[-self.limit :]

    def text(self) -> str:
        """Both ends, with the number of bytes between them."""
        dropped = self.total - len(self.head) - len(self.tail)
        gap = f"\n[... {dropped} bytes left out ...]\n".encode() if dropped else b""
        return (self.head + gap + self.tail).decode(errors="replace")


def whole_lines(pieces: Iterable[bytes], longest: int = LONGEST_LINE) -> Iterator[bytes]:
    """Each whole line with its end; a line above `longest` bytes is left out, and so is a last one without an end."""
    begun, skipping = bytearray(), False
    for piece in pieces:
        *ends, rest = piece.split(b"\n")
        for end in ends:
            if not skipping and len(begun) + len(end) <= longest:
                yield bytes(begun) + end + b"\n"
            begun.clear()
            skipping = False
        skipping = skipping or len(begun) + len(rest) > longest
        if skipping:
            begun.clear()
        else:
            begun += rest


def pieces(*streams: Readable, until: float = float("inf")) -> Iterator[tuple[Readable, bytes]]:
    """The unbuffered streams' bytes as they come, an empty piece at the end of each, until all have ended.

    TimeoutError at the time `until` (time.monotonic).
    """
    with DefaultSelector() as selector:
        for stream in streams:
            selector.register(stream, EVENT_READ)
        while selector.get_map():
            rest = until - time.monotonic()
            ready = selector.select(None if rest == float("inf") else max(0.0, rest))
            for key, _ in ready:
                data = os.read(key.fd, CHUNK)
                if not data:
                    selector.unregister(key.fileobj)
                yield key.fileobj, data  # type: ignore[misc]  # they were registered as streams
            if time.monotonic() > until:
                raise TimeoutError
