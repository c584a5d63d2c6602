"""Say which requirements work in an image, by the results that somebody else published. Nothing is run.

requirements FILE  a requirements.txt, pyproject.toml or environment.yml
--image REF required  the image: its name, its reference or its digest
--results URL|FILE required  the latest.json of a site, or a run's report.json
--json  print the answer as JSON

compat check requirements.txt --image registry.example.com/team/train:24.1 --results latest.json
compat check pyproject.toml --image train --results https://team.example.com/compat/latest.json --json
"""

from __future__ import annotations

import argparse
import urllib.request
from collections.abc import Iterator
from dataclasses import asdict
from pathlib import Path
from typing import cast

from torch_compat_matrix.compat.answers import Checked, CheckedRequirement
from torch_compat_matrix.compat.progress import say, tell
from torch_compat_matrix.runner.advice.published import Answer, Published, names_of
from torch_compat_matrix.runner.errors import NothingSelected, Status, UsageError, did_you_mean, reading
from torch_compat_matrix.runner.files import read_whole
from torch_compat_matrix.runner.matrix.draft import requirements_in

MOST = 256 << 20
"""Bytes of the results."""
REMEDY = "name the latest.json that `compat site` writes, or a report.json"


def main(options: argparse.Namespace) -> Status:
    """Answer for each requirement; 1 where one fails, 5 where one was not tested."""
    results = _published(options.results)
    image = results.image(options.image)
    if not image:
        known = {name for place in results.places.values() for name in names_of(place)}
        near = did_you_mean(options.image, known)
        raise NothingSelected(f"{options.results}: no results of the image {options.image!r}{near}")
    with reading(options.requirements, "name a requirements.txt"):
        text = read_whole(options.requirements, MOST).decode("utf-8", "replace")
    try:
        requirements, left = requirements_in(str(options.requirements), text)
    except ValueError as error:
        raise UsageError(str(error), "name a requirements.txt", str(options.requirements)) from error
    answers = [results.answer(image, asked) for asked in requirements]
    for line in left:
        say(f"left out: {line}")
    rows = [cast(CheckedRequirement, asdict(each)) for each in answers]
    reference = next((place.reference for place in results.places.values() if place.image.name == image), "")
    run, finished = results.run, results.finished
    data = Checked(image=image, reference=reference, run=run, finished=finished, requirements=rows, left_out=left)
    tell(options.json, data, _lines(answers, image, results))
    found = {each.answer for each in answers}
    return Status.SURPRISES if "fails" in found else Status.INCOMPLETE if "untested" in found else Status.AS_EXPECTED


def _lines(answers: list[Answer], image: str, results: Published) -> Iterator[str]:
    for each in answers:
        version = f" at {each.version}" if each.version else ""
        yield f"{each.answer:9} {each.requirement}{version}: {each.why}"
        if each.instead and each.answer != "works":
            yield f"{'':9} works here: {', '.join(each.instead)}"
    yield f"by run {results.run} of {results.finished} in {image}; each library was tested without the others"


def _published(place: str) -> Published:
    try:
        if place.startswith(("http://", "https://")):
            with urllib.request.urlopen(place, timeout=30) as response:
                data = response.read(MOST + 1)
        else:
            data = read_whole(Path(place), MOST)
    except OSError as error:  # URLError is one
        raise UsageError(f"cannot be read: {error}", REMEDY, place) from error
    try:
        return Published(data[:MOST].decode("utf-8"))
    except (ValueError, RecursionError, AttributeError, TypeError) as error:
        raise UsageError(f"no results: {error}", REMEDY, place) from error
