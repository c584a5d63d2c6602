"""docs/tutorial.md, word for word: an empty folder, the installed wheel, an image and a private library."""

from __future__ import annotations

import os
import re
import subprocess
import textwrap
from collections.abc import Iterator
from pathlib import Path

import docker
import pytest

from tests.support import ROOT
from tests.support.installed import installed
from tests.support.tinywheels import wheel

PAGE = ROOT / "docs" / "tutorial.md"
BLOCK = re.compile(r"^( *)```(\w+)(?: (\S+))?\n(.*?)^\1```$", re.MULTILINE | re.DOTALL)
"""A block of code: its language, the file that it is (no file: commands), and its text."""

LAYERS = """
import torch

class Gate(torch.nn.Module):
    def __init__(self, width=8):
        super().__init__()
        self.linear = torch.nn.Linear(width, width)

    def forward(self, data):
        return torch.sigmoid(self.linear(data)) * data
"""

STATUS = {"compat run": 1}
"""The exit status of a command, as the page tells it; of any other it is 0."""


@pytest.fixture
def image(client: docker.DockerClient, tag: str) -> Iterator[str]:
    """The image of the page."""
    client.images.get(tag).tag("train", "24.1")
    yield "train:24.1"
    client.images.remove("train:24.1")


def blocks() -> Iterator[tuple[str, str, str]]:
    """The blocks of the page, in order: language, file, text."""
    for indent, language, file, text in BLOCK.findall(PAGE.read_text()):
        yield language, file, textwrap.dedent(text) if indent else text


@pytest.mark.share(minutes=3)
def test_each_command_of_the_tutorial(image: str, engine_alone: None, tmp_path: Path) -> None:
    """With the exit status that the page tells, and the words that it promises."""
    place = tmp_path / "team"
    place.mkdir()
    wheel(place / "wheels", "acme-layers", "1.0", "torch", code=LAYERS)
    programs = installed(tmp_path)
    hidden = ("PYTHONPATH", "COMPAT_HOME", "PYTHONDONTWRITEBYTECODE")
    environment = {name: value for name, value in os.environ.items() if name not in hidden}
    environment |= {"PATH": f"{programs}:{os.environ['PATH']}", "PIP_FIND_LINKS": str(place / "wheels")}
    said: dict[str, str] = {}
    for language, file, text in blocks():
        if language != "sh":
            (place / file).write_text(text)
            continue
        for command in text.strip().splitlines():
            if command.startswith("export "):
                continue  # stands in the environment above
            done = subprocess.run(
                ["bash", "-c", command],
                cwd=place,
                env=environment,
                capture_output=True,
                text=True,
                timeout=600,
                check=False,
            )
            said[command] = done.stdout + done.stderr
            assert done.returncode == STATUS.get(command, 0), f"{command}\n{said[command]}"
    assert len(said) == 10
    assert "backend: docker" in said["compat plan"]
    assert "no-compiler" in said["compat run"] and "superficial" in said["compat run"]
    assert "every mutation is noticed" in said["compat probe acme-layers --prove --cell train/acme-layers-latest"]
    assert "as expected" in said["compat run --locked"]
    assert "xfailed" in said["pytest -m matrix"]
