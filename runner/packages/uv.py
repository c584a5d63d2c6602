"""The only caller of uv: its program, its runs and the meaning of its failures."""

from __future__ import annotations

import os
import re
import shlex
import shutil
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from functools import cache, partial
from pathlib import Path
from tempfile import TemporaryFile

from torch_compat_matrix.runner.errors import OF_THE_IMAGES_BUILD, Trouble
from torch_compat_matrix.runner.files import home, read_ini, scratch, temporary, user_home, write_whole
from torch_compat_matrix.runner.packages import builds
from torch_compat_matrix.runner.packages.constraints import PATIENCE_S
from torch_compat_matrix.runner.packages.pip_config import PYPI
from torch_compat_matrix.runner.pins import admits, name_of
from torch_compat_matrix.runner.streams import Kept, pieces
from torch_compat_matrix.runner.text import one_line, redact
from torch_compat_matrix.runner.watch import runs

TIMEOUT_S = 1800
"""For a run of uv; a stand-in's torch is several gigabytes."""
TIMED_OUT = 124
"""The status of a run that was ended by a limit."""
KILLED = (-signal.SIGKILL, 128 + signal.SIGKILL)
"""Those of a run that somebody else killed: the kernel, for want of memory."""
ASKED_AGAIN_S = 60
"""For so long indexes that did not answer are not asked again."""


def reasons(installer: str) -> tuple[tuple[str, str, str], ...]:
    """The reasons of an installer's failures in the order of reasons.ini: code, blame if words tell it, pattern."""
    table = read_ini(Path(__file__).with_name("data") / "reasons.ini")[installer]
    parts = ((*key.partition(": ")[::2], pattern.replace("\n", "")) for key, pattern in table.items())
    return tuple((code, "" if of.isdigit() else of, pattern) for code, of, pattern in parts)


def is_of_a_dependency(reason: str, words: str, asked: Iterable[str]) -> bool:
    """Whether an installer's words name as what could not be built only distributions that nobody has asked for."""
    if reason not in ("sdist-build-failed", "needs-in-image"):
        return False
    one = r"[A-Za-z][\w.-]*(?:==[^\s`'\",]+)?"
    many = r"(?:installable wheels for [^(╰]{1,80}(?:\(|╰─> ))?(?!installable)"  # pip's words for several
    told = re.search(rf"Failed to (?:download and )?build {many}[`'\"]?({one}(?:,? {one})*)(?=$|[\s`'\",)])", words)
    return told is not None and {name_of(named) for named in re.split(",? ", told[1])}.isdisjoint(asked)


MOST_ANSWER, MOST_SAID = 8 << 20, 256 << 10
"""Bytes that are kept of uv's answer, and of either end of its remarks, which quote what a build printed."""

REASONS = reasons("uv")
"""Reason code, blame and the pattern of uv's own words that shows them, the most telling first."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Ran:
    """How one run of uv ended."""

    status: int
    out: str
    err: str

    @property
    def reason(self) -> str:
        """The stable reason code of uv's error; `install-failed` where no pattern matches."""
        return self._meaning[0]

    @property
    def blame(self) -> str:
        """Who is to blame by the words; empty: as the reason says."""
        return self._meaning[1]

    @property
    def _meaning(self) -> tuple[str, str]:
        """Reason code and blame."""
        words = one_line(self.err)
        if self.status in KILLED:
            return "out-of-memory", ""
        asked = re.search(r"requirement \S+==(\d[\d.]*) \(from versions: (\d[\d.]*)[,)]", words)
        if asked and admits(f"x>{asked[1]}", asked[2]):
            return "no-wheel", "image"  # older than all that pip offers: its files are for older Pythons
        of_the_image = re.search(OF_THE_IMAGES_BUILD, self.err)
        unnamed = ("sdist-build-failed" if of_the_image else "install-failed", "")
        code, blame = next(((code, blame) for code, blame, pattern in REASONS if re.search(pattern, words)), unnamed)
        return code, "image" if code == "sdist-build-failed" and of_the_image else blame

    @property
    def explanation(self) -> str:
        """uv's error message, without secrets."""
        start = self.err.find("error: ")
        return redact(self.err[max(start, 0) :]).strip().removeprefix("error: ")

    def trouble(self, what: str) -> Trouble:
        """The failure as a named outcome for every check that it concerns."""
        explanation = self.explanation
        return Trouble(self.reason, f"{what}: {brief(explanation)}", evidence=evidence(explanation), blame=self.blame)


