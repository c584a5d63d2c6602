"""Predicts before the pull whether an image's build fits this driver, this GPU and this processor."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from torch_compat_matrix.runner.files import read_ini
from torch_compat_matrix.runner.model import Image, Verdict
from torch_compat_matrix.runner.outcome import Outcome
from torch_compat_matrix.runner.pins import numbers

TABLES = read_ini(Path(__file__).with_name("data") / "preflight.ini")

FORESEEABLE = ("driver-too-old", "no-kernel-image", "wrong-architecture")
"""Reason codes that these tables give."""

MACHINES = {"amd64": "x86_64", "arm64": "aarch64"}


@dataclass(frozen=True, kw_only=True, slots=True)
class Build:
    """The known properties of an image's torch; an empty field is unknown and never judged."""

    torch: str = ""
    cuda: str = ""
    machine: str = ""
    architectures: tuple[str, ...] = ()
    """As in `torch.cuda.get_arch_list()`: `sm_90`, `sm_90a`, `compute_120`."""
    released: bool = False
    """Whether it is an official release of torch, whose architectures the tables know."""
    may_carry_compat: bool = True
    """Whether the image may hold NVIDIA's forward compatibility package: few are known to hold none."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Prediction:
    """Why a build will not run: a code of the registry, a sentence, and the evidence."""

    code: str
    detail: str
    evidence: str


def build_of(image: Image, facts: Mapping[str, Any] | None = None) -> Build:
    """The build by the image's facts; before its first launch by its tag, and by `expects:` where the tag is silent."""
    official = TABLES["official-images"]
    tag = image.tag or ""
    may_carry_compat = re.search(official["without-compat"], tag) is None
    if facts is not None:
        known = facts.get("torch") or {}
        torch = str(known.get("version") or "")
        return Build(
            torch=torch,
            cuda=str(known.get("cuda") or ""),
            machine=str(facts.get("machine") or ""),
            architectures=tuple(known.get("arch_list") or ()),
            released=re.search(official["version"], torch) is not None,
            may_carry_compat=may_carry_compat,
        )
    # NVIDIA's tags (`25.10-py3`) are months: torch's major version has one digit.
    versions = re.search(r":v?(\d\.\d+(?:\.\d+)?)(?:-cuda(\d+\.\d+))?", tag)
    torch, cuda = versions.groups(default="") if versions and "torch" in tag else ("", "")
    named = re.search(r"(?<![a-z0-9])(amd64|x86_64|arm64|aarch64)(?![a-z0-9])", tag)
    return Build(
        torch=torch or str(image.expects.get("torch", "")),
        cuda=cuda or str(image.expects.get("cuda", "")),
        machine=MACHINES.get(named[1], named[1]) if named else "",
        released=re.search(official["tag"], tag) is not None,
        may_carry_compat=may_carry_compat,
    )


def predict(
    build: Build, *, machine: str = "", gpu: str = "", driver: str = "", capability: str = ""
) -> Prediction | None:
    """Why the build cannot run on a host of this processor architecture, with this GPU; None where it may run.

    `gpu` is the GPU's name, `driver` its driver's version, `capability` like `9.0`; an empty value is not judged.
    The absence of a prediction is no promise: it names only what is certain, since it may prevent a pull.
    """
    machine = MACHINES.get(machine, machine)
    if build.machine and machine and build.machine != machine:
        return Prediction(
            code="wrong-architecture",
            detail=f"The image is built for {build.machine}, this host is {machine}.",
            evidence=f"{build.machine} is not {machine}",
        )
    return _driver(build, gpu, driver) or _code(build, build.machine or machine, gpu, driver, capability)


def disagreement(prediction: Prediction | None, outcome: Outcome) -> str:
    """A sentence where the tables and the probe disagree about the image, for a person to look into."""
    if prediction is not None and outcome.device == "cuda" and outcome.verdict is Verdict.PASS:
        return f"preflight predicted {prediction.code} ({prediction.evidence}), but the probe passed on the GPU"
    if prediction is None and outcome.reason in FORESEEABLE:
        return f"preflight predicted nothing, but the probe found {outcome.reason}"
    return ""


def runs_on(architectures: Sequence[str], capability: str) -> str:
    """The entry that a GPU of this compute capability can run; empty where there is none.

    Code for sm_XY runs on GPUs X.Z with Z >= Y: the same generation, the same revision or a later one; sm_XYa on
    X.Y alone; PTX (compute_XY) on X.Y and all later.  Machine code is preferred to PTX.
    """
    wanted = numbers(capability)
    for entry in sorted(architectures, key=lambda entry: entry.startswith("compute_")):
        parts = re.fullmatch(r"(sm|compute)_(\d+)(\d)([af]?)", entry)
        if parts is None:
            continue
        kind, suffix, built = parts[1], parts[4], (int(parts[2]), int(parts[3]))
        same = built[0] == wanted[0] and built[1] <= wanted[1]
        if built == wanted or (suffix != "a" and same) or (kind == "compute" and not suffix and built <= wanted):
            return entry
    return ""


def _driver(build: Build, gpu: str, driver: str) -> Prediction | None:
    """Whether the driver is new enough for the CUDA of the build, by minor-version or forward compatibility."""
    major = build.cuda.partition(".")[0]
    least = TABLES["least-driver"].get(major)
    if not driver or least is None or numbers(driver) >= numbers(least):
        return None
    if build.may_carry_compat and not re.search(TABLES["forward-compatibility"]["never-on"], gpu):
        return None
    return Prediction(
        code="driver-too-old",
        detail=f"CUDA {build.cuda} needs a driver of at least {least}; this host has {driver}.",
        evidence=f"driver {driver} < {least} (CUDA {major}.x, minor-version compatibility)",
    )


def _code(build: Build, machine: str, gpu: str, driver: str, capability: str) -> Prediction | None:
    """Whether the build holds code for the GPU, or PTX that its driver can compile."""
    architectures = build.architectures or (_released(build.torch, build.cuda, machine) if build.released else ())
    if not capability or not architectures:
        return None
    name, entry = gpu or "this GPU", runs_on(architectures, capability)
    if not entry:
        return Prediction(
            code="no-kernel-image",
            detail=f"torch {build.torch} with CUDA {build.cuda} holds no code for {name}"
            f" (compute capability {capability}).",
            evidence=f"{capability} runs none of {', '.join(architectures)}",
        )
    own = TABLES["own-driver"].get(build.cuda)
    if entry.startswith("compute_") and own and driver and numbers(driver) < numbers(own):
        return Prediction(
            code="driver-too-old",
            detail=f"Only PTX ({entry}) serves {name}, and PTX of CUDA {build.cuda} needs a driver of at least {own};"
            f" this host has {driver}.",
            evidence=f"driver {driver} < {own} (PTX of CUDA {build.cuda})",
        )
    return None


def _released(torch: str, cuda: str, machine: str) -> tuple[str, ...]:
    """The architectures of a release of torch, in its own notation; none where the tables have no such build."""
    section = f"torch {machine}"
    key = f"{'.'.join(torch.split('.')[:2])} {cuda}"
    numbers = TABLES[section].get(key, "").split() if TABLES.has_section(section) else []
    code = [f"sm_{number.removesuffix('+PTX')}" for number in numbers]
    return (*code, *(f"compute_{number.removesuffix('+PTX')}" for number in numbers if number.endswith("+PTX")))
