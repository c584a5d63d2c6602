"""The channels between the probe host and its children: JSON lines over sockets that go one way."""

from __future__ import annotations

import json
import os
import select
import socket
import time
from collections import deque
from typing import Any, Deque, Dict, Optional, Tuple

LIMIT = 1 << 20
"""The bytes that a child may send over a channel; answers take some ten thousand."""


class Channel:
    """JSON lines over a descriptor that no library knows."""

    def __init__(self, descriptor: int) -> None:
        self.descriptor = descriptor

    def say(self, message: Dict[str, Any]) -> None:
        data = json.dumps(message, default=str).encode() + b"\n"
        os.set_blocking(self.descriptor, True)  # a library may have changed every descriptor that it found
        while data:
            data = data[os.write(self.descriptor, data) :]


class BadAnswer(Exception):
    """A child sent what is no answer, or too much."""


class Messages:
    """The JSON objects of some kinds that arrive over a descriptor, a line each; other lines are passed over.

    A library may write to every descriptor that it finds; raises BadAnswer beyond LIMIT bytes.
    """

    def __init__(self, descriptor: int, *kinds: str) -> None:
        self.descriptor = descriptor
        self.kinds = kinds
        self.open = True
        self.taken = 0
        self.torn = b""
        self.lines: Deque[bytes] = deque()

    def take(self) -> None:
        """Read what is there."""
        data = os.read(self.descriptor, 65536)
        self.open = bool(data)
        self.taken += len(data)
        if self.taken > LIMIT:
            raise BadAnswer(f"it sent more than {LIMIT} bytes over its channel")
        *whole, self.torn = (self.torn + data).split(b"\n")
        self.lines.extend(whole)

    def next(self) -> Optional[Dict[str, Any]]:
        """The next message, if it is there."""
        while self.lines:
            try:
                message = json.loads(self.lines.popleft(), parse_int=_number)
            except (ValueError, RecursionError):
                continue
            if isinstance(message, dict) and message.get("kind") in self.kinds:
                return message
        return None

    def wait(self, until: float) -> Optional[Dict[str, Any]]:
        """The next message once it is there; None at that time (time.monotonic), and of a sender that has ended."""
        while True:
            message = self.next()
            rest_s = max(0.0, until - time.monotonic())
            if message is not None or not self.open or not select.select([self.descriptor], [], [], rest_s)[0]:
                return message
            self.take()

    def rest(self) -> Optional[Dict[str, Any]]:
        """The next message of a sender that has ended."""
        while self.open and select.select([self.descriptor], [], [], 0)[0]:
            self.take()
        return self.next()

    def close(self) -> None:
        """Close the descriptor."""
        os.close(self.descriptor)


def _number(text: str) -> int:
    if len(text) > 30:
        raise ValueError("a number for which Python would calculate too long")
    return int(text)


def one_way() -> Tuple[socket.socket, socket.socket]:
    """The ends to read from and to write to of a socket, which unlike a pipe nobody can open anew through /proc."""
    reader, writer = socket.socketpair()
    reader.shutdown(socket.SHUT_WR)
    writer.shutdown(socket.SHUT_RD)
    return reader, writer


def receive(commands: socket.socket) -> Tuple[Any, int]:
    """The next line from the host as plain data (None at the end), with the descriptor that came with it."""
    line, descriptor = b"", -1
    os.set_blocking(commands.fileno(), True)
    while not line.endswith(b"\n"):
        data, descriptors, _, _ = socket.recv_fds(commands, 65536, 1, socket.MSG_CMSG_CLOEXEC)
        if not data:
            return None, descriptor
        line += data
        descriptor = descriptors[0] if descriptors else descriptor
    return json.loads(line), descriptor
