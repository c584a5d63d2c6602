"""The meaning of an engine's errors: a named outcome for each."""

from __future__ import annotations

import re
from collections.abc import Iterator
from contextlib import contextmanager

import requests
from docker.errors import APIError, DockerException

from torch_compat_matrix.runner.errors import Trouble

MEANINGS = (
    ("driver-mismatch", r"driver/library version mismatch"),
    ("gpu-unhealthy", r"Failed to initialize NVML: Unknown Error"),
    ("no-gpu", r"nvidia-container-cli: device error: .{0,80}unknown device"),
    (
        "no-nvidia-runtime",
        r"could not select device driver|Unknown runtime specified nvidia|unknown or invalid runtime name: nvidia"
        r"|nvidia-container-runtime: no such"
        r"|nvidia-container-(cli: initialization error|\S{1,40}\W{1,4}executable file not found)"
        r"|unresolvable CDI devices|driver not loaded|nvidia-container-cli: device error"
        r"|no runtime for \W{0,3}nvidia|(inject|setting up) CDI devices|stat nvidia\.com/gpu",
    ),
    ("out-of-memory", r"container init was OOM-killed"),
    ("driver-too-old", r"unsatisfied condition: (?:cuda>=|driver|brand)"),
    ("disk-full", r"no space left on device|disk quota exceeded"),
    (
        "engine-unreachable",
        r"Cannot connect to (the Docker daemon|Podman)|connect to the Docker (daemon socket|API)|error during connect",
    ),
    ("image-not-found", r"pull access denied for|repository does not exist|manifest for .{0,300} not found"),
    (
        "registry-refused",
        r"unauthorized|authentication required|no basic auth credentials|403 Forbidden"
        r"|denied: (requested acc|denied|unauth|\{)"
        r"|toomanyrequests|rate limit|incorrect username or password",
    ),
    (
        "wrong-architecture",
        r"no matching manifest for|does not match the (specified|detected host) platform|exec format error",
    ),
    (
        "image-not-found",
        r"manifest unknown|No such image|name unknown"
        r"|failed to solve: .{0,400}: not found$"
        r"|invalid reference format|not found: manifest|failed to resolve reference .{0,300}: not found",
    ),
    (
        "registry-unreachable",
        r"no such host|connection refused|i/o timeout|TLS handshake timeout|Client\.Timeout|network is unreachable"
        r"|server misbehaving|x509: |(https?://|unexpected ).{0,300}\bEOF\b|http: server gave HTTP response"
        r"|context deadline exceeded|unexpected HTTP status: 5\d\d|503 Service Unavailable|502 Bad Gateway",
    ),
    ("port-in-use", r"port is already allocated|address already in use"),
    (
        "no-python",
        r"exec \S{1,300} failed: No such file|error while loading shared libraries: "
        r"|exec user process caused:? \W{0,2}no such file"
        r"|executable file not found in \$PATH"
        r"|exec:? .{0,300}no such file or directory|exec: .{0,300}: permission denied"
        r"|stat .{0,300}: no such file or directory",
    ),
)
"""Reason code and the pattern of an engine's own words that shows it, the most telling first."""


def trouble_of(error: Exception, doing: str) -> Trouble:
    """The engine's error as a named outcome."""
    words = str(getattr(error, "explanation", None) or error)
    if isinstance(error, (requests.exceptions.ConnectionError, requests.exceptions.Timeout)):
        return Trouble("engine-unreachable", f"{doing}: the engine does not answer", evidence=words)
    return Trouble(code_of(words, "engine-error"), f"{doing}: {words}", evidence=words)


def code_of(words: str, otherwise: str) -> str:
    """The reason that an engine's words show."""
    return next((code for code, pattern in MEANINGS if re.search(pattern, words, re.IGNORECASE)), otherwise)


def needs_writable_root(trouble: Trouble) -> bool:
    """Whether a write failed as a container started (by the engine's hooks: nothing else has run)."""
    return "read-only file system" in trouble.evidence.lower()


def has_no_gpus(trouble: Trouble) -> bool:
    """Whether the engine cannot give GPUs to containers, as on a machine without GPUs."""
    return "could not select device driver" in trouble.evidence


@contextmanager
def named(doing: str) -> Iterator[None]:
    """Turn the engine's errors in the block into named outcomes."""
    try:
        yield
    except (APIError, DockerException, requests.exceptions.RequestException) as error:
        raise trouble_of(error, doing) from error
