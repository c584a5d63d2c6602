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
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from tempfile import TemporaryFile

from torch_compat_matrix.runner.errors import Trouble
from torch_compat_matrix.runner.files import home, scratch, user_home, write_whole
from torch_compat_matrix.runner.streams import Kept, pieces
from torch_compat_matrix.runner.text import one_line, redact
from torch_compat_matrix.runner.watch import runs

TIMEOUT_S = 1800
"""For a run of uv; a stand-in's torch is several gigabytes."""
TIMED_OUT = 124
"""The status of a run that did not end in time."""

_SILENT = r"resolve host|connect to|[Cc]onnection |timed out|unreachable|No route|RPC failed|early EOF|SSL|error: 5\d\d"
_REFUSED = r"Authentication failed|could not read Username|Permission denied|error: 403"
"""What git says of a host that does not answer, and of one that does not let it in."""

MOST_ANSWER, MOST_SAID = 8 << 20, 256 << 10
"""Bytes that are kept of uv's answer, and of either end of its remarks, which quote what a build printed."""

REASONS = (
    ("disk-full", r"No space left on device|Disk quota exceeded"),
    ("hash-mismatch", r"Hash mismatch for|DO NOT MATCH THE HASHES FROM THE REQUIREMENTS FILE"),
    ("certificate-refused", r"invalid peer certificate|CERTIFICATE_VERIFY_FAILED"),
    ("index-refused", r"\b(401 Unauthorized|403 Forbidden|407 Proxy Authentication Required)"),
    ("version-not-found", r"Failed to download `\S+ @ \S+`.* client error \((404|410)"),
    ("index-unreachable", r"Failed to (fetch|download)\S* \S+ cause: (error sending|HTTP status|request|operation)"),
    ("index-unreachable", r"network was disabled|dns error|tcp connect error|error sending request|timed out"),
    ("index-unreachable", rf"\A(?=.*Git operation failed).*?\b({_SILENT})"),
    ("index-refused", rf"\A(?=.*Git operation failed).*?({_REFUSED})"),
    ("version-not-found", r"Git operation failed|Distribution not found at: file:|client error \((404|410)"),
    (
        "python-not-found",
        r"No interpreter found (for|at path)|Failed to inspect Python interpreter from (first|search)",
    ),
    ("needs-in-image", r"The built wheel \S+ is not compatible with the target"),
    # pip's words: it builds where it installs, and the image is there.
    (
        "sdist-build-failed",
        r"did not run successfully|subprocess-exited-with-error|metadata-generation-failed|Could not build wheels for"
        r"|Command errored out with exit status|error: command '\S+' failed",
    ),
    ("index-unreachable", r"\b(NewConnectionError|ReadTimeoutError|ConnectTimeoutError)\b"),
    ("python-too-old", r"requires a different Python: \S+ not in '>=[\d.]+'"),
    ("needs-in-image", r"ModuleNotFoundError: No module named 'torch'"),
    (
        "sdist-build-failed",
        r"Failed to (download and )?build|The build backend returned an error|[Bb]uild backend failed"
        r"|Failed building wheel for",
    ),
    (
        "wheel-refused",
        r"Failed to install: \S+\.whl .{0,200}cause: (Scripts must not|The wheel is|.{0,99}(\.dist-info|RECORD))",
    ),
    ("bad-requirement", r"Couldn't parse requirement|expected .{0,200} the start of a requirement"),
    (
        "version-not-found",
        r"Because (there is no version of )?(\S+)( was not found in [\w ]{1,80})? and you require \2",
    ),
    ("version-not-found", r"No matching distribution found for"),
    ("externally-managed", r"externally[ -]managed"),
    (
        "no-wheel",
        r"ha(s|ve) no (usable wheels|wheels (are available )?with a matching (Python|platform))"
        r"|is not a supported wheel on this platform|have a source distribution or wheel for the current platform",
    ),
    ("yanked", r"was yanked\b"),
    ("unsatisfiable", r"No solution found|ResolutionImpossible|dependency conflicts\.? .{0,300}which is incompatible"),
)
"""Reason code and the pattern of uv's own words that shows it, the most telling first."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Ran:
    """How one run of uv ended."""

    status: int
    out: str
    err: str

    @property
    def reason(self) -> str:
        """The stable reason code of uv's error; `install-failed` where no pattern matches."""
        words = one_line(self.err)
        return next((code for code, pattern in REASONS if re.search(pattern, words)), "install-failed")

    @property
    def explanation(self) -> str:
        """uv's error message, without secrets."""
        start = self.err.find("error: ")
        return redact(self.err[max(start, 0) :]).strip().removeprefix("error: ")

    def trouble(self, what: str) -> Trouble:
        """The failure as a named outcome for every check that it concerns."""
        explanation = self.explanation
        return Trouble(self.reason, f"{what}: {brief(explanation)}", evidence=evidence(explanation))


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
        again = _run(_through(str(filtered), arguments), environment, stdin, timeout_s)
    return ran if _NOT_ASKED in again.err else again


_NOT_ASKED = "Failed to inspect Python interpreter"

_FILTER = """\
#!/bin/sh
{} "$@" | sed -n 's/^.*\\({{"result": *".*}}\\).*$/\\1/p'
"""
"""An interpreter whose only words are the answer to uv's question."""


def _through(python: str, arguments: Sequence[str]) -> list[str]:
    """The arguments with that interpreter."""
    at = arguments.index("--python") if "--python" in arguments else len(arguments)
    return [*arguments[:at], *arguments[at + 2 :], "--python", python]


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
    # A hard link would let a library that writes to its own files change uv's cache, and so every later install; a
    # copy shares its blocks where the file system can.
    # No Python is downloaded unless the user says so: a test must not depend on what a mirror offers today.
    defaults = {
        "UV_PYTHON_DOWNLOADS": "never",
        "UV_LINK_MODE": "copy",
        "UV_NO_WRAP": "1",
        "UV_NO_PROGRESS": "1",
        "NO_COLOR": "1",
    }
    variables = {**defaults, **os.environ, **_caches(), **environment}
    return finish([binary(), *arguments, *_interpreter(arguments)], variables, stdin=stdin, timeout_s=timeout_s)


def _interpreter(arguments: Sequence[str]) -> Sequence[str]:
    """This interpreter where uv needs one of its version: uv would ask all of the search path, at each of its runs."""
    wanted = arguments[arguments.index("--python-version") + 1] if "--python-version" in arguments else ""
    fits = wanted.split(".")[:2] == [str(number) for number in sys.version_info[:2]] and not sys.abiflags
    return ("--python", sys.executable) if fits and "--python" not in arguments else ()


def finish(command: Sequence[str], environment: Mapping[str, str], *, stdin: str = "", timeout_s: float) -> Ran:
    """Run an installer in this environment alone; on a time-out or interruption end it with its builds."""
    runs(command)
    out, err = Kept(head=MOST_ANSWER), Kept(head=MOST_SAID, tail=MOST_SAID)
    with TemporaryFile() as given:
        given.write(stdin.encode())
        given.seek(0)
        process = subprocess.Popen(
            command,
            env=environment,
            stdin=given,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            bufsize=0,
            start_new_session=True,
        )
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
            _running.discard(process)
    return Ran(status=process.returncode, out=out.text(), err=err.text())


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
