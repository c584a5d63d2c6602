"""A child of the probe host: three channels, bounded output, deadlines, and no process left behind."""

from __future__ import annotations

import json
import os
import select
import signal
import socket
import subprocess
import sys
import time
from typing import Any, Callable, Dict, Optional, Set, Tuple

from . import walls
from .channel import Channel, Messages, one_way
from .child import die_with_parent

HEAD, TAIL = 4096, 16384
"""The bytes that are kept of a child's output: its beginning and its end."""

PATIENCE_S = 10.0
"""How long a killed child may take to end; one that is stuck in a driver never does."""


class TimedOut(Exception):
    """No message by the deadline."""


class Died(Exception):
    """The process ended without a further message; `status` is that of os.waitpid."""

    def __init__(self, status: int) -> None:
        super().__init__(f"wait status {status}")
        self.status = status


class Process:
    """A running child with a channel each for its messages, for its output and for commands."""

    def __init__(self, pid: int, messages: int, printed: int, commands: socket.socket) -> None:
        self.pid = pid
        self.messages = Messages(messages, "facts", "imported", "ended")
        self.printed = printed
        self.commands = commands
        self.prints = True
        self.ended = False
        self.status = 0
        self.head = self.tail = b""
        self.output_bytes = 0
        _spared.add(pid)

    @classmethod
    def fork(cls, function: Callable[[Channel, socket.socket], None], private: int) -> Process:
        """Run `function(channel, commands)` in a forked child without the `private` descriptor."""
        messages, messages_end = (end.detach() for end in one_way())
        printed, printed_end = os.pipe()
        commands_end, commands = one_way()
        sys.stdout.flush()
        sys.stderr.flush()
        pid = os.fork()
        if pid == 0:
            try:
                signal.signal(signal.SIGTERM, signal.SIG_DFL)
                signal.signal(signal.SIGINT, signal.default_int_handler)
                die_with_parent()
                os.setsid()
                os.dup2(os.open(os.devnull, os.O_RDONLY), 0)
                os.dup2(printed_end, 1)
                os.dup2(printed_end, 2)
                for descriptor in (private, messages, printed, printed_end):
                    os.close(descriptor)
                commands.close()
                walls.confine()
                function(Channel(messages_end), commands_end)
            except BaseException:
                import traceback

                traceback.print_exc()
                os._exit(70)
            os._exit(0)
        commands_end.close()
        for descriptor in (messages_end, printed_end):
            os.close(descriptor)
        return cls(pid, messages, printed, commands)

    @classmethod
    def start(cls, task: Dict[str, Any]) -> Process:
        """Start a fresh interpreter on the same bundle and give it its task; its standard input takes commands."""
        messages, messages_end = (end.detach() for end in one_way())
        printed, printed_end = os.pipe()
        commands_end, commands = one_way()
        bundle = os.path.dirname(os.path.dirname(os.path.abspath(__file__)))
        path = os.pathsep.join([bundle, *filter(None, [os.environ.get("PYTHONPATH")])])
        popen = subprocess.Popen(
            [sys.executable, "-m", __package__, "--child", str(messages_end)],
            stdin=commands_end.fileno(),
            stdout=printed_end,
            stderr=printed_end,
            pass_fds=(messages_end,),
            env={**os.environ, **task["cell"]["places"], "PYTHONPATH": path},  # an interpreter looks for code in HOME
            start_new_session=True,
        )
        commands_end.close()
        for descriptor in (messages_end, printed_end):
            os.close(descriptor)
        popen.returncode = 0  # we wait for it ourselves
        process = cls(popen.pid, messages, printed, commands)
        process.send(task)
        return process

    def send(self, command: Dict[str, Any], descriptor: Optional[int] = None) -> None:
        """Send a command, with a descriptor for the answer; a death of the child is noticed at the next read."""
        data = json.dumps(command).encode() + b"\n"
        try:
            if descriptor is not None:
                data = data[socket.send_fds(self.commands, [data], [descriptor]) :]
            self.commands.sendall(data)
        except OSError:
            pass

    def read(self, until: float, *answers: Messages) -> Dict[str, Any]:
        """The next message, or TimedOut at that time (time.monotonic), or Died."""
        sources = (*answers, self.messages)
        while True:
            for source in sources:
                message = source.next()
                if message is not None:
                    return message
            self._reap()
            wait = min(0.1, until - time.monotonic()) if not self.ended else 0.0
            listening = [source for source in sources if source.open]
            descriptors = [source.descriptor for source in listening] + [self.printed] * self.prints
            ready, _, _ = select.select(descriptors, [], [], max(0.0, wait))
            if self.printed in ready:
                self._take_output()
            heard = [source for source in listening if source.descriptor in ready]
            for source in heard:
                source.take()
            if time.monotonic() > until:
                raise TimedOut("no message in time")
            if self.ended and not any(source.open for source in heard):
                raise Died(self.status)

    def drain(self) -> None:
        """Take the output so far; a leftover process may hold the pipe open for ever."""
        until = time.monotonic() + 0.2
        while time.monotonic() < until and select.select([self.printed], [], [], 0)[0]:
            if not self._take_output():
                return

    def _take_output(self) -> int:
        data = os.read(self.printed, 65536)
        self.prints = bool(data)
        self.output_bytes += len(data)
        room = HEAD - len(self.head)
        self.head += data[:room]
        self.tail = (self.tail + data[max(0, room) :])[-TAIL:]
        return len(data)

    def forget_output(self) -> None:
        """Start to collect output anew."""
        self.head = self.tail = b""
        self.output_bytes = 0

    def output(self) -> str:
        """The beginning and the end of the output."""
        dropped = self.output_bytes - len(self.head) - len(self.tail)
        gap = f"\n[... {dropped} bytes left out ...]\n".encode() if dropped > 0 else b""
        return (self.head + gap + self.tail).decode("utf-8", "replace")

    def _reap(self) -> None:
        if not self.ended:
            pid, status = os.waitpid(self.pid, os.WNOHANG)
            if pid:
                self._end(status)

    def _end(self, status: int) -> None:
        self.ended, self.status = True, status
        _spared.discard(self.pid)

    def kill(self) -> None:
        """End it and its session, and wait for it; end this whole process where it cannot be ended."""
        self._reap()
        if not self.ended:
            for end in (os.killpg, os.kill):
                try:
                    end(self.pid, signal.SIGKILL)
                except (ProcessLookupError, PermissionError):
                    pass
        until = time.monotonic() + PATIENCE_S
        while not self.ended:
            if time.monotonic() > until:
                print(f"process {self.pid} cannot be ended: it is stuck in the kernel", file=sys.stderr, flush=True)
                sweep(everything=True)
                os._exit(70)
            time.sleep(0.001)
            self._reap()

    def close(self) -> None:
        """End it and close its pipes."""
        self.kill()
        self.messages.close()
        self.commands.close()
        os.close(self.printed)


