"""The records of a journal, as far as their readers rely on them; what does not fit cannot be read."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypedDict

from torch_compat_matrix.runner.files import read_cache
from torch_compat_matrix.runner.model import Known, Plan, Verdict
from torch_compat_matrix.runner.outcome import Outcome
from torch_compat_matrix.runner.shapes import fits, keys_of
from torch_compat_matrix.runner.signature import signature

if TYPE_CHECKING:
    from torch_compat_matrix.probes.contract import ImageFacts

SCHEMA = 1
MOST_NUMBERS = 64
"""The numbers that stand for a result, at most."""


class GateRow(TypedDict):
    """A required check: `promote`, `waived`, `hold` or `inconclusive`, why, and its evidence where there is any."""

    check: str
    state: str
    excuse: str
    run: str
    started: str
    device: str


class CheckNoise(TypedDict):
    """A check of an A/A experiment; `rate`: the share of flips, `spread`: of each metric, as a share of its median."""

    check: str
    verdicts: list[str]
    flips: int
    rate: float
    alarms: Mapping[str, int]
    spread: Mapping[str, float]


class Noise(TypedDict):
    """What equal runs differed in; `alarms`: level of the ladder -> how many failures came up to it, all false."""

    date: str
    backend: str
    target: str
    runs: int
    alarms: Mapping[str, int]
    checks: list[CheckNoise]


class TorchRecord(TypedDict, total=False):
    """How the environment's torch was built."""

    version: str
    cuda: str | None
    cudnn: int | None


class GpuRecord(TypedDict):
    """A GPU of the environment."""

    name: str
    capability: str


class Raised(TypedDict):
    """Why torch told nothing."""

    message: str


class Service(TypedDict):
    """The answer of a service."""

    answers: bool
    detail: str


class _Facts(TypedDict):
    python: str


class FactsRecord(_Facts, total=False):
    """The facts of an environment."""

    os: str
    driver: str
    packages: Mapping[str, str]
    torch: TorchRecord | None
    torch_error: Raised
    gpus: list[GpuRecord]
    tools: Mapping[str, str | None]
    services: Mapping[str, Service] | None


class Requirements(TypedDict):
    """The requirements in a distribution's metadata."""

    requires: list[str]
    extras: list[str]


class _Environment(TypedDict):
    key: str
    image: str
    reference: str
    facts: FactsRecord


class EnvironmentRecord(_Environment, total=False):
    """An environment in which checks ran."""

    digest: str
    stand_in: bool
    backend: str


class Expects(TypedDict, total=False):
    """What an image is said to hold."""

    torch: str | None
    cuda: str | None
    cudnn: str | None
    python: str | None
    os: str | None
    preinstalled: list[str] | None
    tools: list[str] | None
    services: list[str] | None


class _Image(TypedDict):
    name: str


class ImageRecord(_Image, total=False):
    """An image of the plan."""

    expects: Expects | None
    claim: str | None
    labels: list[str]
    owner: str


class _Cell(TypedDict):
    image: str
    subject: str
    version: str
    probes: list[str]


class CellRecord(_Cell, total=False):
    """A cell of the plan."""

    label: str
    labels: list[str]
    owner: str


def texts(names: str) -> dict[str, Any]:
    """Keys whose values are texts; `name?` may be missing."""
    return dict.fromkeys(names.split(), str)


