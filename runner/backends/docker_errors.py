"""What an engine's errors mean: each a named outcome with a remedy."""

from __future__ import annotations

import re
from collections.abc import Iterator
from contextlib import contextmanager

import requests
from docker.errors import APIError, DockerException

from torch_compat_matrix.runner.errors import Trouble

MEANINGS = (
    (
        "no-nvidia-runtime",
        r"could not select device driver|Unknown runtime specified nvidia|unknown or invalid runtime name: nvidia"
        r"|nvidia-container-cli: initialization error|unresolvable CDI devices",
        "install the NVIDIA Container Toolkit and register it (`nvidia-ctk runtime configure`), or set `gpus: none`",
    ),
    (
        "driver-too-old",
        r"unsatisfied condition: cuda>=",
        "update the host's NVIDIA driver, or use an image with an older CUDA (`compat plan` tells beforehand)",
    ),
    (
        "disk-full",
        r"no space left on device|disk quota exceeded",
        "free space on the engine's disk: `docker system df` shows what takes it, `docker image prune` removes images",
    ),
    (
        "registry-refused",
        r"unauthorized|authentication required|no basic auth credentials|403 Forbidden|denied: requested access"
        r"|toomanyrequests|rate limit|incorrect username or password",
        "`docker login` to the registry with an account that may pull this image",
    ),
    (
        "wrong-architecture",
        r"no matching manifest for|does not match the specified platform|exec format error",
        "use an image of this host's architecture",
    ),
    (
        "image-not-found",
        r"manifest unknown|manifest for .* not found|repository does not exist|No such image|pull access denied"
        r"|name unknown|invalid reference format|not found: manifest",
        "correct `tag:` or `digest:` in matrix.yaml; `docker manifest inspect TAG` asks the registry",
    ),
    (
        "registry-unreachable",
        r"no such host|connection refused|i/o timeout|TLS handshake timeout|Client\.Timeout|network is unreachable"
        r"|server misbehaving|x509: |http: server gave HTTP response",
        "check the registry's name, the engine's proxy and certificates, or load the image with `docker load`",
    ),
    (
        "no-python",
        r"exec \S+ failed: No such file"
        r"|executable file not found in \$PATH|exec: .*no such file or directory|stat .*: no such file or directory",
        "name the image's interpreter with `python:` in matrix.yaml",
    ),
)
"""Reason code, where an engine's own words show it, and what to do; the most telling first."""


def trouble_of(error: Exception, doing: str) -> Trouble:
    """The engine's error as a named outcome."""
    said = str(getattr(error, "explanation", None) or error)
    if isinstance(error, (requests.exceptions.ConnectionError, requests.exceptions.Timeout)):
        remedy = "see whether the engine runs: `docker version`"
        return Trouble("engine-unreachable", f"{doing}: the engine does not answer", remedy, said)
    for code, words, remedy in MEANINGS:
        if re.search(words, said, re.I):
            return Trouble(code, f"{doing}: {said}", remedy, said)
    return Trouble("engine-error", f"{doing}: {said}", "see the engine's log", said)


@contextmanager
def named(doing: str) -> Iterator[None]:
    """Turn the engine's errors within into named outcomes."""
    try:
        yield
    except (APIError, DockerException, requests.exceptions.RequestException) as error:
        raise trouble_of(error, doing) from error