_spared: Set[int] = set()
"""Process ids that a sweep spares: the working children and the watcher."""


def stop_with_parent() -> None:
    """End with the process at the other end of standard input, however that process ended.

    A separate process watches: a thread in the warm parent would not survive a fork and must not exist.
    """
    host = os.getpid()
    watcher = os.fork()
    _spared.add(watcher)
    if watcher == 0:
        os.setsid()
        os.closerange(1, 256)  # it must not keep the host's output open when the host has ended
        while os.read(0, 4096):
            pass
        if os.getppid() == host:
            os.kill(host, signal.SIGTERM)
        os._exit(0)


def sweep(everything: bool = False) -> int:
    """Kill every descendant that does not work for this process (or `everything`); return the number that lived.

    This repeats until none is left, since a process may fork while its siblings are being killed.
    """
    spared: Set[int] = set() if everything else _spared
    killed = set()
    for _ in range(200):
        doomed = {pid: state for pid, state in _descendants(os.getpid()).items() if pid not in spared}
        if not doomed:
            break
        for pid, state in doomed.items():
            try:
                if state != "Z":
                    killed.add(pid)
                    os.kill(pid, signal.SIGKILL)
                os.waitpid(pid, os.WNOHANG)
            except (ProcessLookupError, PermissionError, ChildProcessError):
                pass  # gone, another user's by `sudo`, or a grandchild, our child once its parent is gone
        time.sleep(0.002)
    return len(killed)


def cores_of(pid: int, seconds: float = 0.5) -> Tuple[float, float]:
    """The cores that a process and its descendants keep busy, and those that they wait for; zeros where it has ended.

    Both are measured over that time.
    """
    before, started = _processor_times(pid), time.monotonic()
    time.sleep(seconds)
    busy = waiting = 0.0
    for one, (worked, waited) in _processor_times(pid).items():
        worked_before, waited_before = before.get(one, (0.0, 0.0))
        busy += max(0.0, worked - worked_before)
        waiting += max(0.0, waited - waited_before)
    passed = time.monotonic() - started
    return busy / passed, waiting / passed


def _processor_times(root: int) -> Dict[int, Tuple[float, float]]:
    """Process id -> seconds of work and of waiting for a processor so far, of a process and its descendants."""
    found: Dict[int, Tuple[float, float]] = {}
    for pid in (root, *_descendants(root)):
        try:
            with open(f"/proc/{pid}/stat", "rb") as stream:
                fields = stream.read().rpartition(b")")[2].split()
        except OSError:
            continue
        found[pid] = (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK"), _waited(pid)
    return found


def _waited(pid: int) -> float:
    """The seconds that its threads waited for a processor; 0.0 where the kernel does not count them."""
    total = 0
    try:
        for thread in os.listdir(f"/proc/{pid}/task"):
            with open(f"/proc/{pid}/task/{thread}/schedstat", "rb") as stream:
                total += int(stream.read().split()[1])
    except OSError:
        pass
    return total / 1e9


def is_descendant(pid: int) -> bool:
    """Whether it is a process below this one."""
    return pid in _descendants(os.getpid())


def _descendants(root: int) -> Dict[int, str]:
    """Process id -> state of every descendant of a process."""
    children: Dict[int, Dict[int, str]] = {}
    for entry in os.listdir("/proc"):
        if entry.isdigit():
            try:
                with open(f"/proc/{entry}/stat", "rb") as stream:
                    fields = stream.read().rpartition(b")")[2].split()
            except OSError:
                continue
            children.setdefault(int(fields[1]), {})[int(entry)] = fields[0].decode()
    descendants: Dict[int, str] = {}
    frontier = children.get(root, {})
    while frontier:
        descendants.update(frontier)
        frontier = {pid: state for parent in frontier for pid, state in children.get(parent, {}).items()}
    return descendants
