"""Judges the expectations of the images by their facts."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from torch_compat_matrix.runner.model import EXPECTS, Verdict, expectation_id
from torch_compat_matrix.runner.outcome import Outcome
from torch_compat_matrix.runner.pins import admits, name_of

UNMET = "expectation-unmet"


def expected(
    plan: Mapping[str, Any], environments: Sequence[Mapping[str, Any]], why: Mapping[str, str] | None = None
) -> tuple[Outcome, ...]:
    """An outcome for each expectation of the plan's images; `why` tells why an image could not be launched.

    Its id is `image/expects/what`, so that a `known:` entry can cover it; `not-run` where the image was never launched,
    and a skip for a stand-in, which says nothing about the image.
    """
    seen = {record["image"]: record for record in environments}
    return tuple(
        outcome
        for image in plan.get("images", ())
        for outcome in _of(image, seen.get(image["name"]), (why or {}).get(image["name"]))
    )


def _of(image: Mapping[str, Any], record: Mapping[str, Any] | None, why: str | None) -> Iterator[Outcome]:
    facts = record["facts"] if record else {}
    for what, said, (met, found) in _asked(image.get("expects") or {}, facts):
        if record is None:
            verdict, reason = Verdict.NOT_RUN, "not-seen"
            detail = "the image was not launched" + (f": {why}" if why else "")
        elif record.get("stand_in"):
            verdict, reason, detail = Verdict.SKIP, "not-applicable", "a stand-in says nothing about the image"
        elif met is None:
            verdict, reason, detail = Verdict.NOT_RUN, "not-seen", found or "the image's launch did not look for this"
        else:
            verdict, reason = (Verdict.PASS, "") if met else (Verdict.FAIL, UNMET)
            detail = f"said: {said}; seen: {found}"
        yield Outcome(
            check=expectation_id(image["name"], what),
            image=image["name"],
            subject=EXPECTS,
            version=said,
            probe=what,
            verdict=verdict,
            reason=reason,
            detail=detail,
            evidence=found if verdict is Verdict.FAIL else "",
            blame="matrix" if verdict is Verdict.FAIL else "",
            labels=tuple(image.get("labels", ())),
            owner=image.get("owner", ""),
        )


def _asked(expects: Mapping[str, Any], facts: Mapping[str, Any]) -> Iterator[tuple[str, str, tuple[bool | None, str]]]:
    """(subject, said value, (whether it is met, seen value)); None where the facts do not tell."""
    torch = facts.get("torch") or {}
    versions = {
        "torch": torch.get("version") or facts.get("packages", {}).get("torch"),
        "cuda": torch.get("cuda"),
        "cudnn": cudnn(torch.get("cudnn")) or None,
        "python": facts.get("python"),
    }
    for what, version in versions.items():
        if expects.get(what):
            said, found = str(expects[what]), str(version or "none")
            if version is None and facts.get("torch_error"):  # a torch that raises tells no version
                yield what, said, (None, f"torch told no version: {facts['torch_error']['message']}")
            else:
                yield what, said, (_begins(found, said), found)
    if expects.get("os"):
        name = str(facts.get("os", ""))
        yield "os", expects["os"], (all(word in name.lower() for word in expects["os"].lower().split()), name)
    for requirement in expects.get("preinstalled") or ():
        yield name_of(requirement), requirement, _held(requirement, facts.get("packages", {}))
    for tool in expects.get("tools") or ():
        path = facts.get("tools", {}).get(tool)
        yield tool, "on PATH", (path is not None, str(path or "not on PATH"))
    for service in expects.get("services") or ():
        answer = (facts.get("services") or {}).get(service)
        seen = (bool(answer["answers"]), str(answer["detail"])) if answer else (None, "")
        yield service, "starts and answers", seen


def cudnn(number: int | None) -> str:
    """cuDNN's version from the number that torch gives: 90100 is 9.1.0, 8902 is 8.9.2."""
    if not number:
        return ""
    major, rest = divmod(number, 10_000) if number >= 90_000 else divmod(number, 1000)
    return f"{major}.{rest // 100}.{rest % 100}"


def _begins(version: str, said: str) -> bool:
    """Whether the version is the said one, or begins with its numbers: 2.6 is met by 2.6.0+cu124, not by 2.60."""
    own = version.partition("+")[0] if "+" not in said else version
    return re.split(r"[.+]", own)[: len(re.split(r"[.+]", said))] == re.split(r"[.+]", said)


def _held(requirement: str, packages: Mapping[str, str]) -> tuple[bool | None, str]:
    version = packages.get(name_of(requirement))
    if version is None:
        return False, "not installed"
    met = admits(requirement, version)
    return met, version if met is not None else f"{version}; comparing it needs `packaging`, which is not installed"
