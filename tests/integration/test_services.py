"""Services of an image, asked for real."""

from __future__ import annotations

import subprocess
import sys

from tests.support import ROOT
from tests.support.environments import environment


def test_services_are_asked_for_real() -> None:
    """A real Jupyter server answers, and what is not there is said."""
    python = environment("jupyter-server")
    script = "from probes.services import ask; import json; print(json.dumps(ask(['jupyter', 'sshd'])))"
    done = subprocess.run([python, "-c", script], cwd=ROOT, capture_output=True, text=True, check=True)
    import json
    import shutil

    found = json.loads(done.stdout)
    assert found["jupyter"]["answers"], found
    assert "answers on its port" in found["jupyter"]["detail"]
    sshd = shutil.which("sshd", path="/usr/sbin:/usr/bin")
    assert found["sshd"]["answers"] == bool(sshd), found
    if not sshd:
        assert found["sshd"]["detail"] == "sshd is not on PATH"


def test_missing_module_is_no_answer() -> None:
    """An interpreter without Jupyter."""
    script = "from probes.services import ask; print(ask(['jupyter'])['jupyter'])"
    done = subprocess.run([sys.executable, "-c", script], cwd=ROOT, capture_output=True, text=True, check=True, env={})
    assert "'answers': False" in done.stdout