_running: set[subprocess.Popen[bytes]] = set()

_FINDING = threading.Lock()
"""uv reads sysconfig, whose variables are incomplete while another thread reads them for the first time."""


@cache
def binary() -> str:
    """The uv of this interpreter's environment, else that on the search path."""
    try:
        from uv import find_uv_bin

        with _FINDING:
            return os.fspath(find_uv_bin())
    except (ImportError, FileNotFoundError):
        program = shutil.which("uv")
    if program is None:
        raise Trouble("no-installer", "uv is not installed")
    return program


@cache
def version() -> str:
    """uv's own version: part of the key of all its answers."""
    return run(("--version",), {}).out.strip()


def run(
    arguments: Sequence[str], environment: Mapping[str, str], *, stdin: str = "", timeout_s: float = TIMEOUT_S
) -> Ran:
    """Run uv; on a time-out or interruption end it with its builds; `environment` is added to this process's.

    An interpreter that prints more than its answer, from a `sitecustomize` say, is asked again through a filter.
    """
    ran = _run(arguments, environment, stdin, timeout_s)
    noisy = re.search(r"Querying Python at `(.+?)` returned an invalid response", ran.err)
    if not ran.status or noisy is None:
        return ran
    with scratch(home() / "resolutions") as folder:
        filtered = Path(folder, "python")
        filtered.write_text(_FILTER.format(shlex.quote(noisy[1])))
        filtered.chmod(0o755)
        at = arguments.index("--python") if "--python" in arguments else len(arguments)
        through = [*arguments[:at], *arguments[at + 2 :], "--python", str(filtered)]
        again = _run(through, environment, stdin, timeout_s)
    return ran if "Failed to inspect Python interpreter" in again.err else again


def pins(requirements: Sequence[str], environment: Mapping[str, str], *flags: str) -> Ran:
    """Run uv to resolve requirements; its answer has a pin a line."""
    command = ("pip", "compile", "--no-header", "--no-annotate", *flags, "-")
    return run(command, environment, stdin="\n".join(requirements))


_FILTER = """\
#!/bin/sh
{} "$@" | sed -n 's/^.*\\({{"result": *".*}}\\).*$/\\1/p'
"""
"""An interpreter whose only words are the answer to uv's question."""


def _caches() -> dict[str, str]:
    """A folder of ours for the caches of uv, pip and builds, where the user's own cannot be written or is nowhere."""
    user = user_home()
    cache = Path(os.environ.get("XDG_CACHE_HOME") or user / ".cache", "uv")
    with suppress(OSError):
        cache.mkdir(parents=True, exist_ok=True)
        if os.access(cache, os.W_OK | os.X_OK):
            return {}
    ours = str(home() / "cache")
    return {"XDG_CACHE_HOME": ours} if user.is_dir() else {"XDG_CACHE_HOME": ours, "HOME": ours}


def _run(arguments: Sequence[str], environment: Mapping[str, str], stdin: str, timeout_s: float) -> Ran:
    command, variables = [binary(), *arguments, *_interpreter(arguments)], _variables(environment)
    asks = tuple(arguments[:2]) in (("pip", "compile"), ("pip", "install")) and "--no-index" not in arguments
    indexes = _indexes(variables) if asks and "://" not in stdin else ()  # a requirement by URL may need none
    if not indexes:
        return finish(command, variables, stdin=stdin, timeout_s=timeout_s)
    if words := _known(indexes):
        return Ran(status=TIMED_OUT, out="", err=words)
    hopeless = partial(silence, environment, next(filter(None, map(name_of, stdin.splitlines())), "pip"))
    return finish(command, variables, stdin=stdin, timeout_s=timeout_s, hopeless=hopeless)


