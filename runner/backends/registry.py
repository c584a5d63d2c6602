"""The tags of a repository, asked of its registry with the credentials that the engine's client has for it."""

from __future__ import annotations

import re
from collections.abc import Iterator
from urllib.parse import urljoin

import requests
from docker.auth import load_config, resolve_repository_name

from torch_compat_matrix.runner.backends.docker import DockerBackend
from torch_compat_matrix.runner.backends.docker_errors import named
from torch_compat_matrix.runner.errors import Trouble

HUB = "docker.io"
TIMEOUT_S = 60


def tags(backend: DockerBackend, repository: str) -> list[str]:
    """Every tag of the repository; Trouble `registry-...` or `image-not-found` where its registry names none."""
    registry, path = resolve_repository_name(repository)
    if registry == HUB:
        host, path = "registry-1.docker.io", path if "/" in path else f"library/{path}"
    else:
        host = registry
    with named(f"listing the tags of {repository}"):
        known = backend.client.info().get("RegistryConfig", {}).get("IndexConfigs", {})
        saved = load_config().resolve_authconfig(registry) or {}
    loopback = host.partition(":")[0] in ("localhost", "127.0.0.1")
    scheme = "https" if known.get(host, {}).get("Secure", not loopback) else "http"
    login = {name.lower(): value for name, value in saved.items()}
    user = (login["username"], login["password"]) if login.get("username") else None
    try:
        return list(pages(f"{scheme}://{host}/v2/{path}/tags/list", user, repository))
    except (requests.exceptions.RequestException, ValueError) as error:
        raise Trouble("registry-unreachable", f"listing the tags of {repository}: {error}") from error


def digest_of(backend: DockerBackend, reference: str) -> str:
    """The digest of a tag, as the engine's client is told; Trouble `registry-...` or `image-not-found`."""
    with named(f"asking for the digest of {reference}"):
        return str(backend.client.images.get_registry_data(reference).id)


def pages(url: str, user: tuple[str, str] | None, repository: str) -> Iterator[str]:
    """The tags on the pages of a list, from its URL on."""
    session = requests.Session()
    while url:
        answer = session.get(url, timeout=TIMEOUT_S)
        if answer.status_code == 401:
            session = _admitted(answer.headers.get("WWW-Authenticate", ""), user)
            answer = session.get(url, timeout=TIMEOUT_S)
        if not answer.ok:
            words = f"listing the tags of {repository}: {answer.status_code} {answer.reason}"
            codes = {401: "registry-refused", 403: "registry-refused", 429: "registry-refused", 404: "image-not-found"}
            raise Trouble(codes.get(answer.status_code, "registry-unreachable"), words)
        yield from answer.json().get("tags") or ()
        following = answer.links.get("next", {}).get("url", "")
        url = urljoin(url, following) if following else ""


def _admitted(challenge: str, user: tuple[str, str] | None) -> requests.Session:
    """A session with what the registry's challenge demands: the user itself, or a token that its realm gives out."""
    session = requests.Session()
    scheme, _, demands = challenge.partition(" ")
    if scheme.lower() == "bearer":
        asked = dict(re.findall(r'(\w+)="([^"]*)"', demands))
        given = session.get(asked.pop("realm", ""), params=asked, auth=user, timeout=TIMEOUT_S)
        told = given.json() if given.ok else {}
        session.headers["Authorization"] = f"Bearer {told.get('token') or told.get('access_token')}"
    else:
        session.auth = user
    return session
