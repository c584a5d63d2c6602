"""The step that logs in to a registry, against one that asks for a password."""

from __future__ import annotations

import json
from pathlib import Path

from tests.integration.test_night import Job
from tests.support.registries import Registry


def test_credentials_end_with_the_job(tmp_path: Path, registry: Registry) -> None:
    """They lie in the job's own folder, to which the next steps are pointed; a wrong password fails the step."""
    job = Job(tmp_path, REGISTRY=registry.host, REGISTRY_USER=registry.user)
    said = job.step("login.sh", REGISTRY_PASSWORD=registry.password)
    folder = Path(job.written("ENV").strip().removeprefix("DOCKER_CONFIG="))
    assert folder.is_relative_to(job.temp)
    assert registry.host in json.loads((folder / "config.json").read_text())["auths"]
    assert registry.password not in said
    assert job.step("login.sh", status=1, REGISTRY_PASSWORD="wrong")
