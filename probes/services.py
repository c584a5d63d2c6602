"""Whether the services that `expects:` names start and answer, each asked on loopback.

The image's own entry point does not run here, so "starts and answers" is all that can be shown.
"""

from __future__ import annotations

import json
import os
import shutil
import socket
import subprocess
import sys
import tempfile
import time
import urllib.request
from importlib.util import find_spec
from typing import Any, Callable, Dict, Iterable, List, Optional

PATIENCE_S = 30.0
"""How long a service may take to answer."""

SBIN = os.pathsep.join([os.environ.get("PATH", os.defpath), "/usr/sbin", "/sbin", "/usr/local/sbin"])


def ask(names: Iterable[str]) -> Dict[str, Any]:
    """Service -> {"answers": whether it answers, "detail": its answer or the problem}."""
    answers = {}
    for name in names:
        try:
            answers[name] = {"answers": True, "detail": {"jupyter": _jupyter, "sshd": _sshd}[name]()}
        except Exception as error:
            answers[name] = {"answers": False, "detail": str(error) or type(error).__name__}
    return answers


def _jupyter() -> str:
    """A Jupyter server says its version on its port."""
    port = _free_port()
    options = ["--no-browser", "--ip=127.0.0.1", f"--port={port}"]
    options += ["--allow-root", f"--notebook-dir={tempfile.gettempdir()}"]
    own = [sys.executable, "-m", "jupyter_server"]
    command = own if find_spec("jupyter_server") else [_program("jupyter"), "notebook"]

    def answer() -> str:
        with urllib.request.urlopen(f"http://127.0.0.1:{port}/api", timeout=2) as reply:
            return f"Jupyter server {json.load(reply)['version']} answers on its port"

    return _answered([*command, *options], answer)


def _sshd() -> str:
    """sshd sends its banner; it gets a new host key, since only root may read the image's."""
    program, keygen, port = _program("sshd"), _program("ssh-keygen"), _free_port()
    with tempfile.TemporaryDirectory() as folder:
        key = os.path.join(folder, "key")
        subprocess.run([keygen, "-q", "-t", "ed25519", "-N", "", "-f", key], check=True, capture_output=True)

        def answer() -> str:
            with socket.create_connection(("127.0.0.1", port), timeout=2) as connection:
                banner = connection.recv(64).decode("ascii", "replace").strip()
            if not banner.startswith("SSH-"):
                raise OSError(f"no SSH banner but {banner!r}")
            return f"{banner} listens"

        options = ["-f", "/dev/null", "-o", "PidFile=none", "-o", "ListenAddress=127.0.0.1"]
        return _answered([os.path.realpath(program), "-D", "-e", "-p", str(port), "-h", key, *options], answer)


def _answered(command: List[str], answer: Callable[[], str]) -> str:
    """The answer of the started service, which is ended in any case."""
    with tempfile.TemporaryFile() as output:
        process = subprocess.Popen(
            command, stdin=subprocess.DEVNULL, stdout=output, stderr=output, start_new_session=True
        )
        try:
            until = time.monotonic() + PATIENCE_S
            while True:
                try:
                    return answer()
                except OSError as error:
                    problem: Optional[OSError] = error
                if process.poll() is not None:
                    output.seek(0)
                    lines = output.read().decode("utf-8", "replace").strip().splitlines()
                    raise RuntimeError(f"ended with status {process.returncode}: {lines[-1] if lines else 'no output'}")
                if time.monotonic() > until:
                    raise RuntimeError(f"no answer within {PATIENCE_S:.0f} s: {problem}")
                time.sleep(0.2)
        finally:
            process.kill()
            process.wait()


def _program(name: str) -> str:
    path = shutil.which(name, path=SBIN)
    if path is None:
        raise RuntimeError(f"{name} is not on PATH")
    return path


def _free_port() -> int:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        return int(free.getsockname()[1])