def _variables(environment: Mapping[str, str]) -> dict[str, str]:
    # A hard link would let a library that writes to its own files change uv's cache, and so every later install; a
    # copy shares its blocks where the file system can.
    # No Python is downloaded unless the user says so: a test must not depend on what a mirror offers today.
    quiet = dict.fromkeys(("UV_NO_WRAP", "UV_NO_PROGRESS", "NO_COLOR"), "1")
    defaults = {"UV_PYTHON_DOWNLOADS": "never", "UV_LINK_MODE": "copy", **quiet}
    return {**defaults, **os.environ, **_caches(), **environment}


def silence(environment: Mapping[str, str], name: str = "pip") -> str:
    """uv's words on the indexes of which one does not answer; empty where all do, which is asked once a process.

    uv itself would wait for four time-outs, each as long as the user lets a download pause, and at each of its runs.
    `name`: the distribution whose page they are asked for.
    """
    variables = _variables(environment)
    indexes = _indexes(variables)
    with _ASKING:
        words = _known(indexes) if indexes else ""
        if words is None:
            own = os.environ.get("UV_HTTP_TIMEOUT", "")
            most_s = max(PATIENCE_S, int(own) if own.isdecimal() else 0)
            tries = {"UV_HTTP_TIMEOUT": str(most_s), "UV_HTTP_RETRIES": os.environ.get("UV_HTTP_RETRIES", "3")}
            command = [binary(), "pip", "compile", "--no-cache", "--no-deps", "--only-binary", ":all:", "-"]
            variables |= {**tries, "UV_INDEX_STRATEGY": "unsafe-best-match"}
            ran = finish(command, variables, stdin=f"{name}==0+none", timeout_s=most_s)  # the page alone is fetched
            words = ran.err if ran.reason == "index-unreachable" else ""
            if ran.status == TIMED_OUT:
                words = f"error: {' '.join(indexes)}: timed out: no answer within {most_s} s"
            _answers[indexes] = time.monotonic(), words
        return words


def _known(indexes: tuple[str, ...]) -> str | None:
    """What was said of the indexes; None where they are to be asked."""
    asked, words = _answers.get(indexes, (0.0, ""))
    return None if indexes not in _answers or (words and time.monotonic() > asked + ASKED_AGAIN_S) else words


def _indexes(variables: Mapping[str, str]) -> tuple[str, ...]:
    """What uv asks over a network."""
    main = variables.get("UV_DEFAULT_INDEX") or variables.get("UV_INDEX_URL") or PYPI
    more = [variables.get(name, "") for name in ("UV_INDEX", "UV_EXTRA_INDEX_URL", "UV_FIND_LINKS")]
    return tuple(url for url in re.split(r"[\s,]+", " ".join([main, *more])) if "http" in url.partition("://")[0])


_answers: dict[tuple[str, ...], tuple[float, str]] = {}
"""Indexes -> when they were asked whether they answer, and what uv said of their silence; empty: they answer."""
_ASKING = threading.Lock()


def _interpreter(arguments: Sequence[str]) -> Sequence[str]:
    """This interpreter where uv needs one of its version: uv would ask all of the search path, at each of its runs."""
    wanted = arguments[arguments.index("--python-version") + 1] if "--python-version" in arguments else ""
    fits = wanted.split(".")[:2] == [str(number) for number in sys.version_info[:2]] and not sys.abiflags
    return ("--python", sys.executable) if fits and "--python" not in arguments else ()


def finish(
    command: Sequence[str],
    environment: Mapping[str, str],
    *,
    stdin: str = "",
    timeout_s: float,
    hopeless: Callable[[], str] = str,
) -> Ran:
    """Run an installer in this environment alone; on a time-out or interruption end it with its builds.

    `hopeless`: asked each second for words on why it cannot succeed, which then end it; empty as long as it may.
    """
    runs(command)
    lifeline, ours = os.pipe()
    try:
        with TemporaryFile(dir=temporary()) as given:
            given.write(stdin.encode())
            given.flush()
            process = subprocess.Popen(
                ["/bin/sh", "-c", _WITH_ITS_OWNER, f"/dev/fd/{given.fileno()}", *command],
                env=environment,
                stdin=lifeline,
                stdout=subprocess.PIPE,
                stderr=subprocess.PIPE,
                bufsize=0,
                start_new_session=True,
                pass_fds=[given.fileno()],
            )
            return _ended(process, timeout_s, hopeless)
    finally:
        os.close(lifeline)
        os.close(ours)


