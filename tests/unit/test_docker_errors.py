"""An engine's own words are named: each of these was said by a real engine or registry."""

from __future__ import annotations

import pytest
import requests
from docker.errors import APIError

from torch_compat_matrix.runner.backends.docker_errors import trouble_of
from torch_compat_matrix.runner.verdicts.reasons import REASONS


@pytest.mark.parametrize(
    ("code", "said"),
    [
        ("no-nvidia-runtime", 'could not select device driver "" with capabilities: [[gpu]]'),
        ("no-nvidia-runtime", "Unknown runtime specified nvidia"),
        ("no-gpu", "nvidia-container-cli: device error: 1: unknown device: unknown"),
        ("no-nvidia-runtime", "nvidia-container-cli: initialization error: load library failed: libnvidia-ml.so.1"),
        ("driver-too-old", "nvidia-container-cli: requirement error: unsatisfied condition: cuda>=12.4, please update"),
        ("disk-full", "write /var/lib/docker/tmp/GetImageBlob1: no space left on device"),
        ("registry-refused", "Get https://registry.example/v2/: no basic auth credentials"),
        ("registry-refused", "toomanyrequests: You have reached your pull rate limit"),
        ("image-not-found", "manifest for pytorch/pytorch:2.9.0-cuda11.8-cudnn8-devel not found: manifest unknown"),
        ("image-not-found", "pull access denied for pytorch-cuda, repository does not exist or may require login"),
        ("image-not-found", "failed to solve: nvidia/cuda:9.2: docker.io/nvidia/cuda:9.2: not found"),
        ("registry-unreachable", "dial tcp: lookup registry.example: no such host"),
        ("wrong-architecture", "no matching manifest for linux/arm64/v8 in the manifest list entries"),
        ("no-python", 'exec: "python9": executable file not found in $PATH: unknown'),
        ("engine-error", "something that no engine has said yet"),
    ],
)
def test_words_of_an_engine(code: str, said: str) -> None:
    """By a reason of the registry, with the words themselves as evidence."""
    found = trouble_of(APIError("500", explanation=said), "launching")
    assert found.code == code
    assert found.evidence == said
    assert code in REASONS


def test_silence_of_an_engine() -> None:
    """It is not the image's fault."""
    assert trouble_of(requests.exceptions.ConnectionError("refused"), "launching").code == "engine-unreachable"