PART = texts("name status code? message?") | {"seconds": float}
"""A named step of a probe."""
OUTCOME: dict[str, Any] = keys_of(Outcome) | {"parts?": [PART]}
OUTCOME |= dict.fromkeys(("metrics?", "numerics?"), Mapping[str, Any])  # looked at one by one
METRIC = fits({"value": float, "unit": str})
NUMBERS = fits({"dtype": str, "shape": list[int], "values": list[float]})
"""The numbers that stand for a result."""
KEPT = texts("python os abi platform machine glibc") | {"tools": Mapping[str, str], "packages": Mapping[str, str]}
KEPT_FACTS = fits(KEPT | {"torch": TorchRecord | None, "metadata": Mapping[str, Requirements]})
"""The facts of an image, as its cache keeps them."""
CONDITION = texts("exists? expects? checks? metric? true_note? false_note?")
CONDITION |= {"at_least?": float, "at_most?": float, "anywhere?": bool, "gpu?": bool}
CLAIM = texts("id source says remark?") | {"holds_if?": [CONDITION]}
MODULE = texts("name origin text") | {"replaces": bool}
"""A probe module of the plan that our own bundle lacks; its text is kept beside the journal."""
PLAN = texts("source backend? shard? whole?") | {"images": list[ImageRecord], "cells": list[CellRecord]}
PLAN |= {"known": list[Mapping[str, Any]], "claims?": [CLAIM], "modules?": [MODULE], "taken?": Mapping[str, list[str]]}
PLAN |= {"target?": Mapping[str, Any]}
SETTINGS = {"jobs?": int | None, "seed?": int, "full?": bool, "fresh?": bool, "compile_cache?": bool, "confirm?": float}
SIDE = {"image": str | None, "changes": list[str]}
PAIR = texts("base candidate note") | {"changed": list[str], "needed": list[str]}
COMPARISON = {"base": SIDE, "candidate": SIDE, "pairs": [PAIR], "unaffected": list[str], "alone": list[str]}
COMPARISON |= {"pilot": bool, "collapse": int, "base_age": int}
"""What stood against what, and how it was asked; cells and images by their names in the plan."""
RUN = texts("run started backend target? version?") | {"plan": PLAN, "schema?": int, "settings?": SETTINGS}
RUN |= {"command?": list[str], "host?": Mapping[str, Any], "comparison?": COMPARISON}
KINDS = {"run": fits(RUN), "environment": fits(EnvironmentRecord), "outcome": fits(OUTCOME)}
KINDS["noise"] = fits(Noise)
KINDS |= dict.fromkeys(("end", "resume"), fits(texts("finished? state?")))
"""Records of other kinds, of later versions, are passed over by whoever reads."""

VERDICTS = frozenset(verdict.value for verdict in Verdict)


def readable(record: Mapping[str, Any]) -> bool:
    """Whether readers can rely on the record; `outcome` and the plan's `known` entries can be made of it."""
    kind = record.get("kind")
    if not isinstance(kind, str) or not KINDS.get(kind, fits(Any))(record):
        return False
    if kind == "outcome":
        return record["verdict"] in VERDICTS and record["check"].count("/") == 2
    if kind == "run":
        return record.get("schema", SCHEMA) <= SCHEMA and _is_plan(record["plan"])
    return True


def plan_of(data: Any) -> Plan:
    """The plan of a journal or a plan file; ValueError where it is none."""
    if not fits(PLAN)(data) or not _is_plan(data):
        raise ValueError("a part of it is missing or has another type")
    try:
        plan = Plan.from_json(data)
    except (KeyError, TypeError, AttributeError) as error:
        raise ValueError(f"{type(error).__name__}: {error}") from error
    if not fits(Plan)(plan):
        raise ValueError("a part of it has another type")
    return plan


def kept_facts(path: Path) -> ImageFacts | None:
    """The facts in an image's cache; None where there are none."""

    def parse(facts: ImageFacts) -> ImageFacts:
        if not KEPT_FACTS(facts):
            raise TypeError("a part of it is missing or has another type")
        return facts

    return read_cache(path, parse)


def _is_plan(plan: Mapping[str, Any]) -> bool:
    conditions = (condition for claim in plan.get("claims", ()) for condition in claim.get("holds_if", ()))
    return all(map(_is_known, plan["known"])) and all(map(_is_condition, conditions))


def _is_condition(condition: Mapping[str, Any]) -> bool:
    try:
        for name in ("true_note", "false_note"):
            re.compile(condition.get(name, ""))
    except (re.error, RecursionError, OverflowError):
        return False
    return not condition.keys().isdisjoint(("exists", "expects", "checks"))


def _is_known(entry: Mapping[str, Any]) -> bool:
    try:
        known = Known.from_json(entry)
    except (KeyError, TypeError, ValueError, AttributeError):
        return False
    return fits(Known)(known)


def outcome(record: Mapping[str, Any]) -> Outcome:
    """The outcome of a readable record; a metric that is no finite number becomes a note, as does such a result."""
    for field, fit, what in (
        ("metrics", METRIC, "the metric {} is no finite number"),
        (
            "numerics",
            lambda value: NUMBERS(value) and len(value["values"]) <= MOST_NUMBERS,
            "the numbers of {} cannot be read",
        ),
    ):
        values = record.get(field, {})
        lost = [name for name, value in values.items() if not fit(value)]
        if lost:
            kept = {name: value for name, value in values.items() if name not in lost}
            record = {**record, field: kept, "notes": [*record.get("notes", ()), *map(what.format, lost)]}
    found = Outcome.from_json(record)
    return found if found.signature or not found.reason else replace(found, signature=signature(found))