_WITH_ITS_OWNER = 'exec 3<&0; (read -r _ <&3; kill -9 0) >/dev/null 2>&1 & exec 3<&-; exec "$@" <"$0"'
"""Runs a command whose whole session ends with the process that holds the other end of its pipe, even if killed."""


class _Watch(threading.Thread):
    """Ends an installer that asks in vain, or that builds beyond the limits; `words` then say so."""

    def __init__(self, process: subprocess.Popen[bytes], hopeless: Callable[[], str]) -> None:
        super().__init__(daemon=True)
        self.process, self.hopeless = process, hopeless
        self.words, self.over = "", threading.Event()

    def run(self) -> None:
        while not self.over.wait(1):
            self.words = builds.excess(self.process.pid) or self.hopeless()
            if self.words and not self.over.is_set():
                _kill(self.process)
                return


def _ended(process: subprocess.Popen[bytes], timeout_s: float, hopeless: Callable[[], str]) -> Ran:
    """How the process ends, which is killed with its builds on a time-out or interruption."""
    out, err = Kept(head=MOST_ANSWER), Kept(head=MOST_SAID, tail=MOST_SAID)
    watch = _Watch(process, hopeless)
    watch.start()
    assert process.stdout is not None and process.stderr is not None
    with process:
        _running.add(process)
        try:
            for stream, data in pieces(process.stdout, process.stderr, until=time.monotonic() + timeout_s):
                (out if stream is process.stdout else err).add(data)
            process.wait(timeout_s)
        except BaseException as error:
            _kill(process)
            if isinstance(error, (TimeoutError, subprocess.TimeoutExpired)):
                return Ran(status=TIMED_OUT, out="", err=f"error: uv did not end within {timeout_s:g} s")
            raise
        finally:
            watch.over.set()
            _running.discard(process)
    if process.returncode and watch.words:
        return Ran(status=TIMED_OUT, out="", err=watch.words)
    killed = "error: The installer was killed from outside" if process.returncode in KILLED else ""
    return Ran(status=process.returncode, out=out.text(), err=err.text() or killed)


def end_all() -> None:
    """End every running installer, from any thread: an interrupted run does not wait for a download."""
    for process in list(_running):
        _kill(process)


def _kill(process: subprocess.Popen[bytes]) -> None:
    """End an installer with its builds, which share its session."""
    with suppress(ProcessLookupError):
        os.killpg(process.pid, signal.SIGKILL)


def redact_sources(packages: Path) -> None:
    """Redact the origins of the packages in a folder: uv leaves the query of a URL in direct_url.json."""
    for path in packages.glob("*.dist-info/direct_url.json"):
        write_whole(path, [redact(path.read_text())])


def brief(explanation: str, limit: int = 600) -> str:
    """uv's explanation on one line, without introduction and indentation."""
    text = " ".join(line.strip() for line in explanation.partition("\nhint:")[0].splitlines())
    text = re.sub(r"^No solution found when resolving dependencies\W*cause: ", "", re.sub(r"\s+", " ", text))
    return text if len(text) <= limit else text[: limit - 1] + "…"


def evidence(explanation: str) -> str:
    """The most telling line: the last exception of a failed build, git's own words, else the first cause.

    Of an interpreter that does not start (a version manager's shim, which tells what it hides) all its words.
    """
    if "Querying Python at" in explanation and "[stderr]" in explanation:
        return " ".join(explanation.partition("[stderr]")[2].partition("Note:")[0].split())[:400]
    lines = [line.strip() for line in explanation.splitlines() if line.strip()]
    raised = [line for line in lines if re.match(r"[\w.]+(?:Error|Exception)\b", line)]
    git = [
        re.sub(r"^fatal: unable to access '[^']*': ", "", line) for line in lines if re.match(r"(ssh|fatal): ", line)
    ]
    causes = [line.removeprefix("cause: ") for line in lines if line.startswith("cause: ")]
    return (raised[-1:] or git[:1] or causes[:1] or lines[:1] or [""])[0][:400]
